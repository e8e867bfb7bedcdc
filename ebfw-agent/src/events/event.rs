//! What the agent says about a flow: the output type, apart from what the kernel sends and from how it is rendered.
//! Strings are [`Printable`], so neither renderer can emit what it should not.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;

use super::Printable;
pub use super::mode::Mode;

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was decided or seen.
    pub at: Timestamp,
    /// What happened.
    pub subject: Subject,
    /// Who did it, where known.
    pub process: Option<Process>,
    /// The pod, where the flow comes from one.
    pub pod: Option<Pod>,
    /// The cgroup, where the flow comes from no known pod.
    pub cgroup: Option<Printable>,
    /// What the policy says, where one was evaluated.
    pub ruling: Option<Ruling>,
    /// Equal events that were left out since the last one.
    pub suppressed: u32,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A question to a resolver.
    Dns {
        /// From the client to the resolver.
        flow: Flow,
        /// The name that is asked for.
        name: Printable,
        /// The type of record, as `AAAA`.
        record: Printable,
        /// What became of it.
        outcome: Outcome,
        /// Addresses that were learned from the answer; `None` in a question.
        learned: Option<u32>,
    },
    /// A TLS client's first message.
    Tls {
        /// From the client to the server.
        flow: Flow,
        /// The name that the client claims, if it claims one.
        sni: Option<Printable>,
        /// Whether the message is encrypted (ECH); the name is then that of the outer one.
        ech: bool,
    },
    /// A cleartext request.
    Http {
        /// From the client to the server.
        flow: Flow,
        /// What is asked.
        request: Request,
    },
    /// A request read where the process encrypts it.
    Https {
        /// From the client to the server, where it is known.
        flow: Option<Flow>,
        /// What is asked.
        request: Request,
    },
    /// A new flow.
    Connect {
        /// From the client to the server.
        flow: Flow,
    },
}

