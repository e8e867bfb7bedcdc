//! Random rulesets and flows for differential tests: engine against classifier, on the host and in the kernel.
//!
//! Everything follows from the seed of the generator. Biased to where tables break: word and page borders, nested
//! prefixes of every length, protocols without ports, rules that wait for content, matches at the very end.

mod domains;
mod flow;
mod names;
mod said;
mod words;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
    sync::Arc,
};

use ebfw_common::classify::Destination;
use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::{
    domains::domains,
    flow::{expected, facts, flow},
    names::NameTable,
    said::Conversation,
    words::words,
};
use crate::{
    domain::{DomainMatch, DomainPattern},
    http::{Method, PathPrefix},
    policy::{
        Action, AnyOf, MAX_RULES, Match, Mutation, Policy, PortRange, Position, Protocol, Quic,
        Rule,
    },
    ruleset::Ruleset,
    workload::Workload,
};

/// Where bitmaps grow a word, get a summary, or end.
const SIZES: [usize; 17] = [
    0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 4095, MAX_RULES,
];

/// Where pages of ports begin and end, and ports that people use.
const PORTS: [u16; 16] = [
    1, 2, 22, 53, 80, 255, 256, 257, 443, 511, 512, 8080, 65_279, 65_280, 65_534, 65_535,
];

const V4: [[u8; 4]; 8] = [
    [0, 0, 0, 0],
    [10, 0, 0, 1],
    [127, 0, 0, 1],
    [169, 254, 169, 254],
    [192, 0, 2, 129],
    [198, 51, 100, 7],
    [224, 0, 0, 251],
    [255, 255, 255, 255],
];

const V6: [u128; 7] = [
    0,
    1,
    0x0064_ff9b_0000_0000_0000_0000_c000_0201,
    0x2001_0db8_0000_0001_0000_0000_0000_0001,
    0xfe80_0000_0000_0000_0000_0000_0000_0001,
    0xff02_0000_0000_0000_0000_0000_0000_00fb,
    u128::MAX,
];

/// All kinds of patterns, many of which mean names of others.
const PATTERNS: [&str; 12] = [
    "example.com",
    "www.example.com",
    "*.example.com",
    "*.www.example.com",
    "{a,www}.example.com",
    "[a-m].example.com",
    "www.*",
    "*.com",
    "*.xn--bcher-kva.test",
    "a?.test",
    "a",
    "*",
];

const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "M-SEARCH", "GETS"];

/// Prefixes that lie in others, beside them, or begin like them.
const PREFIXES: [&str; 10] = [
    "/",
    "/api",
    "/api/v1",
    "/api/v1/users",
    "/apiv2",
    "/a",
    "/a/b/c",
    "/API",
    "/%E4/x",
    "/api/v1.0~",
];

/// What a ruleset is like: the same choices for all of its rules make them overlap.
struct Style {
    v4: Vec<u32>,
    v6: Vec<u128>,
    width: Width,
    /// Whether rules name protocols often, or hardly ever: a difference between protocols deep in the list.
    protocols: bool,
    /// Whether rules look at names and requests.
    content: bool,
    strict_l7: bool,
}

/// How much a rule matches: the narrower, the deeper in the list matches lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// Any prefix, any range, often neither.
    Wide,
    /// Mostly single addresses and ports.
    Narrow,
    /// Always one single address, which few rules share.
    Needle,
}

/// The number of rules of a ruleset: mostly few, often at a border, now and then all that is possible.
fn size(rng: &mut Rng) -> usize {
    match rng.u8(..16) {
        0..9 => rng.usize(0..24),
        9..12 => rng.usize(0..200),
        12..15 => SIZES[rng.usize(..SIZES.len() - 2)],
        _ => SIZES[rng.usize(..SIZES.len())],
    }
}

/// A ruleset with a random number of rules.
#[must_use]
pub fn ruleset(rng: &mut Rng) -> Ruleset {
    let rules = size(rng);
    ruleset_of(rng, rules)
}

