//! What lint finds, and what it leaves alone.

use ebfw_policy::diagnostics::Severity;

use crate::policy;

/// The codes that lint finds in `rules` (flow style, one a line), with the line of each.
fn lint(rules: &[&str]) -> Vec<String> {
    let file = format!("rules:\n- {}\n", rules.join("\n- "));
    let found = policy(&file).lint(&file);
    found
        .iter()
        .map(|problem| format!("{} {}", problem.line - 1, problem.code.as_str()))
        .collect()
}

#[test]
fn what_is_left_out_is_no_worse_than_it_is() {
    let note = |at: usize| format!("{{action: Allow, match: {{domains: [x{at}.example]}}}}");
    let mut rules: Vec<String> = (0..1200).map(note).collect();
    let file = |rules: &[String]| format!("rules:\n- {}\n", rules.join("\n- "));
    let notes = file(&rules);
    let found = policy(&notes).lint(&notes);
    assert_eq!(found.len(), 1001);
    assert!(
        found
            .iter()
            .all(|problem| problem.severity == Severity::Note)
    );
    assert!(found.to_string().ends_with("and 200 more"));

    rules.push("{action: Allow, match: {cgroups: ['/**/a.service']}}".to_owned());
    let warned = file(&rules);
    let found = policy(&warned).lint(&warned);
    let warnings = found
        .iter()
        .filter(|problem| problem.severity == Severity::Warning);
    assert_eq!(warnings.count(), 1, "it is kept, though it comes last");
}

#[test]
fn a_rule_that_an_earlier_one_covers_is_shadowed() {
    let cases: [(&str, &str, bool, &str); 20] = [
        (
            "action: Allow",
            "action: Deny, match: {ports: [1]}",
            true,
            "after an unconditional rule",
        ),
        (
            "action: Deny, match: {ports: [1-9]}",
            "action: Allow, match: {ports: [1, 5-9]}",
            true,
            "ports within a range",
        ),
        (
            "action: Deny, match: {ports: [1-4, 5-9]}",
            "action: Allow, match: {ports: [3-6]}",
            true,
            "ranges side by side",
        ),
        (
            "action: Deny, match: {ports: [1-4, 6-9]}",
            "action: Allow, match: {ports: [3-6]}",
            false,
            "a gap",
        ),
        (
            "action: Deny, match: {ports: [1]}",
            "action: Allow",
            false,
            "wider",
        ),
        (
            "action: Deny, match: {cidrs: [10.0.0.0/8]}",
            "action: Allow, match: {cidrs: [10.1.0.0/16], ports: [1]}",
            true,
            "a prefix within",
        ),
        (
            "action: Deny, match: {cidrs: [10.1.0.0/16]}",
            "action: Allow, match: {cidrs: [10.0.0.0/8]}",
            false,
            "a prefix around",
        ),
        (
            "action: Deny, match: {cidrs: [0.0.0.0/0]}",
            "action: Allow, match: {cidrs: ['2001:db8::/32']}",
            false,
            "another family",
        ),
        (
            "action: Allow, match: {domains: ['*.a.example']}",
            "action: Allow, match: {domains: [b.a.example]}",
            true,
            "a name within",
        ),
        (
            "action: Allow, match: {domains: ['*.a.example']}",
            "action: Deny, match: {domains: [b.a.example], cidrs: [10.0.0.0/8]}",
            false,
            "Allow and Deny read names differently",
        ),
        (
            "action: Allow, match: {domains: ['*.a.example']}",
            "action: Allow, match: {ports: [1]}",
            false,
            "no names",
        ),
        (
            "action: Deny, match: {methods: [GET]}",
            "action: Allow, match: {methods: [GET]}",
            false,
            "what cannot be read passes over the first",
        ),
        (
            "action: Deny, match: {methods: [GET, PUT]}",
            "action: Deny, match: {methods: [GET], pathPrefix: /a}",
            true,
            "methods within",
        ),
        (
            "action: Allow, match: {pathPrefix: /a}",
            "action: Allow, match: {pathPrefix: /a/b}",
            true,
            "a path within",
        ),
        (
            "action: Allow, match: {pathPrefix: /a}",
            "action: Allow, match: {pathPrefix: /ab}",
            false,
            "another path",
        ),
        (
            "action: Deny, match: {protocols: [TCP, UDP]}",
            "action: Allow, match: {protocols: [UDP]}",
            true,
            "protocols within",
        ),
        (
            "action: Deny, match: {pod: {namespace: a}}",
            "action: Allow, match: {pod: {namespace: a, name: x}}",
            true,
            "a pod within",
        ),
        (
            "action: Deny, match: {pod: {namespace: a}}",
            "action: Allow",
            false,
            "every workload",
        ),
        (
            "action: Deny, match: {pod: {}}",
            "action: Allow, match: {pod: {labels: {a: b}}}",
            true,
            "any pod",
        ),
        (
            "action: Deny, match: {pod: {labels: {a: b}}}",
            "action: Allow, match: {pod: {namespace: a}}",
            false,
            "other pods",
        ),
    ];
    for (first, second, want, why) in cases {
        let found = lint(&[
            &format!("{{name: a, {first}}}"),
            &format!("{{name: b, {second}}}"),
        ]);
        assert_eq!(
            found.contains(&"2 shadowed".to_owned()),
            want,
            "{why}: {found:?}"
        );
    }
}

