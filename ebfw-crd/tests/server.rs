//! The same table with a real API server: etcd and kube-apiserver, started for the test and ended with it.
//! `EBFW_LAB_BIN` names a folder with kube-apiserver and kubectl (or `kube`, which is both), packed or not; else they are looked for in PATH.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests as well"
)]

mod api_server;
mod support;

use std::process::Command;

use api_server::ApiServer;
use ebfw_crd::schema;
use ebfw_policy::object::Kind;
use support::{Case, cases};

/// Waits until the definitions are in force.
const ESTABLISHED: [&str; 5] = [
    "wait",
    "--for=condition=Established",
    "crd",
    "--all",
    "--timeout=60s",
];
/// A policy that is really there.
const SEEN: &str = r#"{"apiVersion":"ebfw.dvrkn.com/v1","kind":"EgressPolicy","metadata":{"name":"seen"},"spec":{"podSelector":{}}}"#;

#[test]
fn the_api_server_agrees() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    for kind in Kind::ALL {
        server
            .kubectl(
                &["apply", "--server-side", "-f", "-"],
                &schema::manifest(kind),
            )
            .unwrap();
    }
    server.kubectl(&ESTABLISHED, "").unwrap();
    each_case(&server);
    every_field_is_explained(&server);
    the_status_is_its_own_resource(&server);
    the_chart_is_accepted(&server);
    helm_upgrades_the_definitions_and_leaves_them(&server);
}

fn each_case(server: &ApiServer) {
    let wrong: Vec<String> = cases()
        .iter()
        .filter_map(|case| wrong(server, case))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not as the row says, if anything.
fn wrong(server: &ApiServer, case: &Case) -> Option<String> {
    let object = serde_json::to_string(&case.object()).unwrap();
    let create = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    let answer = server.kubectl(&create, &object);
    let refused = case.refused.is_some() && !case.later;
    let (why, says) = (&case.why, case.says.as_deref().unwrap_or_default());
    match answer {
        Ok(_) if refused => Some(format!("{why}: accepted")),
        Err(text) if !refused => Some(format!("{why}: {text}")),
        Err(text) if !text.contains(says) => Some(format!("{why}: does not say {says}: {text}")),
        Ok(_) | Err(_) => None,
    }
}

fn every_field_is_explained(server: &ApiServer) {
    for (what, wanted) in [
        (
            "egp.spec.rules.match.cidrs",
            "Prefixes of the destination address",
        ),
        ("cegp.spec.scope", "every process of the node"),
        ("egp.spec.podSelector", "`{}` means all of them"),
        (
            "egp.spec.domainMatch",
            "Suffix: Both mean the name and everything below it",
        ),
        ("egp.status.nodes", "Nodes that enforce"),
    ] {
        let text = server.kubectl(&["explain", what], "").unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(wanted), "{what}: {text}");
    }
}

fn the_status_is_its_own_resource(server: &ApiServer) {
    server.kubectl(&["create", "-f", "-"], SEEN).unwrap();
    let status = r#"{"status":{"observedGeneration":1,"ruleCount":0,"nodes":"3/3","conditions":[
        {"type":"Accepted","status":"True","reason":"Validated","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"},
        {"type":"Programmed","status":"False","reason":"Pending","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
    let patch = [
        "patch",
        "egp",
        "seen",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    server.kubectl(&patch, "").unwrap();
    let table = server.kubectl(&["get", "egp", "seen"], "").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["NAME", "DEFAULT", "RULES", "ACCEPTED", "PROGRAMMED", "AGE"]
    );
    assert_eq!(
        rows[1][..5],
        ["seen", "Allow", "0", "True", "False"],
        "{table}"
    );
}

/// The golden renderings of the chart, without what the Prometheus Operator defines.
fn the_chart_is_accepted(server: &ApiServer) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/ebfw/ci");
    server
        .kubectl(&["create", "namespace", "ebfw-system"], "")
        .unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_str().unwrap().ends_with(".golden.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let known = text
            .split("\n---\n")
            .filter(|document| !document.contains("apiVersion: monitoring.coreos.com/"));
        let known = known.collect::<Vec<_>>().join("\n---\n");
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--force-conflicts",
            "-f",
            "-",
        ];
        let answer = server.kubectl(&apply, &known);
        assert!(
            answer.is_ok(),
            "{}: {}",
            path.display(),
            answer.unwrap_err()
        );
        seen += 1;
    }
    assert!(seen > 0, "no rendering in {folder}");
}

/// What Helm itself never does with a chart's `crds` folder.
fn helm_upgrades_the_definitions_and_leaves_them(server: &ApiServer) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(helm) = ebfw_test_need::program("helm", scratch.path()) else {
        let _ = ebfw_test_need::found(false, "helm");
        return;
    };
    let chart = scratch.path().join("ebfw");
    let original = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/ebfw");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(original)
        .arg(&chart)
        .status();
    assert!(copied.unwrap().success(), "the chart is copied");
    let helm = |arguments: &[&str]| server.helm(&helm, arguments);
    let chart_path = chart.to_str().unwrap();
    // The release has to own them from the beginning.
    server
        .kubectl(&["delete", "crd", "--all", "--wait"], "")
        .unwrap();
    helm(&[
        "install",
        "ebfw",
        chart_path,
        "--namespace=ebfw-system",
        "--set=dns.resolvers={192.0.2.53}",
    ])
    .unwrap();
    server.kubectl(&ESTABLISHED, "").unwrap();
    server.kubectl(&["create", "-f", "-"], SEEN).unwrap();
    let template = chart.join("templates/crds/egresspolicies.yaml");
    let newer = std::fs::read_to_string(&template)
        .unwrap()
        .replace("maxItems: 512", "maxItems: 511");
    assert!(newer.contains("maxItems: 511"));
    std::fs::write(&template, newer).unwrap();
    with_a_new_value(&chart);
    // As docs/kubernetes.md says it: what was set stays, what is new has its default.
    helm(&[
        "upgrade",
        "ebfw",
        chart_path,
        "--namespace=ebfw-system",
        "--reset-then-reuse-values",
        "--set=mode=dry-run",
    ])
    .unwrap();
    let set = helm(&["get", "values", "ebfw", "--namespace=ebfw-system"]).unwrap();
    assert!(
        set.contains("192.0.2.53") && set.contains("dry-run"),
        "{set}"
    );
    let definition = server.kubectl(
        &["get", "crd", "egresspolicies.ebfw.dvrkn.com", "-o", "yaml"],
        "",
    );
    assert!(definition.unwrap().contains("maxItems: 511"), "upgraded");
    helm(&["uninstall", "ebfw", "--namespace=ebfw-system"]).unwrap();
    server.kubectl(&["get", "egp", "seen"], "").unwrap();
    assert!(
        server
            .kubectl(&["-n", "ebfw-system", "get", "daemonset", "ebfw"], "")
            .is_err()
    );
}

/// A value that the release does not know yet, as each new version of the chart may bring.
fn with_a_new_value(chart: &std::path::Path) {
    let path = chart.join("values.schema.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    schema["properties"]["brandNew"] = serde_json::json!({ "type": "boolean" });
    schema["required"]
        .as_array_mut()
        .unwrap()
        .push("brandNew".into());
    std::fs::write(&path, schema.to_string()).unwrap();
    let path = chart.join("values.yaml");
    let values = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{values}\nbrandNew: true\n")).unwrap();
}
