//! Bytes of the ring buffer to values. The kernel's bytes are not trusted: size, and tags are checked.
//! Attribution and names come later; nothing here looks anything up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebfw_common::abi::{self, Address, FlowEvent, SlotWord};
use jiff::Timestamp;
use zerocopy::FromBytes;

use super::{
    BootClock, Printable,
    event::{Flow, Mode, Process, Protocol},
};

/// A decision about a flow as the kernel took it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// When.
    pub at: Timestamp,
    /// Cgroup v2 id of the socket or of the calling thread.
    pub cgroup_id: u64,
    /// The socket's cookie.
    pub cookie: Option<u64>,
    /// Serial of the ruleset under which it was decided.
    pub serial: u32,
    /// From where to where.
    pub flow: Flow,
    /// Who called connect or sendmsg last.
    pub process: Option<Process>,
    /// Where it was decided.
    pub hook: Hook,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// A rule was passed over because a fact that it needs cannot be known.
    pub opaque: bool,
    /// The payload shows a name that was not resolved.
    pub unresolved: bool,
    /// Whether a Deny is carried out.
    pub mode: Mode,
    /// Equal events that were left out since the last one.
    pub suppressed: u32,
}

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The kernel programs and the agent disagree about the layout.
    #[error("an event has {expected} bytes, not {found}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A tag without a meaning.
    #[error("field {field} cannot be {value}")]
    Value {
        /// The field of the kernel's struct.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// No moment that a calendar knows.
    #[error("time {0} ns after boot is out of range")]
    Time(u64),
}

const FLOW_EVENT_LEN: usize = size_of::<FlowEvent>();

/// Turns the bytes of one ring buffer entry into a value.
///
/// # Errors
/// Where the bytes are not exactly one [`FlowEvent`] with known tags.
pub fn decode(bytes: &[u8], clock: &BootClock) -> Result<Connect, DecodeError> {
    let event = FlowEvent::read_from_bytes(bytes).map_err(|_| DecodeError::Length {
        found: bytes.len(),
        expected: FLOW_EVENT_LEN,
    })?;
    // Destructured whole: a new field must be thought about here.
    let FlowEvent {
        boot_ns,
        cgroup_id,
        cookie,
        slot_word,
        source,
        destination,
        pid,
        suppressed,
        source_port,
        destination_port,
        rule,
        protocol,
        has_ports,
        hook,
        verdict,
        reason,
        payload,
        mode,
        comm,
    } = event;
    let cause = Cause::new(reason, rule)?;
    if payload & !(abi::payload::OPAQUE | abi::payload::UNRESOLVED) != 0 {
        return Err(DecodeError::Value {
            field: "payload",
            value: payload.into(),
        });
    }
    let unreadable = cause.is_unreadable() && destination == Address::UNSPECIFIED;
    let destination = (!unreadable).then(|| canonical(destination));
    let protocol = Protocol(protocol);
    // A raw or ICMP socket's connect carries a port field that means nothing.
    let has_ports = flag("has_ports", has_ports)? && protocol.carries_ports();
    Ok(Connect {
        at: clock.wall(boot_ns).ok_or(DecodeError::Time(boot_ns))?,
        cgroup_id,
        cookie: (cookie != 0).then_some(cookie),
        serial: SlotWord(slot_word).serial(),
        flow: Flow {
            source: source_for(canonical(source), destination),
            source_port: (has_ports && source_port != 0).then_some(source_port),
            destination,
            port: has_ports.then_some(destination_port),
            protocol: (!unreadable).then_some(protocol),
        },
        process: (pid != 0).then(|| Process {
            pid,
            comm: name(&comm),
        }),
        hook: hook.try_into()?,
        verdict: verdict.try_into()?,
        cause,
        opaque: payload & abi::payload::OPAQUE != 0,
        unresolved: payload & abi::payload::UNRESOLVED != 0,
        mode: Mode::from_tag(mode).ok_or(DecodeError::Value {
            field: "mode",
            value: mode,
        })?,
        suppressed,
    })
}

/// IPv4 where the address is IPv4-mapped.
pub(super) fn canonical(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// A source that is not bound comes without a family: that of the destination.
fn source_for(source: IpAddr, destination: Option<IpAddr>) -> IpAddr {
    match destination {
        Some(IpAddr::V4(_)) if source.is_unspecified() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(_) | None => source,
    }
}

pub(super) fn name(comm: &[u8]) -> Option<Printable> {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    (!name.is_empty()).then(|| Printable::from_bytes(name))
}

pub(super) fn flag(field: &'static str, value: u8) -> Result<bool, DecodeError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::Value {
            field,
            value: value.into(),
        }),
    }
}