#[test]
fn an_exception_that_comes_too_late_is_worse_than_a_repetition() {
    let severity = |action: &str| {
        let file =
            format!("rules:\n- {{name: a, action: Allow}}\n- {{name: b, action: {action}}}\n");
        policy(&file)
            .lint(&file)
            .worst()
            .map(|severity| format!("{severity:?}"))
    };
    assert_eq!(severity("Deny").as_deref(), Some("Warning"));
    assert_eq!(severity("Allow").as_deref(), Some("Note"));
}

#[test]
fn doubtful_rules_are_named() {
    let cases: [(&str, &[&str], &str); 24] = [
        (
            "{action: Deny, match: {ports: [1], protocols: [ICMP, 47]}}",
            &["1 never-matches"],
            "ports without ports",
        ),
        (
            "{action: Deny, match: {ports: [1], protocols: [ICMP, TCP]}}",
            &[],
            "TCP has ports",
        ),
        (
            "{action: Deny, match: {methods: [GET], protocols: [UDP]}}",
            &["1 opaque"],
            "no request in UDP",
        ),
        (
            "{action: Deny, match: {pathPrefix: /a, ports: [443]}}",
            &["1 opaque"],
            "encrypted",
        ),
        (
            "{action: Deny, match: {pathPrefix: /a, ports: [80, 443]}}",
            &[],
            "80 is not",
        ),
        (
            "{action: Deny, match: {pathPrefix: /a}}",
            &[],
            "cleartext HTTP is read on any port",
        ),
        (
            "{action: Deny, match: {pathPrefix: /a, methods: [CONNECT]}}",
            &["1 never-matches"],
            "CONNECT names a host",
        ),
        (
            "{action: Allow, match: {domains: ['*.ok.example', '*.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example']}}",
            &["1 never-matches"],
            "a label of 64 characters",
        ),
        (
            "{action: Allow, match: {domains: ['*.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example', '[ab]aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa*.example']}}",
            &[],
            "labels of 63 characters, and one that may be longer or not",
        ),
        (
            "{action: Deny, match: {pathPrefix: /a, methods: [CONNECT, GET]}}",
            &[],
            "GET has a path",
        ),
        (
            "{action: Allow, match: {domains: [example.com]}}",
            &["1 bare-domain"],
            "what is below?",
        ),
        (
            "{action: Allow, match: {domains: [example.com, '*.example.com']}}",
            &[],
            "both are there",
        ),
        (
            "{action: Allow, match: {domains: [api.example.com]}}",
            &[],
            "a host's name",
        ),
        (
            "{action: Deny, match: {domains: ['*.example.com']}}",
            &["1 deny-by-name"],
            "no prefixes",
        ),
        (
            "{action: Allow, match: {domains: ['*.example.com']}}",
            &[],
            "an Allow by name is safe",
        ),
        (
            "{action: Deny, match: {pathPrefix: /ü}}",
            &["1 unencoded-path"],
            "sent as /%C3%BC",
        ),
        (
            "{action: Deny, match: {pathPrefix: '/a b'}}",
            &["1 unencoded-path"],
            "sent as /a%20b",
        ),
        (
            "{action: Deny, match: {pathPrefix: '/%C3%BC/a%20b/~u/x;y=1,2:3@4!'}}",
            &[],
            "sent like this",
        ),
        (
            "{action: Deny, match: {pathPrefix: '/v1/*'}}",
            &["1 star-in-path"],
            "no glob",
        ),
        (
            "{action: Deny, match: {pathPrefix: '/v1*'}}",
            &[],
            "a name with a star",
        ),
        (
            "{action: Allow, match: {cgroups: ['/**/a.service']}}",
            &["1 unanchored-cgroup"],
            "anyone's name",
        ),
        (
            "{action: Deny, match: {cgroups: ['/**/a.service']}}",
            &[],
            "a Deny is no prize",
        ),
        (
            "{action: Allow, match: {cgroups: [/system.slice/a.service]}}",
            &[],
            "anchored",
        ),
        (
            "{action: Deny, match: {cidrs: [10.0.0.0/8], ports: [25]}}",
            &[],
            "an ordinary rule",
        ),
    ];
    for (rule, want, why) in cases {
        assert_eq!(lint(&[rule]), want, "{why}");
    }
}

