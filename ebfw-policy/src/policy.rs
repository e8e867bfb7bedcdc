//! A checked policy: what the rest of ebfw works with.
//!
//! Built only by conversion from a [`crate::spec`] (which collects every error), so a value of these
//! types cannot be wrong. Nothing here reads files or knows how a policy was written down.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    cgroup::CgroupGlob,
    domain::DomainPattern,
    http::{Method, PathPrefix},
    selector::{PodMatch, Selector},
};

/// Rules that one workload can have at most: what 64 words of 64 bits index in the kernel.
pub const MAX_RULES: usize = 4096;

/// What a rule does with the flow that it is the first to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let the flow through.
    Allow,
    /// Refuse or drop the flow.
    Deny,
    /// Decides as [`Action::Allow`]; the event says `modify`.
    Modify,
}

impl Action {
    /// Whether a flow with this action may leave.
    #[must_use]
    pub fn permits(self) -> bool {
        match self {
            Self::Allow | Self::Modify => true,
            Self::Deny => false,
        }
    }
}

/// The entries of a dimension of a rule; a rule that does not name the dimension matches anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnyOf<T> {
    /// The dimension is absent.
    Anything,
    /// At least one entry; any of them will do.
    Entries(Vec<T>),
}

impl<T> AnyOf<T> {
    /// Whether the dimension is absent or one entry satisfies `matches`.
    pub fn admits(&self, matches: impl FnMut(&T) -> bool) -> bool {
        match self {
            Self::Anything => true,
            Self::Entries(entries) => entries.iter().any(matches),
        }
    }

    /// The entries, if the dimension is named.
    #[must_use]
    pub fn entries(&self) -> Option<&[T]> {
        match self {
            Self::Anything => None,
            Self::Entries(entries) => Some(entries),
        }
    }
}

/// An IP protocol number; `ICMP` of the policy language stands for both 1 and 58.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether `ports` of a rule can match this protocol at all (SEMANTICS 3: TCP, UDP and SCTP).
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

/// The name, or the number where the policy language has no name.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// Destination ports `first..=last`, 1..=65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` for port 0 and for a reversed range.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// What a Modify rule will do to a request; carried, not executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Replace the header, or add it if it is missing.
    SetHeader {
        /// Name of the header.
        header: Box<str>,
        /// Its new value.
        value: Box<str>,
    },
    /// Add a header, beside others of its name.
    AddHeader {
        /// Name of the header.
        header: Box<str>,
        /// Its value.
        value: Box<str>,
    },
    /// Remove every header of this name.
    RemoveHeader {
        /// Name of the header.
        header: Box<str>,
    },
    /// Replace the path of the request.
    RewritePath {
        /// The new path.
        path: Box<str>,
    },
}

/// How QUIC is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quic {
    /// As any other flow, by the rules.
    #[default]
    Decide,
    /// UDP to port 443 is denied before the rules, so that clients fall back to TCP.
    Deny,
}

/// Where something stands in the policy file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// What a rule asks of a flow: every dimension must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The source pod; `Some` never matches a flow from no known pod.
    pub pod: Option<PodMatch>,
    /// The cgroup of the workload.
    pub cgroups: AnyOf<CgroupGlob>,
    /// Names, see [`crate::evaluate`].
    pub domains: AnyOf<DomainPattern>,
    /// Destination prefixes; IPv4-mapped ones are stored as IPv4.
    pub cidrs: AnyOf<IpNet>,
    /// Destination ports.
    pub ports: AnyOf<PortRange>,
    /// IP protocols.
    pub protocols: AnyOf<Protocol>,
    /// Methods of HTTP requests.
    pub methods: AnyOf<Method>,
    /// Whole elements from the start of a request's path.
    pub path_prefix: Option<PathPrefix>,
}

impl Match {
    /// A match that every flow satisfies.
    pub const ANYTHING: Self = Self {
        pod: None,
        cgroups: AnyOf::Anything,
        domains: AnyOf::Anything,
        cidrs: AnyOf::Anything,
        ports: AnyOf::Anything,
        protocols: AnyOf::Anything,
        methods: AnyOf::Anything,
        path_prefix: None,
    };

    /// Whether it asks for the method or the path of a request.
    #[must_use]
    pub fn reads_requests(&self) -> bool {
        self.methods != AnyOf::Anything || self.path_prefix.is_some()
    }
}

/// One rule of a policy.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The user's name for it, or `rule-N` where there is none.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// What it matches.
    pub matches: Match,
    /// What a Modify rule changes, in order; empty for the other actions.
    pub mutations: Vec<Mutation>,
    /// `strictL7` of the policy: a Deny whose only unknown is opaque counts as matching.
    pub strict_l7: bool,
    /// Where the rule begins in the file. Two rules that differ only here are equal.
    pub position: Position,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            name,
            action,
            matches,
            mutations,
            strict_l7,
            position: _,
        } = self;
        *name == other.name
            && *action == other.action
            && *matches == other.matches
            && *mutations == other.mutations
            && *strict_l7 == other.strict_l7
    }
}

impl Eq for Rule {}

impl Hash for Rule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            name,
            action,
            matches,
            mutations,
            strict_l7,
            position: _,
        } = self;
        (name, action, matches, mutations, strict_l7).hash(state);
    }
}

/// A whole policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What happens when no rule matches; Allow or Deny.
    pub default_action: Action,
    /// Narrows the whole policy to pods with these labels.
    pub pod_selector: Option<Selector>,
    /// The rules; the first that matches decides.
    pub rules: Vec<Arc<Rule>>,
    /// How QUIC is treated.
    pub quic: Quic,
    /// Whether destinations on loopback are judged.
    pub govern_loopback: bool,
}

impl Policy {
    /// The `domains` of every rule that has some, in the order of the rules.
    pub fn domain_lists(&self) -> impl Iterator<Item = &[DomainPattern]> {
        self.rules
            .iter()
            .filter_map(|rule| rule.matches.domains.entries())
    }

    /// Every entry of `domains` of its rules.
    pub fn domains(&self) -> impl Iterator<Item = &DomainPattern> {
        self.domain_lists().flatten()
    }
}
