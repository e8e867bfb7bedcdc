//! What a valid file means, and the example that is shown to users.

use ebfw_policy::{
    diagnostics::Code,
    domain::Name,
    evaluate::Decision,
    parse_policy,
    policy::{Action, AnyOf, Mutation, PortRange, Protocol, Quic},
    spec,
};

use crate::{decided, policy};

const EXAMPLE: &str = include_str!("../../../examples/policy.yaml");

#[test]
fn the_example_decides_as_the_documentation_says() {
    let policy = policy(EXAMPLE);
    let cases = [
        (
            "pod=payments/web dst=203.0.113.5 port=443 domain=api.example.com",
            Decision::Allow,
            "allow-payments-api",
        ),
        ("domain=evil.com port=443", Decision::Deny, "Default"),
        (
            "domain=github.com port=443",
            Decision::Allow,
            "allow-github",
        ),
        (
            "domain=api.github.com port=443",
            Decision::Allow,
            "allow-github",
        ),
        ("domain=github.com port=80", Decision::Deny, "Default"),
        ("domain=notgithub.com port=443", Decision::Deny, "Default"),
        (
            "pod=other/web dst=203.0.113.5 port=443",
            Decision::Deny,
            "Default",
        ),
        ("dst=198.51.100.1 port=25", Decision::Deny, "deny-smtp"),
        (
            "domain=api.internal.example port=80",
            Decision::Modify,
            "tag-internal-api",
        ),
    ];
    for (flow, decision, rule) in cases {
        assert_eq!(
            decided(&policy, flow),
            (decision, rule.to_owned()),
            "{flow}"
        );
    }
    assert_eq!(
        policy.rules[3].mutations,
        [Mutation::SetHeader {
            header: "X-Egress-Checked".into(),
            value: "ebfw".into()
        }]
    );
}

#[test]
fn the_example_is_without_lint_and_formatted() {
    assert_eq!(policy(EXAMPLE).lint(EXAMPLE).to_string(), "");
    assert_eq!(ebfw_policy::format_policy(EXAMPLE).unwrap(), EXAMPLE);
}

#[test]
fn what_a_file_leaves_out_has_its_default() {
    let policy = policy("rules: [{action: Deny}]");
    assert_eq!(policy.default_action, Action::Allow);
    assert_eq!((policy.quic, policy.govern_loopback), (Quic::Decide, false));
    assert_eq!(policy.pod_selector, None);
    assert_eq!(&*policy.rules[0].name, "rule-1");
    assert!(!policy.rules[0].strict_l7);
}

#[test]
fn entries_may_be_written_in_every_way_that_means_the_same() {
    let file = "rules: [{action: Allow, match: {ports: [443, '443', \"8000-8999\", 1-2], protocols: [tcp, TCP, 6, '6', ICMP, 0], cidrs: ['::ffff:1.2.3.0/120']}}]";
    let policy = policy(file);
    let matches = &policy.rules[0].matches;
    let range = |first, last| PortRange::new(first, last).unwrap();
    assert_eq!(
        matches.ports,
        AnyOf::Entries(vec![
            range(443, 443),
            range(443, 443),
            range(8000, 8999),
            range(1, 2)
        ])
    );
    assert_eq!(
        matches.protocols,
        AnyOf::Entries([6, 6, 6, 6, 1, 58, 0].map(Protocol).to_vec())
    );
    assert_eq!(
        matches.cidrs,
        AnyOf::Entries(vec!["1.2.3.0/24".parse().unwrap()])
    );
}

#[test]
fn domain_match_may_stand_after_the_rules() {
    let policy = policy(
        "rules: [{action: Allow, match: {domains: [example.com]}}]\ndomainMatch: Suffix\nstrictL7: true\n",
    );
    let domains = policy.rules[0].matches.domains.entries().unwrap();
    assert!(domains[0].matches(&Name::new("a.example.com")));
    assert!(policy.rules[0].strict_l7);
}

#[test]
fn an_alias_repeats_a_value() {
    let policy = policy(
        "rules:\n- {action: Deny, match: {cidrs: &nets [10.0.0.0/8]}}\n- {action: Allow, match: {cidrs: *nets}}\n",
    );
    assert_eq!(policy.rules[0].matches, policy.rules[1].matches);
}

#[test]
fn json_is_a_policy_file_too() {
    let policy = policy(
        r#"{"defaultAction": "Deny", "rules": [{"action": "Allow", "match": {"ports": [443]}}]}"#,
    );
    assert_eq!(policy.rules.len(), 1);
}

