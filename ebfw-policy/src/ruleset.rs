//! The rules that apply to one workload: what is compiled for the kernel and what the engine evaluates.

use std::sync::{Arc, LazyLock};

use crate::{
    cgroup::CgroupPath,
    object::ObjectId,
    policy::{Action, AnyOf, MAX_RULES, Match, Policy, PortRange, Position, Protocol, Quic, Rule},
    workload::Workload,
};

/// The rules of one workload. Pods and cgroups are resolved away: `matches.pod` and `matches.cgroups` of its rules hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ruleset {
    /// The rules in order, at most [`MAX_RULES`]. With [`Quic::Deny`] the first is the rule that denies QUIC.
    pub rules: Vec<Arc<Rule>>,
    /// What happens when no rule matches; Allow or Deny.
    pub default: Action,
    /// Whether destinations on loopback are judged.
    pub govern_loopback: bool,
}

impl Ruleset {
    /// Whether a rule looks at names.
    #[must_use]
    pub fn reads_names(&self) -> bool {
        (self.rules.iter()).any(|rule| rule.matches.domains != AnyOf::Anything)
    }

    /// Whether a rule looks at methods or paths.
    #[must_use]
    pub fn reads_requests(&self) -> bool {
        (self.rules.iter()).any(|rule| rule.matches.reads_requests())
    }
}

/// A workload has more rules than the kernel can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} rules apply to one workload, {MAX_RULES} at most are possible")]
pub struct TooManyRules(pub usize);

/// Name of the rule that [`Quic::Deny`] puts before all others.
pub const QUIC_RULE: &str = "(quic)";

static DENY_QUIC: LazyLock<Arc<Rule>> = LazyLock::new(|| Arc::new(deny_quic(None)));

/// The rule that denies QUIC, called after the object that asks for it.
pub(crate) fn deny_quic(object: Option<&ObjectId>) -> Rule {
    let https = PortRange::new(443, 443).expect("443 is a port");
    let name = match object {
        Some(object) => format!("{object}/{QUIC_RULE}").into(),
        None => QUIC_RULE.into(),
    };
    Rule {
        name,
        action: Action::Deny,
        matches: Match {
            protocols: AnyOf::Entries(vec![Protocol::UDP]),
            ports: AnyOf::Entries(vec![https]),
            ..Match::ANYTHING
        },
        mutations: Vec::new(),
        strict_l7: false,
        position: Position::default(),
    }
}

impl Rule {
    /// Whether the rule's pod and cgroup dimensions hold for `workload`.
    #[must_use]
    pub fn selects(&self, workload: &Workload) -> bool {
        self.selects_pod(workload) && self.selects_cgroup(workload)
    }

    pub(crate) fn selects_pod(&self, workload: &Workload) -> bool {
        match (&self.matches.pod, &workload.pod) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wanted), Some(pod)) => wanted.matches(pod),
        }
    }

    pub(crate) fn selects_cgroup(&self, workload: &Workload) -> bool {
        self.matches.cgroups.admits(|glob| {
            workload
                .cgroup
                .as_ref()
                .is_some_and(|path| glob.matches(path))
        })
    }
}

impl Policy {
    /// Whether the policy governs `workload` at all.
    #[must_use]
    pub fn governs(&self, workload: &Workload) -> bool {
        match (&self.pod_selector, &workload.pod) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(selector), Some(pod)) => selector.matches(&pod.labels),
        }
    }

    /// The rules for `workload`; `None` if the policy does not govern it.
    ///
    /// # Errors
    /// More than [`MAX_RULES`] rules apply.
    pub fn select(&self, workload: &Workload) -> Result<Option<Ruleset>, TooManyRules> {
        if !self.governs(workload) {
            return Ok(None);
        }
        let quic = (self.quic == Quic::Deny).then(|| Arc::clone(&DENY_QUIC));
        let selected = self
            .rules
            .iter()
            .filter(|rule| rule.selects(workload))
            .cloned();
        let rules: Vec<_> = quic.into_iter().chain(selected).collect();
        if rules.len() > MAX_RULES {
            return Err(TooManyRules(rules.len()));
        }
        Ok(Some(Ruleset {
            rules,
            default: self.default_action,
            govern_loopback: self.govern_loopback,
        }))
    }

    /// Whether a cgroup strictly below `path` could satisfy a cgroup glob that `path` itself does not satisfy, so that its rules may differ.
    #[must_use]
    pub fn may_select_below(&self, path: &CgroupPath) -> bool {
        let globs = |rule: &'_ Arc<Rule>| {
            rule.matches
                .cgroups
                .entries()
                .is_some_and(|globs| globs.iter().any(|glob| glob.may_match_below(path)))
        };
        self.rules.iter().any(globs)
    }
}