/// A ruleset with this number of rules (at most [`MAX_RULES`]).
#[must_use]
pub fn ruleset_of(rng: &mut Rng, rules: usize) -> Ruleset {
    let quic = if rules > 0 && rng.u8(..8) == 0 {
        Quic::Deny
    } else {
        Quic::Decide
    };
    let own_rules = rules - usize::from(quic == Quic::Deny);
    let style = style(rng);
    let policy = Policy {
        default_action: if rng.bool() {
            Action::Allow
        } else {
            Action::Deny
        },
        pod_selector: None,
        rules: (0..own_rules)
            .map(|index| Arc::new(rule(rng, &style, index)))
            .collect(),
        quic,
        govern_loopback: rng.bool(),
    };
    let selected = policy
        .select(&Workload::default())
        .expect("at most MAX_RULES were asked for");
    selected.expect("a policy without pod selector governs everything")
}

fn style(rng: &mut Rng) -> Style {
    let mut v4: Vec<u32> = (0..rng.usize(1..6))
        .map(|_| u32::from_be_bytes(V4[rng.usize(..V4.len())]))
        .collect();
    let mut v6: Vec<u128> = (0..rng.usize(1..6))
        .map(|_| V6[rng.usize(..V6.len())])
        .collect();
    v4.push(rng.u32(..));
    v6.push(rng.u128(..));
    Style {
        v4,
        v6,
        width: [Width::Wide, Width::Narrow, Width::Needle][rng.usize(..3)],
        protocols: rng.u8(..4) != 0,
        content: rng.u8(..3) == 0,
        strict_l7: rng.bool(),
    }
}

fn rule(rng: &mut Rng, style: &Style, index: usize) -> Rule {
    let action = match rng.u8(..8) {
        0..4 => Action::Allow,
        4..7 => Action::Deny,
        _ => Action::Modify,
    };
    let mut matches = Match {
        cidrs: cidrs(rng, style),
        ports: ports(rng, style.width),
        protocols: protocols(rng, style),
        ..Match::ANYTHING
    };
    if style.content {
        content(rng, &mut matches);
    }
    let mutations = match action {
        Action::Modify => vec![Mutation::RemoveHeader {
            header: "x-test".into(),
        }],
        Action::Allow | Action::Deny => Vec::new(),
    };
    Rule {
        name: format!("r{index}").into(),
        action,
        matches,
        mutations,
        strict_l7: style.strict_l7,
        position: Position::default(),
    }
}

/// Some entries in `sixteenths` of all cases.
fn sometimes<T>(
    rng: &mut Rng,
    sixteenths: u8,
    number: Range<usize>,
    mut entry: impl FnMut(&mut Rng) -> T,
) -> AnyOf<T> {
    if rng.u8(..16) < sixteenths {
        let number = rng.usize(number);
        AnyOf::Entries((0..number).map(|_| entry(rng)).collect())
    } else {
        AnyOf::Anything
    }
}

fn cidrs(rng: &mut Rng, style: &Style) -> AnyOf<IpNet> {
    let sixteenths = match style.width {
        Width::Wide => 8,
        Width::Narrow => 15,
        Width::Needle => return AnyOf::Entries(vec![single_address(rng, style)]),
    };
    sometimes(rng, sixteenths, 1..4, |rng| cidr(rng, style))
}

fn single_address(rng: &mut Rng, style: &Style) -> IpNet {
    let bits = if rng.bool() { 32 } else { 128 };
    let address = base(rng, style, bits) ^ u128::from(rng.u16(..));
    let address = match bits {
        32 => Destination::V4((address as u32).to_be_bytes()),
        _ => Destination::from_mapped(address.to_be_bytes()),
    };
    match address {
        Destination::V4(address) => Ipv4Net::from(Ipv4Addr::from(address)).into(),
        Destination::V6(address) => Ipv6Net::from(Ipv6Addr::from(address)).into(),
    }
}

