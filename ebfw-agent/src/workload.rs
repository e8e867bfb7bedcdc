//! Workloads: which cgroups the kernel has to know, and which ruleset each of them gets.
//!
//! Pure: the policy, the pods and the cgroups that exist go in, the desired state comes out; applying the difference is the datapath's part.

mod index;
mod rulebook;
mod shared_names;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ebfw_common::abi::MAX_CGROUP_DEPTH;
use ebfw_policy::{
    cgroup::CgroupPath as PolicyPath,
    policy::{Action, Policy},
    ruleset::{Ruleset, TooManyRules},
    workload::{PodFacts, Workload},
};

use self::rulebook::Reader;
pub use self::{rulebook::Rulebook, shared_names::SharedNames};
use crate::{
    host::{
        cgroup::{CgroupId, CgroupPath},
        tree::Cgroups,
    },
    pods::{
        Pods,
        layout::{self, Place},
    },
};

/// What the kernel should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The cgroups with a standing of their own. Every other belongs to its nearest ancestor among them, or is pending where that is open.
    pub entries: BTreeMap<CgroupId, Standing>,
    /// Cgroups to which more rules apply than the kernel can hold. They have no entry and stay pending: closed.
    pub oversized: Vec<(CgroupPath, TooManyRules)>,
    /// How many cgroups are of pods that are not known yet: they have no entry and stay pending.
    pub pending: usize,
}

impl Desired {
    /// How many cgroups are governed by rules: not those that only have to be told from them, as the root and the agent's own.
    #[must_use]
    pub fn governed(&self) -> usize {
        let governed = |standing: &&Standing| matches!(standing.posture, Posture::Governed(_));
        self.entries.values().filter(governed).count()
    }
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
    reader: Reader,
    said: HashMap<CgroupPath, Said>,
    shared: Shared,
}

/// What the policy said about a cgroup.
#[derive(Clone, Debug)]
struct Said {
    /// As part of this pod.
    pod: Option<Arc<PodFacts>>,
    standing: Result<Standing, TooManyRules>,
}

/// Whose cgroup it is, as far as pods have to be told apart.
enum Whose<'a> {
    /// The node's.
    Node,
    /// Above pods.
    Root,
    /// A known pod's; `true` for the pod's own cgroup.
    Pod(&'a Arc<PodFacts>, bool),
    /// A pod's of which nothing has to be known: the rules are everyone's, the names that it resolves are its own. `true` for the pod's own cgroup.
    Anyone(bool),
    /// A pod's that is not known yet, or below a root and of no kind that is known.
    Unknown,
}

