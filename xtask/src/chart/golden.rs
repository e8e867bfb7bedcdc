//! Renderings of the chart, compared with those that are committed: `helm/ebfw/ci/NAME.values.yaml` gives `NAME.golden.yaml`.
//! To write them anew: BLESS=1 cargo test -p xtask chart

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ebfw_test_need as need;

use crate::workspace;

struct Helm {
    program: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Helm {
    fn find() -> Option<Self> {
        let scratch = tempfile::tempdir().unwrap();
        let program = need::program("helm", scratch.path());
        let _ = need::found(program.is_some(), "helm");
        Some(Self {
            program: program?,
            _scratch: scratch,
        })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let chart = workspace::root().join("helm/ebfw");
        Command::new(&self.program)
            .args(arguments)
            .arg(chart)
            .output()
            .unwrap()
    }

    fn rendered(&self, values: &Path) -> String {
        let values = values.to_str().unwrap();
        let output = self.run(&[
            "template",
            "ebfw",
            "--namespace=ebfw-system",
            "--values",
            values,
        ]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{values}: {error}");
        documents(&String::from_utf8(output.stdout).unwrap())
    }

    /// What Helm complains about.
    fn refusal(&self, set: &[&str]) -> String {
        let set: Vec<String> = set.iter().map(|set| format!("--set={set}")).collect();
        let mut arguments = vec!["template", "ebfw"];
        arguments.extend(set.iter().map(String::as_str));
        let output = self.run(&arguments);
        assert!(!output.status.success(), "{set:?} is rendered");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// Without the blank lines between documents, of which each version of Helm makes as many as it likes.
fn documents(rendered: &str) -> String {
    let documents = rendered.split("---\n").map(str::trim_end);
    let documents: Vec<&str> = documents.filter(|document| !document.is_empty()).collect();
    format!("{}\n", documents.join("\n---\n"))
}

fn cases() -> Vec<PathBuf> {
    let folder = workspace::root().join("helm/ebfw/ci");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(".values.yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 4, "{cases:?}");
    cases
}

#[test]
fn the_chart_renders_what_is_committed() {
    let Some(helm) = Helm::find() else {
        return;
    };
    for values in cases() {
        let rendered = helm.rendered(&values);
        let golden = PathBuf::from(values.to_str().unwrap().replace(".values.", ".golden."));
        if env::var_os("BLESS").is_some() {
            fs::write(&golden, &rendered).unwrap();
        }
        let committed = fs::read_to_string(&golden).unwrap_or_default();
        let name = golden.display();
        assert!(
            rendered == committed,
            "{name} is out of date: look at `git diff` after BLESS=1 cargo test -p xtask chart"
        );
    }
}

#[test]
fn helm_finds_nothing_wrong() {
    let Some(helm) = Helm::find() else {
        return;
    };
    for values in cases() {
        let output = helm.run(&[
            "lint",
            "--strict",
            "--quiet",
            "--values",
            values.to_str().unwrap(),
        ]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}", values.display());
    }
}

#[test]
fn helm_refuses_wrong_values() {
    let Some(helm) = Helm::find() else {
        return;
    };
    for (set, complaint) in [
        (&["mode=audit"][..], "mode"),
        (&["modes=log"], "modes"),
        (&["metrics.port=0"], "port"),
        (&["policy.source=files"], "source"),
        (&["policy.source=file"], "policy.file is empty"),
        (&["hostPaths.cgroup=cgroup"], "cgroup"),
        (&["updateStrategy.type=Never"], "updateStrategy"),
        (&["events.exclude.cidrs={10.0.0.0/40}"], "exclude"),
        (&["events.exclude.cidrs={10.0.0.0/33}"], "exclude"),
        (&["events.exclude.cidrs={10.0.0.0/08}"], "exclude"),
        (&["events.exclude.cidrs={10.0.0.256/8}"], "exclude"),
        (&["events.exclude.cidrs={10.0.0/8}"], "exclude"),
        (&["events.exclude.cidrs={10.0.0.1}"], "exclude"),
        (&["events.exclude.cidrs={fd00::/129}"], "exclude"),
        (&["events.exclude.cidrs={fd00::}"], "exclude"),
        (&["events.exclude.domainSuffixes={a b}"], "exclude"),
        (&["events.exclude.domainSuffixes={*.local}"], "exclude"),
        (&["dns.resolvers={resolver.example}"], "resolvers"),
        (&["dns.resolvers={10.96.0.10:53}"], "resolvers"),
        (&["policy.file=rules: ["], "policy.file is no YAML"),
        (&["policy.file=- name: a list"], "policy.file is no YAML"),
        (
            &["policy.source=file", "policy.file=a word"],
            "policy.file is no YAML",
        ),
        (&["policy.file=# nothing"], "policy.file says nothing"),
        (&["image.repository=UPPER/ebfw"], "repository"),
        (&["image.repository=a/b:tag"], "repository"),
        (&["image.tag=a b"], "tag"),
        (&["imagePullSecrets={a}"], "imagePullSecrets"),
        (&["imagePullSecrets[0].nam=a"], "nam"),
        (
            &["extraCapabilities={CAP_SYS_RESOURCE}"],
            "extraCapabilities",
        ),
        (&["extraEnv[0].name=A,extraEnv[0].value=1"], "value"),
        (&["extraEnv[0].value=a"], "name"),
    ] {
        let text = helm.refusal(set);
        assert!(text.contains(complaint), "{set:?}: {text}");
    }
}

/// The twins of what is refused.
#[test]
fn helm_takes_right_values() {
    let Some(helm) = Helm::find() else {
        return;
    };
    for set in [
        &[
            "events.exclude.cidrs={10.0.0.0/8,0.0.0.0/0,192.0.2.1/32,fd00::/8,::/0,2001:db8::1/128,::ffff:10.0.0.0/104}",
        ][..],
        &["events.exclude.domainSuffixes={.svc,cluster.local.,_tcp.example}"],
        &["dns.resolvers={10.96.0.10,2001:db8::53}"],
        &["policy.source=file", "policy.file=rules: []"],
        // Taking enforcement off must work whatever the policy is.
        &["mode=off", "policy.source=file", "policy.file=rules: ["],
        &["mode=off", "policy.source=file"],
        // How Helm is told to leave out what the chart has by default.
        &[
            "tolerations=null",
            "nodeSelector=null",
            "affinity=null",
            "resources=null",
            "extraEnv=null",
            "imagePullSecrets=null",
            "podLabels=null",
            "extraCapabilities=null",
        ],
        &["resources.limits=null"],
        &["image.repository=localhost:5000/a/b_c", "image.tag=v1.2-x"],
        &["image.repository=ebfw"],
        &["imagePullSecrets[0].name=registry"],
        &["extraCapabilities={SYS_RESOURCE,CHECKPOINT_RESTORE}"],
        &["extraEnv[0].name=A,extraEnv[0].valueFrom.fieldRef.fieldPath=status.hostIP"],
    ] {
        let set = set.iter().map(|set| format!("--set={set}"));
        let arguments: Vec<String> = ["template", "ebfw"]
            .map(str::to_owned)
            .into_iter()
            .chain(set)
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = helm.run(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
    }
}

/// What a rendering never has, whatever the values are.
#[test]
fn no_rendering_asks_for_more_than_it_needs() {
    for values in cases() {
        let golden = values.to_str().unwrap().replace(".values.", ".golden.");
        let text = fs::read_to_string(&golden).unwrap();
        for wanted in [
            "privileged: false",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "type: RuntimeDefault",
            "drop: [ALL]",
        ] {
            assert!(text.contains(wanted), "{golden}: {wanted}");
        }
        // To look into programs of pods, where that is wanted.
        let inside_tls = fs::read_to_string(&values)
            .unwrap()
            .contains("insideTls: true");
        for wanted in ["      hostPID: true", "                - SYS_PTRACE"] {
            let found = text.lines().any(|line| line == wanted);
            assert_eq!(found, inside_tls, "{golden}: {wanted}");
        }
        for unwanted in ["hostIPC", "\"*\"", "secrets", "cluster-admin"] {
            let found = text.lines().find(|line| line.contains(unwanted));
            // Node names may be any: the dashboard's `*` is a regular expression.
            let found = found.filter(|line| !line.contains("allValue"));
            assert_eq!(found, None, "{golden}: {unwanted}");
        }
    }
}

/// The definitions are in the release exactly where they are wanted, and never go with it.
#[test]
fn the_definitions_are_installed_unless_they_are_not_wanted() {
    for values in cases() {
        let golden = values.to_str().unwrap().replace(".values.", ".golden.");
        let text = fs::read_to_string(&golden).unwrap();
        let wanted = if golden.contains("default") { 2 } else { 0 };
        for line in [
            "\nkind: CustomResourceDefinition\n",
            "\n    helm.sh/resource-policy: keep\n",
        ] {
            assert_eq!(text.matches(line).count(), wanted, "{golden}: {line:?}");
        }
    }
}

/// Alerts and dashboard ask for metrics that exist, and for values of their labels that there are.
#[test]
fn every_metric_is_one_of_the_reference() {
    let root = workspace::root();
    let reference = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    // Each metric with its row.
    let known: BTreeMap<&str, &str> = reference
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| `")?.split('`').next()?, line)))
        .collect();
    for file in [
        "helm/ebfw/dashboards/ebfw.json",
        "helm/ebfw/templates/prometheusrule.yaml",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let text = text.replace("\\\"", "\"");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("ebfw_")).collect();
        let asked: Vec<&str> = asked.into_iter().filter(|word| *word != "ebfw_").collect();
        assert!(asked.len() >= 4, "{file}: {asked:?}");
        for metric in asked {
            let row = known.get(metric);
            let row = row.unwrap_or_else(|| panic!("{file}: {metric} does not exist"));
            let begin = format!("{metric}{{");
            let selectors = text.split(&begin).skip(1);
            for selector in selectors.filter_map(|rest| rest.split('}').next()) {
                for (label, value) in matchers(selector) {
                    let (_, values) = row
                        .split_once(&format!("`{label}`: "))
                        .unwrap_or_else(|| panic!("{file}: {metric} has no label {label}"));
                    let mut values = values.split([',', ';', '|']).map(str::trim);
                    assert!(
                        values.any(|known| known == value),
                        "{file}: {metric} is never {label}={value}"
                    );
                }
            }
        }
    }
}

/// What a selector asks of the agent's own labels.
fn matchers(selector: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = selector
        .split(',')
        .filter_map(|matcher| matcher.split_once('='));
    pairs
        .map(|(label, value)| {
            (
                label.trim().trim_end_matches('!'),
                value.trim_matches(['~', '"']),
            )
        })
        .filter(|(label, _)| *label != "node")
}
