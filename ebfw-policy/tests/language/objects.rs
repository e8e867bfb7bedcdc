//! Several policy objects over one pod: who is governed, in which order, by which default (SEMANTICS 5).

use std::sync::Arc;

use ebfw_policy::{
    evaluate::Decision,
    flow::Flow,
    object::{ObjectId, PolicyObject},
    policy::{Action, MAX_RULES},
    policy_set::PolicySet,
    workload::Workload,
};
use serde_json::{Value, json};

fn object(id: ObjectId, spec: &Value) -> Arc<PolicyObject> {
    Arc::new(PolicyObject::from_json(id, spec).unwrap_or_else(|error| panic!("{error}")))
}

fn cluster(name: &str, spec: Value) -> Arc<PolicyObject> {
    object(ObjectId::cluster(name), &spec)
}

fn namespaced(namespace: &str, name: &str, spec: Value) -> Arc<PolicyObject> {
    object(ObjectId::namespaced(namespace, name), &spec)
}

fn set<const N: usize>(objects: [Arc<PolicyObject>; N]) -> PolicySet {
    PolicySet::new(objects)
}

/// A rule that denies everything, called `name`.
fn deny(name: &str) -> Value {
    json!([{ "name": name, "action": "Deny" }])
}

fn workload(flow: &str) -> Workload {
    Flow::parse(flow).unwrap().workload()
}

/// The rules of the workload by name.
fn rules(set: &PolicySet, flow: &str) -> Vec<String> {
    let ruleset = set.select(&workload(flow)).unwrap();
    ruleset.map_or_else(Vec::new, |ruleset| {
        ruleset
            .rules
            .iter()
            .map(|rule| rule.name.to_string())
            .collect()
    })
}

/// `(ungoverned)`, or the verdict and what it comes from.
fn verdict(set: &PolicySet, flow: &str) -> (Decision, String) {
    let flow = Flow::parse(flow).unwrap();
    let Some(ruleset) = set.select(&flow.workload()).unwrap() else {
        return (Decision::Allow, "(ungoverned)".to_owned());
    };
    let verdict = ruleset.evaluate(&flow.facts());
    let rule = verdict.rule.map(|rule| rule.name.to_string());
    (verdict.decision, rule.unwrap_or("(default)".to_owned()))
}

const WEB: &str = "pod=web/front label.app=front dst=203.0.113.5 port=443";

#[test]
fn a_namespaced_policy_cannot_reach_another_namespace() {
    // CVE-2023-41333 (Cilium): a selector that names another namespace reached it.
    let reaching = json!({
        "podSelector": { "matchLabels": { "io.kubernetes.pod.namespace": "payments" } },
        "defaultAction": "Deny", "rules": deny("r"),
    });
    let naming = json!({
        "podSelector": {}, "defaultAction": "Deny",
        "rules": [{ "name": "r", "action": "Deny", "match": { "pod": { "namespace": "payments" } } }],
    });
    let set = set([
        namespaced("web", "reaching", reaching),
        namespaced("web", "naming", naming),
    ]);
    for flow in [
        "pod=payments/db dst=203.0.113.5 port=443",
        "pod=payments/db label.io.kubernetes.pod.namespace=payments dst=203.0.113.5 port=443",
    ] {
        assert_eq!(verdict(&set, flow).1, "(ungoverned)", "{flow}");
    }
    // Its own pods it governs: the rule means none of them, the default does.
    assert_eq!(verdict(&set, WEB), (Decision::Deny, "(default)".to_owned()));
}

#[test]
fn an_empty_selector_means_all_pods_in_scope_and_a_missing_one_is_an_error() {
    // CVE-2025-64715 (Cilium): an empty selector was read as one that selects nothing.
    let own = set([namespaced(
        "web",
        "all",
        json!({ "podSelector": {}, "rules": deny("r") }),
    )]);
    assert_eq!(verdict(&own, WEB).1, "egp/web/all/r");
    assert_eq!(
        verdict(&own, "pod=payments/db dst=203.0.113.5 port=443").1,
        "(ungoverned)"
    );
    let all = set([cluster(
        "all",
        json!({ "podSelector": {}, "rules": deny("r") }),
    )]);
    for flow in [WEB, "pod=payments/db dst=203.0.113.5 port=443"] {
        assert_eq!(verdict(&all, flow).1, "cegp/all/r", "{flow}");
    }
    let missing = PolicyObject::from_json(ObjectId::cluster("x"), &json!({ "rules": [] }));
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("`podSelector` is missing"), "{text}");
}