/// Where a verdict was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `connect(2)`.
    Connect,
    /// `sendmsg(2)` and its like with an address.
    Sendmsg,
    /// A packet on its way out.
    Egress,
}

impl TryFrom<u8> for Hook {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            abi::hook::CONNECT => Ok(Self::Connect),
            abi::hook::SENDMSG => Ok(Self::Sendmsg),
            abi::hook::EGRESS => Ok(Self::Egress),
            value => Err(DecodeError::Value {
                field: "hook",
                value: value.into(),
            }),
        }
    }
}

/// What the kernel decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Refused or dropped, or would have been.
    Deny,
    /// Let through.
    Allow,
    /// Let through until a fact that a rule needs is known.
    Held,
    /// Nothing was evaluated.
    Observed,
}

impl TryFrom<u8> for Verdict {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            abi::verdict::DENY => Ok(Self::Deny),
            abi::verdict::ALLOW => Ok(Self::Allow),
            abi::verdict::HELD => Ok(Self::Held),
            abi::verdict::OBSERVED => Ok(Self::Observed),
            value => Err(DecodeError::Value {
                field: "verdict",
                value: value.into(),
            }),
        }
    }
}

/// Why it was decided so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The rule with this index in the ruleset matched.
    Rule(u16),
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
}

impl Cause {
    /// Whether it is about a packet that may not have been read to its end.
    fn is_unreadable(self) -> bool {
        match self {
            Self::Malformed | Self::SourceRoute | Self::RoutingHeader => true,
            Self::Rule(_)
            | Self::Default
            | Self::Tables
            | Self::Pending
            | Self::Ungoverned
            | Self::SocketState
            | Self::Unreadable
            | Self::Ambiguous => false,
        }
    }

