//! Files of manifests: which documents are policies, and where errors stand.

use ebfw_policy::{Manifests, Violation, diagnostics::Diagnostics, is_manifest, parse_manifests};

fn read(source: &str) -> Result<Manifests, Diagnostics> {
    parse_manifests(source, &|_, _| Vec::new())
}

fn names(source: &str) -> Vec<String> {
    let manifests =
        read(source).unwrap_or_else(|problems| panic!("{}", problems.render("m", source, false)));
    manifests
        .objects
        .iter()
        .map(|object| object.id().to_string())
        .collect()
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {{name: {name}, namespace: web, labels: {{a: b}}}}\nspec:\n  podSelector: {{}}\n"
    )
}

#[test]
fn several_documents_and_lists_are_read_in_order() {
    let cluster = "apiVersion: ebfw.dvrkn.com/v1\nkind: ClusterEgressPolicy\nmetadata: {name: base}\nspec: {podSelector: {}}\n";
    let nameless = "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {name: d}\nspec: {podSelector: {}}\nstatus: {ruleCount: 0}\n";
    let file = format!(
        "---\n# nothing\n---\n{}---\n{cluster}---\n\n---\n{nameless}",
        policy("a")
    );
    assert_eq!(names(&file), ["egp/web/a", "cegp/base", "egp/default/d"]);
    let indent = |text: &str| {
        text.lines()
            .map(|line| format!("  {line}\n"))
            .collect::<String>()
    };
    let item = |text: &str| format!("-{}", &indent(text)[1..]);
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}",
        item(&policy("b")),
        item(cluster)
    );
    assert_eq!(names(&list), ["egp/web/b", "cegp/base"]);
    let own = format!(
        "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicyList\nitems:\n{}",
        item(&policy("c"))
    );
    assert_eq!(names(&own), ["egp/web/c"]);
    let nothing = "apiVersion: v1\nkind: List\nitems: null\n";
    let text = read(nothing).unwrap_err().to_string();
    assert!(text.contains("a list of objects is wanted"), "{text}");
    assert!(!text.contains("write `["), "{text}");
}

#[test]
fn anchors_end_with_their_document() {
    let file = format!(
        "{}  rules: [{{action: Deny, match: {{ports: &p [25]}}}}]\n---\n{}  rules: [{{action: Deny, match: {{ports: *p}}}}]\n",
        policy("a"),
        policy("b")
    );
    let text = read(&file).unwrap_err().to_string();
    assert!(text.contains("unknown anchor"), "{text}");
}

#[test]
fn other_kinds_are_passed_over_with_a_note() {
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n";
    let manifests = read(&format!("{other}---\n{}", policy("a"))).unwrap();
    assert_eq!(manifests.objects.len(), 1);
    let notes = manifests.notes.to_string();
    assert_eq!(
        notes,
        "1:1: note[other-kind]: ConfigMap `settings` is no policy and is passed over"
    );
}

#[test]
fn errors_stand_at_their_place_in_the_file() {
    let good = policy("a");
    for (file, expected, why) in [
        (
            format!(
                "{good}---\n{}  rules:\n    - action: Deny\n      match: {{cidrs: [10.0.0.1/8]}}\n",
                policy("b")
            ),
            "14:23: error[bad-prefix]",
            "in the second document",
        ),
        (
            format!("{good}---\n{good}"),
            "9:18: error[bad-object]: `egp/web/a` comes twice",
            "two of one name",
        ),
        (
            good.replace("/v1", "/v2"),
            "1:13: error[bad-object]: `ebfw.dvrkn.com/v2` has no EgressPolicy",
            "another version",
        ),
        (
            good.replace("kind: EgressPolicy", "kind: EgresPolicy"),
            "did you mean `EgressPolicy`?",
            "a misspelled kind",
        ),
        (
            good.replace("kind: EgressPolicy\n", ""),
            "1:1: error[missing-field]: `kind` is missing",
            "no kind",
        ),
        (
            good.replace("name: a", "nam: a"),
            "`name` is missing",
            "no name",
        ),
        (
            good.replace("name: a", "name: A_b"),
            "is not the name of an object",
            "a name that none has",
        ),
        (
            good.replace("kind: EgressPolicy", "kind: ClusterEgressPolicy"),
            "a ClusterEgressPolicy is in no namespace",
            "a namespace too many",
        ),
        (
            good.replace("  podSelector: {}", "  priority: 1"),
            "5:3: error[missing-field]: `podSelector` is missing",
            "no selector",
        ),
        (
            good.replace("spec:", "specs:"),
            "unknown field `specs`",
            "no spec",
        ),
        (
            format!("{good}  scope: Node\n"),
            "only a ClusterEgressPolicy has a scope",
            "a scope",
        ),
        (
            format!("{good}  rules: [{{action: Deny, match: {{cgroups: [/a]}}}}]\n"),
            "an object has no `cgroups`",
            "cgroups",
        ),
        (
            format!("{good}  priority: 1_000\n"),
            "`1_000` is no priority",
            "a number that is none",
        ),
        (
            format!("{good}---\n- a\n"),
            "an object (a mapping) is wanted",
            "a list",
        ),
    ] {
        let text = read(&file).map_err(|problems| problems.to_string());
        let text = text.expect_err(why);
        assert!(text.contains(expected), "{why}: {text}");
    }
}

