//! Domains, paths, ports and prefixes: what each entry matches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebfw_policy::{
    domain::{DomainMatch, DomainPattern, Name},
    http::{PathPrefix, RequestPath},
};
use ipnet::IpNet;

use crate::{decided, policy};

#[test]
fn domain_globs_match_as_documented() {
    let cases = [
        ("github.com", "github.com", true, "the name itself"),
        (
            "github.com",
            "GitHub.COM.",
            true,
            "case and one trailing dot do not matter",
        ),
        (
            "GitHub.com.",
            "github.com",
            true,
            "nor do they in the policy",
        ),
        ("github.com", "api.github.com", false, "not what is below"),
        ("github.com", "notgithub.com", false, "whole labels"),
        ("*.github.com", "api.github.com", true, "below"),
        ("*.github.com", "a.b.github.com", true, "dots included"),
        ("*.github.com", "github.com", false, "not the apex"),
        ("*.github.com", "notgithub.com", false, "the dot counts"),
        ("*", "anything.example", true, "every name"),
        (
            "a*.example",
            "a.example",
            false,
            "a star is one character at least",
        ),
        ("a*.example", "ab.example", true, "one"),
        ("a*.example", "ab.c.example", true, "dots included"),
        ("a?.example", "ab.example", true, "one character"),
        ("a?.example", "a.example", false, "not none"),
        ("a[0-9].example", "a7.example", true, "a class"),
        ("a[!0-9].example", "a7.example", false, "a negated class"),
        (
            "A[A-C].example",
            "ab.example",
            true,
            "case does not matter in classes",
        ),
        ("{a,b}.example", "b.example", true, "alternatives"),
        (
            "{a*,b}.example",
            "a.example",
            false,
            "a star in an alternative",
        ),
        ("a*b*.example", "axbx.example", true, "two stars"),
        ("*[*]*", "a*b", true, "a star in a class is a star"),
    ];
    for (pattern, name, want, why) in cases {
        let glob = DomainPattern::new(pattern, DomainMatch::Glob).unwrap();
        assert_eq!(
            glob.matches(&Name::new(name)),
            want,
            "{pattern} on {name}: {why}"
        );
    }
}

#[test]
fn suffix_patterns_mean_the_name_and_everything_below() {
    for pattern in ["example.com", "*.example.com"] {
        let suffix = DomainPattern::new(pattern, DomainMatch::Suffix).unwrap();
        for (name, want) in [
            ("example.com", true),
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("notexample.com", false),
            ("com", false),
        ] {
            assert_eq!(
                suffix.matches(&Name::new(name)),
                want,
                "{pattern} on {name}"
            );
        }
    }
    let glob = DomainPattern::new("a?.example", DomainMatch::Suffix).unwrap();
    assert!(glob.matches(&Name::new("x.ab.example")));
}

#[test]
fn a_pattern_covers_only_what_it_surely_means() {
    let cases = [
        ("*", "a.example", true),
        ("*.example", "*.a.example", true),
        ("*.example", "a.example", true),
        ("*.example", "example", false),
        ("*.a.example", "*.example", false),
        ("a?.example", "ab.example", true),
        ("a?.example", "a*.example", false),
        ("a.example", "*.a.example", false),
    ];
    let glob = |text| DomainPattern::new(text, DomainMatch::Glob).unwrap();
    for (wide, narrow, want) in cases {
        assert_eq!(
            glob(wide).covers(&glob(narrow)),
            want,
            "{wide} over {narrow}"
        );
    }
    let suffix = |text| DomainPattern::new(text, DomainMatch::Suffix).unwrap();
    assert!(suffix("example.com").covers(&suffix("a.example.com")));
    assert!(!suffix("a.example.com").covers(&suffix("example.com")));
    assert!(!suffix("example.com").covers(&suffix("badexample.com")));
}

