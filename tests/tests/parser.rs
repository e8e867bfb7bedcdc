//! The packet parser against packets whose meaning is known. Needs no kernel.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebfw_common::{
    classify::{Destination, Flow, NO_NAMES, Said},
    packet::{Bytes, MAX_EXTENSIONS, Malformed, Packet as Parsed, parse_v4, parse_v6},
    plain::{Plain, plain_v4, plain_v6},
};
use ebfw_policy::testgen;
use ebfw_tests::packet::{
    Broken, Extension, Family, Harmless, Meaning, Options, Packet, Part, SourceRoute, UDP_LITE,
    Upper, V4, V6, disguise,
};
use fastrand::Rng;

const TO: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const TO6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn parsed(packet: &Packet) -> Meaning {
    let bytes = Bytes(&packet.bytes);
    let answer = match packet.family {
        Family::V4 => parse_v4(&bytes),
        Family::V6 => parse_v6(&bytes),
    };
    match answer {
        Ok(packet) => Meaning::Flow(flow(&packet)),
        Err(Malformed::Header) => Meaning::Malformed,
        Err(Malformed::SourceRoute) => Meaning::SourceRoute,
        Err(Malformed::RoutingHeader) => Meaning::RoutingHeader,
    }
}

fn flow(packet: &Parsed) -> Flow {
    let pending = !packet.carries_payload();
    Flow {
        destination: packet.destination,
        protocol: packet.protocol,
        port: packet.ports().map(|ports| ports.destination),
        said: if pending { Said::NOTHING } else { Said::UNREAD },
        names: NO_NAMES,
    }
}

fn check(why: &str, packet: &Packet) {
    assert_eq!(
        parsed(packet),
        packet.meaning,
        "{why}: {:?} {}",
        packet.family,
        packet.hex()
    );
}

#[test]
fn random_packets_are_understood_as_they_were_meant() {
    let mut refused = 0;
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset_of(&mut rng, 8);
        for _ in 0..300 {
            let flow = testgen::flow(&mut rng, &ruleset);
            let packet = disguise(&mut rng, &flow);
            refused += u32::from(!matches!(packet.meaning, Meaning::Flow(_)));
            check(&format!("seed {seed}"), &packet);
        }
    }
    assert!(
        (9_000..60_000).contains(&refused),
        "{refused} of 90000 packets are refused"
    );
}

fn plain(packet: &Packet) -> Option<Plain> {
    let bytes = Bytes(&packet.bytes);
    match packet.family {
        Family::V4 => plain_v4(&bytes),
        Family::V6 => plain_v6(&bytes),
    }
}

/// The short reader is no second opinion: whatever stands in a packet, it says what the parser says, or nothing.
#[test]
fn what_is_read_as_plain_is_what_the_parser_reads() {
    let (mut plain_ones, mut broken_ones) = (0, 0);
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset_of(&mut rng, 8);
        for _ in 0..300 {
            let flow = testgen::flow(&mut rng, &ruleset);
            let mut packet = disguise(&mut rng, &flow);
            // Up to three bytes of the headers become something else.
            for _ in 0..rng.usize(0..4) {
                let end = packet.bytes.len().min(60);
                if end > 0 {
                    packet.bytes[rng.usize(0..end)] = rng.u8(..);
                }
            }
            let bytes = Bytes(&packet.bytes);
            let parsed = match packet.family {
                Family::V4 => parse_v4(&bytes),
                Family::V6 => parse_v6(&bytes),
            };
            let Some(plain) = plain(&packet) else {
                broken_ones += u32::from(parsed.is_err());
                continue;
            };
            plain_ones += 1;
            let parsed = parsed.unwrap_or_else(|why| panic!("{why:?}: {}", packet.hex()));
            assert_eq!(
                (
                    plain.destination,
                    plain.protocol,
                    Some(plain.port),
                    parsed.has_ports()
                ),
                (
                    parsed.destination,
                    parsed.protocol,
                    parsed.ports().map(|ports| ports.destination),
                    true
                ),
                "seed {seed}: {}",
                packet.hex()
            );
        }
    }
    assert!(
        plain_ones > 9_000,
        "{plain_ones} of 90000 packets are plain"
    );
    assert!(
        broken_ones > 9_000,
        "{broken_ones} of 90000 packets are malformed"
    );
}

