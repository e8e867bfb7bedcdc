//! All policy objects together: which of them a workload has, and the one list of rules that they make for it (SEMANTICS 5).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    domain::DomainPattern,
    explain::{self, Explanation},
    facts::Facts,
    object::{ObjectId, PolicyObject, Scope},
    policy::{Action, MAX_RULES, Rule},
    ruleset::{Ruleset, TooManyRules},
    workload::Workload,
};

/// Policy objects in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// By priority, then name.
    cluster: Vec<Arc<PolicyObject>>,
    /// Of each namespace by priority, then name.
    namespaced: HashMap<Box<str>, Vec<Arc<PolicyObject>>>,
}

impl PolicySet {
    /// Of these objects; of two with one name the later counts.
    #[must_use]
    pub fn new(objects: impl IntoIterator<Item = Arc<PolicyObject>>) -> Self {
        let by_id: BTreeMap<ObjectId, Arc<PolicyObject>> = objects
            .into_iter()
            .map(|object| (object.id().clone(), object))
            .collect();
        let mut set = Self::default();
        for object in by_id.into_values() {
            match object.id().namespace() {
                None => set.cluster.push(object),
                Some(namespace) => {
                    let own = set.namespaced.entry(namespace.into()).or_default();
                    own.push(object);
                }
            }
        }
        // Numbers are compared as they are, never subtracted (CVE-2026-25804), and the sort keeps the order of names.
        set.cluster.sort_by_key(|object| object.priority());
        for own in set.namespaced.values_mut() {
            own.sort_by_key(|object| object.priority());
        }
        set
    }

    /// Every object: cluster policies in their order, then those of each namespace in theirs.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<PolicyObject>> {
        let mut namespaces: Vec<_> = self.namespaced.iter().collect();
        namespaces.sort_unstable_by_key(|(namespace, _)| *namespace);
        let namespaced = namespaces.into_iter().flat_map(|(_, own)| own);
        self.cluster.iter().chain(namespaced)
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cluster.is_empty() && self.namespaced.is_empty()
    }

    /// The objects that govern `workload`, in the order of their rules.
    pub fn selecting<'s, 'w>(
        &'s self,
        workload: &'w Workload,
    ) -> impl Iterator<Item = &'s Arc<PolicyObject>> + use<'s, 'w> {
        let namespace = workload.pod.as_ref().map(|pod| pod.namespace.as_str());
        let own = namespace.and_then(|namespace| self.namespaced.get(namespace));
        self.cluster
            .iter()
            .chain(own.into_iter().flatten())
            .filter(|object| object.selects(workload))
    }

    /// The rules for `workload`, those of one object after those of another; `None` if no object governs it.
    ///
    /// # Errors
    /// More than [`MAX_RULES`] rules apply.
    pub fn select(&self, workload: &Workload) -> Result<Option<Ruleset>, TooManyRules> {
        let mut ruleset: Option<Ruleset> = None;
        for object in self.selecting(workload) {
            let ruleset = ruleset.get_or_insert_with(|| Ruleset {
                rules: Vec::new(),
                default: Action::Allow,
                govern_loopback: false,
            });
            let selected = object
                .rules()
                .iter()
                .filter(|rule| rule.selects(workload))
                .cloned();
            ruleset.rules.extend(selected);
            if object.policy().default_action == Action::Deny {
                ruleset.default = Action::Deny;
            }
            ruleset.govern_loopback |= object.policy().govern_loopback;
        }
        match ruleset {
            Some(ruleset) if ruleset.rules.len() > MAX_RULES => {
                Err(TooManyRules(ruleset.rules.len()))
            }
            ruleset => Ok(ruleset),
        }
    }

    /// What each rule of the objects that govern `workload` is for the flow, in order.
    #[must_use]
    pub fn explain(&self, workload: &Workload, facts: &Facts) -> Vec<Explanation<'_>> {
        let facts = &*explain::readable(facts);
        self.selecting(workload)
            .flat_map(|object| object.rules())
            .enumerate()
            .map(|(index, rule)| explain::explanation(index, rule, workload, facts))
            .collect()
    }

    /// Whether any object governs processes that are in no pod.
    #[must_use]
    pub fn governs_nodes(&self) -> bool {
        let node = |object: &Arc<PolicyObject>| object.scope() == Scope::Node;
        self.cluster.iter().any(node)
    }

    /// The rules of all objects.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.objects().flat_map(|object| object.rules())
    }

    /// The `domains` of every rule that has some, in the order of the objects and their rules.
    pub fn domain_lists(&self) -> impl Iterator<Item = &[DomainPattern]> {
        self.objects()
            .flat_map(|object| object.policy().domain_lists())
    }
}