#[test]
fn path_prefixes_match_whole_elements_of_the_path_that_a_server_sees() {
    let cases = [
        ("/api", "/api", true, "itself"),
        ("/api", "/api/x", true, "below"),
        ("/api", "/apiv2", false, "whole elements"),
        ("/api", "/api/", true, "a slash at the end"),
        ("/api/", "/api", true, "a slash at the end of the prefix"),
        ("/api", "/api?x=/y", true, "the query is off"),
        ("/api", "/apiv2?/api", false, "the query is off"),
        ("/api", "//api", true, "double slashes"),
        ("/api", "/./api", true, "dots"),
        ("/api", "/x/../api", true, "up and down"),
        ("/api", "/../api", true, "above the root is the root"),
        ("/api", "/api/../admin", false, "leaves the prefix"),
        ("/api", "/api/%2e%2e/admin", false, "leaves it encoded"),
        ("/api", "/api/%2E./admin", false, "leaves it half encoded"),
        ("/api", "/%61pi", true, "unreserved characters decoded"),
        ("/%61pi", "/api", true, "in the policy as well"),
        ("/a%2fb", "/a%2Fb", true, "escapes in any case"),
        ("/a", "/a%2Fb", false, "an encoded slash is no slash"),
        ("/api", "/%2561pi", false, "decoded once"),
        ("/api", "/%", false, "a broken escape stays"),
        ("/%zz", "/%zz", true, "a broken escape stays"),
        ("/", "/", true, "the root"),
        ("/", "/x", true, "everything"),
        ("/", "*", false, "OPTIONS * has no path"),
        ("/api", "", false, "no path"),
    ];
    for (prefix, path, want, why) in cases {
        let found = PathPrefix::new(prefix)
            .unwrap()
            .matches(&RequestPath::new(path));
        assert_eq!(found, want, "{prefix} on {path}: {why}");
    }
    for bad in ["", "api", "*", "/a?b", "/a#b"] {
        assert_eq!(PathPrefix::new(bad), None, "{bad}");
    }
}

#[test]
fn ports_and_prefixes_match_as_documented() {
    let policy = policy(
        "defaultAction: Deny\nrules:\n- {name: ports, action: Allow, match: {ports: [443, 8000-8999]}}\n\
         - {name: v4, action: Allow, match: {cidrs: [192.0.2.0/24]}}\n- {name: v6, action: Allow, match: {cidrs: ['2001:db8::/32']}}\n\
         - {name: icmp6, action: Allow, match: {protocols: [58]}}\n- {name: icmp, action: Allow, match: {protocols: [ICMP]}}\n- {name: gre, action: Allow, match: {protocols: [47]}}\n",
    );
    let cases = [
        ("port=443", "ports", "without a protocol"),
        ("port=443 protocol=tcp", "ports", "TCP"),
        ("port=443 protocol=UDP", "ports", "UDP"),
        ("port=443 protocol=132", "ports", "SCTP"),
        ("port=443 protocol=1", "icmp", "ports never match ICMP"),
        ("port=443 protocol=58", "icmp6", "nor ICMPv6"),
        ("protocol=ICMP", "icmp", "of IPv4 without a destination"),
        ("protocol=icmp dst=198.51.100.1", "icmp", "of IPv4"),
        (
            "protocol=ICMP dst=::ffff:1.2.3.4",
            "icmp",
            "in another form",
        ),
        ("protocol=ICMP dst=fe80::1", "icmp6", "of IPv6"),
        ("port=443 protocol=136", "Default", "nor UDP-Lite"),
        ("port=8999 protocol=tcp", "ports", "the end of a range"),
        ("port=9000 protocol=tcp", "Default", "after it"),
        (
            "port=0 protocol=tcp",
            "Default",
            "port 0 is a port that no rule can name",
        ),
        ("protocol=tcp", "Default", "a port that is not known"),
        ("protocol=47", "gre", "by number"),
        ("dst=192.0.2.255", "v4", "the end of a prefix"),
        ("dst=::ffff:192.0.2.1", "v4", "IPv4-mapped is IPv4"),
        ("dst=192.0.3.0", "Default", "outside"),
        ("dst=2001:db8::1", "v6", "IPv6"),
        ("dst=[2001:db8::1]", "v6", "in brackets"),
    ];
    for (flow, rule, why) in cases {
        assert_eq!(decided(&policy, flow).1, rule, "{flow}: {why}");
    }
}

#[test]
fn a_prefix_of_any_length_matches_exactly_the_addresses_that_share_its_bits() {
    let addresses: [(IpAddr, u32); 2] = [
        ("203.0.113.165".parse().unwrap(), 32),
        ("2001:db8:a55a::5aa5".parse().unwrap(), 128),
    ];
    for (address, bits) in addresses {
        for length in 0..=bits {
            let prefix = IpNet::new(address, length as u8).unwrap().trunc();
            let policy = policy(&format!(
                "defaultAction: Deny\nrules: [{{name: r, action: Allow, match: {{cidrs: ['{prefix}']}}}}]"
            ));
            for flipped in 0..bits {
                let dst = flip(address, flipped);
                let want = if flipped < length { "Default" } else { "r" };
                assert_eq!(
                    decided(&policy, &format!("dst={dst}")).1,
                    want,
                    "{dst} and {prefix}"
                );
            }
        }
    }
}

/// `address` with one bit changed, counted from the left.
fn flip(address: IpAddr, bit: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 1 << (31 - bit)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 1 << (127 - bit)).into(),
    }
}
