//! Workloads: which cgroups the kernel has to know, and which ruleset each of them gets.
//!
//! Pure: the policy and the cgroups that exist go in, the desired state comes out; applying the difference is the datapath's part.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ebfw_common::abi::MAX_CGROUP_DEPTH;
use ebfw_policy::{
    cgroup::CgroupPath as PolicyPath,
    policy::Policy,
    ruleset::{Ruleset, TooManyRules},
    workload::Workload,
};

use crate::host::{
    cgroup::{CgroupId, CgroupPath},
    tree::Cgroups,
};

/// What the kernel should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The cgroups with a standing of their own. Every other belongs to its nearest ancestor among them, or is pending where that is open.
    pub entries: BTreeMap<CgroupId, Standing>,
    /// Cgroups to which more rules apply than the kernel can hold. They have no entry and stay pending: closed.
    pub oversized: Vec<(CgroupPath, TooManyRules)>,
}

/// How a cgroup and what lies below it are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// By which rules.
    pub posture: Posture,
    /// Whether a cgroup below could get another ruleset: until the agent has looked at it, it is pending.
    pub open: bool,
}

/// By which rules a cgroup is governed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posture {
    /// By these. Equal rulesets of one [`Desired`] are the same allocation.
    Governed(Arc<Ruleset>),
    /// By none: everything passes and is reported.
    Ungoverned,
    /// The agent's own connections: everything passes and nothing is reported.
    Exempt,
}

/// The desired state for the cgroups below `root`, the root included. `own`: the agent's own cgroup, exempt with all below it,
/// unless it is the root itself, or above it: then nothing is exempt.
///
/// # Errors
/// More rules apply to the root, and so to everything, than the kernel can hold.
pub fn desired(
    policy: &Policy,
    tree: &Cgroups,
    root: &CgroupPath,
    own: Option<CgroupId>,
) -> Result<Desired, TooManyRules> {
    let mut by_path: Vec<(&CgroupPath, CgroupId)> = tree
        .iter()
        .filter(|(_, path)| path.is_within(root))
        .map(|(id, path)| (path, *id))
        .collect();
    by_path.sort_unstable();
    let mut plan = Plan {
        policy,
        shared: Shared::default(),
        nearest: HashMap::new(),
        desired: Desired::default(),
    };
    // Sorted, a cgroup comes after its ancestors: components are compared one by one.
    for (path, id) in by_path {
        if path == root {
            let standing = plan.standing(path)?;
            plan.enter(path, id, standing);
        } else {
            plan.place(path, id, own == Some(id));
        }
    }
    Ok(plan.desired)
}

/// The state of one computation.
struct Plan<'a> {
    policy: &'a Policy,
    shared: Shared,
    /// For each cgroup so far the nearest entry at or above it.
    nearest: HashMap<&'a CgroupPath, Standing>,
    desired: Desired,
}

impl<'a> Plan<'a> {
    /// Decides whether a cgroup below the root needs an entry.
    fn place(&mut self, path: &'a CgroupPath, id: CgroupId, own: bool) {
        let Some(above) = self.above(path) else {
            return;
        };
        if path.depth() > MAX_CGROUP_DEPTH as usize || above.posture == Posture::Exempt {
            return;
        }
        if own {
            return self.enter(
                path,
                id,
                Standing {
                    posture: Posture::Exempt,
                    open: false,
                },
            );
        }
        // Below what is not open every cgroup has the rules of its ancestor.
        if !above.open {
            return;
        }
        match self.standing(path) {
            Ok(standing) => self.enter(path, id, standing),
            Err(error) => self.desired.oversized.push((path.clone(), error)),
        }
    }

    /// The nearest entry above `path`; `None` where the tree does not reach up to the root.
    fn above(&self, path: &CgroupPath) -> Option<Standing> {
        let mut ancestor = path.parent();
        while let Some(path) = ancestor {
            if let Some(standing) = self.nearest.get(&path) {
                return Some(standing.clone());
            }
            ancestor = path.parent();
        }
        None
    }

    fn enter(&mut self, path: &'a CgroupPath, id: CgroupId, standing: Standing) {
        self.nearest.insert(path, standing.clone());
        self.desired.entries.insert(id, standing);
    }

    /// What the policy says about a cgroup.
    fn standing(&mut self, path: &CgroupPath) -> Result<Standing, TooManyRules> {
        let cgroup = PolicyPath::new(&path.text());
        // What lies deeper than the kernel looks belongs to its ancestor, so that nothing below can be waited for.
        let looks_below = path.depth() < MAX_CGROUP_DEPTH as usize;
        let open = looks_below
            && cgroup
                .as_ref()
                .is_some_and(|cgroup| self.policy.may_select_below(cgroup));
        let workload = Workload { pod: None, cgroup };
        Ok(match self.policy.select(&workload)? {
            Some(ruleset) => Standing {
                posture: Posture::Governed(self.shared.intern(ruleset)),
                open,
            },
            // A policy that does not govern this process without a pod governs none below either.
            None => Standing {
                posture: Posture::Ungoverned,
                open: false,
            },
        })
    }
}

/// Rulesets that were met already, by the rules they consist of. A policy hands out the same allocations each time, and two of its
/// rules that say the same select the same cgroups, so that this finds every equal ruleset without comparing contents.
#[derive(Default)]
struct Shared(HashMap<Vec<usize>, Arc<Ruleset>>);

impl Shared {
    fn intern(&mut self, ruleset: Ruleset) -> Arc<Ruleset> {
        let rules = ruleset
            .rules
            .iter()
            .map(|rule| Arc::as_ptr(rule).addr())
            .collect();
        Arc::clone(self.0.entry(rules).or_insert_with(|| Arc::new(ruleset)))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fmt::Write as _};

    use ebfw_policy::parse_policy;
    use proptest::prelude::*;

    use super::*;

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
        let element =
            prop::sample::select(vec!["a", "b", "c", "*", "**", "a*", "?", "{a,b}", "[bc]"]);
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
}
