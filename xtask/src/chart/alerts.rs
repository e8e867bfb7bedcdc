//! What Prometheus itself says about the chart's alerts and the dashboard's queries: `promtool`, and unit tests of the alerts.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    apt::Apt,
    command::{self, note},
    workspace,
};

/// A rendering in which everything is on; a test compares it with what Helm renders.
const RENDERED: &str = "helm/ebfw/ci/full.golden.yaml";
/// What `promtool test rules` reads.
const TESTS: &str = "helm/ebfw/ci/alerts.test.yaml";
pub(super) const DASHBOARD: &str = "helm/ebfw/dashboards/ebfw.json";

/// Checks the alerts and the queries; says so where promtool cannot be had.
pub(crate) fn check() -> Result<()> {
    let promtool = match promtool() {
        Ok(promtool) => promtool,
        Err(error) => {
            note(format_args!(
                "NOT RUN: alerts and dashboard, because promtool cannot be had: {error:#}"
            ));
            return Ok(());
        }
    };
    let folder = workspace::target_dir()?.join("alerts");
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let root = workspace::root();
    let read = |file: &str| {
        fs::read_to_string(root.join(file)).with_context(|| format!("failed to read {file}"))
    };
    let dashboard = serde_json::from_str(&read(DASHBOARD)?).context("the dashboard is no JSON")?;
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))
    };
    write("rules.yaml", &alerts(&read(RENDERED)?)?.to_string())?;
    write("queries.yaml", &as_rules(&dashboard).to_string())?;
    write("tests.yaml", &read(TESTS)?)?;
    for arguments in [
        &[
            "check",
            "rules",
            "--lint=all",
            "--lint-fatal",
            "rules.yaml",
            "queries.yaml",
        ][..],
        &["test", "rules", "tests.yaml"],
    ] {
        command::run(Command::new(&promtool).args(arguments).current_dir(&folder))?;
    }
    Ok(())
}

/// The machine's own, or Debian's in the cache.
fn promtool() -> Result<PathBuf> {
    if let Some(path) = command::find("promtool") {
        return Ok(path);
    }
    let unpacked = workspace::cache_dir()?.join("promtool");
    let program = unpacked.join("usr/bin/promtool");
    if !program.is_file() {
        Apt::open()?.unpack("promtool", &unpacked)?;
    }
    Ok(program)
}

/// The groups of the rendered PrometheusRule.
fn alerts(rendered: &str) -> Result<Value> {
    let document = rendered
        .split("\n---\n")
        .find(|document| document.contains("\nkind: PrometheusRule\n"))
        .context("the rendering has no PrometheusRule")?;
    let object: Value =
        serde_saphyr::from_str(document).context("the PrometheusRule is no YAML")?;
    Ok(json!({ "groups": object["spec"]["groups"] }))
}

/// The queries of each panel of a dashboard.
pub(super) fn queries(dashboard: &Value) -> impl Iterator<Item = &str> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.filter_map(|target| target["expr"].as_str())
}

/// The queries as recording rules, so that promtool reads them; with values for what Grafana puts in.
fn as_rules(dashboard: &Value) -> Value {
    let rule = |(number, query): (usize, &str)| {
        let query = query
            .replace("$__rate_interval", "5m")
            .replace("$node", ".*");
        json!({ "record": format!("dashboard:query:{number}"), "expr": query })
    };
    let rules: Vec<Value> = queries(dashboard).enumerate().map(rule).collect();
    json!({ "groups": [{ "name": "dashboard", "rules": rules }] })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn dashboard() -> Value {
        let text = fs::read_to_string(workspace::root().join(DASHBOARD)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_rules_that_promtool_gets_are_those_of_the_chart() {
        let text = fs::read_to_string(workspace::root().join(RENDERED)).unwrap();
        let rules = alerts(&text).unwrap();
        let rules = rules["groups"][0]["rules"].as_array().unwrap();
        assert!(rules.len() >= 5, "{rules:?}");
        let queries = as_rules(&dashboard());
        let queries = queries["groups"][0]["rules"].as_array().unwrap();
        assert!(queries.len() >= 12, "{queries:?}");
        for query in queries {
            assert!(!query["expr"].as_str().unwrap().contains('$'), "{query}");
        }
    }

    #[test]
    fn the_dashboard_is_one_that_grafana_takes() {
        let dashboard = dashboard();
        assert!(
            dashboard["schemaVersion"].as_u64().unwrap() >= 36,
            "references to data sources are objects since"
        );
        let uid = dashboard["uid"].as_str().unwrap();
        assert!((1..=40).contains(&uid.len()));
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = variables
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["datasource", "node"]);
        let mut ids = HashSet::new();
        let mut cells = HashSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{title}: its id is another's"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                matches!(panel["type"].as_str(), Some("stat" | "timeseries")),
                "{title}"
            );
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{title}: beyond the edge");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{title}: over another");
                }
            }
            let targets = panel["targets"].as_array().unwrap();
            let letters: HashSet<_> = targets
                .iter()
                .map(|target| target["refId"].as_str().unwrap())
                .collect();
            assert_eq!(
                letters.len(),
                targets.len(),
                "{title}: two queries of one letter"
            );
        }
        for query in queries(&dashboard) {
            assert!(
                query.contains("{node=~\"$node\""),
                "for one node as well: {query}"
            );
        }
    }
}
