//! Which cgroups get an entry, and what the kernel makes of the entries: as the policy selects, or pending.

use std::{collections::HashSet, fmt::Write as _};

use ebfw_policy::parse_policy;
use proptest::prelude::*;

use super::{index::Index, *};

fn path(text: &str) -> CgroupPath {
    CgroupPath::new(text).unwrap()
}

/// A tree with the ids 1, 2, 3… in the order of `paths`.
fn tree(paths: &[&str]) -> Cgroups {
    (1..)
        .map(CgroupId)
        .zip(paths.iter().map(|text| path(text)))
        .collect()
}

/// A policy with one rule for each list of globs; without a list the rule is for every workload.
fn policy(rules: &[&[&str]]) -> Policy {
    let mut text = format!(
        "defaultAction: Deny\nrules:{}\n",
        if rules.is_empty() { " []" } else { "" }
    );
    for (number, globs) in rules.iter().enumerate() {
        writeln!(
            text,
            "- name: r{number}\n  action: Allow\n  match:\n    ports: [{}]",
            number + 1
        )
        .unwrap();
        if !globs.is_empty() {
            writeln!(text, "    cgroups: {globs:?}").unwrap();
        }
    }
    parse_policy(&text)
        .unwrap_or_else(|problems| panic!("{}", problems.render("policy", &text, false)))
}

/// What the kernel makes of it (`find` in the kernel programs' workload.rs): the nearest known ancestor, pending where that is open.
#[derive(Debug, PartialEq)]
enum Kernel {
    Of(Posture),
    Pending,
    Nobody,
}

/// `chain`: the ids from the top down to the cgroup itself; `None` for one that the agent has not seen.
fn kernel(desired: &Desired, chain: &[Option<CgroupId>]) -> Kernel {
    let known = |id: &Option<CgroupId>| id.and_then(|id| desired.entries.get(&id)).cloned();
    if let Some(standing) = chain.last().and_then(known) {
        return Kernel::Of(standing.posture);
    }
    match chain
        .iter()
        .take(MAX_CGROUP_DEPTH as usize + 1)
        .rev()
        .find_map(known)
    {
        None => Kernel::Nobody,
        Some(Standing { open: true, .. }) => Kernel::Pending,
        Some(Standing {
            posture,
            open: false,
        }) => Kernel::Of(posture),
    }
}

fn chain(tree: &Cgroups, path: &CgroupPath) -> Vec<Option<CgroupId>> {
    let ids: HashMap<_, _> = tree.iter().map(|(id, path)| (path, *id)).collect();
    let mut chain: Vec<_> = std::iter::successors(Some(path.clone()), CgroupPath::parent)
        .map(|path| ids.get(&path).copied())
        .collect();
    chain.reverse();
    chain
}

fn selected(policy: &Policy, path: &CgroupPath) -> Posture {
    let workload = Workload {
        pod: None,
        cgroup: PolicyPath::new(&path.text()),
    };
    policy
        .select(&workload)
        .unwrap()
        .map_or(Posture::Ungoverned, |ruleset| {
            Posture::Governed(Arc::new(ruleset))
        })
}

#[test]
fn only_cgroups_that_may_differ_get_an_entry() {
    let paths = ["/", "/s", "/s/a", "/s/b", "/s/b/c", "/s/b/c/d", "/u"];
    for (rules, entries, open, why) in [
        (
            &[&[][..]][..],
            &["/"][..],
            &[][..],
            "no rule looks at cgroups",
        ),
        (&[], &["/"], &[], "no rules at all"),
        (&[&["/"]], &["/"], &[], "a glob that means everything"),
        (
            &[&["/s"]],
            &["/", "/s", "/u"],
            &["/"],
            "one level is open, what lies below /s is /s",
        ),
        (
            &[&["/s/b"]],
            &["/", "/s", "/s/a", "/s/b", "/u"],
            &["/", "/s"],
            "open on the way down only",
        ),
        (
            &[&["/s/*/c"]],
            &["/", "/s", "/s/a", "/s/b", "/s/b/c", "/u"],
            &["/", "/s", "/s/a", "/s/b"],
            "an element that may be anything",
        ),
        (
            &[&["/nowhere/x"]],
            &["/", "/s", "/u"],
            &["/"],
            "a cgroup that does not exist yet",
        ),
        (
            &[&["/**/zzz"]],
            &["/", "/s", "/s/a", "/s/b", "/s/b/c", "/s/b/c/d", "/u"],
            &["/", "/s", "/s/a", "/s/b", "/s/b/c", "/s/b/c/d", "/u"],
            "could be anywhere",
        ),
    ] {
        let tree = tree(&paths);
        let desired = desired(&policy(rules), &tree, &CgroupPath::top(), None).unwrap();
        let named = |wanted: &dyn Fn(&Standing) -> bool| -> Vec<String> {
            let mut names: Vec<_> = desired
                .entries
                .iter()
                .filter(|(_, standing)| wanted(standing))
                .map(|(id, _)| tree[id].to_string())
                .collect();
            names.sort();
            names
        };
        assert_eq!(named(&|_| true), entries, "entries: {why}");
        assert_eq!(named(&|standing| standing.open), open, "open: {why}");
    }
}

