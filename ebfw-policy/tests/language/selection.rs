//! Which rules apply to a workload, and what holds for the policy as a whole.

use ebfw_policy::{
    cgroup::{CgroupGlob, CgroupPath},
    evaluate::{Decision, Reason},
    flow::Flow,
    policy::MAX_RULES,
    ruleset::{QUIC_RULE, TooManyRules},
    workload::Workload,
};

use crate::{decided, policy, verdict};

fn path(text: &str) -> CgroupPath {
    CgroupPath::new(text).unwrap()
}

#[test]
fn cgroup_globs_mean_a_cgroup_and_everything_below() {
    let cases = [
        ("/a/b", "/a/b", true, "itself"),
        ("/a/b", "/a/b/c/d", true, "nested cgroups cannot escape"),
        ("/a/b", "/a", false, "not above"),
        ("/a/b", "/a/bc", false, "whole names"),
        ("/a/*", "/a/x", true, "a star"),
        ("/a/*", "/a", false, "one name"),
        (
            "/*.service",
            "/a/x.service",
            false,
            "a star stops at the slash",
        ),
        ("/a/x?", "/a/xy", true, "one character"),
        ("/a/x?b", "/a/x/b", false, "but no slash"),
        ("/a/x[!y]b", "/a/x/b", false, "nor does a class match it"),
        ("/**/x.service", "/x.service", true, "no name between"),
        ("/**/x.service", "/a/b/x.service", true, "many between"),
        ("/a/**/z", "/a/z", true, "none between"),
        ("/a/**/z", "/a/b/c/z/d", true, "many, and below"),
        ("/a/**", "/a/b", true, "everything below"),
        ("/a/**", "/a", false, "and not itself"),
        ("/**", "/", true, "every cgroup"),
        ("/", "/a", true, "everything is below the root"),
        ("/", "/", true, "the root"),
        ("/a/", "/a", true, "a slash at the end"),
        ("/{a,b}/c", "/b/c", true, "alternatives"),
        (r"/a\*", "/a*", true, "an escaped star"),
        (r"/a\*", "/ab", false, "an escaped star is no star"),
    ];
    for (glob, at, want, why) in cases {
        assert_eq!(
            CgroupGlob::new(glob).unwrap().matches(&path(at)),
            want,
            "{glob} on {at}: {why}"
        );
    }
}

#[test]
fn a_cgroup_is_open_while_a_glob_could_select_something_below_it() {
    let cases = [
        ("/a/b", "/", true, "b may come"),
        ("/a/b", "/a", true, "b may come"),
        (
            "/a/b",
            "/a/b",
            false,
            "selected already, and with it all below",
        ),
        ("/a/b", "/a/c", false, "another branch"),
        ("/a/*/c", "/a/x", true, "c may come"),
        ("/a/*/c", "/a/x/y", false, "another branch"),
        ("/a/**", "/a", true, "anything below"),
        ("/a/**", "/a/b", false, "selected already"),
        ("/**/x", "/a/b", true, "x may come anywhere"),
        ("/**/x", "/a/x/b", false, "selected already"),
        ("/**", "/", false, "selected already"),
        ("/a/x*", "/a", true, "a name may come"),
        ("/b", "/a", false, "another branch"),
    ];
    for (glob, at, want, why) in cases {
        let policy = policy(&format!(
            "rules: [{{action: Deny, match: {{cgroups: ['{glob}']}}}}]"
        ));
        assert_eq!(
            policy.may_select_below(&path(at)),
            want,
            "{glob} below {at}: {why}"
        );
    }
    assert!(
        !policy("rules: [{action: Deny}]").may_select_below(&path("/")),
        "no globs"
    );
}