#[test]
fn what_strict_l7_denies_with_tls_is_said() {
    for (strict, rule, said, why) in [
        (
            true,
            "{action: Deny, match: {methods: [PUT]}}",
            true,
            "all TLS",
        ),
        (
            true,
            "{action: Deny, match: {pathPrefix: /a, ports: [443]}}",
            true,
            "HTTPS",
        ),
        (
            true,
            "{action: Deny, match: {methods: [PUT], ports: [80]}}",
            false,
            "no TLS there",
        ),
        (
            true,
            "{action: Allow, match: {methods: [PUT]}}",
            false,
            "an Allow is passed over",
        ),
        (
            false,
            "{action: Deny, match: {methods: [PUT]}}",
            false,
            "not strict",
        ),
    ] {
        let file = format!("strictL7: {strict}\nrules: [{rule}]");
        let found = policy(&file).lint(&file).to_string();
        assert_eq!(found.contains("denies TLS"), said, "{why}: {found}");
    }
    let file = "strictL7: true\nrules: [{action: Deny, match: {methods: [PUT], protocols: [UDP]}}]";
    let found = policy(file).lint(file).to_string();
    assert!(found.contains("denies its protocols whatever"), "{found}");
}

#[test]
fn suffix_matching_means_the_names_below() {
    let file = "domainMatch: Suffix\nrules: [{action: Allow, match: {domains: [example.com]}}]";
    assert_eq!(policy(file).lint(file).to_string(), "");
}

#[test]
fn a_deny_by_name_is_backed_by_a_deny_by_address() {
    let found = lint(&[
        "{name: a, action: Deny, match: {domains: ['*.evil.example']}}",
        "{name: b, action: Deny, match: {cidrs: [192.0.2.0/24]}}",
    ]);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn two_rules_of_one_name_are_named() {
    let found = lint(&[
        "{name: a, action: Deny, match: {ports: [1]}}",
        "{name: a, action: Deny, match: {ports: [2]}}",
    ]);
    assert_eq!(found, ["2 duplicate-name"]);
}

#[test]
fn a_finding_is_shown_at_its_rule() {
    let file = "rules:\n  - name: all\n    action: Allow\n  - name: late\n    action: Deny\n";
    let shown = policy(file).lint(file).render("policy.yaml", file, false);
    assert!(
        shown.contains(
            "warning[shadowed]: `late` never decides: `all` on line 2 matches all of it first"
        ),
        "{shown}"
    );
    assert!(shown.contains("--> policy.yaml:4:5"), "{shown}");
}