#[test]
fn equal_rulesets_are_one() {
    let text = "rules:\n\
        - {name: one, action: Deny, match: {cgroups: ['/a'], ports: [25]}}\n\
        - {name: two, action: Deny, match: {cgroups: ['/b', '/c'], ports: [26]}}\n";
    let policy = parse_policy(text).unwrap();
    let desired = desired(
        &policy,
        &tree(&["/", "/a", "/b", "/c", "/d"]),
        &CgroupPath::top(),
        None,
    )
    .unwrap();
    let of = |id| match &desired.entries[&CgroupId(id)].posture {
        Posture::Governed(ruleset) => ruleset,
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(of(3), of(4)), "/b and /c");
    assert!(
        Arc::ptr_eq(of(1), of(5)),
        "the root and /d, which no rule names"
    );
    assert!(!Arc::ptr_eq(of(2), of(3)), "/a differs");
}

#[test]
fn the_agent_is_exempt_with_all_that_is_below_it() {
    let tree = tree(&["/", "/agent", "/agent/child", "/other"]);
    for (rules, why) in [
        (&[&[][..]][..], "below a closed root"),
        (&[&["/**/x"]], "below an open root"),
    ] {
        let desired =
            desired(&policy(rules), &tree, &CgroupPath::top(), Some(CgroupId(2))).unwrap();
        let exempt = Standing {
            posture: Posture::Exempt,
            open: false,
        };
        assert_eq!(desired.entries.get(&CgroupId(2)), Some(&exempt), "{why}");
        assert_eq!(
            kernel(&desired, &chain(&tree, &path("/agent/child"))),
            Kernel::Of(Posture::Exempt),
            "{why}"
        );
        assert_eq!(
            kernel(&desired, &chain(&tree, &path("/agent/later"))),
            Kernel::Of(Posture::Exempt),
            "{why}"
        );
        assert_ne!(
            kernel(&desired, &chain(&tree, &path("/other"))),
            Kernel::Of(Posture::Exempt),
            "{why}"
        );
    }
}

#[test]
fn an_agent_in_the_root_does_not_exempt_the_node() {
    let desired = desired(
        &policy(&[&[]]),
        &tree(&["/", "/a"]),
        &CgroupPath::top(),
        Some(CgroupId(1)),
    )
    .unwrap();
    assert!(
        desired
            .entries
            .values()
            .all(|standing| standing.posture != Posture::Exempt)
    );
}

#[test]
fn a_policy_for_pods_governs_no_process_outside_of_pods() {
    let text = "podSelector: {matchLabels: {app: web}}\ndefaultAction: Deny\nrules:\n- {action: Allow, match: {cgroups: ['/a/b']}}\n";
    let policy = parse_policy(text)
        .unwrap_or_else(|problems| panic!("{}", problems.render("policy", text, false)));
    let desired = desired(
        &policy,
        &tree(&["/", "/a", "/a/b"]),
        &CgroupPath::top(),
        None,
    )
    .unwrap();
    let ungoverned = Standing {
        posture: Posture::Ungoverned,
        open: false,
    };
    assert_eq!(desired.entries, BTreeMap::from([(CgroupId(1), ungoverned)]));
}