#[test]
fn what_the_schema_refuses_stands_at_its_place_unless_it_was_said_already() {
    let file = format!(
        "{}  rules:\n    - {{action: Deny, match: {{ports: [0]}}}}\n    - {{action: Deny, name: long}}\n",
        policy("a")
    );
    let schema = |_, _: &serde_json::Value| {
        [
            "spec.rules[0].match.ports[0]",
            "spec.rules[1].name",
            "spec.gone.away",
        ]
        .map(|field| Violation {
            field: field.to_owned(),
            message: "too long".to_owned(),
        })
        .to_vec()
    };
    let problems = parse_manifests(&file, &schema).unwrap_err();
    let found: Vec<_> = problems
        .iter()
        .map(|problem| {
            (
                problem.line,
                problem.code.as_str(),
                problem.field.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (5, "schema", Some("spec.gone.away")),
            (7, "bad-port", Some("spec.rules[0].match.ports[0]")),
            (8, "schema", Some("spec.rules[1].name")),
        ]
    );
}

#[test]
fn the_schema_sees_what_the_api_server_would() {
    let file = format!(
        "{}  priority: 5\n  strictL7: true\n  rules: [{{action: Deny, name: \"7\", match: {{ports: [25, \"26\"], cidrs: ~}}}}]\n",
        policy("a")
    );
    let expected = serde_json::json!({
        "podSelector": {}, "priority": 5, "strictL7": true,
        "rules": [{ "action": "Deny", "name": "7", "match": { "ports": [25, "26"], "cidrs": null } }],
    });
    let seen = std::cell::RefCell::new(serde_json::Value::Null);
    let _ = parse_manifests(&file, &|_, object: &serde_json::Value| {
        *seen.borrow_mut() = object["spec"].clone();
        Vec::new()
    });
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn a_policy_file_is_no_manifest() {
    assert!(is_manifest(&policy("a")));
    assert!(
        is_manifest("kind: EgressPolicy\n"),
        "a manifest with a mistake"
    );
    for source in ["rules: []\n", "", "[", "- kind: x\n"] {
        assert!(!is_manifest(source), "{source:?}");
    }
}

/// What an object is called and marked with: the API server refuses these, and takes the twins.
#[test]
fn metadata_is_what_the_api_server_takes() {
    let object = |metadata: &str| {
        format!(
            "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {metadata}\nspec: {{podSelector: {{}}}}\n"
        )
    };
    let longest = "a".repeat(253);
    for good in [
        "{name: a.b-c.0d}",
        "{name: \"0\"}",
        &format!("{{name: {longest}}}"),
        "{name: a, namespace: a-b}",
        "{name: a, creationTimestamp: null, labels: null}",
        "{name: a, labels: {version: \"1\", empty: \"\"}, annotations: {\"a/b\": c, d: null}}",
        "{name: a, labels: {a.b/C_d: E-f, none: null}, annotations: {x: \"b c\"}}",
        "{name: a, uid: b, generation: 1, resourceVersion: \"1\", finalizers: [a/b], managedFields: []}",
    ] {
        assert!(
            read(&object(good)).is_ok(),
            "{good}: {:?}",
            read(&object(good))
        );
    }
    for (wrong, says) in [
        ("{name: -a}".to_owned(), "`-a` is not the name of an object"),
        ("{name: a-}".to_owned(), "`a-` is not"),
        ("{name: a..b}".to_owned(), "`a..b` is not"),
        ("{name: a.-b}".to_owned(), "`a.-b` is not"),
        ("{name: Shop}".to_owned(), "lower-case letters"),
        (format!("{{name: {longest}a}}"), "is not the name"),
        (
            "{name: a, namespace: a.b}".to_owned(),
            "`a.b` is not a namespace",
        ),
        (
            format!("{{name: a, namespace: {}}}", "a".repeat(64)),
            "is not a namespace",
        ),
        (
            "{name: a, labels: {version: 1}}".to_owned(),
            "write it in quotes: \"1\"",
        ),
        ("{name: a, labels: [a]}".to_owned(), "labels (a mapping)"),
        (
            "{name: a, labels: {a: \"b c\"}}".to_owned(),
            "`b c` is no value of a label",
        ),
        (
            format!("{{name: a, labels: {{a: {}}}}}", "x".repeat(64)),
            "is no value of a label",
        ),
        (
            "{name: a, labels: {\"a b\": c}}".to_owned(),
            "`a b` is no key of a label",
        ),
        (
            "{name: a, labels: {/a: c}}".to_owned(),
            "`/a` is no key of a label",
        ),
        (
            "{name: a, annotations: {\"a b\": c}}".to_owned(),
            "`a b` is no key of an annotation",
        ),
        ("{name: a, label: {}}".to_owned(), "did you mean `labels`?"),
        (
            "{name: a, clusterName: b}".to_owned(),
            "`metadata` has no field `clusterName`",
        ),
        (
            "{name: a, annotations: {enabled: true}}".to_owned(),
            "write it in quotes: \"true\"",
        ),
    ] {
        let text = read(&object(&wrong)).unwrap_err().to_string();
        assert!(text.contains(says), "{wrong}: {text}");
    }
}