#[test]
fn only_whole_packets_without_extras_are_plain() {
    let v4 = |protocol| V4::plain(TO, Upper::new(protocol, 443, 8));
    let v6 = |protocol| V6::plain(TO6, Upper::new(protocol, 443, 8));
    let with_length = |mut packet: Packet, at: usize, length: u16| {
        packet.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        packet
    };
    let whole = v4(17).build().bytes.len() as u16;
    let cases = [
        ("IPv4, UDP", v4(17).build(), true),
        ("IPv4, TCP", v4(6).build(), true),
        ("IPv6, UDP", v6(17).build(), true),
        ("IPv6, TCP", v6(6).build(), true),
        ("SCTP", v4(132).build(), false),
        ("ICMP", v4(1).build(), false),
        ("UDP-Lite", v4(UDP_LITE).build(), false),
        (
            "options",
            V4 {
                options: Options::source_route(SourceRoute::Loose, 0),
                ..v4(17)
            }
            .build(),
            false,
        ),
        (
            "a first fragment",
            V4 {
                part: Part::First,
                ..v4(17)
            }
            .build(),
            false,
        ),
        (
            "a later fragment",
            V4 {
                part: Part::Later(1),
                ..v4(17)
            }
            .build(),
            false,
        ),
        (
            "a routing header",
            V6 {
                chain: vec![Extension::Routing { kind: 4 }],
                ..v6(17)
            }
            .build(),
            false,
        ),
        (
            "half a TCP header",
            V4 {
                kept: Some(19),
                ..v4(6)
            }
            .build(),
            false,
        ),
        (
            "half a UDP header",
            V6 {
                kept: Some(7),
                ..v6(17)
            }
            .build(),
            false,
        ),
        (
            "a stated length of 0",
            with_length(v4(17).build(), 2, 0),
            false,
        ),
        (
            "a stated length of 0, IPv6",
            with_length(v6(17).build(), 4, 0),
            false,
        ),
        (
            "a stated length too long",
            with_length(v4(17).build(), 2, whole + 1),
            false,
        ),
        (
            "a stated length too short",
            with_length(v4(17).build(), 2, 27),
            false,
        ),
    ];
    for (why, packet, is_plain) in cases {
        assert_eq!(
            plain(&packet).is_some(),
            is_plain,
            "{why}: {}",
            packet.hex()
        );
    }
}

#[test]
fn a_plain_packet_shows_its_flow() {
    let cases = [
        (
            "TCP without payload",
            Upper::new(6, 443, 0),
            Some(443),
            Said::NOTHING,
        ),
        (
            "TCP with payload",
            Upper::new(6, 443, 1),
            Some(443),
            Said::UNREAD,
        ),
        (
            "TCP with options only",
            Upper {
                tcp_options: 10,
                ..Upper::new(6, 443, 0)
            },
            Some(443),
            Said::NOTHING,
        ),
        ("port 0", Upper::new(6, 0, 0), Some(0), Said::NOTHING),
        ("UDP", Upper::new(17, 53, 30), Some(53), Said::UNREAD),
        (
            "an empty UDP datagram",
            Upper::new(17, 53, 0),
            Some(53),
            Said::UNREAD,
        ),
        ("SCTP", Upper::new(132, 65535, 4), Some(65535), Said::UNREAD),
        (
            "UDP-Lite has ports that do not count",
            Upper::new(UDP_LITE, 53, 4),
            None,
            Said::UNREAD,
        ),
        ("ICMP", Upper::new(1, 0, 8), None, Said::UNREAD),
        ("ICMPv6", Upper::new(58, 0, 8), None, Said::UNREAD),
        (
            "an unknown protocol without a byte",
            Upper::new(253, 0, 0),
            None,
            Said::UNREAD,
        ),
    ];
    for (why, upper, port, said) in cases {
        let flow = |destination| Flow {
            destination,
            protocol: upper.protocol,
            port,
            said,
            names: NO_NAMES,
        };
        let packet = V4::plain(TO, upper).build();
        assert_eq!(
            parsed(&packet),
            Meaning::Flow(flow(Destination::V4(TO.octets()).mapped())),
            "{why}"
        );
        let packet = V6::plain(TO6, upper).build();
        assert_eq!(
            parsed(&packet),
            Meaning::Flow(flow(Destination::from_mapped(TO6).mapped())),
            "{why}"
        );
        let packet = V6::plain(TO.to_ipv6_mapped(), upper).build();
        assert_eq!(
            parsed(&packet),
            Meaning::Flow(flow(Destination::V4(TO.octets()).mapped())),
            "{why}, mapped"
        );
    }
}

#[test]
fn a_source_route_is_found_wherever_it_stands() {
    for kind in [SourceRoute::Loose, SourceRoute::Strict] {
        for before in 0..=33 {
            let packet = V4 {
                options: Options::source_route(kind, before),
                ..V4::plain(TO, Upper::new(6, 80, 0))
            };
            assert_eq!(
                parsed(&packet.build()),
                Meaning::SourceRoute,
                "{kind:?} behind {before}"
            );
        }
    }
    let behind_end = Options::harmless(Harmless::SourceRouteBehindEnd);
    check(
        "nobody reads behind the end of the list",
        &V4 {
            options: behind_end,
            ..V4::plain(TO, Upper::new(6, 80, 0))
        }
        .build(),
    );
}