#[test]
fn more_rules_than_the_kernel_holds_leave_a_cgroup_closed() {
    let one = policy(&[&["/big"]]);
    let too_many = ebfw_policy::policy::MAX_RULES + 1;
    let rules = vec![Arc::clone(&one.rules[0]); too_many];
    let policy = Policy { rules, ..one };
    let tree = tree(&["/", "/big", "/big/below", "/small"]);
    let desired_state = desired(&policy, &tree, &CgroupPath::top(), None).unwrap();
    for (cgroup, expected, why) in [
        ("/big", Kernel::Pending, "dropped, never let through"),
        ("/big/below", Kernel::Pending, "and so is what lies below"),
        (
            "/small",
            Kernel::Of(selected(&policy, &path("/small"))),
            "the others keep theirs",
        ),
    ] {
        let seen = kernel(&desired_state, &chain(&tree, &path(cgroup)));
        assert_eq!(seen, expected, "{why}");
    }
    let said: Vec<String> = desired_state
        .oversized
        .iter()
        .map(|(path, _)| path.to_string())
        .collect();
    assert_eq!(said, ["/big", "/big/below"]);
    assert_eq!(
        desired(&policy, &tree, &path("/big"), None),
        Err(TooManyRules(too_many))
    );
}

#[test]
fn what_was_said_before_holds_as_long_as_the_cgroup_exists() {
    let policy = Arc::new(policy(&[&["/a/x*"], &["/b"]]));
    let mut planner = Planner::new(Rulebook::File(Arc::clone(&policy)));
    for paths in [
        &["/", "/a", "/b"][..],
        &["/", "/a", "/a/x1", "/a/y"],
        &["/", "/a", "/a/y", "/a/x1/z"],
        &["/"],
    ] {
        let tree = tree(paths);
        let anew = desired(&policy, &tree, &CgroupPath::top(), None).unwrap();
        assert_eq!(
            planner
                .desired(&tree, &CgroupPath::top(), None, None)
                .unwrap(),
            anew,
            "{paths:?}"
        );
        assert!(
            planner.said.len() <= tree.len(),
            "what is gone is forgotten"
        );
    }
}

#[test]
fn only_what_is_below_the_root_is_governed() {
    let tree = tree(&["/", "/a", "/a/b", "/ab"]);
    let desired = desired(&policy(&[&["/**/x"]]), &tree, &path("/a"), None).unwrap();
    assert_eq!(
        desired.entries.keys().collect::<Vec<_>>(),
        [&CgroupId(2), &CgroupId(3)]
    );
    assert_eq!(
        kernel(&desired, &chain(&tree, &path("/ab"))),
        Kernel::Nobody
    );
}

#[test]
fn a_root_that_is_gone_leaves_nothing_to_know() {
    for (paths, why) in [
        (&[][..], "an empty tree"),
        (&["/a/b"][..], "a cgroup without its root"),
    ] {
        assert_eq!(
            desired(&policy(&[&["/**/x"]]), &tree(paths), &path("/a"), None).unwrap(),
            Desired::default(),
            "{why}"
        );
    }
}

#[test]
fn what_lies_deeper_than_the_kernel_looks_belongs_to_its_ancestor() {
    let depth = MAX_CGROUP_DEPTH as usize;
    let names: Vec<String> = (0..=depth + 2)
        .map(|depth| format!("/{}", vec!["x"; depth].join("/")))
        .collect();
    let tree = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let policy = policy(&[&["/**/zzz"]]);
    let desired = desired(&policy, &tree, &CgroupPath::top(), None).unwrap();
    let last = CgroupId(depth as u64 + 1);
    assert_eq!(
        desired
            .entries
            .last_key_value()
            .map(|(id, standing)| (*id, standing.open)),
        Some((last, false))
    );
    for name in &names[depth..] {
        assert_eq!(
            kernel(&desired, &chain(&tree, &path(name))),
            Kernel::Of(selected(&policy, &path(&names[depth]))),
            "{name}"
        );
    }
}

fn element() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "ab"])
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(element(), 0..6).prop_map(|names| format!("/{}", names.join("/")))
}

fn any_glob() -> impl Strategy<Value = String> {
    let element = prop::sample::select(vec!["a", "b", "c", "*", "**", "a*", "?", "{a,b}", "[bc]"]);
    prop::collection::vec(element, 0..5).prop_map(|elements| format!("/{}", elements.join("/")))
}

