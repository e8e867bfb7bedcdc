//! Random packets: a flow in one of its disguises, or one of the ways to spoil a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebfw_common::{
    classify::{Destination, Flow, Said},
    packet::MAX_EXTENSIONS,
};
use fastrand::Rng;

use super::{
    Extension, Family, Meaning, Packet, Part, Upper, V4, V6,
    options::{Broken, Harmless, Options, SourceRoute},
};

/// A packet for `flow`: in most cases it means just this flow, else it is refused, or means less than `flow`.
#[must_use]
pub fn disguise(rng: &mut Rng, flow: &Flow) -> Packet {
    let mut packet = match Destination::from_mapped(flow.destination) {
        Destination::V4(address) if rng.u8(..8) == 0 => {
            v6(rng, Ipv4Addr::from(address).to_ipv6_mapped(), flow)
        }
        Destination::V4(address) => v4(rng, Ipv4Addr::from(address), flow),
        Destination::V6(address) => v6(rng, Ipv6Addr::from(address), flow),
    };
    if rng.u8(..16) == 0 {
        spoil_head(rng, &mut packet);
    }
    packet
}

fn upper(rng: &mut Rng, flow: &Flow) -> Upper {
    let payload = match flow.said {
        Said::NOTHING => 0,
        _ => rng.usize(1..64),
    };
    let tcp_options = if rng.bool() { 0 } else { rng.usize(..=10) };
    Upper {
        protocol: flow.protocol,
        port: flow.port.unwrap_or_else(|| rng.u16(..)),
        payload,
        tcp_options,
    }
}

/// Whether the packet must be a later fragment in order to mean `flow`.
fn hides_ports(flow: &Flow) -> bool {
    matches!(flow.protocol, 6 | 17 | 132) && flow.port.is_none()
}

fn v4(rng: &mut Rng, destination: Ipv4Addr, flow: &Flow) -> Packet {
    let mut packet = V4::plain(destination, upper(rng, flow));
    let later = Part::Later(rng.u16(1..0x1fff));
    packet.part = match rng.u8(..8) {
        _ if hides_ports(flow) => later,
        0 => later,
        1 => Part::First,
        _ => Part::Whole,
    };
    match rng.u8(..16) {
        0..3 => packet.options = harmless(rng),
        3 => packet.options = source_route(rng),
        4 => packet.options = broken(rng),
        5 => packet.kept = Some(rng.usize(..=packet.upper.header().len())),
        _ => {}
    }
    packet.build()
}

fn harmless(rng: &mut Rng) -> Options {
    use Harmless::{NoOperations, RecordRoute, RouterAlert, SourceRouteBehindEnd};
    let kinds = [NoOperations, RouterAlert, RecordRoute, SourceRouteBehindEnd];
    Options::harmless(kinds[rng.usize(..kinds.len())])
}

fn source_route(rng: &mut Rng) -> Options {
    let kind = if rng.bool() {
        SourceRoute::Loose
    } else {
        SourceRoute::Strict
    };
    Options::source_route(kind, rng.usize(..=33))
}

fn broken(rng: &mut Rng) -> Options {
    let kinds = [
        Broken::LengthZero,
        Broken::LengthOne,
        Broken::PastTheEnd,
        Broken::CutOffLength,
    ];
    Options::broken(kinds[rng.usize(..kinds.len())])
}

fn v6(rng: &mut Rng, destination: Ipv6Addr, flow: &Flow) -> Packet {
    let mut packet = V6::plain(destination, upper(rng, flow));
    packet.chain = chain(rng);
    // The number of an extension header stands for a protocol only where nobody looks behind it.
    if hides_ports(flow) || matches!(flow.protocol, 0 | 43 | 44 | 51 | 60) {
        let offset = rng.u16(1..0x1fff);
        packet.chain.truncate(MAX_EXTENSIONS as usize - 1);
        packet.chain.push(Extension::LaterFragment { offset });
    }
    if rng.u8(..12) == 0 {
        let headers: usize = packet
            .chain
            .iter()
            .map(|extension| extension.length())
            .sum();
        packet.kept = Some(rng.usize(..=headers + packet.upper.header().len()));
    }
    packet.build()
}

/// Mostly short chains; now and then one at the limit, or over it by one more header of options.
fn chain(rng: &mut Rng) -> Vec<Extension> {
    let limit = MAX_EXTENSIONS as usize;
    let (length, over) = match rng.u8(..16) {
        0..6 => (0, false),
        6..14 => (rng.usize(1..4), false),
        14 => (limit, false),
        _ => (limit, true),
    };
    let mut chain: Vec<Extension> = (0..length).map(|_| extension(rng)).collect();
    if over {
        chain.push(Extension::DestinationOptions { length: 0 });
    }
    chain
}

fn extension(rng: &mut Rng) -> Extension {
    let length = if rng.u8(..8) == 0 {
        rng.u8(..64)
    } else {
        rng.u8(..4)
    };
    match rng.u8(..32) {
        0..8 => Extension::HopByHop { length },
        8..18 => Extension::DestinationOptions { length },
        18..26 => Extension::Authentication {
            length: length.max(1),
        },
        26..30 => Extension::FirstFragment,
        30 => Extension::LaterFragment {
            offset: rng.u16(1..0x1fff),
        },
        _ => Extension::Routing {
            kind: *rng.choice(&[0, 2, 4]).expect("the list is not empty"),
        },
    }
}

/// Makes the fixed header lie, so that nothing in the packet can be relied on.
fn spoil_head(rng: &mut Rng, packet: &mut Packet) {
    let is_v6 = packet.family == Family::V6;
    let fixed = packet.family.header();
    match rng.u8(..4) {
        0 => packet.bytes[0] = packet.bytes[0] & 0xf | rng.u8(7..16) << 4,
        1 if !is_v6 => packet.bytes[0] = 0x40 | rng.u8(..5),
        2 if packet.bytes.len() > fixed => {
            packet.bytes.truncate(rng.usize(fixed..packet.bytes.len()))
        }
        _ => packet.bytes.truncate(rng.usize(1..fixed)),
    }
    packet.meaning = Meaning::Malformed;
}
