//! The engine: first match over facts that arrive one after the other (SEMANTICS 2 to 4).
//!
//! It is the oracle for the kernel's tables and what `ebfw policy test` runs.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    domain::{DomainPattern, Name},
    facts::{Claim, Facts, Request},
    policy::{Action, AnyOf, Protocol, Rule},
    ruleset::Ruleset,
};

/// A part of `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// `pod`.
    Pod,
    /// `cgroups`.
    Cgroups,
    /// `protocols`.
    Protocols,
    /// `ports`.
    Ports,
    /// `cidrs`.
    Cidrs,
    /// `domains`.
    Domains,
    /// `methods`.
    Methods,
    /// `pathPrefix`.
    PathPrefix,
}

impl Dimension {
    /// The field's name in a policy.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Cgroups => "cgroups",
            Self::Protocols => "protocols",
            Self::Ports => "ports",
            Self::Cidrs => "cidrs",
            Self::Domains => "domains",
            Self::Methods => "methods",
            Self::PathPrefix => "pathPrefix",
        }
    }
}

/// What a rule is for the facts at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It matches.
    Yes,
    /// It matches because `strictL7` counts a fact that cannot become known against the flow.
    YesOpaque(Dimension),
    /// This dimension rules it out.
    No(Dimension),
    /// This dimension's fact can no longer become known, which rules it out.
    NoOpaque(Dimension),
    /// This dimension's fact is not known yet.
    NotYet(Dimension),
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It may leave.
    Allow,
    /// It may not.
    Deny,
    /// It may leave; the event says `modify`.
    Modify,
    /// The rule that decides needs a fact that is still to come.
    Held,
}

impl From<Action> for Decision {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
            Action::Modify => Self::Modify,
        }
    }
}

/// Why a decision was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule matched.
    Rule,
    /// A Deny rule counted as matching because a fact that it needs cannot become known (`strictL7`).
    Opaque,
    /// No rule matched.
    Default,
    /// A destination on loopback, which the policy does not govern.
    Loopback,
    /// A rule waits for the fact of this dimension.
    Waiting(Dimension),
    /// A rule waits for what the client says, and that can be read in two ways.
    Ambiguous,
}

/// A rule of a ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Its place in [`Ruleset::rules`].
    pub index: usize,
    /// Its name.
    pub name: Arc<str>,
}

/// The outcome of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the flow.
    pub decision: Decision,
    /// The rule that decided, or for which the flow is held.
    pub rule: Option<RuleRef>,
    /// Why.
    pub reason: Reason,
    /// Places of the rules that were passed over only because a fact can no longer become known.
    pub opaque: Vec<usize>,
}

impl Ruleset {
    /// Judges a flow of this ruleset's workload.
    #[must_use]
    pub fn evaluate(&self, facts: &Facts) -> Verdict {
        if facts.request == Request::Ambiguous {
            return self.without_its_words(facts);
        }
        let mut opaque = Vec::new();
        if !self.govern_loopback && facts.dst.is_some_and(|dst| dst.is_loopback()) {
            return Verdict {
                decision: Decision::Allow,
                rule: None,
                reason: Reason::Loopback,
                opaque,
            };
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let (decision, reason) = match judge(rule, facts) {
                Judgement::No(_) => continue,
                Judgement::NoOpaque(_) => {
                    opaque.push(index);
                    continue;
                }
                Judgement::Yes => (rule.action.into(), Reason::Rule),
                Judgement::YesOpaque(_) => (rule.action.into(), Reason::Opaque),
                Judgement::NotYet(dimension) => (Decision::Held, Reason::Waiting(dimension)),
            };
            return Verdict {
                decision,
                rule: Some(RuleRef {
                    index,
                    name: Arc::clone(&rule.name),
                }),
                reason,
                opaque,
            };
        }
        Verdict {
            decision: self.default.into(),
            rule: None,
            reason: Reason::Default,
            opaque,
        }
    }

    /// Judges a flow of which nobody can tell what its client says: the first verdict stands only where what is said could not change it.
    fn without_its_words(&self, facts: &Facts) -> Verdict {
        let first = self.evaluate(&facts.unread());
        let decider = first.rule.as_ref().map(|rule| &self.rules[rule.index]);
        let by_name = decider.is_some_and(|rule| rule.matches.domains.entries().is_some());
        let waits = match first.decision {
            Decision::Held => true,
            Decision::Allow | Decision::Modify => by_name,
            Decision::Deny => false,
        };
        if !waits {
            return first;
        }
        Verdict {
            decision: Decision::Deny,
            rule: None,
            reason: Reason::Ambiguous,
            opaque: Vec::new(),
        }
    }
}