impl Subject {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Dns { .. } => Kind::Dns,
            Self::Tls { .. } => Kind::Tls,
            Self::Http { .. } => Kind::Http,
            Self::Https { .. } => Kind::Https,
            Self::Connect { .. } => Kind::Connect,
        }
    }

    /// The flow, where it is known.
    #[must_use]
    pub fn flow(&self) -> Option<&Flow> {
        match self {
            Self::Dns { flow, .. }
            | Self::Tls { flow, .. }
            | Self::Http { flow, .. }
            | Self::Connect { flow } => Some(flow),
            Self::Https { flow, .. } => flow.as_ref(),
        }
    }

    /// The name that is asked for or claimed, where there is one.
    #[must_use]
    pub fn domain(&self) -> Option<&Printable> {
        match self {
            Self::Dns { name, .. } => Some(name),
            Self::Tls { sni, .. } => sni.as_ref(),
            Self::Http { request, .. } | Self::Https { request, .. } => Some(&request.host),
            Self::Connect { .. } => None,
        }
    }

    /// The type of record that is asked for, in a question.
    #[must_use]
    pub fn record(&self) -> Option<&Printable> {
        match self {
            Self::Dns { record, .. } => Some(record),
            Self::Tls { .. } | Self::Http { .. } | Self::Https { .. } | Self::Connect { .. } => {
                None
            }
        }
    }

    /// What became of a question, and how many addresses were learned.
    #[must_use]
    pub fn outcome(&self) -> Option<(Outcome, Option<u32>)> {
        match self {
            Self::Dns {
                outcome, learned, ..
            } => Some((*outcome, *learned)),
            Self::Tls { .. } | Self::Http { .. } | Self::Https { .. } | Self::Connect { .. } => {
                None
            }
        }
    }

    /// Whether it is a TLS client's first message, and encrypted (ECH).
    #[must_use]
    pub fn is_ech(&self) -> bool {
        matches!(self, Self::Tls { ech: true, .. })
    }

    /// The request, where there is one.
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Http { request, .. } | Self::Https { request, .. } => Some(request),
            Self::Dns { .. } | Self::Tls { .. } | Self::Connect { .. } => None,
        }
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Subject::Dns`].
    Dns,
    /// [`Subject::Tls`].
    Tls,
    /// [`Subject::Http`].
    Http,
    /// [`Subject::Https`].
    Https,
    /// [`Subject::Connect`].
    Connect,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Tls, Self::Http, Self::Https, Self::Connect];

    /// As in JSON and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Https => "https",
            Self::Connect => "connect",
        }
    }
}

/// What became of a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A question to a trusted resolver.
    Asked,
    /// An answer that was read to its end.
    Learned,
    /// An answer that cannot be read; what stands behind that place is not learned.
    Unreadable,
    /// An answer to nothing that was asked.
    Unasked,
    /// There is no room for the name.
    Full,
    /// The answer points to a special address.
    Special,
}

impl Outcome {
    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Learned => "learned",
            Self::Unreadable => "unreadable",
            Self::Unasked => "unasked",
            Self::Full => "full",
            Self::Special => "special",
        }
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address; unspecified (`0.0.0.0`, `::`) where the socket is not bound yet. Never IPv4-mapped.
    pub source: IpAddr,
    /// Source port, once the socket is bound.
    pub source_port: Option<u16>,
    /// Destination address, never IPv4-mapped; `None` where the packet could not be read.
    pub destination: Option<IpAddr>,
    /// Destination port; `None` for protocols without ports and where a fragment hides it.
    pub port: Option<u16>,
    /// IP protocol; `None` where the packet could not be read.
    pub protocol: Option<Protocol>,
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether its packets carry ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
    #[must_use]
    pub fn carries_ports(self) -> bool {
        matches!(self.0, 6 | 17 | 33 | 132 | 136)
    }
}

/// As the policy language writes it: a name that it knows, else the number.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            6 => f.pad("TCP"),
            17 => f.pad("UDP"),
            132 => f.pad("SCTP"),
            1 | 58 => f.pad("ICMP"),
            number => f.pad(&number.to_string()),
        }
    }
}

/// A request line and its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method as written.
    pub method: Printable,
    /// Host or `:authority`.
    pub host: Printable,
    /// The path with its query, where it is inspected.
    pub path: Option<Printable>,
    /// The headers, where they are inspected.
    pub headers: Vec<Header>,
    /// The beginning of its body, where it has one and bodies are captured.
    pub body: Option<Body>,
    /// The status of its answer, in an event about that.
    pub status: Option<u16>,
}

/// The beginning of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// What the client says it is.
    pub content_type: Option<Printable>,
    /// Its length in bytes, where that is known.
    pub size: Option<u64>,
    /// Bytes that were captured.
    pub captured: usize,
    /// The captured bytes, where they are text that may be shown.
    pub text: Option<Printable>,
    /// Whether there is more than was captured.
    pub truncated: bool,
    /// Whether something was left out because it is, or may be, a secret.
    pub redacted: bool,
}

/// One header line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: Printable,
    /// Its value.
    pub value: Printable,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Name of the calling thread; `None` where the kernel gives none.
    pub comm: Option<Printable>,
}

/// A pod. What is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Option<Printable>,
    /// Name.
    pub name: Option<Printable>,
    /// UID.
    pub uid: Option<Printable>,
    /// Container id.
    pub container: Option<Printable>,
    /// Quality of service class.
    pub qos: Option<Printable>,
    /// Node.
    pub node: Option<Printable>,
}

/// What the policy says about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What to do with it.
    pub action: Action,
    /// The rule that says so. `None` where no rule does (see `reason`) or where its name is no longer known.
    pub rule: Option<Printable>,
    /// Why.
    pub reason: Reason,
    /// Whether a Deny is carried out.
    pub mode: Mode,
    /// A rule was passed over because a fact that it needs cannot be known.
    pub opaque: bool,
    /// The client claims a name that it has not resolved to the destination, so that no Allow by name means it.
    pub unresolved: bool,
}

/// What is to be done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Refused or dropped.
    Deny,
    /// Let through until a fact that a rule needs is known.
    Held,
    /// Let through.
    Allow,
    /// Let through; to be changed once a proxy can.
    Modify,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Deny, Self::Held, Self::Allow, Self::Modify];

    /// As in JSON and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Held => "held",
            Self::Allow => "allow",
            Self::Modify => "modify",
        }
    }

    /// As in text and in policies.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Held => "Held",
            Self::Allow => "Allow",
            Self::Modify => "Modify",
        }
    }
}

/// Why a flow was decided as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A rule matched.
    Rule,
    /// No rule matched.
    Default,
    /// The packet is malformed.
    Malformed,
    /// An IPv4 source route.
    SourceRoute,
    /// An IPv6 routing header.
    RoutingHeader,
    /// A table of the ruleset could not be read.
    Tables,
    /// The workload has not been classified yet.
    Pending,
    /// No policy governs the workload.
    Ungoverned,
    /// The state of the socket could not be kept.
    SocketState,
    /// What the client says cannot be relied on.
    Unreadable,
    /// What the client says can be read in two ways.
    Ambiguous,
    /// The kernel denied a request inside TLS of which nothing came to the agent.
    Unseen,
}

impl Reason {
    /// As in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::Malformed => "malformed",
            Self::SourceRoute => "source-route",
            Self::RoutingHeader => "routing-header",
            Self::Tables => "tables",
            Self::Pending => "pending",
            Self::Ungoverned => "ungoverned",
            Self::SocketState => "socket-state",
            Self::Unreadable => "unreadable",
            Self::Ambiguous => "ambiguous",
            Self::Unseen => "unseen",
        }
    }
}
