//! Pods: which rules their cgroups get, and that a pod that is not known yet is closed.

use ebfw_policy::parse_policy;

use super::*;
use crate::pods::Change;

const WEB: &str = "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26";
const DB: &str = "1fbe2a5e-f3a4-4e20-81e2-2b081fa10d26";

/// One rule for everything, one for pods with `tier: web`, one for the namespace `bank`.
const POLICY: &str = "
defaultAction: Deny
rules:
- name: all
  action: Allow
  match: {ports: [1]}
- name: web
  action: Allow
  match: {ports: [2], pod: {labels: {tier: web}}}
- name: bank
  action: Allow
  match: {ports: [3], pod: {namespace: bank}}
";

fn rulebook(text: &str) -> Rulebook {
    let policy = parse_policy(text)
        .unwrap_or_else(|problems| panic!("{}", problems.render("policy", text, false)));
    Rulebook::File(Arc::new(policy))
}

fn pods(known: &[(&str, &str, &str)]) -> Pods {
    let mut pods = Pods::default();
    for (uid, namespace, tier) in known {
        learn(&mut pods, uid, namespace, tier);
    }
    pods
}

fn learn(pods: &mut Pods, uid: &str, namespace: &str, tier: &str) {
    let facts = PodFacts {
        namespace: namespace.to_owned(),
        name: "a-pod".to_owned(),
        uid: uid.to_owned(),
        labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
    };
    pods.apply(Change::Known(uid.into(), facts));
}

/// A tree with the ids 1, 2, 3… in the order of `paths`.
fn tree(paths: &[String]) -> Cgroups {
    let paths = paths.iter().map(|path| CgroupPath::new(path).unwrap());
    (1..).map(CgroupId).zip(paths).collect()
}

fn node() -> Vec<String> {
    [
        "/".to_owned(),
        "/system.slice".to_owned(),
        "/kubepods".to_owned(),
        "/kubepods/burstable".to_owned(),
        format!("/kubepods/burstable/pod{WEB}"),
        format!("/kubepods/burstable/pod{WEB}/container"),
        format!("/kubepods/pod{DB}"),
        "/kubepods/strange".to_owned(),
    ]
    .to_vec()
}

/// For each entry its path and what it says: the names of the rules, `-` for none, `*` for open.
fn plan(planner: &mut Planner, paths: &[String], pods: Option<&Pods>) -> Vec<String> {
    let tree = tree(paths);
    let desired = planner
        .desired(&tree, &CgroupPath::top(), None, pods)
        .unwrap();
    let line = |(id, standing): (&CgroupId, &Standing)| {
        let rules = match &standing.posture {
            Posture::Governed(ruleset) => {
                let names = ruleset.rules.iter().map(|rule| rule.name.to_string());
                names.collect::<Vec<_>>().join(",")
            }
            Posture::Ungoverned => "-".to_owned(),
            Posture::Exempt => "exempt".to_owned(),
        };
        let open = if standing.open { " *" } else { "" };
        format!("{} {rules}{open}", tree[id])
    };
    desired.entries.iter().map(line).collect()
}