#[test]
fn a_rule_applies_to_the_pods_and_cgroups_that_it_names() {
    let cases = [
        ("pod: {namespace: a}", "namespace=a", true, "namespace"),
        (
            "pod: {namespace: a}",
            "namespace=b",
            false,
            "another namespace",
        ),
        (
            "pod: {namespace: a}",
            "dst=192.0.2.1",
            false,
            "no known pod",
        ),
        ("pod: {}", "dst=192.0.2.1", false, "no known pod"),
        ("pod: {}", "name=x", true, "any pod"),
        ("pod: {namespace: a, name: x}", "pod=a/x", true, "both"),
        (
            "pod: {namespace: a, name: x}",
            "pod=a/y",
            false,
            "both must hold",
        ),
        ("pod: {uid: u-1}", "pod=a/x uid=u-1", true, "uid"),
        (
            "pod: {namespace: a}",
            "name=x",
            false,
            "a fact that is not known equals nothing",
        ),
        (
            "pod: {labels: {app: web}}",
            "pod=a/x label.app=web",
            true,
            "a label",
        ),
        (
            "pod: {labels: {app: web}}",
            "pod=a/x label.app=db",
            false,
            "another value",
        ),
        ("pod: {labels: {app: web}}", "pod=a/x", false, "no label"),
        (
            "pod: {labels: {app: ''}}",
            "pod=a/x",
            false,
            "no label is no empty label",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}",
            "label.app=b",
            true,
            "In",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}",
            "pod=a/x",
            false,
            "In, without the key",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: NotIn, values: [a]}]}",
            "label.app=b",
            true,
            "NotIn",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: NotIn, values: [a]}]}",
            "label.app=a",
            false,
            "NotIn",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: NotIn, values: [a]}]}",
            "pod=a/x",
            true,
            "NotIn also holds without the key",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: Exists}]}",
            "label.app=a",
            true,
            "Exists",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: Exists}]}",
            "pod=a/x",
            false,
            "Exists",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: DoesNotExist}]}",
            "pod=a/x",
            true,
            "DoesNotExist",
        ),
        (
            "pod: {matchExpressions: [{key: app, operator: DoesNotExist}]}",
            "dst=192.0.2.1",
            false,
            "but in a pod",
        ),
        (
            "cgroups: [/system.slice/a.service]",
            "cgroup=/system.slice/a.service/sub",
            true,
            "below the cgroup",
        ),
        (
            "cgroups: [/system.slice/a.service]",
            "pod=a/x",
            false,
            "a cgroup that is not known",
        ),
        (
            "cgroups: [/a], pod: {namespace: a}",
            "cgroup=/a",
            false,
            "both must hold",
        ),
    ];
    for (matches, flow, want, why) in cases {
        let policy = policy(&format!("rules: [{{action: Deny, match: {{{matches}}}}}]"));
        let rules = policy
            .select(&Flow::parse(flow).unwrap().workload())
            .unwrap()
            .unwrap()
            .rules;
        assert_eq!(!rules.is_empty(), want, "{matches} on {flow}: {why}");
    }
}

#[test]
fn a_pod_selector_narrows_the_whole_policy() {
    let narrowed = policy("podSelector: {matchLabels: {app: web}}\ndefaultAction: Deny\n");
    let governs = |flow: &str| {
        narrowed
            .select(&Flow::parse(flow).unwrap().workload())
            .unwrap()
            .is_some()
    };
    assert!(governs("pod=a/x label.app=web"));
    assert!(!governs("pod=a/x label.app=db"));
    assert!(
        !governs("cgroup=/a"),
        "what is in no known pod is not governed"
    );
    let every_pod = policy("podSelector: {}\n");
    assert!(every_pod.select(&Workload::default()).unwrap().is_none());
    assert!(
        every_pod
            .select(&Flow::parse("pod=a/x").unwrap().workload())
            .unwrap()
            .is_some()
    );
}

#[test]
fn order_alone_decides() {
    let policy = policy(
        "rules:\n- {name: wide, action: Allow, match: {cidrs: [10.0.0.0/8]}}\n- {name: narrow, action: Deny, match: {cidrs: [10.1.2.3/32]}}\n",
    );
    assert_eq!(
        decided(&policy, "dst=10.1.2.3"),
        (Decision::Allow, "wide".to_owned())
    );
}

