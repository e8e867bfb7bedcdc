//! Workloads: which cgroups the kernel has to know, and which ruleset each of them gets.
//!
//! Pure: the policy and the cgroups that exist go in, the desired state comes out; applying the difference is the datapath's part.

mod index;
mod shared_names;

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

use self::index::Index;
pub use self::shared_names::SharedNames;
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

/// The desired state under one policy. Remembers what the policy said about each cgroup that exists, so that a new cgroup costs one
/// selection and not one for every cgroup of the host.
#[derive(Debug)]
pub struct Planner {
    policy: Arc<Policy>,
    index: Option<Index>,
    said: HashMap<CgroupPath, Result<Standing, TooManyRules>>,
    shared: Shared,
}

impl Planner {
    /// Under `policy`.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        Self {
            index: Index::new(&policy),
            policy,
            said: HashMap::new(),
            shared: Shared::default(),
        }
    }

    /// The desired state for the cgroups below `root`, the root included. `own`: the agent's own cgroup, exempt with all below it,
    /// unless it is the root itself, or above it: then nothing is exempt.
    ///
    /// # Errors
    /// More rules apply to the root, and so to everything, than the kernel can hold.
    pub fn desired(
        &mut self,
        tree: &Cgroups,
        root: &CgroupPath,
        own: Option<CgroupId>,
    ) -> Result<Desired, TooManyRules> {
        let below = tree.iter().filter(|(_, path)| path.is_within(root));
        let mut by_path: Vec<(&CgroupPath, CgroupId)> =
            below.map(|(id, path)| (path, *id)).collect();
        by_path.sort_unstable();
        let mut before = std::mem::take(&mut self.said);
        let mut plan = Plan::default();
        // Sorted, a cgroup comes after its ancestors: components are compared one by one.
        for (path, id) in by_path {
            let mut said = || self.said(path, &mut before);
            if path == root {
                plan.enter(path, id, said()?);
            } else {
                plan.place(path, id, own == Some(id), said);
            }
        }
        // What no cgroup of this tree uses any more is forgotten.
        drop(before);
        if let Some(index) = &mut self.index {
            index.forget();
        }
        self.shared
            .0
            .retain(|_, ruleset| Arc::strong_count(ruleset) > 1);
        Ok(plan.desired)
    }

    /// What the policy says about a cgroup: as it said `before`, or asked now.
    fn said(
        &mut self,
        path: &CgroupPath,
        before: &mut HashMap<CgroupPath, Result<Standing, TooManyRules>>,
    ) -> Result<Standing, TooManyRules> {
        let known = before.remove_entry(path);
        let (path, said) = known.unwrap_or_else(|| (path.clone(), self.standing(path)));
        self.said.insert(path, said.clone());
        said
    }

    fn standing(&mut self, path: &CgroupPath) -> Result<Standing, TooManyRules> {
        let cgroup = PolicyPath::new(&path.text());
        // What lies deeper than the kernel looks belongs to its ancestor, so that nothing below can be waited for.
        let looks_below = path.depth() < MAX_CGROUP_DEPTH as usize;
        let (about, below) = match (&mut self.index, &cgroup) {
            (Some(index), Some(cgroup)) => {
                (Arc::new(index.about(cgroup)), Arc::new(index.below(cgroup)))
            }
            _ => (Arc::clone(&self.policy), Arc::clone(&self.policy)),
        };
        let may_differ = |cgroup| below.may_select_below(cgroup);
        let open = looks_below && cgroup.as_ref().is_some_and(may_differ);
        let workload = Workload { pod: None, cgroup };
        Ok(match about.select(&workload)? {
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

/// The desired state for one tree: [`Planner::desired`] without a memory.
///
/// # Errors
/// More rules apply to the root, and so to everything, than the kernel can hold.
pub fn desired(
    policy: &Policy,
    tree: &Cgroups,
    root: &CgroupPath,
    own: Option<CgroupId>,
) -> Result<Desired, TooManyRules> {
    Planner::new(Arc::new(policy.clone())).desired(tree, root, own)
}

/// The state of one computation.
#[derive(Default)]
struct Plan<'a> {
    /// For each cgroup with an entry that entry.
    entered: HashMap<&'a CgroupPath, Standing>,
    desired: Desired,
}

impl<'a> Plan<'a> {
    /// Decides whether a cgroup below the root needs an entry. `said`: what the policy says about it.
    fn place(
        &mut self,
        path: &'a CgroupPath,
        id: CgroupId,
        own: bool,
        said: impl FnOnce() -> Result<Standing, TooManyRules>,
    ) {
        let Some(above) = self.above(path) else {
            return;
        };
        if path.depth() > MAX_CGROUP_DEPTH as usize || above.posture == Posture::Exempt {
            return;
        }
        let open = above.open;
        if own {
            let posture = Posture::Exempt;
            return self.enter(
                path,
                id,
                Standing {
                    posture,
                    open: false,
                },
            );
        }
        // Below what is not open every cgroup has the rules of its ancestor.
        if !open {
            return;
        }
        match said() {
            Ok(standing) => self.enter(path, id, standing),
            Err(error) => self.desired.oversized.push((path.clone(), error)),
        }
    }

    /// The nearest entry above `path`; `None` where the tree does not reach up to the root.
    fn above(&self, path: &CgroupPath) -> Option<&Standing> {
        let ancestors = std::iter::successors(path.parent(), CgroupPath::parent);
        ancestors
            .into_iter()
            .find_map(|ancestor| self.entered.get(&ancestor))
    }

    fn enter(&mut self, path: &'a CgroupPath, id: CgroupId, standing: Standing) {
        self.entered.insert(path, standing.clone());
        self.desired.entries.insert(id, standing);
    }
}

/// Rulesets that were met already, by the rules they consist of. A policy hands out the same allocations each time, and two of its
/// rules that say the same select the same cgroups, so that this finds every equal ruleset without comparing contents.
#[derive(Debug, Default)]
struct Shared(HashMap<Vec<usize>, Arc<Ruleset>>);

impl Shared {
    fn intern(&mut self, ruleset: Ruleset) -> Arc<Ruleset> {
        let rules = ruleset.rules.iter().map(|rule| Arc::as_ptr(rule).addr());
        let shared = self.0.entry(rules.collect());
        Arc::clone(shared.or_insert_with(|| Arc::new(ruleset)))
    }
}

#[cfg(test)]
mod tests;