#[test]
fn cluster_policies_come_first_then_priority_then_name() {
    let spec =
        |priority: u32| json!({ "podSelector": {}, "priority": priority, "rules": deny("r") });
    let default = json!({ "podSelector": {}, "rules": deny("r") });
    let set = set([
        namespaced("web", "urgent", spec(0)),
        cluster("b", spec(1000)),
        // As text 9 comes after 10, as a difference of small numbers the highest comes before 0 (CVE-2026-25804).
        cluster("nine", spec(9)),
        cluster("ten", spec(10)),
        cluster("last", spec(1_000_000)),
        cluster("first", spec(0)),
        cluster("a", default.clone()),
        namespaced("web", "b", default.clone()),
        namespaced("web", "a", default.clone()),
        namespaced("payments", "a", default),
    ]);
    assert_eq!(
        rules(&set, WEB),
        [
            "cegp/first/r",
            "cegp/nine/r",
            "cegp/ten/r",
            "cegp/a/r",
            "cegp/b/r",
            "cegp/last/r",
            "egp/web/urgent/r",
            "egp/web/a/r",
            "egp/web/b/r",
        ]
    );
}

#[test]
fn order_does_not_depend_on_the_order_in_which_objects_arrive() {
    let spec =
        |priority: u32| json!({ "podSelector": {}, "priority": priority, "rules": deny("r") });
    let mut objects: Vec<_> = (0..40)
        .map(|n| match n % 2 {
            0 => cluster(&format!("c{n}"), spec(n / 4)),
            _ => namespaced("web", &format!("n{n}"), spec(n / 4)),
        })
        .collect();
    let first = rules(&PolicySet::new(objects.clone()), WEB);
    assert_eq!(first.len(), 40);
    objects.reverse();
    assert_eq!(rules(&PolicySet::new(objects.clone()), WEB), first);
    objects.rotate_left(7);
    assert_eq!(rules(&PolicySet::new(objects), WEB), first);
}

#[test]
fn deny_is_the_default_if_any_selecting_policy_says_so() {
    let allow = || {
        namespaced(
            "web",
            "allow",
            json!({ "podSelector": {}, "defaultAction": "Allow" }),
        )
    };
    let deny = |labels: Value| {
        let spec = json!({ "podSelector": { "matchLabels": labels }, "defaultAction": "Deny" });
        namespaced("web", "deny", spec)
    };
    for (set, expected, why) in [
        (set([allow()]), Decision::Allow, "nobody says Deny"),
        (
            set([allow(), deny(json!({}))]),
            Decision::Deny,
            "one of two says Deny",
        ),
        (
            set([allow(), deny(json!({ "app": "other" }))]),
            Decision::Allow,
            "who says Deny does not select the pod",
        ),
        (
            set([
                allow(),
                cluster("d", json!({ "podSelector": {}, "defaultAction": "Deny" })),
            ]),
            Decision::Deny,
            "a cluster policy says Deny",
        ),
    ] {
        assert_eq!(
            verdict(&set, WEB),
            (expected, "(default)".to_owned()),
            "{why}"
        );
    }
}

#[test]
fn only_scope_node_governs_what_is_in_no_pod() {
    let process = "dst=203.0.113.5 port=443";
    let lockdown = |scope: &str| {
        let spec = json!({ "podSelector": {}, "scope": scope, "defaultAction": "Deny" });
        set([cluster("lockdown", spec)])
    };
    assert_eq!(verdict(&lockdown("Pods"), process).1, "(ungoverned)");
    assert_eq!(
        verdict(&lockdown("Node"), process),
        (Decision::Deny, "(default)".to_owned())
    );
    assert!(lockdown("Node").governs_nodes() && !lockdown("Pods").governs_nodes());
    for scope in ["Pods", "Node"] {
        assert_eq!(
            verdict(&lockdown(scope), WEB).0,
            Decision::Deny,
            "{scope}: pods in any case"
        );
    }
    // A namespaced policy never does, and a pod of which the namespace is not known has none.
    let all = set([namespaced(
        "",
        "x",
        json!({ "podSelector": {}, "defaultAction": "Deny" }),
    )]);
    let unknown = Workload {
        pod: Some(Default::default()),
        cgroup: None,
    };
    assert!(!all.objects().next().unwrap().selects(&unknown));
    assert_eq!(verdict(&all, process).1, "(ungoverned)");
}

#[test]
fn quic_is_denied_where_the_policy_that_says_so_stands() {
    let allow = json!({ "podSelector": {}, "priority": 1, "rules": [{ "name": "udp", "action": "Allow", "match": { "cidrs": ["203.0.113.0/24"] } }] });
    let quic = json!({ "podSelector": {}, "quic": "deny", "rules": deny("rest") });
    let set = set([namespaced("web", "b", quic), namespaced("web", "a", allow)]);
    assert_eq!(
        rules(&set, WEB),
        ["egp/web/a/udp", "egp/web/b/(quic)", "egp/web/b/rest"]
    );
    let udp = |dst: &str| {
        verdict(
            &set,
            &format!("pod=web/front dst={dst} port=443 protocol=UDP"),
        )
    };
    assert_eq!(
        udp("203.0.113.5").1,
        "egp/web/a/udp",
        "an earlier policy has decided"
    );
    assert_eq!(udp("198.51.100.5").1, "egp/web/b/(quic)");
}