/// What `rule` is for `facts`; pod and cgroup are taken as satisfied.
// Inlined, as is what it calls for each rule: that is a quarter of the engine's time.
#[inline]
#[must_use]
pub fn judge(rule: &Rule, facts: &Facts) -> Judgement {
    let matches = &rule.matches;
    if let Some(dimension) = ruled_out_by_address(rule, facts) {
        return Judgement::No(dimension);
    }
    let names = names(&matches.domains, rule.action, facts);
    if names == Truth::No {
        return Judgement::No(Dimension::Domains);
    }
    if names == Truth::Yes && !matches.reads_requests() {
        return Judgement::Yes;
    }
    by_content(rule, facts, names)
}

/// What `rule` is by names, method and path together.
fn by_content(rule: &Rule, facts: &Facts, names: Truth) -> Judgement {
    let content = [
        (Dimension::Domains, names),
        (Dimension::Methods, method(rule, facts)),
        (Dimension::PathPrefix, path(rule, facts)),
    ];
    let first = |wanted: Truth| {
        let found = content.iter().find(|(_, truth)| *truth == wanted);
        found.map(|(dimension, _)| *dimension)
    };
    let strict = rule.strict_l7 && rule.action == Action::Deny;
    if let Some(dimension) = first(Truth::No) {
        return Judgement::No(dimension);
    }
    match (first(Truth::Opaque), first(Truth::NotYet)) {
        (Some(dimension), _) if !strict => Judgement::NoOpaque(dimension),
        (_, Some(dimension)) => Judgement::NotYet(dimension),
        (Some(dimension), None) => Judgement::YesOpaque(dimension),
        (None, None) => Judgement::Yes,
    }
}

/// The first dimension of the facts that are known from the start that rules the rule out.
#[inline]
fn ruled_out_by_address(rule: &Rule, facts: &Facts) -> Option<Dimension> {
    let matches = &rule.matches;
    let port = comparable_port(facts);
    if !matches
        .ports
        .admits(|range| port.is_some_and(|port| range.contains(port)))
    {
        return Some(Dimension::Ports);
    }
    if !matches
        .protocols
        .admits(|protocol| facts.protocol == Some(*protocol))
    {
        return Some(Dimension::Protocols);
    }
    let in_prefix = |prefix: &IpNet| match (prefix, facts.dst) {
        (IpNet::V4(prefix), Some(IpAddr::V4(dst))) => {
            (dst.to_bits() ^ prefix.addr().to_bits()) & prefix.netmask().to_bits() == 0
        }
        (IpNet::V6(prefix), Some(IpAddr::V6(dst))) => {
            (dst.to_bits() ^ prefix.addr().to_bits()) & prefix.netmask().to_bits() == 0
        }
        (IpNet::V4(_) | IpNet::V6(_), _) => false,
    };
    (!matches.cidrs.admits(in_prefix)).then_some(Dimension::Cidrs)
}

/// `ports` never matches a protocol without ports, nor a flow whose port is not known.
fn comparable_port(facts: &Facts) -> Option<u16> {
    facts
        .port
        .filter(|_| facts.protocol.is_none_or(Protocol::has_ports))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    NotYet,
    Opaque,
}

impl From<bool> for Truth {
    fn from(truth: bool) -> Self {
        if truth { Self::Yes } else { Self::No }
    }
}

/// The table of SEMANTICS 4.
#[inline]
fn names(patterns: &AnyOf<DomainPattern>, action: Action, facts: &Facts) -> Truth {
    let AnyOf::Entries(patterns) = patterns else {
        return Truth::Yes;
    };
    let meant = |name: &Name| patterns.iter().any(|pattern| pattern.matches(name));
    let resolved = &facts.resolved;
    match (&facts.claim, action.permits()) {
        (Claim::NotYet, true) | (Claim::Nameless, _) => resolved.iter().any(meant).into(),
        (Claim::NotYet, false) if !resolved.is_empty() && resolved.iter().all(meant) => Truth::Yes,
        (Claim::NotYet, false) => Truth::NotYet,
        // Both rows of a claim at once, the patterns first: they rule most rules out.
        (Claim::Name(claimed), true) => (meant(claimed) && resolved.contains(claimed)).into(),
        (Claim::Name(claimed), false) => {
            (meant(claimed) || !resolved.contains(claimed) && resolved.iter().any(meant)).into()
        }
    }
}

fn method(rule: &Rule, facts: &Facts) -> Truth {
    let AnyOf::Entries(methods) = &rule.matches.methods else {
        return Truth::Yes;
    };
    match &facts.request {
        Request::NotYet | Request::Ambiguous => Truth::NotYet,
        Request::Opaque => Truth::Opaque,
        Request::Known { method, path: _ } => method
            .as_ref()
            .is_some_and(|method| methods.contains(method))
            .into(),
    }
}

fn path(rule: &Rule, facts: &Facts) -> Truth {
    let Some(prefix) = &rule.matches.path_prefix else {
        return Truth::Yes;
    };
    match &facts.request {
        Request::NotYet | Request::Ambiguous => Truth::NotYet,
        Request::Opaque => Truth::Opaque,
        Request::Known { method: _, path } => path
            .as_ref()
            .is_some_and(|path| prefix.matches(path))
            .into(),
    }
}
