//! Random flows for a ruleset: at and around the borders of its own prefixes and ranges.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ebfw_common::classify::{Destination, Flow, NO_NAMES, Outcome, Said};
use fastrand::Rng;
use ipnet::IpNet;

use super::{V4, V6, port, protocol_number};
use crate::{
    evaluate::{Decision, Reason, Verdict},
    facts::{Facts, Stage},
    policy::{PortRange, Protocol, Rule},
    ruleset::Ruleset,
};

/// A flow that a packet can show: half of them are aimed at one rule, of which one dimension may be missed.
#[must_use]
pub fn flow(rng: &mut Rng, ruleset: &Ruleset) -> Flow {
    let aim = aim(rng, ruleset);
    let mut flow = anything(rng, ruleset);
    if let Some(rule) = aim.filter(|_| rng.u8(..4) != 0) {
        let missed = rng.u8(..8);
        if missed != 0 {
            at_protocol(rng, rule, &mut flow);
        }
        if missed != 1 {
            at_address(rng, rule, &mut flow);
        }
        if missed != 2 {
            at_ports(rng, rule, &mut flow);
        }
    }
    showable(rng, flow)
}

/// The first, the last or any rule.
fn aim<'a>(rng: &mut Rng, ruleset: &'a Ruleset) -> Option<&'a Rule> {
    let rules = &ruleset.rules;
    match rng.u8(..4) {
        0 => rules.first(),
        1 => rules.last(),
        _ => any(rng, rules),
    }
    .map(AsRef::as_ref)
}

fn any<'a, T>(rng: &mut Rng, from: &'a [T]) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[rng.usize(..from.len())])
}

fn anything(rng: &mut Rng, ruleset: &Ruleset) -> Flow {
    let protocol = match rng.u8(..8) {
        0..3 => Protocol::TCP,
        3..5 => Protocol::UDP,
        5 => Protocol::SCTP,
        _ => protocol_number(rng),
    };
    let mut flow = Flow {
        destination: address(rng).mapped(),
        protocol: protocol.0,
        port: Some(if rng.u8(..8) == 0 { 0 } else { port(rng) }),
        said: if rng.bool() {
            Said::NOTHING
        } else {
            Said::UNREAD
        },
        names: NO_NAMES,
    };
    if let Some(rule) = any(rng, &ruleset.rules) {
        at_address(rng, rule, &mut flow);
    }
    flow
}

fn address(rng: &mut Rng) -> Destination {
    match rng.u8(..8) {
        0..3 => Destination::V4(V4[rng.usize(..V4.len())]),
        3..6 => Destination::from_mapped(V6[rng.usize(..V6.len())].to_be_bytes()),
        6 => Destination::V4(rng.u32(..).to_be_bytes()),
        _ => Destination::from_mapped(rng.u128(..).to_be_bytes()),
    }
}

fn at_protocol(rng: &mut Rng, rule: &Rule, flow: &mut Flow) {
    if let Some(protocol) = rule
        .matches
        .protocols
        .entries()
        .and_then(|entries| any(rng, entries))
    {
        flow.protocol = protocol.0;
    }
}

fn at_address(rng: &mut Rng, rule: &Rule, flow: &mut Flow) {
    if let Some(prefix) = rule
        .matches
        .cidrs
        .entries()
        .and_then(|entries| any(rng, entries))
    {
        flow.destination = around_prefix(rng, *prefix).mapped();
    }
}

fn at_ports(rng: &mut Rng, rule: &Rule, flow: &mut Flow) {
    if let Some(range) = rule
        .matches
        .ports
        .entries()
        .and_then(|entries| any(rng, entries))
    {
        flow.port = Some(around_range(rng, *range));
    }
}

/// First or last address of a prefix, the neighbours outside, or something inside.
fn around_prefix(rng: &mut Rng, prefix: IpNet) -> Destination {
    let (first, last, bits) = match prefix {
        IpNet::V4(prefix) => (
            u128::from(u32::from(prefix.network())),
            u128::from(u32::from(prefix.broadcast())),
            32,
        ),
        IpNet::V6(prefix) => (prefix.network().into(), prefix.broadcast().into(), 128),
    };
    let address = match rng.u8(..8) {
        0..3 => first,
        3..5 => last,
        5 => first.wrapping_sub(1),
        6 => last.wrapping_add(1),
        _ => rng.u128(first..=last),
    };
    if bits == 32 {
        Destination::V4((address as u32).to_be_bytes())
    } else {
        Destination::from_mapped(address.to_be_bytes())
    }
}

fn around_range(rng: &mut Rng, range: PortRange) -> u16 {
    match rng.u8(..8) {
        0..3 => range.first(),
        3..6 => range.last(),
        6 => range.first().wrapping_sub(1),
        _ => range.last().wrapping_add(1),
    }
}

/// Takes away what a packet of this protocol does not show, and now and then what a later fragment hides.
fn showable(rng: &mut Rng, mut flow: Flow) -> Flow {
    if !Protocol(flow.protocol).has_ports() || rng.u8(..12) == 0 {
        flow.port = None;
    }
    if flow.protocol != Protocol::TCP.0 || flow.port.is_none() {
        flow.said = Said::UNREAD;
    }
    flow
}

/// The same flow in the engine's words, as far as nobody reads its payload.
#[must_use]
pub fn facts(flow: &Flow) -> Facts {
    let destination: IpAddr = match Destination::from_mapped(flow.destination) {
        Destination::V4(address) => address.into(),
        Destination::V6(address) => Ipv6Addr::from(address).into(),
    };
    let stage = match flow.said {
        Said::NOTHING => Stage::Pending,
        _ => Stage::Opaque,
    };
    Facts::packet(Protocol(flow.protocol), destination, flow.port, stage)
}

/// What the classifier must answer where the engine says `verdict`; `None` for what never reaches it.
#[must_use]
pub fn expected(ruleset: &Ruleset, verdict: &Verdict) -> Option<Outcome> {
    let permits = match verdict.decision {
        Decision::Allow | Decision::Modify => true,
        Decision::Deny | Decision::Held => false,
    };
    let rule = verdict.rule.as_ref().map_or(0, |rule| rule.index as u16);
    let by_name = |rule: &Arc<Rule>| rule.matches.domains.entries().is_some();
    let settled = !permits || !ruleset.rules.get(usize::from(rule)).is_some_and(by_name);
    match verdict.reason {
        // Said before the tables are asked.
        Reason::Loopback | Reason::Ambiguous => None,
        Reason::Default => Some(Outcome::Default { permits }),
        Reason::Waiting(_) => Some(Outcome::Held { rule }),
        Reason::Rule | Reason::Opaque => Some(Outcome::Rule {
            rule,
            permits,
            settled,
        }),
    }
}
