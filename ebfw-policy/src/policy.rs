//! A checked policy: what the rest of ebfw works with.
//!
//! Built only by conversion from a [`crate::spec`] (which collects every error), so a value of these
//! types cannot be wrong. Nothing here reads files or knows how a policy was written down.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
