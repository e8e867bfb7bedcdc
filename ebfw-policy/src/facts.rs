//! What is known about a flow at a moment (SEMANTICS 1).
//!
//! Names, paths and addresses are brought into their compared form here, once, so that judging a flow costs no allocation.

use std::net::IpAddr;

use ebfw_common::stream::{Step, Stream};

use crate::{
    domain::Name,
    http::{Method, RequestPath},
    policy::Protocol,
};

/// How far a packet's flow has got, for flows whose payload nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No payload yet: a claim or a request may still come.
    Pending,
    /// There is payload and it names nothing.
    Opaque,
}

/// The name that the client claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No payload yet.
    NotYet,
    /// The payload carries no name, or none is given.
    Nameless,
    /// SNI, Host or :authority.
    Name(Name),
}

/// The HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// No payload yet.
    NotYet,
    /// It can no longer become known.
    Opaque,
    /// Two servers could read it in two ways: where a rule waits for what the client says, the flow is denied.
    Ambiguous,
    /// What is known; a part that is absent satisfies no rule that asks for it.
    Known {
        /// Method, as in the request.
        method: Option<Method>,
        /// Path.
        path: Option<RequestPath>,
    },
}

impl Request {
    /// What the reader of connections makes of a request with this method and target, of which one may be left open.
    #[must_use]
    pub fn read(method: Option<&str>, target: Option<&str>) -> Self {
        let word = match (method, target) {
            (Some(method), _) => method,
            (None, Some("*")) => "OPTIONS",
            (None, _) => "GET",
        };
        let mut stream = Stream::default();
        let head = format!("{word} {} HTTP/1.0\r\n\r\n", target.unwrap_or("/"));
        stream.begin(head.as_bytes()[0]);
        let step = (head.bytes())
            .map(|byte| stream.step(byte))
            .find(|step| *step != Step::More);
        let path = || {
            let (_, path) = stream.facts().request()?;
            match target {
                // Of a long one not all is kept there.
                Some(target) if target.starts_with('/') => Some(RequestPath::new(target)),
                Some(_) => Some(RequestPath::new(&String::from_utf8_lossy(path))),
                None => None,
            }
        };
        match step {
            Some(Step::Malformed) => Self::Ambiguous,
            Some(Step::Opaque) => Self::Opaque,
            Some(Step::Head | Step::More | Step::Finished | Step::Http2 | Step::Again) | None => {
                Self::Known {
                    method: method.map(Method::from_request),
                    path: path(),
                }
            }
        }
    }
}

/// What is known about a flow. What is not given is absent, and a rule that needs it does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) dst: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) resolved: Vec<Name>,
    pub(crate) claim: Claim,
    pub(crate) request: Request,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            protocol: None,
            dst: None,
            port: None,
            resolved: Vec::new(),
            claim: Claim::Nameless,
            request: Request::Known {
                method: None,
                path: None,
            },
        }
    }
}

impl Facts {
    /// A packet on the wire with no names resolved; `port` is `None` where the transport is not understood or has none.
    #[must_use]
    pub fn packet(protocol: Protocol, dst: IpAddr, port: Option<u16>, stage: Stage) -> Self {
        let (claim, request) = match stage {
            Stage::Pending => (Claim::NotYet, Request::NotYet),
            Stage::Opaque => (Claim::Nameless, Request::Opaque),
        };
        let facts = Self {
            claim,
            request,
            ..Self::default()
        }
        .with_protocol(protocol)
        .with_dst(dst);
        match port {
            Some(port) => facts.with_port(port),
            None => facts,
        }
    }

    /// With the IP protocol.
    #[must_use]
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..self
        }
    }

    /// With the destination address; IPv4-mapped IPv6 is IPv4.
    #[must_use]
    pub fn with_dst(self, dst: IpAddr) -> Self {
        Self {
            dst: Some(dst.to_canonical()),
            ..self
        }
    }

    /// With the destination port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self {
            port: Some(port),
            ..self
        }
    }

    /// With the names that the workload resolved to the destination.
    #[must_use]
    pub fn with_resolved(self, resolved: Vec<Name>) -> Self {
        Self { resolved, ..self }
    }

    /// With the claimed name.
    #[must_use]
    pub fn with_claim(self, claim: Claim) -> Self {
        Self { claim, ..self }
    }

    /// As long as nothing is read of what the client says.
    pub(crate) fn unread(&self) -> Self {
        self.clone()
            .with_claim(Claim::NotYet)
            .with_request(Request::NotYet)
    }

    /// With the request.
    #[must_use]
    pub fn with_request(self, request: Request) -> Self {
        Self { request, ..self }
    }
}