impl Planner {
    /// Under these rules.
    #[must_use]
    pub fn new(rules: Rulebook) -> Self {
        Self {
            reader: Reader::new(rules),
            said: HashMap::new(),
            shared: Shared::default(),
        }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rulebook {
        self.reader.rules()
    }

    /// The desired state for the cgroups below `root`, the root included. `own`: the agent's own cgroup, exempt with all below it,
    /// unless it is the root itself, or above it: then nothing is exempt. `pods`: the pods of the node; `None` where nobody knows of pods,
    /// so that no cgroup is a pod's.
    ///
    /// # Errors
    /// More rules apply to the root, and so to everything, than the kernel can hold.
    pub fn desired(
        &mut self,
        tree: &Cgroups,
        root: &CgroupPath,
        own: Option<CgroupId>,
        pods: Option<&Pods>,
    ) -> Result<Desired, TooManyRules> {
        let rules = self.reader.rules();
        let apart = match pods.filter(|_| rules.tells_pods_apart()) {
            Some(pods) => Some(Apart::ByFacts(pods)),
            None => rules.reads_names().then_some(Apart::ByNames),
        };
        let below = tree.iter().filter(|(_, path)| path.is_within(root));
        let mut by_path: Vec<(&CgroupPath, CgroupId)> =
            below.map(|(id, path)| (path, *id)).collect();
        by_path.sort_unstable();
        let mut before = std::mem::take(&mut self.said);
        let mut plan = Plan::default();
        // Sorted, a cgroup comes after its ancestors: components are compared one by one.
        for (path, id) in by_path {
            let whose = whose(path, apart);
            if path == root {
                plan.enter(path, id, self.said(path, &whose, &mut before)?);
            } else {
                plan.place(path, id, own == Some(id), &whose, || {
                    self.said(path, &whose, &mut before)
                });
            }
        }
        // What no cgroup of this tree uses any more is forgotten.
        drop(before);
        self.reader.forget();
        self.shared
            .0
            .retain(|_, ruleset| Arc::strong_count(ruleset) > 1);
        Ok(plan.desired)
    }

    /// What the policy says about a cgroup: as it said `before` about the same pod, or asked now.
    fn said(
        &mut self,
        path: &CgroupPath,
        whose: &Whose<'_>,
        before: &mut HashMap<CgroupPath, Said>,
    ) -> Result<Standing, TooManyRules> {
        let pod = match whose {
            Whose::Pod(pod, _) => Some(*pod),
            Whose::Node | Whose::Root | Whose::Anyone(_) | Whose::Unknown => None,
        };
        let known = before
            .remove_entry(path)
            .filter(|(_, said)| said.pod.as_ref().map(Arc::as_ptr) == pod.map(Arc::as_ptr));
        let (path, said) = known.unwrap_or_else(|| {
            let said = Said {
                pod: pod.cloned(),
                standing: self.standing(path, pod),
            };
            (path.clone(), said)
        });
        let mut standing = said.standing.clone();
        self.said.insert(path, said);
        if let (Ok(standing), Whose::Root) = (&mut standing, whose) {
            // Every cgroup that appears here could be a pod.
            standing.open = true;
        }
        standing
    }

    fn standing(
        &mut self,
        path: &CgroupPath,
        pod: Option<&Arc<PodFacts>>,
    ) -> Result<Standing, TooManyRules> {
        let workload = Workload {
            pod: pod.map(|pod| PodFacts::clone(pod)),
            cgroup: PolicyPath::new(&path.text()),
        };
        // What lies deeper than the kernel looks belongs to its ancestor, so that nothing below can be waited for.
        let looks_below = path.depth() < MAX_CGROUP_DEPTH as usize;
        let open = looks_below && self.reader.may_differ_below(&workload);
        Ok(match self.reader.select(&workload)? {
            Some(ruleset) => Standing {
                posture: Posture::Governed(self.shared.intern(ruleset)),
                open,
            },
            // A policy that does not govern this process governs none below either, but for pods, which have roots of their own.
            None => Standing {
                posture: Posture::Ungoverned,
                open: false,
            },
        })
    }
}

/// Why one pod is another workload than the next.
#[derive(Clone, Copy)]
enum Apart<'a> {
    /// Rules may ask what it is.
    ByFacts(&'a Pods),
    /// What it resolves is its own (SEMANTICS 4), and so is the room for it.
    ByNames,
}

/// `apart`: `None` where no pod is.
fn whose<'a>(path: &CgroupPath, apart: Option<Apart<'a>>) -> Whose<'a> {
    let Some(apart) = apart else {
        return Whose::Node;
    };
    let of = |uid: &str, own| match apart {
        Apart::ByFacts(pods) => pods
            .get(uid)
            .map_or(Whose::Unknown, |pod| Whose::Pod(pod, own)),
        Apart::ByNames => Whose::Anyone(own),
    };
    match (layout::place(path), apart) {
        (Place::Elsewhere, _) | (Place::Strange, Apart::ByNames) => Whose::Node,
        (Place::Root, _) => Whose::Root,
        (Place::Strange, Apart::ByFacts(_)) => Whose::Unknown,
        (Place::Pod(pod), _) => of(&pod.uid, true),
        (Place::Inside(pod, _), _) => {
            let own = layout::pod_cgroup(path).is_some_and(|cgroup| cgroup == *path);
            of(&pod.uid, own)
        }
    }
}

/// The desired state for one tree without pods: [`Planner::desired`] without a memory.
///
/// # Errors
/// More rules apply to the root, and so to everything, than the kernel can hold.
pub fn desired(
    policy: &Policy,
    tree: &Cgroups,
    root: &CgroupPath,
    own: Option<CgroupId>,
) -> Result<Desired, TooManyRules> {
    Planner::new(Rulebook::File(Arc::new(policy.clone()))).desired(tree, root, own, None)
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
        whose: &Whose<'_>,
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
        match whose {
            // Until it is known it has no entry, and is pending.
            Whose::Unknown => {
                self.desired.pending += 1;
                return;
            }
            // Pods begin here, whatever the rules say about the node.
            Whose::Root | Whose::Pod(_, true) | Whose::Anyone(true) => {}
            // Below what is not open every cgroup has the rules of its ancestor.
            Whose::Node | Whose::Pod(_, false) | Whose::Anyone(false) if !open => return,
            Whose::Node | Whose::Pod(_, false) | Whose::Anyone(false) => {}
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
struct Shared(HashMap<(Vec<usize>, Action, bool), Arc<Ruleset>>);

impl Shared {
    fn intern(&mut self, ruleset: Ruleset) -> Arc<Ruleset> {
        let rules = ruleset.rules.iter().map(|rule| Arc::as_ptr(rule).addr());
        let key = (rules.collect(), ruleset.default, ruleset.govern_loopback);
        let shared = self.0.entry(key);
        Arc::clone(shared.or_insert_with(|| Arc::new(ruleset)))
    }
}

#[cfg(test)]
mod pod_tests;
#[cfg(test)]
mod tests;
