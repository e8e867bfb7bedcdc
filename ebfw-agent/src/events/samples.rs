//! Values that the tests of this module and of its neighbours share.

use std::net::IpAddr;

use ebfw_common::abi::{
    self, Address, ClaimEvent, FlowEvent, MAX_METHOD, MAX_PATH, NameEvent, SlotRef, SlotWord,
    slot_flag,
};
use jiff::Timestamp;

use super::{
    BootClock, Printable,
    event::{
        Action, Event, Flow, Header, Mode, Process, Protocol, Reason, Request, Ruling, Subject,
    },
};

/// Serial of the ruleset in [`kernel_event`].
pub(crate) const SERIAL: u32 = 7;

pub(crate) fn clock() -> BootClock {
    BootClock::booted_at("2026-06-28T09:14:00Z".parse().expect("a timestamp"))
}

/// curl in cgroup 42 connects to 93.184.216.34:443; rule 1 of ruleset 7 allows it.
pub(crate) fn kernel_event() -> FlowEvent {
    FlowEvent {
        boot_ns: 1_000_000_123,
        cgroup_id: 42,
        cookie: 99,
        slot_word: SlotWord::new(3, slot_flag::LIVE | slot_flag::GOVERNED, 1, SERIAL).0,
        source: Address::mapped([10, 42, 0, 9]),
        destination: Address::mapped([93, 184, 216, 34]),
        pid: 4711,
        suppressed: 0,
        source_port: 40000,
        destination_port: 443,
        rule: 1,
        protocol: 6,
        has_ports: 1,
        hook: abi::hook::CONNECT,
        verdict: abi::verdict::ALLOW,
        reason: abi::reason::RULE,
        payload: 0,
        mode: 0,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

/// A workload in cgroup 42 asks 10.96.0.10 for the IPv6 addresses of example.com.
pub(crate) fn name_event() -> NameEvent {
    const QUESTION: &[u8] = b"\x07example\x03com\0\0\x1c\0\x01";
    let mut question = [0; 256];
    question[..QUESTION.len()].copy_from_slice(QUESTION);
    NameEvent {
        boot_ns: 1_000_000_123,
        cgroup_id: 42,
        slot: SlotRef::new(3, 1),
        learned: 0,
        source: Address::mapped([10, 42, 0, 9]),
        resolver: Address::mapped([10, 96, 0, 10]),
        length: u16::try_from(QUESTION.len()).expect("it is short"),
        outcome: abi::name_outcome::ASKED,
        protocol: 17,
        _pad: 0,
        question,
    }
}

/// The same flow as [`kernel_event`], in which curl claims example.com, or asks it for /short.
pub(crate) fn claim_event(kind: u8) -> ClaimEvent {
    fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        bytes
    }
    ClaimEvent {
        flow: FlowEvent {
            hook: abi::hook::EGRESS,
            ..kernel_event()
        },
        kind,
        ech: 0,
        name_length: 11,
        method_length: 3,
        path_length: 6,
        head_length: 0,
        is_address: 0,
        address: Address::UNSPECIFIED,
        name: padded(b"example.com"),
        method: padded::<MAX_METHOD>(b"GET"),
        path: padded::<MAX_PATH>(b"/short"),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn flow(destination: &str, port: impl Into<Option<u16>>, protocol: u8) -> Flow {
    Flow {
        source: ip("10.42.0.9"),
        source_port: None,
        destination: Some(ip(destination)),
        port: port.into(),
        protocol: Some(Protocol(protocol)),
    }
}

pub(crate) fn request(headers: &[(&str, &str)]) -> Request {
    Request {
        method: "GET".into(),
        host: "example.com".into(),
        path: Some("/secret/path?token=abc123".into()),
        headers: headers
            .iter()
            .map(|&(name, value)| Header {
                name: name.into(),
                value: value.into(),
            })
            .collect(),
        body: None,
        status: None,
    }
}

pub(crate) fn ruling(action: Action, rule: Option<&str>, reason: Reason, mode: Mode) -> Ruling {
    Ruling {
        action,
        rule: rule.map(Printable::from),
        reason,
        mode,
        opaque: false,
        unresolved: false,
    }
}

/// An event without pod, cgroup, process and ruling.
pub(crate) fn bare(subject: Subject) -> Event {
    Event {
        at: "2026-06-28T09:14:01.000000123Z"
            .parse::<Timestamp>()
            .expect("a timestamp"),
        subject,
        process: None,
        pod: None,
        cgroup: None,
        ruling: None,
        suppressed: 0,
    }
}

pub(crate) fn connect_to(destination: &str, port: u16) -> Event {
    bare(Subject::Connect {
        flow: flow(destination, port, 6),
    })
}

pub(crate) fn curl() -> Process {
    Process {
        pid: 4711,
        comm: Some("curl".into()),
    }
}