#[test]
fn strict_l7_and_loopback_belong_to_their_policies() {
    let strict = json!({ "podSelector": {}, "strictL7": true, "priority": 2, "rules": [{ "name": "m", "action": "Deny", "match": { "methods": ["POST"] } }] });
    let lenient = json!({ "podSelector": {}, "priority": 1, "rules": [{ "name": "m", "action": "Deny", "match": { "methods": ["POST"] } }] });
    let set = set([
        namespaced("web", "strict", strict),
        namespaced("web", "lenient", lenient),
    ]);
    let ruleset = set.select(&workload(WEB)).unwrap().unwrap();
    let strict: Vec<bool> = ruleset.rules.iter().map(|rule| rule.strict_l7).collect();
    assert_eq!(strict, [false, true]);
    assert!(!ruleset.govern_loopback);
    let loopback = json!({ "podSelector": {}, "governLoopback": true });
    let governed = PolicySet::new(
        set.objects()
            .cloned()
            .chain([namespaced("web", "lo", loopback)]),
    );
    assert!(
        governed
            .select(&workload(WEB))
            .unwrap()
            .unwrap()
            .govern_loopback
    );
}

#[test]
fn more_rules_than_the_kernel_holds_are_an_error_of_that_workload_alone() {
    let many = |name: &str| {
        let rules: Vec<_> = (0..=MAX_RULES / 2)
            .map(|_| json!({ "action": "Deny", "match": { "ports": [25] } }))
            .collect();
        namespaced("web", name, json!({ "podSelector": {}, "rules": rules }))
    };
    let other = namespaced(
        "payments",
        "x",
        json!({ "podSelector": {}, "defaultAction": "Deny" }),
    );
    let set = set([many("a"), many("b"), other]);
    let error = set.select(&workload(WEB)).unwrap_err();
    assert_eq!(error.0, MAX_RULES + 2);
    let ruleset = set
        .select(&workload("pod=payments/db dst=203.0.113.5"))
        .unwrap()
        .unwrap();
    assert_eq!(ruleset.default, Action::Deny);
}

#[test]
fn equal_pods_get_the_same_rules_not_copies() {
    let set = set([cluster(
        "quic",
        json!({ "podSelector": {}, "quic": "deny", "rules": deny("r") }),
    )]);
    let [one, other] = [
        "pod=web/a dst=203.0.113.5",
        "pod=payments/b dst=203.0.113.5",
    ]
    .map(|flow| set.select(&workload(flow)).unwrap().unwrap());
    let same = |(one, other): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(one, other);
    assert!(one.rules.iter().zip(&other.rules).all(same));
    assert_eq!(one.rules.len(), 2);
}

#[test]
fn of_two_objects_of_one_name_the_later_counts() {
    let spec = |action: &str| json!({ "podSelector": {}, "defaultAction": action });
    let set = set([cluster("a", spec("Deny")), cluster("a", spec("Allow"))]);
    assert_eq!(set.objects().count(), 1);
    assert_eq!(verdict(&set, WEB).0, Decision::Allow);
}

#[test]
fn each_error_names_object_and_field() {
    let spec = json!({
        "podSelector": { "matchExpressions": [{ "key": "a", "operator": "In" }] },
        "priority": -1,
        "rules": [
            { "action": "Deny", "match": { "cidrs": ["10.0.0.0/8", "10.0.0.1/8"], "pod": { "labels": { "app.io/x": "a b" } } } },
            { "action": "Deny", "mach": {} },
        ],
    });
    let rejection =
        PolicyObject::from_json(ObjectId::namespaced("web", "broken"), &spec).unwrap_err();
    let fields: Vec<_> = rejection
        .problems
        .iter()
        .filter_map(|problem| problem.field.clone())
        .collect();
    for field in [
        "spec.podSelector.matchExpressions[0]",
        "spec.priority",
        "spec.rules[0].match.cidrs[1]",
        "spec.rules[0].match.pod.labels[app.io/x]",
        "spec.rules[1].mach",
    ] {
        assert!(
            fields.iter().any(|found| found == field),
            "{field}: {fields:?}"
        );
    }
    let text = rejection.to_string();
    assert!(text.starts_with("egp/web/broken: spec."), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn explanations_go_through_the_objects_that_govern_the_pod() {
    let set = set([
        cluster("base", json!({ "podSelector": {}, "rules": deny("r") })),
        namespaced(
            "payments",
            "x",
            json!({ "podSelector": {}, "rules": deny("r") }),
        ),
        namespaced("web", "x", json!({ "podSelector": {}, "rules": deny("r") })),
    ]);
    let flow = Flow::parse(WEB).unwrap();
    let explained = set.explain(&flow.workload(), &flow.facts());
    let names: Vec<_> = explained.iter().map(|rule| &*rule.rule.name).collect();
    assert_eq!(names, ["cegp/base/r", "egp/web/x/r"]);
    assert_eq!(explained[1].index, 1);
}
