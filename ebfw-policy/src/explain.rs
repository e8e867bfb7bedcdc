//! Why a flow is decided as it is: every rule of the policy with the dimension that ruled it out.

use std::borrow::Cow;

use crate::{
    evaluate::{Dimension, Judgement, judge},
    facts::{Facts, Request},
    policy::{Policy, Rule},
    workload::Workload,
};

/// A rule and what it is for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation<'p> {
    /// The rule's place in the policy, from 0.
    pub index: usize,
    /// The rule.
    pub rule: &'p Rule,
    /// What it is for the flow. Rules after the one that decided are judged as well.
    pub judgement: Judgement,
}

impl Policy {
    /// What each rule is for the flow, in order, pod and cgroup included. A loopback destination is explained as any other.
    #[must_use]
    pub fn explain(&self, workload: &Workload, facts: &Facts) -> Vec<Explanation<'_>> {
        let facts = &*readable(facts);
        self.rules
            .iter()
            .enumerate()
            .map(|(index, rule)| explanation(index, rule, workload, facts))
            .collect()
    }
}

/// The facts by which rules are explained: of what can be read in two ways nothing is known.
pub(crate) fn readable(facts: &Facts) -> Cow<'_, Facts> {
    if facts.request == Request::Ambiguous {
        Cow::Owned(facts.unread())
    } else {
        Cow::Borrowed(facts)
    }
}

pub(crate) fn explanation<'r>(
    index: usize,
    rule: &'r Rule,
    workload: &Workload,
    facts: &Facts,
) -> Explanation<'r> {
    Explanation {
        index,
        rule,
        judgement: judgement(rule, workload, facts),
    }
}

fn judgement(rule: &Rule, workload: &Workload, facts: &Facts) -> Judgement {
    if !rule.selects_pod(workload) {
        Judgement::No(Dimension::Pod)
    } else if !rule.selects_cgroup(workload) {
        Judgement::No(Dimension::Cgroups)
    } else {
        judge(rule, facts)
    }
}
