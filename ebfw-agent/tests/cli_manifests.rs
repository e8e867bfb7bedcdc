//! `ebfw policy …` with manifests of EgressPolicy and ClusterEgressPolicy.

mod cli_support;

use std::fs;

use cli_support::{Run, ebfw};

const EXAMPLES: &str = "examples/crds";

fn test(files: &[&str], arguments: &[&str]) -> Run {
    let files = files.iter().flat_map(|file| ["-f", file]);
    let files: Vec<&str> = files.collect();
    ebfw(&[&["policy", "test"], &files[..], arguments].concat())
}

/// A directory with these files.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory for files");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("it can be written");
    }
    directory
}

fn path(directory: &tempfile::TempDir) -> &str {
    directory.path().to_str().expect("text")
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[test]
fn the_examples_decide_as_their_comments_say() {
    let checkout = "pod=shop/checkout-1 label.app=checkout";
    let shop = &["examples/crds/baseline.yaml", "examples/crds/shop.yaml"][..];
    let lockdown = &["examples/crds/lockdown.yaml"][..];
    for (files, flow, rule, why) in [
        (
            shop,
            format!("{checkout} dst=169.254.169.254 port=80 expect=deny"),
            "cegp/baseline/metadata-service",
            "the cluster's rules come first",
        ),
        (
            shop,
            format!("{checkout} domain=api.payments.example dst=203.0.113.5 port=443 expect=allow"),
            "egp/shop/checkout/payments",
            "its own way out",
        ),
        (
            shop,
            format!("{checkout} dst=10.0.9.7 port=5432 expect=deny"),
            "egp/shop/checkout/no-database",
            "the lower priority comes first",
        ),
        (
            shop,
            format!("{checkout} dst=10.0.1.7 port=80 expect=allow"),
            "egp/shop/default-deny/inside-the-cluster",
            "then the other policy",
        ),
        (
            shop,
            "pod=shop/cart-1 label.app=cart dst=10.0.9.7 port=5432 expect=allow".to_owned(),
            "egp/shop/default-deny/inside-the-cluster",
            "labels select",
        ),
        (
            shop,
            "pod=shop/cart-1 label.app=cart dst=203.0.113.5 port=443 expect=deny".to_owned(),
            "(default)",
            "one policy says Deny",
        ),
        (
            shop,
            "pod=blog/web-1 dst=10.0.8.25 port=25 expect=allow".to_owned(),
            "cegp/baseline/mail-relay",
            "pods of every namespace",
        ),
        (
            shop,
            "pod=blog/web-1 dst=203.0.113.5 port=587 expect=deny".to_owned(),
            "cegp/baseline/mail",
            "pods of every namespace",
        ),
        (
            shop,
            "pod=blog/web-1 dst=203.0.113.5 port=443 expect=allow".to_owned(),
            "(default)",
            "another namespace's default",
        ),
        (
            shop,
            "dst=169.254.169.254 port=80 expect=allow".to_owned(),
            "(ungoverned)",
            "a process in no pod",
        ),
        (
            lockdown,
            "dst=203.0.113.5 port=443 expect=deny".to_owned(),
            "(default)",
            "processes of the node",
        ),
        (
            lockdown,
            "dst=10.0.0.1 port=6443 expect=allow".to_owned(),
            "cegp/lockdown/cluster",
            "the API server",
        ),
        (
            lockdown,
            "pod=blog/web-1 dst=203.0.113.5 port=443 expect=deny".to_owned(),
            "(default)",
            "and pods",
        ),
        (
            &[EXAMPLES],
            format!("{checkout} dst=10.0.9.7 port=5432 expect=allow"),
            "cegp/lockdown/cluster",
            "what a cluster policy allows no namespace takes back",
        ),
    ] {
        let run = test(files, &["--flow", &flow]);
        assert_eq!(run.code, 0, "{why}: {flow}\n{}{}", run.stdout, run.stderr);
        assert!(
            run.stdout.contains(&format!("rule={rule} ")),
            "{why}: {}",
            run.stdout
        );
    }
}

#[test]
fn an_explanation_names_the_objects_in_their_order() {
    let run = test(
        &[EXAMPLES],
        &[
            "--explain",
            "--flow",
            "pod=shop/c label.app=checkout dst=10.0.1.7 port=80",
        ],
    );
    let lines: Vec<&str> = run.stdout.lines().skip(1).map(str::trim).collect();
    assert_eq!(
        lines[..4],
        [
            "from  cegp/baseline  priority=100  default=Allow",
            "from  cegp/lockdown  priority=10000  default=Deny",
            "from  egp/shop/checkout  priority=500  default=Allow",
            "from  egp/shop/default-deny  priority=1000  default=Deny",
        ]
    );
    assert!(
        lines[4].ends_with("cegp/baseline/metadata-service"),
        "{}",
        run.stdout
    );
    assert_eq!(lines.len(), 4 + 3 + 3 + 2 + 1, "{}", run.stdout);
    let run = test(
        &[EXAMPLES],
        &[
            "-o",
            "json",
            "--explain",
            "--flow",
            "pod=shop/c dst=10.0.1.7 port=80",
        ],
    );
    let object: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(
        object["policies"][0],
        serde_json::json!({ "object": "cegp/baseline", "priority": 100, "default": "allow" })
    );
    assert_eq!(object["rules"][0]["name"], "cegp/baseline/metadata-service");
}

#[test]
fn the_examples_have_no_findings() {
    let run = ebfw(&["policy", "lint", EXAMPLES]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
}

#[test]
fn lint_applies_the_rules_of_the_custom_resources_at_their_place() {
    let many = vec!["{action: Deny}"; 300].join(", ");
    let directory = files(&[
        (
            "a.yaml",
            &format!(
                "{}---\n{}",
                policy("a", "{podSelector: {}}"),
                policy("b", &format!("{{podSelector: {{}}, rules: [{many}]}}"))
            ),
        ),
        (
            "b.yml",
            &policy("c", "{podSelector: {}, rules: [{action: Modify}]}"),
        ),
        ("c.txt", "not looked at"),
    ]);
    let run = ebfw(&["policy", "lint", "-o", "json", path(&directory)]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let findings: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(findings.len(), 2, "{}", run.stdout);
    assert_eq!(
        (&findings[0]["code"], &findings[0]["line"]),
        (&"schema".into(), &9.into())
    );
    assert_eq!(findings[0]["field"], "spec.rules");
    assert_eq!(
        findings[0]["message"],
        "300 entries, at most 256 are possible"
    );
    assert_eq!(
        (&findings[1]["code"], &findings[1]["field"]),
        (&"mutations".into(), &"spec.rules[0]".into())
    );
}

#[test]
fn lint_notes_what_it_passes_over_and_looks_at_every_object() {
    let shadowed = "{podSelector: {}, rules: [{action: Deny, match: {cidrs: [10.0.0.0/8]}}, {action: Allow, match: {cidrs: [10.1.0.0/16]}}]}";
    let file = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n{}",
        policy("a", shadowed)
    );
    let directory = files(&[("a.yaml", &file)]);
    let run = ebfw(&["policy", "lint", path(&directory)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(
        run.stdout
            .contains("Namespace `shop` is no policy and is passed over"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("`egp/default/a/rule-2` never decides"),
        "{}",
        run.stdout
    );
}

/// kubectl applies the JSON of a directory as well.
#[test]
fn a_directory_stands_for_its_json_too() {
    let object = |action: &str| {
        format!(
            r#"{{"apiVersion":"ebfw.dvrkn.com/v1","kind":"EgressPolicy","metadata":{{"name":"b"}},"spec":{{"podSelector":{{}},"rules":[{{"action":"{action}"}}]}}}}"#
        )
    };
    let allows = policy("a", "{podSelector: {}}");
    let broken = files(&[("a.yaml", &allows), ("b.json", &object("Modify"))]);
    let run = ebfw(&["policy", "lint", path(&broken)]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stdout.contains("Modify needs `mutations`"),
        "{}",
        run.stdout
    );
    let denies = files(&[("a.yaml", &allows), ("b.json", &object("Deny"))]);
    let test = |directory| {
        let flow = "pod=default/x dst=203.0.113.5";
        ebfw(&["policy", "test", "-f", path(directory), "--flow", flow])
    };
    let run = test(&denies);
    assert!(
        run.stdout.contains("egp/default/b/rule-1"),
        "{}",
        run.stdout
    );
    // Written anew are only those that are YAML.
    let run = ebfw(&["policy", "fmt", path(&denies)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

/// kubectl passes over them.
#[test]
fn files_of_a_directory_in_which_nothing_stands_are_passed_over() {
    let policy = policy("a", "{podSelector: {}, defaultAction: Deny}");
    let some = files(&[
        ("0.yaml", ""),
        ("a.yaml", &policy),
        (
            "b.yaml",
            "\u{feff}---\r\n# rendered to nothing\r\n\r\n---\r\n",
        ),
    ]);
    let run = ebfw(&["policy", "lint", path(&some)]);
    assert_eq!((run.code, &*run.stdout), (0, ""), "{}", run.stderr);
    let flow = "pod=default/x dst=203.0.113.5";
    let run = ebfw(&["policy", "test", "-f", path(&some), "--flow", flow]);
    assert!(run.stdout.contains("Deny"), "{}{}", run.stdout, run.stderr);
    let none = files(&[("0.yaml", ""), ("b.yml", "---\n")]);
    let run = ebfw(&["policy", "lint", path(&none)]);
    assert_ne!(run.code, 0);
    assert!(run.stderr.contains("is empty"), "{}", run.stderr);
    let alone = some.path().join("0.yaml");
    let run = ebfw(&["policy", "lint", alone.to_str().expect("text")]);
    assert_eq!(run.code, 1, "one that is named is meant: {}", run.stdout);
}

#[test]
fn what_cannot_be_judged_together_is_refused() {
    let two = files(&[
        ("a.yaml", &policy("a", "{podSelector: {}}")),
        ("b.yaml", &policy("a", "{podSelector: {}}")),
    ]);
    let mixed = files(&[
        ("a.yaml", &policy("a", "{podSelector: {}}")),
        ("b.yaml", "rules: []\n"),
    ]);
    let broken = files(&[("a.yaml", &policy("a", "{rules: []}"))]);
    let empty = files(&[("a.txt", "")]);
    for (directory, code, complaint) in [
        (&two, 1, "egp/default/a is in"),
        (
            &mixed,
            2,
            "is a policy file: one alone can be judged, or manifests",
        ),
        (&broken, 1, "`podSelector` is missing"),
        (&empty, 1, "no file in it ends in .yaml or .yml or .json"),
    ] {
        let run = ebfw(&[
            "policy",
            "test",
            "-f",
            path(directory),
            "--flow",
            "dst=203.0.113.5",
        ]);
        assert_eq!(run.code, code, "{complaint}: {}", run.stderr);
        assert!(
            run.stderr.contains(complaint),
            "{complaint}: {}",
            run.stderr
        );
    }
}

#[test]
fn crds_are_printed_for_kubectl() {
    let both = ebfw(&["policy", "crds"]);
    assert_eq!(both.code, 0);
    assert_eq!(
        both.stdout
            .matches("\nkind: CustomResourceDefinition\n")
            .count(),
        2
    );
    assert!(both.stdout.contains("\n---\n"));
    let one = ebfw(&["policy", "crds", "EgressPolicy"]);
    let committed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../helm/ebfw/crds/egresspolicies.yaml"
    );
    let committed = fs::read_to_string(committed).expect("it is committed");
    assert!(
        one.stdout == committed,
        "out of date; run `cargo xtask generate`"
    );
    assert_eq!(ebfw(&["policy", "crds", "NetworkPolicy"]).code, 2);
}
