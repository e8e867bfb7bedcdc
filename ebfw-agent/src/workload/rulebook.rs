//! Where rules come from, and how they are asked about one workload after the other.

use std::sync::Arc;

use ebfw_policy::{
    compile::Names,
    domain::DomainPattern,
    policy::Policy,
    policy_set::PolicySet,
    ruleset::{Ruleset, TooManyRules},
    workload::Workload,
};

use super::index::Index;

/// All the rules of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rulebook {
    /// Those of a policy file.
    File(Arc<Policy>),
    /// Those of the cluster's policy objects.
    Objects(Arc<PolicySet>),
}

impl Rulebook {
    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::File(policy) => policy.rules.len(),
            Self::Objects(set) => set.rules().count(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a workload's pod can make a difference.
    #[must_use]
    pub fn tells_pods_apart(&self) -> bool {
        match self {
            Self::File(policy) => {
                policy.pod_selector.is_some()
                    || policy.rules.iter().any(|rule| rule.matches.pod.is_some())
            }
            Self::Objects(set) => !set.is_empty(),
        }
    }

    /// Whether a rule looks at names.
    #[must_use]
    pub fn reads_names(&self) -> bool {
        self.domain_lists().next().is_some()
    }

    fn domain_lists(&self) -> Box<dyn Iterator<Item = &[DomainPattern]> + '_> {
        match self {
            Self::File(policy) => Box::new(policy.domain_lists()),
            Self::Objects(set) => Box::new(set.domain_lists()),
        }
    }

    /// The automaton of all domain patterns.
    ///
    /// # Errors
    /// The patterns explode together; says which is the worst.
    pub fn names(&self) -> anyhow::Result<Names> {
        Ok(Names::compile_lists(self.domain_lists())?)
    }
}

/// Asks a [`Rulebook`].
#[derive(Debug)]
pub(super) struct Reader {
    rules: Rulebook,
    index: Option<Index>,
}

impl Reader {
    pub(super) fn new(rules: Rulebook) -> Self {
        let index = match &rules {
            Rulebook::File(policy) => Index::new(policy),
            Rulebook::Objects(_) => None,
        };
        Self { rules, index }
    }

    pub(super) fn rules(&self) -> &Rulebook {
        &self.rules
    }

    /// The rules for `workload`; `None` if nothing governs it.
    pub(super) fn select(&mut self, workload: &Workload) -> Result<Option<Ruleset>, TooManyRules> {
        match (&self.rules, &mut self.index, &workload.cgroup) {
            (Rulebook::File(_), Some(index), Some(cgroup)) => index.about(cgroup).select(workload),
            (Rulebook::File(policy), ..) => policy.select(workload),
            (Rulebook::Objects(set), ..) => set.select(workload),
        }
    }

    /// Whether a cgroup below that of `workload` may have other rules.
    pub(super) fn may_differ_below(&mut self, workload: &Workload) -> bool {
        let Some(cgroup) = &workload.cgroup else {
            return false;
        };
        match (&self.rules, &mut self.index) {
            (Rulebook::File(_), Some(index)) => index.below(cgroup).may_select_below(cgroup),
            (Rulebook::File(policy), None) => policy.may_select_below(cgroup),
            (Rulebook::Objects(set), _) => set.selecting(workload).any(|object| {
                let policy = object.policy();
                policy.may_select_below(cgroup)
            }),
        }
    }

    /// Forgets what was looked up for one tree.
    pub(super) fn forget(&mut self) {
        if let Some(index) = &mut self.index {
            index.forget();
        }
    }
}