#[test]
fn a_pod_has_the_rules_that_select_it_and_is_closed_until_it_is_known() {
    let mut planner = Planner::new(rulebook(POLICY));
    let web = format!("/kubepods/burstable/pod{WEB}");
    let db = format!("/kubepods/pod{DB}");
    let roots = ["/ all", "/kubepods all *", "/kubepods/burstable all *"].map(str::to_owned);
    for (known, expected, why) in [
        (
            &[][..],
            vec![],
            "none is known: none has an entry, all are pending",
        ),
        (
            &[(WEB, "shop", "web")],
            vec![format!("{web} all,web")],
            "one is known; what is in it has no entry of its own",
        ),
        (
            &[(WEB, "shop", "db"), (DB, "bank", "web")],
            vec![format!("{web} all"), format!("{db} all,web,bank")],
            "both are known",
        ),
    ] {
        let pods = pods(known);
        let mut expected: Vec<_> = roots.iter().cloned().chain(expected).collect();
        let mut found = plan(&mut planner, &node(), Some(&pods));
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn another_label_is_another_ruleset_and_the_same_is_not_asked_again() {
    let mut planner = Planner::new(rulebook(POLICY));
    let mut pods = pods(&[(WEB, "shop", "web"), (DB, "shop", "web")]);
    let entries = |planner: &mut Planner, pods: &Pods| {
        let top = CgroupPath::top();
        let desired = planner.desired(&tree(&node()), &top, None, Some(pods));
        desired.unwrap().entries
    };
    let before = entries(&mut planner, &pods);
    let of = |entries: &BTreeMap<CgroupId, Standing>, id| match &entries[&CgroupId(id)].posture {
        Posture::Governed(ruleset) => Arc::clone(ruleset),
        other => panic!("{other:?}"),
    };
    assert!(
        Arc::ptr_eq(&of(&before, 5), &of(&before, 7)),
        "equal rulesets are shared"
    );
    learn(&mut pods, WEB, "shop", "db");
    let after = entries(&mut planner, &pods);
    assert_eq!(of(&after, 5).rules.len(), 1, "no longer web");
    assert!(
        Arc::ptr_eq(&of(&before, 7), &of(&after, 7)),
        "the other pod is not touched"
    );
}

#[test]
fn pods_are_cgroups_like_others_where_no_rule_or_nobody_tells_them_apart() {
    let without =
        "defaultAction: Deny\nrules:\n- {name: all, action: Allow, match: {ports: [1]}}\n";
    let known = pods(&[]);
    let mut planner = Planner::new(rulebook(without));
    assert_eq!(
        plan(&mut planner, &node(), Some(&known)),
        ["/ all"],
        "no rule does"
    );
    let mut planner = Planner::new(rulebook(POLICY));
    assert_eq!(plan(&mut planner, &node(), None), ["/ all"], "no cluster");
}

#[test]
fn each_pod_is_a_workload_of_its_own_where_a_rule_asks_for_names() {
    let by_name = "
defaultAction: Deny
rules:
- {name: all, action: Allow, match: {domains: [good.example]}}
- {name: web, action: Allow, match: {ports: [1], cgroups: [/system.slice/web]}}
";
    let web = format!("/kubepods/burstable/pod{WEB}");
    let db = format!("/kubepods/pod{DB}");
    let mut expected = [
        "/ all *",
        "/system.slice all *",
        "/kubepods all *",
        "/kubepods/burstable all *",
        &format!("{web} all"),
        &format!("{db} all"),
        "/kubepods/strange all",
    ];
    expected.sort_unstable();
    // Whether or not there is a cluster that could tell what they are.
    for known in [None, Some(&pods(&[(WEB, "shop", "web")])), Some(&pods(&[]))] {
        let mut planner = Planner::new(rulebook(by_name));
        let mut found = plan(&mut planner, &node(), known);
        found.sort();
        assert_eq!(found, expected, "{known:?}");
    }
}

#[test]
fn a_policy_for_some_pods_leaves_the_node_and_other_pods_alone() {
    let text = format!("podSelector: {{matchLabels: {{tier: web}}}}{POLICY}");
    let mut planner = Planner::new(rulebook(&text));
    let pods = pods(&[(WEB, "shop", "web"), (DB, "shop", "db")]);
    let mut found = plan(&mut planner, &node(), Some(&pods));
    found.sort();
    assert_eq!(
        found,
        [
            "/ -".to_owned(),
            "/kubepods - *".to_owned(),
            "/kubepods/burstable - *".to_owned(),
            format!("/kubepods/burstable/pod{WEB} all,web"),
            format!("/kubepods/pod{DB} -"),
        ]
    );
}

#[test]
fn the_agents_own_cgroup_is_exempt_inside_of_a_pod_that_is_not_known() {
    let mut planner = Planner::new(rulebook(POLICY));
    let top = CgroupPath::top();
    let own = Some(CgroupId(6));
    let desired = planner.desired(&tree(&node()), &top, own, Some(&Pods::default()));
    let desired = desired.unwrap();
    assert_eq!(desired.entries[&CgroupId(6)].posture, Posture::Exempt);
    assert!(!desired.entries.contains_key(&CgroupId(5)));
}

#[test]
fn only_what_rules_govern_counts_as_governed() {
    let bank = "podSelector: {matchLabels: {tier: web}}\ndefaultAction: Deny\nrules: []";
    let mut planner = Planner::new(rulebook(bank));
    for (known, expected, why) in [
        (&[][..], 0, "the root and the roots of pods are not"),
        (
            &[(WEB, "shop", "web"), (DB, "shop", "db")],
            1,
            "one pod is selected",
        ),
        (&[(WEB, "shop", "web"), (DB, "shop", "web")], 2, "both are"),
    ] {
        let top = CgroupPath::top();
        let own = Some(CgroupId(2));
        let desired = planner.desired(&tree(&node()), &top, own, Some(&pods(known)));
        let desired = desired.unwrap();
        assert_eq!(desired.governed(), expected, "{why}");
        assert!(
            desired.entries.len() > expected,
            "{why}: others have entries"
        );
    }
}