fn cidr(rng: &mut Rng, style: &Style) -> IpNet {
    if rng.bool() {
        let address = near(rng, style, 32) as u32;
        let length = prefix_length(rng, style.width, 32);
        return Ipv4Net::new_assert(Ipv4Addr::from(address), length)
            .trunc()
            .into();
    }
    let address = Ipv6Addr::from(near(rng, style, 128));
    let prefix = Ipv6Net::new_assert(address, prefix_length(rng, style.width, 128)).trunc();
    match Destination::from_mapped(prefix.addr().octets()) {
        // As the language does it: an IPv4-mapped prefix is an IPv4 prefix.
        Destination::V4(address) if prefix.prefix_len() >= 96 => {
            Ipv4Net::new_assert(address.into(), prefix.prefix_len() - 96).into()
        }
        Destination::V4(_) | Destination::V6(_) => prefix.into(),
    }
}

/// One of the style's addresses, often with some of its last bits turned.
fn near(rng: &mut Rng, style: &Style, bits: u32) -> u128 {
    let address = base(rng, style, bits);
    match rng.u8(..3) {
        0 => address,
        1 => address ^ 1 << rng.u32(..bits),
        _ => address ^ u128::from(rng.u16(..)),
    }
}

fn base(rng: &mut Rng, style: &Style, bits: u32) -> u128 {
    match bits {
        32 => u128::from(style.v4[rng.usize(..style.v4.len())]),
        _ => style.v6[rng.usize(..style.v6.len())],
    }
}

fn prefix_length(rng: &mut Rng, width: Width, bits: u8) -> u8 {
    match rng.u8(..8) {
        0..4 if width == Width::Narrow => bits,
        0 => bits,
        1 => bits - 1,
        2 => bits / 4 * 3,
        3 => rng.u8(..=2),
        _ => rng.u8(..=bits),
    }
}

fn ports(rng: &mut Rng, width: Width) -> AnyOf<PortRange> {
    let sixteenths = match width {
        Width::Wide | Width::Needle => 6,
        Width::Narrow => 12,
    };
    sometimes(rng, sixteenths, 1..4, |rng| port_range(rng, width))
}

fn port_range(rng: &mut Rng, width: Width) -> PortRange {
    let a = port(rng).max(1);
    let b = if width == Width::Narrow || rng.bool() {
        a
    } else {
        port(rng).max(1)
    };
    PortRange::new(a.min(b), a.max(b)).expect("it begins above 0 and is not reversed")
}

fn port(rng: &mut Rng) -> u16 {
    if rng.u8(..4) == 0 {
        rng.u16(..)
    } else {
        PORTS[rng.usize(..PORTS.len())]
    }
}

fn protocols(rng: &mut Rng, style: &Style) -> AnyOf<Protocol> {
    let sixty_fourths = if style.protocols { 32 } else { 1 };
    if rng.u8(..64) >= sixty_fourths {
        return AnyOf::Anything;
    }
    let mut protocols = Vec::new();
    for _ in 0..rng.usize(1..4) {
        match rng.u8(..8) {
            0..3 => protocols.push(Protocol::TCP),
            3..5 => protocols.push(Protocol::UDP),
            5 => protocols.push(Protocol::SCTP),
            6 => protocols.extend([Protocol::ICMP, Protocol::ICMPV6]),
            _ => protocols.push(protocol_number(rng)),
        }
    }
    AnyOf::Entries(protocols)
}

/// Protocols without ports, or any.
fn protocol_number(rng: &mut Rng) -> Protocol {
    const NUMBERS: [u8; 8] = [0, 1, 47, 50, 58, 59, 136, 255];
    Protocol(if rng.bool() {
        NUMBERS[rng.usize(..NUMBERS.len())]
    } else {
        rng.u8(..)
    })
}

fn content(rng: &mut Rng, matches: &mut Match) {
    matches.domains = sometimes(rng, 6, 1..3, |rng| {
        let text = PATTERNS[rng.usize(..PATTERNS.len())];
        let read_as = if rng.u8(..4) == 0 {
            DomainMatch::Suffix
        } else {
            DomainMatch::Glob
        };
        DomainPattern::new(text, read_as).expect("the list holds patterns")
    });
    matches.methods = sometimes(rng, 4, 1..3, |rng| {
        Method::from_policy(METHODS[rng.usize(..METHODS.len())]).expect("the list holds methods")
    });
    if rng.u8(..4) == 0 {
        matches.path_prefix = PathPrefix::new(PREFIXES[rng.usize(..PREFIXES.len())]);
    }
}
