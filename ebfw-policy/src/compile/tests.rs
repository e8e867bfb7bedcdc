//! Corner cases of the compiler, each judged by the kernel's own classifier over the compiled tables.

use std::{net::IpAddr, sync::Arc};

use super::{CompileError, NoNames, Tables, compile};
use crate::{
    domain::{DomainMatch, DomainPattern},
    http::Method,
    policy::{Action, AnyOf, Match, PortRange, Position, Protocol, Rule},
    ruleset::{Ruleset, TooManyRules},
};
use ebfw_common::{
    classify::{Flow, NO_NAMES, Outcome, Said},
    layout::header_flag,
};

const ALLOWED: Outcome = Outcome::Default { permits: true };

fn deny(matches: Match) -> Rule {
    Rule {
        name: "r".into(),
        action: Action::Deny,
        matches,
        mutations: Vec::new(),
        strict_l7: false,
        position: Position::default(),
    }
}

fn ruleset(rules: Vec<Rule>) -> Ruleset {
    let rules = rules.into_iter().map(Arc::new).collect();
    Ruleset {
        rules,
        default: Action::Allow,
        govern_loopback: false,
    }
}

fn tables(rules: Vec<Rule>) -> Tables {
    compile(&ruleset(rules), &NoNames).unwrap()
}

fn cidrs(texts: &[&str]) -> Match {
    Match {
        cidrs: AnyOf::Entries(texts.iter().map(|text| text.parse().unwrap()).collect()),
        ..Match::ANYTHING
    }
}

fn ports(ranges: &[(u16, u16)]) -> Match {
    let ranges = ranges
        .iter()
        .map(|(first, last)| PortRange::new(*first, *last).unwrap())
        .collect();
    Match {
        ports: AnyOf::Entries(ranges),
        ..Match::ANYTHING
    }
}

fn protocols(numbers: &[u8]) -> Match {
    Match {
        protocols: AnyOf::Entries(numbers.iter().copied().map(Protocol).collect()),
        ..Match::ANYTHING
    }
}

fn to(address: &str, protocol: u8, port: Option<u16>) -> Flow {
    Flow {
        destination: address.parse::<IpAddr>().unwrap().into(),
        protocol,
        port,
        said: Said::UNREAD,
        names: NO_NAMES,
    }
}

fn by_rule(rule: u16) -> Outcome {
    Outcome::Rule {
        rule,
        permits: false,
        settled: true,
    }
}

/// Why, ranges of the rule, port of the packet, whether they match.
type PortCase = (&'static str, &'static [(u16, u16)], u16, bool);

#[test]
fn ports_match_exactly_their_ranges() {
    let cases: [PortCase; 16] = [
        ("port 0 is in no range", &[(1, 65535)], 0, false),
        ("the lowest port", &[(1, 65535)], 1, true),
        ("the highest port", &[(1, 65535)], 65535, true),
        ("the end of a page", &[(255, 255)], 255, true),
        ("behind the end of a page", &[(255, 255)], 256, false),
        ("the begin of a page", &[(256, 511)], 256, true),
        ("the end of a whole page", &[(256, 511)], 511, true),
        ("behind a whole page", &[(256, 511)], 512, false),
        ("before a whole page", &[(256, 511)], 255, false),
        ("a range over many pages", &[(200, 60000)], 30000, true),
        (
            "overlapping ranges do not cancel each other",
            &[(10, 20), (15, 30)],
            17,
            true,
        ),
        (
            "a range in another does not cut a hole",
            &[(10, 30), (15, 20)],
            25,
            true,
        ),
        (
            "equal ranges do not cancel each other",
            &[(10, 20), (10, 20)],
            10,
            true,
        ),
        (
            "adjacent ranges have no gap",
            &[(10, 20), (21, 30)],
            21,
            true,
        ),
        ("ranges in any order", &[(50, 60), (10, 20)], 15, true),
        ("between two ranges", &[(50, 60), (10, 20)], 30, false),
    ];
    for (why, ranges, port, matches) in cases {
        let tables = tables(vec![deny(ports(ranges))]);
        let wanted = if matches { by_rule(0) } else { ALLOWED };
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
            let answer = tables
                .view()
                .classify(&to("192.0.2.1", protocol.0, Some(port)));
            assert_eq!(answer, Ok(wanted), "{why}: {protocol:?} {port}");
        }
    }
}

#[test]
fn what_shows_no_port_matches_no_rule_with_ports() {
    let tables = tables(vec![deny(ports(&[(1, 65535)])), deny(protocols(&[6, 136]))]);
    let cases = [
        (
            "a later fragment of TCP falls through to the rule without ports",
            6,
            None,
            by_rule(1),
        ),
        (
            "a TCP packet with its port does not",
            6,
            Some(80),
            by_rule(0),
        ),
        ("a later fragment of UDP", 17, None, ALLOWED),
        ("ICMP", 1, None, ALLOWED),
        ("UDP-Lite by its number", 136, None, by_rule(1)),
        ("the highest number", 255, None, ALLOWED),
    ];
    for (why, protocol, port, wanted) in cases {
        assert_eq!(
            tables.view().classify(&to("192.0.2.1", protocol, port)),
            Ok(wanted),
            "{why}"
        );
    }
}

#[test]
fn protocols_that_only_the_last_rule_tells_apart_are_told_apart() {
    for before in [0, 63, 64, 4095] {
        let mut rules = vec![deny(cidrs(&["203.0.113.0/24"])); before];
        rules.push(deny(Match {
            protocols: protocols(&[17]).protocols,
            ..ports(&[(53, 53)])
        }));
        let tables = tables(rules);
        let cases = [
            (17, 53, by_rule(before as u16)),
            (6, 53, ALLOWED),
            (132, 53, ALLOWED),
            (17, 54, ALLOWED),
        ];
        for (protocol, port, wanted) in cases {
            let answer = tables
                .view()
                .classify(&to("192.0.2.1", protocol, Some(port)));
            assert_eq!(
                answer,
                Ok(wanted),
                "{before} rules before, {protocol}:{port}"
            );
        }
    }
}