#[test]
fn options_that_lie_are_refused() {
    for kind in [
        Broken::LengthZero,
        Broken::LengthOne,
        Broken::PastTheEnd,
        Broken::CutOffLength,
    ] {
        let packet = V4 {
            options: Options::broken(kind),
            ..V4::plain(TO, Upper::new(17, 53, 0))
        };
        assert_eq!(parsed(&packet.build()), Meaning::Malformed, "{kind:?}");
    }
}

#[test]
fn a_packet_cut_anywhere_in_its_headers_is_refused() {
    let uppers = [6, 17, 132, 1, 58].map(|protocol| Upper::new(protocol, 80, 4));
    for upper in uppers {
        for kept in 0..24 {
            check(
                "IPv4, the length agrees",
                &V4 {
                    kept: Some(kept),
                    ..V4::plain(TO, upper)
                }
                .build(),
            );
            check(
                "IPv4, first fragment",
                &V4 {
                    kept: Some(kept),
                    part: Part::First,
                    ..V4::plain(TO, upper)
                }
                .build(),
            );
            check(
                "IPv6, the length agrees",
                &V6 {
                    kept: Some(kept),
                    ..V6::plain(TO6, upper)
                }
                .build(),
            );
        }
    }
    let whole = V4::plain(TO, uppers[0]).build();
    for length in 1..whole.bytes.len() {
        let bytes = whole.bytes[..length].to_vec();
        assert_eq!(
            parsed(&Packet {
                bytes,
                ..whole.clone()
            }),
            Meaning::Malformed,
            "IPv4, {length} bytes of more"
        );
    }
    let whole = V6::plain(TO6, uppers[0]).build();
    for length in 1..whole.bytes.len() {
        let bytes = whole.bytes[..length].to_vec();
        assert_eq!(
            parsed(&Packet {
                bytes,
                ..whole.clone()
            }),
            Meaning::Malformed,
            "IPv6, {length} bytes of more"
        );
    }
}

#[test]
fn extension_headers_are_walked_up_to_the_limit() {
    let options = Extension::DestinationOptions { length: 0 };
    let cases: [(&str, Vec<Extension>); 12] = [
        ("hop-by-hop", vec![Extension::HopByHop { length: 0 }]),
        (
            "long options",
            vec![Extension::DestinationOptions { length: 255 }],
        ),
        (
            "AH counts in words of four bytes",
            vec![Extension::Authentication { length: 4 }],
        ),
        (
            "AH of a length that is no multiple of eight",
            vec![Extension::Authentication { length: 1 }],
        ),
        ("a first fragment", vec![Extension::FirstFragment]),
        (
            "a later fragment",
            vec![Extension::LaterFragment { offset: 1 }],
        ),
        (
            "the last possible fragment",
            vec![Extension::LaterFragment { offset: 0x1fff }],
        ),
        (
            "a later fragment of something with options",
            vec![Extension::LaterFragment { offset: 1 }, options],
        ),
        (
            "as many as are walked",
            vec![options; MAX_EXTENSIONS as usize],
        ),
        ("one more", vec![options; MAX_EXTENSIONS as usize + 1]),
        ("a routing header", vec![Extension::Routing { kind: 4 }]),
        (
            "a routing header behind others",
            vec![
                options,
                Extension::FirstFragment,
                Extension::Routing { kind: 0 },
            ],
        ),
    ];
    for (why, chain) in cases {
        for protocol in [6, 17, 132, 58, UDP_LITE, 59, 253] {
            let packet = V6 {
                chain: chain.clone(),
                ..V6::plain(TO6, Upper::new(protocol, 80, 3))
            };
            check(why, &packet.build());
        }
    }
}

#[test]
fn a_chain_cut_anywhere_is_refused() {
    let chain = vec![
        Extension::HopByHop { length: 1 },
        Extension::Authentication { length: 4 },
        Extension::FirstFragment,
        Extension::DestinationOptions { length: 0 },
    ];
    for kept in 0..=80 {
        check(
            "cut",
            &V6 {
                chain: chain.clone(),
                kept: Some(kept),
                ..V6::plain(TO6, Upper::new(17, 80, 8))
            }
            .build(),
        );
    }
    for kept in 0..8 {
        let chain = vec![Extension::LaterFragment { offset: 3 }];
        check(
            "cut fragment header",
            &V6 {
                chain,
                kept: Some(kept),
                ..V6::plain(TO6, Upper::new(17, 80, 8))
            }
            .build(),
        );
    }
}