#[test]
fn loopback_is_let_through_unless_it_is_governed() {
    for (file, want) in [
        ("defaultAction: Deny", (Decision::Allow, Reason::Loopback)),
        (
            "defaultAction: Deny\ngovernLoopback: true",
            (Decision::Deny, Reason::Default),
        ),
    ] {
        for dst in ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"] {
            let verdict = verdict(&policy(file), &format!("dst={dst} port=80"));
            assert_eq!(
                (verdict.decision, verdict.reason),
                want,
                "{dst} under {file}"
            );
        }
    }
    assert_eq!(
        verdict(&policy("defaultAction: Deny"), "dst=128.0.0.1").decision,
        Decision::Deny
    );
}

#[test]
fn quic_is_denied_before_the_rules_if_the_policy_says_so() {
    let deny = policy("quic: deny\nrules: [{name: all, action: Allow}]");
    assert_eq!(
        decided(&deny, "dst=192.0.2.1 port=443 protocol=udp"),
        (Decision::Deny, QUIC_RULE.to_owned())
    );
    assert_eq!(
        decided(&deny, "dst=192.0.2.1 port=443 protocol=tcp"),
        (Decision::Allow, "all".to_owned())
    );
    assert_eq!(
        decided(&deny, "dst=192.0.2.1 port=53 protocol=udp"),
        (Decision::Allow, "all".to_owned())
    );
    let decide = policy("rules: [{name: all, action: Allow}]");
    assert_eq!(
        decided(&decide, "dst=192.0.2.1 port=443 protocol=udp"),
        (Decision::Allow, "all".to_owned())
    );
}

#[test]
fn a_workload_with_too_many_rules_is_an_error() {
    // Selectors that meet in one pod: the file alone does not tell that there is such a pod.
    let rules = |field: &str, count: usize| {
        format!("- {{action: Deny, match: {{pod: {{{field}}}}}}}\n").repeat(count)
    };
    let file = format!(
        "rules:\n{}{}",
        rules("namespace: a", MAX_RULES),
        rules("name: x", 1)
    );
    let policy = policy(&file);
    let select = |flow: &str| policy.select(&Flow::parse(flow).unwrap().workload());
    assert_eq!(select("pod=a/x"), Err(TooManyRules(MAX_RULES + 1)));
    assert!(select("pod=b/y").unwrap().unwrap().rules.is_empty());
}

#[test]
fn rulesets_are_equal_if_their_rules_are() {
    let file = "rules:\n- {name: a, action: Deny, match: {ports: [25]}}\n- {name: b, action: Deny, match: {pod: {namespace: b}}}\n";
    let select = |file: &str, flow: &str| {
        policy(file)
            .select(&Flow::parse(flow).unwrap().workload())
            .unwrap()
            .unwrap()
    };
    assert_eq!(
        select(file, "namespace=x"),
        select(&format!("# moved\n\n{file}"), "namespace=y")
    );
    assert_ne!(select(file, "namespace=x"), select(file, "namespace=b"));
}

#[test]
fn every_rule_is_explained_by_the_dimension_that_ruled_it_out() {
    let policy = policy(
        "rules:\n- {action: Allow, match: {pod: {namespace: b}, ports: [1]}}\n- {action: Allow, match: {cgroups: [/x]}}\n\
         - {action: Allow, match: {ports: [1]}}\n- {action: Allow, match: {protocols: [UDP]}}\n- {action: Allow, match: {cidrs: [10.0.0.0/8]}}\n\
         - {action: Allow, match: {domains: [b.example]}}\n- {action: Allow, match: {methods: [PUT]}}\n- {action: Allow, match: {pathPrefix: /b}}\n- {action: Deny}\n",
    );
    let flow = Flow::parse(
        "pod=a/x dst=192.0.2.1 port=80 protocol=tcp domain=a.example method=GET path=/a",
    )
    .unwrap();
    let explained = policy.explain(&flow.workload(), &flow.facts());
    let found: Vec<_> = explained
        .iter()
        .map(|explanation| format!("{:?}", explanation.judgement))
        .collect();
    let want = [
        "No(Pod)",
        "No(Cgroups)",
        "No(Ports)",
        "No(Protocols)",
        "No(Cidrs)",
        "No(Domains)",
        "No(Methods)",
        "No(PathPrefix)",
        "Yes",
    ];
    assert_eq!(found, want);
}
