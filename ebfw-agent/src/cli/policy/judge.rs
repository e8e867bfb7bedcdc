//! Judges flows against a policy as the kernel would, for people who ask beforehand.

use std::sync::Arc;

use ebfw_policy::{
    evaluate::{Decision, Dimension, Reason, Verdict},
    explain::Explanation,
    flow::{Flow, FlowError},
    object::PolicyObject,
    policy::Action,
    policy_set::PolicySet,
    ruleset::{Ruleset, TooManyRules},
    workload::Workload,
};
use serde::{Serialize, Serializer};

use super::source::Policies;

/// Why a flow is decided as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A rule matched.
    Rule,
    /// A Deny rule counts as matching because a fact cannot become known (`strictL7`).
    Opaque,
    /// No rule matched.
    Default,
    /// Loopback is not governed.
    Loopback,
    /// The policy does not select the workload.
    Ungoverned,
    /// A rule waits for this dimension's fact.
    Waiting(Dimension),
    /// A rule waits for what the client says, and that can be read in two ways.
    Ambiguous,
}

/// A flow that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) flow: Flow,
    /// The flow as it was asked, without its expectation: what people and scripts look for.
    pub(super) text: String,
}

impl Question {
    /// The words of a flag.
    pub(super) fn words(words: &str) -> Result<Self, FlowError> {
        let flow = Flow::parse(words)?;
        let facts = words
            .split_whitespace()
            .filter(|word| !word.starts_with("expect="));
        Ok(Self {
            flow,
            text: facts.collect::<Vec<_>>().join(" "),
        })
    }

    /// A JSON object.
    pub(super) fn json(line: &str) -> Result<Self, FlowError> {
        let flow = Flow::parse_json(line)?;
        let text = flow.to_string();
        Ok(Self { flow, text })
    }
}

/// A flow with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) question: Question,
    pub(super) decision: Decision,
    pub(super) rule: Option<String>,
    pub(super) why: Why,
    /// Rules that were passed over only because a fact can no longer become known.
    pub(super) opaque: Vec<String>,
}

impl Judged {
    /// Whether the verdict is what the flow's writer expects, if anything.
    pub(super) fn as_expected(&self) -> Option<bool> {
        self.question
            .flow
            .expect()
            .map(|expected| expected == self.decision)
    }
}

/// Policies, and the rules of the workload that was judged last: flows come in runs of one workload.
pub(super) struct Judge {
    policies: Policies,
    last: Option<(Workload, Option<Ruleset>)>,
}

impl Judge {
    pub(super) fn new(policies: Policies) -> Self {
        Self {
            policies,
            last: None,
        }
    }

    pub(super) fn judge(&mut self, question: Question) -> Result<Judged, TooManyRules> {
        let Some(ruleset) = self.ruleset(question.flow.workload())? else {
            let (decision, why) = (Decision::Allow, Why::Ungoverned);
            return Ok(Judged {
                question,
                decision,
                rule: None,
                why,
                opaque: Vec::new(),
            });
        };
        let Verdict {
            decision,
            rule,
            reason,
            opaque,
        } = ruleset.evaluate(&question.flow.facts());
        let names = opaque
            .iter()
            .map(|index| ruleset.rules[*index].name.to_string());
        let opaque = names.collect();
        let rule = rule.map(|rule| rule.name.to_string());
        Ok(Judged {
            question,
            decision,
            rule,
            why: reason.into(),
            opaque,
        })
    }

    /// What each rule is for the flow; of objects those that govern the workload.
    pub(super) fn explain(&self, flow: &Flow) -> Explained<'_> {
        let (workload, facts) = (flow.workload(), flow.facts());
        match &self.policies {
            Policies::File(policy) => Explained {
                objects: Vec::new(),
                rules: policy.explain(&workload, &facts),
            },
            Policies::Objects(set) => Explained {
                objects: joined(set, &workload),
                rules: set.explain(&workload, &facts),
            },
        }
    }

    fn ruleset(&mut self, workload: Workload) -> Result<Option<&Ruleset>, TooManyRules> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != workload) {
            let ruleset = match &self.policies {
                Policies::File(policy) => policy.select(&workload)?,
                Policies::Objects(set) => set.select(&workload)?,
            };
            self.last = Some((workload, ruleset));
        }
        Ok(self.last.as_ref().and_then(|(_, ruleset)| ruleset.as_ref()))
    }
}

/// Why a flow is decided as it is, at length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Explained<'p> {
    /// The objects that govern the workload, in the order of their rules.
    pub(super) objects: Vec<Joined>,
    pub(super) rules: Vec<Explanation<'p>>,
}

/// An object that governs the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Joined {
    pub(super) object: String,
    pub(super) priority: u32,
    #[serde(serialize_with = "lower_case")]
    pub(super) default: Action,
}

fn joined(set: &PolicySet, workload: &Workload) -> Vec<Joined> {
    let joined = |object: &Arc<PolicyObject>| Joined {
        object: object.id().to_string(),
        priority: object.priority(),
        default: object.policy().default_action,
    };
    set.selecting(workload).map(joined).collect()
}

fn lower_case<S: Serializer>(action: &Action, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(super::verdict::word((*action).into()))
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Rule => Self::Rule,
            Reason::Opaque => Self::Opaque,
            Reason::Default => Self::Default,
            Reason::Loopback => Self::Loopback,
            Reason::Waiting(dimension) => Self::Waiting(dimension),
            Reason::Ambiguous => Self::Ambiguous,
        }
    }
}