#[test]
fn a_policy_that_differs_in_layout_only_is_equal() {
    let spread = policy("\n\nrules:\n\n  - action: Deny\n    match:\n      ports:\n        - 25\n");
    assert_eq!(
        spread,
        policy("rules: [{action: Deny, match: {ports: [25]}}]")
    );
}

#[test]
fn more_rules_than_a_workload_can_have_are_an_error_unless_selectors_part_them() {
    let everywhere = |count: usize| format!("rules:\n{}", "- {action: Deny}\n".repeat(count));
    assert!(parse_policy(&everywhere(4096)).is_ok());
    let refused = parse_policy(&everywhere(4097)).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("4097 rules apply to every workload"),
        "{refused}"
    );
    let quic = parse_policy(&format!("{}quic: deny\n", everywhere(4096))).unwrap_err();
    assert!(
        quic.to_string().contains("4097"),
        "the rule for QUIC counts: {quic}"
    );
    let narrowed = |field: &str, count: usize| {
        format!("- {{action: Deny, match: {{{field}}}}}\n").repeat(count)
    };
    let of_pods = |namespace: &str| narrowed(&format!("pod: {{namespace: {namespace}}}"), 3000);
    let parted = format!("rules:\n{}{}", of_pods("a"), of_pods("b"));
    assert!(parse_policy(&parted).is_ok(), "no pod is in both");
    for (field, why) in [
        ("pod: {namespace: a}", "one namespace"),
        ("cgroups: [/a]", "one cgroup"),
    ] {
        let beside = |count| format!("{}{}", everywhere(96), narrowed(field, count));
        assert!(parse_policy(&beside(4000)).is_ok(), "{why}");
        let refused = parse_policy(&beside(4001)).unwrap_err().to_string();
        let expected = "4097 rules apply to the workloads of one `match.pod` and `match.cgroups`";
        assert!(refused.contains(expected), "{why}: {refused}");
    }
}

#[test]
fn the_schema_and_the_reader_agree_on_every_field() {
    let schema = spec::schema();
    let fields = |name: Option<&str>| {
        let object = name.map_or(&schema, |name| &schema["$defs"][name]);
        object["properties"]
            .as_object()
            .unwrap_or_else(|| panic!("{name:?} has properties"))
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let places = [
        (None, "X: 1"),
        (Some("RuleSpec"), "rules: [{X: 1}]"),
        (Some("MatchSpec"), "rules: [{action: Deny, match: {X: 1}}]"),
        (
            Some("PodSpec"),
            "rules: [{action: Deny, match: {pod: {X: 1}}}]",
        ),
        (Some("LabelSelector"), "podSelector: {X: 1}"),
        (
            Some("RequirementSpec"),
            "podSelector: {matchExpressions: [{X: 1}]}",
        ),
        (
            Some("MutationSpec"),
            "rules: [{action: Modify, mutations: [{X: 1}]}]",
        ),
    ];
    for (name, file) in places {
        let problems = parse_policy(&file.replace('X', "zzzz")).unwrap_err();
        let unknown = problems
            .iter()
            .find(|problem| problem.code == Code::UnknownField);
        let listed = unknown.expect("zzzz is no field").to_string();
        for field in fields(name) {
            assert!(
                listed.contains(&format!("`{field}`")),
                "the reader does not know `{field}` of {name:?}: {listed}"
            );
        }
        let known = listed
            .split_once("the fields are")
            .expect("all fields are listed")
            .1
            .matches('`')
            .count()
            / 2;
        assert_eq!(
            known,
            fields(name).len(),
            "the schema lacks a field of {name:?}: {listed}"
        );
    }
}

#[test]
fn every_field_of_the_schema_is_described() {
    fn check(path: &str, value: &serde_json::Value) {
        if let Some(properties) = value
            .get("properties")
            .and_then(|properties| properties.as_object())
        {
            for (field, schema) in properties {
                assert!(
                    schema.get("description").is_some(),
                    "{path}.{field} has no description"
                );
            }
        }
        for (name, nested) in value
            .get("$defs")
            .and_then(|defs| defs.as_object())
            .into_iter()
            .flatten()
        {
            check(name, nested);
        }
    }
    check("policy", &spec::schema());
}

#[test]
fn the_spec_reads_what_the_reader_reads() {
    let spec: spec::PolicySpec = serde_saphyr::from_str(EXAMPLE).unwrap();
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(policy(&json), policy(EXAMPLE));
}