#[test]
fn the_order_of_rules_decides_and_not_the_longest_prefix() {
    let tables = tables(vec![
        deny(cidrs(&["10.1.2.0/24"])),
        deny(cidrs(&["10.0.0.0/8", "2001:db8::/32"])),
        deny(cidrs(&["10.1.2.3/32", "10.1.0.0/16", "2001:db8::1/128"])),
        deny(cidrs(&["::/0"])),
    ]);
    let cases = [
        (
            "10.1.2.3",
            "the longest prefix is of a later rule",
            by_rule(0),
        ),
        ("10.1.3.1", "a longer prefix of a later rule", by_rule(1)),
        ("10.255.255.255", "the end of the widest prefix", by_rule(1)),
        ("11.0.0.0", "behind it", ALLOWED),
        ("9.255.255.255", "before it", ALLOWED),
        ("0.0.0.0", "::/0 is no IPv4 prefix", ALLOWED),
        (
            "2001:db8::1",
            "the longest prefix is of a later rule",
            by_rule(1),
        ),
        (
            "2001:db9::",
            "the default of IPv6 is a prefix of length 0",
            by_rule(3),
        ),
    ];
    for (address, why, wanted) in cases {
        assert_eq!(
            tables.view().classify(&to(address, 6, Some(1))),
            Ok(wanted),
            "{address}: {why}"
        );
    }
}

#[test]
fn prefixes_that_change_nothing_are_left_out() {
    let rule = deny(cidrs(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]));
    assert_eq!(
        tables(vec![rule.clone()]).v4.len(),
        1,
        "inner prefixes of the same rule"
    );
    let tables = tables(vec![rule, deny(cidrs(&["0.0.0.0/0"]))]);
    assert_eq!(tables.v4.len(), 1, "a prefix of length 0 is the default");
    assert_eq!(
        tables.view().classify(&to("203.0.113.1", 6, Some(1))),
        Ok(by_rule(1))
    );
}

#[test]
fn flags_say_which_dimensions_take_part() {
    let v6 = deny(cidrs(&["2001:db8::/32"]));
    let domain = DomainPattern::new("example.com", DomainMatch::Glob).unwrap();
    let named = deny(Match {
        domains: AnyOf::Entries(vec![domain]),
        ..Match::ANYTHING
    });
    assert_eq!(tables(vec![]).header().flags, 0);
    assert_eq!(tables(vec![v6.clone()]).header().flags, header_flag::V6);
    assert_eq!(
        tables(vec![named, v6]).header().flags,
        header_flag::V6 | header_flag::NAMES
    );
}

#[test]
fn a_rule_that_waits_for_content_holds_the_flow_until_it_is_opaque() {
    let get = |strict_l7, action| {
        let methods = AnyOf::Entries(vec![Method::from_policy("GET").unwrap()]);
        Rule {
            action,
            strict_l7,
            ..deny(Match {
                methods,
                ..Match::ANYTHING
            })
        }
    };
    let pending = Flow {
        said: Said::NOTHING,
        ..to("192.0.2.1", 6, Some(80))
    };
    let opaque = Flow {
        said: Said::UNREAD,
        ..pending
    };
    let cases = [
        (
            "an Allow cannot be satisfied by what nobody reads",
            false,
            Action::Allow,
            ALLOWED,
        ),
        ("nor can a Deny", false, Action::Deny, ALLOWED),
        ("strictL7 is for Deny only", true, Action::Allow, ALLOWED),
        (
            "strictL7 turns the unknown against the flow",
            true,
            Action::Deny,
            by_rule(0),
        ),
    ];
    for (why, strict_l7, action, wanted) in cases {
        let tables = tables(vec![get(strict_l7, action)]);
        assert_eq!(
            tables.view().classify(&pending),
            Ok(Outcome::Held { rule: 0 }),
            "{why}: pending"
        );
        assert_eq!(tables.view().classify(&opaque), Ok(wanted), "{why}: opaque");
    }
}

#[test]
fn a_small_policy_takes_little_memory() {
    let rules = (0..20)
        .map(|n| {
            deny(Match {
                ..ports(&[(n * 1000 + 1, n * 1000 + 500)])
            })
        })
        .collect();
    let bytes = tables(rules).block_bytes();
    assert!(bytes < 64 * 1024, "{bytes} bytes");
}

#[test]
fn more_rules_than_the_kernel_indexes_are_refused() {
    let too_many = vec![deny(Match::ANYTHING); 4097];
    assert_eq!(
        compile(&ruleset(too_many), &NoNames),
        Err(CompileError::TooManyRules(TooManyRules(4097)))
    );
}

#[test]
fn more_port_classes_than_the_kernel_numbers_are_refused() {
    // Rule n matches the ports whose bit n is set, so that no two ports are alike.
    let bit = |n: u32| -> Rule {
        let of_bit = (1..=u16::MAX)
            .filter(|port| port >> n & 1 == 1)
            .map(|port| (port, port));
        deny(ports(&of_bit.collect::<Vec<_>>()))
    };
    let mut rules: Vec<Rule> = (0..16).map(bit).collect();
    assert!(
        compile(&ruleset(rules.clone()), &NoNames).is_ok(),
        "65536 classes fit"
    );
    rules.push(deny(protocols(&[17])));
    assert_eq!(
        compile(&ruleset(rules), &NoNames),
        Err(CompileError::TooManyPortClasses)
    );
}