/// A tree in which the ancestors of every cgroup exist.
fn whole_tree(paths: &[String]) -> Cgroups {
    let all = paths
        .iter()
        .flat_map(|text| std::iter::successors(Some(path(text)), CgroupPath::parent));
    let distinct: HashSet<_> = all.chain([CgroupPath::top()]).collect();
    (1..).map(CgroupId).zip(distinct).collect()
}

proptest! {
    #[test]
    fn the_kernel_gets_for_each_cgroup_what_the_policy_selects(
        paths in prop::collection::vec(any_path(), 0..20),
        rules in prop::collection::vec(prop::collection::vec(any_glob(), 0..3), 0..5),
        root in any_path(),
        later in prop::collection::vec(any_path(), 1..10),
    ) {
        let rules: Vec<Vec<&str>> = rules.iter().map(|globs| globs.iter().map(String::as_str).collect()).collect();
        let policy = policy(&rules.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let root = path(&root);
        let tree = whole_tree(&[paths, vec![root.to_string()]].concat());
        let desired = desired(&policy, &tree, &root, None).unwrap();
        for path in tree.values() {
            let seen = kernel(&desired, &chain(&tree, path));
            if path.is_within(&root) {
                prop_assert_eq!(seen, Kernel::Of(selected(&policy, path)), "{}", path);
            } else {
                prop_assert_eq!(seen, Kernel::Nobody, "{}", path);
            }
        }
        // Cgroups that are made after the agent looked: wait, or be judged as they will be.
        for later in later.iter().map(|text| path(&format!("{root}/{text}"))) {
            let seen = kernel(&desired, &chain(&tree, &later));
            prop_assert!(seen == Kernel::Pending || seen == Kernel::Of(selected(&policy, &later)), "{}: {:?}", later, seen);
        }
    }
}

#[test]
fn a_thousand_globs_select_each_its_own_cgroups() {
    let globs: Vec<String> = (0..1000)
        .map(|number| match number % 4 {
            0 => format!("/pods/**/pod{number}-*"),
            1 => format!("/system/unit-{number}?.service"),
            2 => format!("/**/runner-{{a,b}}-{number}.scope"),
            _ => format!("/users/user-{number}"),
        })
        .collect();
    let globs: Vec<[&str; 1]> = globs.iter().map(|glob| [glob.as_str()]).collect();
    let policy = policy(&globs.iter().map(<[_; 1]>::as_slice).collect::<Vec<_>>());
    let numbered = |number: usize| match number % 4 {
        0 => format!("/pods/besteffort/pod{number}-x/container"),
        1 => format!("/system/unit-{number}x.service"),
        2 => format!("/pods/runner-b-{number}.scope"),
        _ => format!("/users/user-{number}/session/app"),
    };
    let paths: Vec<String> = (0..1000).map(numbered).collect();
    let tree = whole_tree(&paths);
    let desired = desired(&policy, &tree, &CgroupPath::top(), None).unwrap();
    let mut matches = 0;
    for path in tree.values() {
        let seen = kernel(&desired, &chain(&tree, path));
        assert_eq!(seen, Kernel::Of(selected(&policy, path)), "{path}");
        let Kernel::Of(Posture::Governed(ruleset)) = seen else {
            panic!("{path} is governed");
        };
        matches += ruleset.rules.len();
    }
    // Each glob means one cgroup and what is below it: one more of the 250 pods, two more of the 250 users.
    assert_eq!(matches, 250 * (2 + 1 + 1 + 3));
}

proptest! {
    #[test]
    fn no_rule_that_may_match_is_left_out(
        rules in prop::collection::vec(prop::collection::vec(any_glob(), 0..3), 0..8),
        paths in prop::collection::vec(any_path(), 1..10),
    ) {
        let rules: Vec<Vec<&str>> = rules.iter().map(|globs| globs.iter().map(String::as_str).collect()).collect();
        let policy = policy(&rules.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut index = Index::new(&policy).unwrap();
        for text in paths {
            let path = PolicyPath::new(&text).unwrap();
            let workload = Workload { pod: None, cgroup: Some(path.clone()) };
            prop_assert_eq!(index.about(&path).select(&workload), policy.select(&workload), "{}", text);
            prop_assert_eq!(index.below(&path).may_select_below(&path), policy.may_select_below(&path), "below {}", text);
        }
    }
}