    fn new(reason: u8, rule: u16) -> Result<Self, DecodeError> {
        match reason {
            abi::reason::RULE if usize::from(rule) < abi::MAX_RULES => Ok(Self::Rule(rule)),
            abi::reason::RULE => Err(DecodeError::Value {
                field: "rule",
                value: rule.into(),
            }),
            abi::reason::DEFAULT => Ok(Self::Default),
            abi::reason::MALFORMED => Ok(Self::Malformed),
            abi::reason::SOURCE_ROUTE => Ok(Self::SourceRoute),
            abi::reason::ROUTING_HEADER => Ok(Self::RoutingHeader),
            abi::reason::TABLES => Ok(Self::Tables),
            abi::reason::PENDING => Ok(Self::Pending),
            abi::reason::UNGOVERNED => Ok(Self::Ungoverned),
            abi::reason::SOCKET_STATE => Ok(Self::SocketState),
            abi::reason::UNREADABLE => Ok(Self::Unreadable),
            abi::reason::AMBIGUOUS => Ok(Self::Ambiguous),
            value => Err(DecodeError::Value {
                field: "reason",
                value: value.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::events::samples::{clock, ip, kernel_event};

    fn decoded(change: impl FnOnce(&mut FlowEvent)) -> Result<Connect, DecodeError> {
        let mut event = kernel_event();
        change(&mut event);
        decode(event.as_bytes(), &clock())
    }

    #[test]
    fn bytes_of_any_other_length_are_refused() {
        let bytes = kernel_event();
        let bytes = bytes.as_bytes();
        for (bytes, why) in [
            (&bytes[..0], "empty"),
            (&bytes[..1], "one byte"),
            (&bytes[..FLOW_EVENT_LEN - 1], "one short"),
            (&[bytes, &[0]].concat(), "one long"),
            (&[bytes, bytes].concat(), "two at once"),
            (&vec![0xff; 1 << 20], "huge"),
        ] {
            assert_eq!(
                decode(bytes, &clock()),
                Err(DecodeError::Length {
                    found: bytes.len(),
                    expected: FLOW_EVENT_LEN
                }),
                "{why}"
            );
        }
    }

    #[test]
    fn a_tag_without_a_meaning_is_refused_and_named() {
        type Change = fn(&mut FlowEvent);
        for (change, field, value) in [
            ((|e| e.hook = 0) as Change, "hook", 0),
            (|e| e.hook = 4, "hook", 4),
            (|e| e.verdict = 4, "verdict", 4),
            (|e| e.reason = 11, "reason", 11),
            (|e| e.reason = 255, "reason", 255),
            (|e| e.mode = 4, "mode", 4),
            (|e| e.payload = 4, "payload", 4),
            (|e| e.has_ports = 255, "has_ports", 255),
            (|e| e.rule = 4096, "rule", 4096),
            (|e| e.rule = u16::MAX, "rule", u16::MAX.into()),
        ] {
            assert_eq!(decoded(change), Err(DecodeError::Value { field, value }));
        }
        assert_eq!(
            decode(&[0xff; FLOW_EVENT_LEN], &clock()),
            Err(DecodeError::Value {
                field: "reason",
                value: 255
            })
        );
    }

    #[test]
    fn a_rule_index_counts_only_where_a_rule_matched() {
        let connect = decoded(|e| {
            e.reason = abi::reason::DEFAULT;
            e.rule = u16::MAX;
        });
        assert_eq!(connect.unwrap().cause, Cause::Default);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let connect = decoded(|_| ()).unwrap();
        assert_eq!(connect.flow.destination, Some(ip("93.184.216.34")));
        let connect = decoded(|e| e.destination = ip("2001:db8::1").into()).unwrap();
        assert_eq!(connect.flow.destination, Some(ip("2001:db8::1")));
    }

    #[test]
    fn a_source_that_is_not_bound_has_the_family_of_the_destination() {
        for (destination, source) in [("1.1.1.1", "0.0.0.0"), ("2001:db8::1", "::")] {
            let connect = decoded(|e| {
                e.source = Address::UNSPECIFIED;
                e.destination = ip(destination).into();
            });
            assert_eq!(connect.unwrap().flow.source, ip(source), "to {destination}");
        }
    }

    #[test]
    fn a_packet_that_could_not_be_read_has_no_destination() {
        let nowhere = |e: &mut FlowEvent| {
            (e.destination, e.protocol, e.has_ports) = (Address::UNSPECIFIED, 0, 0)
        };
        for (reason, known, why) in [
            (abi::reason::MALFORMED, false, "malformed"),
            (abi::reason::ROUTING_HEADER, false, "routing header"),
            (abi::reason::DEFAULT, true, "connect to :: is possible"),
        ] {
            let flow = decoded(|e| {
                nowhere(e);
                e.reason = reason;
            });
            let flow = flow.unwrap().flow;
            assert_eq!(
                (flow.destination.is_some(), flow.protocol.is_some()),
                (known, known),
                "{why}"
            );
        }
        let told = decoded(|e| e.reason = abi::reason::SOURCE_ROUTE).unwrap();
        assert_eq!(
            told.flow.destination,
            Some(ip("93.184.216.34")),
            "what the kernel knows is kept"
        );
    }

    #[test]
    fn ports_are_known_only_where_there_are_any() {
        for (protocol, has_ports, port, why) in [
            (6, 1, Some(443), "TCP"),
            (136, 1, Some(443), "UDP-Lite"),
            (6, 0, None, "a later fragment"),
            (1, 0, None, "ICMP"),
            (
                1,
                1,
                None,
                "a ping socket's connect names a port that means nothing",
            ),
        ] {
            let connect = decoded(|e| (e.protocol, e.has_ports) = (protocol, has_ports)).unwrap();
            assert_eq!(connect.flow.port, port, "{why}");
        }
        assert_eq!(
            decoded(|e| e.destination_port = 0).unwrap().flow.port,
            Some(0),
            "0 is a port"
        );
        assert_eq!(
            decoded(|e| e.source_port = 0).unwrap().flow.source_port,
            None,
            "0 is a source that is not bound"
        );
    }

    #[test]
    fn a_comm_ends_at_its_first_zero_and_cannot_hold_controls() {
        for (comm, shown, why) in [
            (*b"curl\0\0\0\0\0\0\0\0\0\0\0\0", Some("curl"), "padded"),
            (
                *b"sixteen-letters!",
                Some("sixteen-letters!"),
                "no zero at all",
            ),
            (
                *b"a\0secret\0\0\0\0\0\0\0\0",
                Some("a"),
                "left-overs behind the zero",
            ),
            ([0; 16], None, "empty"),
            (
                *b"\x1b[2J\n\0\0\0\0\0\0\0\0\0\0\0",
                Some("\\x1b[2J\\x0a"),
                "escape sequence",
            ),
            (
                [0xff; 16],
                Some(
                    "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff",
                ),
                "not UTF-8",
            ),
        ] {
            let comm = decoded(|e| e.comm = comm).unwrap().process.unwrap().comm;
            assert_eq!(comm.as_ref().map(Printable::as_str), shown, "{why}");
        }
        assert_eq!(
            decoded(|e| e.pid = 0).unwrap().process,
            None,
            "no pid, no process"
        );
    }

    #[test]
    fn every_byte_pattern_is_an_event_or_an_error() {
        let mut bytes = kernel_event().as_bytes().to_vec();
        for at in 0..bytes.len() {
            let before = bytes[at];
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                bytes[at] = value;
                let _ = decode(&bytes, &clock());
            }
            bytes[at] = before;
        }
    }
}
