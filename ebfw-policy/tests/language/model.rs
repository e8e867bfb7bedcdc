//! The engine against a second one, written from SEMANTICS alone: slow, obvious, sharing no code but the reader of files.

use std::net::IpAddr;

use ebfw_policy::{
    domain::Name,
    evaluate::Decision,
    facts::{Claim, Facts, Request},
    http::{Method, RequestPath},
    parse_policy,
    policy::Protocol,
    workload::Workload,
};
use proptest::{option, prelude::*, sample::select};

#[derive(Clone, Debug)]
struct Rule {
    action: &'static str,
    domains: Vec<&'static str>,
    cidrs: Vec<&'static str>,
    ports: Vec<(u16, u16)>,
    protocols: Vec<u8>,
    methods: Vec<&'static str>,
    prefix: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Flow {
    protocol: Option<u8>,
    dst: Option<&'static str>,
    port: Option<u16>,
    resolved: Vec<&'static str>,
    /// `None`: no payload yet; `Some(None)`: it names nothing.
    claim: Option<Option<&'static str>>,
    /// `None`: no payload yet; `Some(None)`: it cannot be read.
    request: Option<Option<(&'static str, &'static str)>>,
}

const DOMAINS: [&str; 6] = [
    "a.example",
    "*.example",
    "b.a.example",
    "*",
    "?.example",
    "a*e",
];
const NAMES: [&str; 5] = [
    "a.example",
    "b.example",
    "b.a.example",
    "example",
    "ab.test",
];
const CIDRS: [&str; 6] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::/0",
];
const ADDRESSES: [&str; 6] = [
    "10.1.2.3",
    "10.2.0.1",
    "192.0.2.1",
    "2001:db8::1",
    "2001:db9::1",
    "127.0.0.1",
];
const PREFIXES: [&str; 3] = ["/", "/api", "/api/v1"];
const PATHS: [&str; 4] = ["/", "/api", "/apiv2", "/api/v1/x"];

fn rules() -> impl Strategy<Value = Rule> {
    let some = |items: &'static [&'static str]| prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(select(items), 1..3)];
    let ports = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(select(&[(80, 80), (443, 443), (80, 443), (1, 65535)][..]), 1..3)];
    let protocols = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(select(&[1, 6, 17, 47][..]), 1..3)];
    let action = select(&["Allow", "Deny", "Modify"][..]);
    (
        action,
        some(&DOMAINS),
        some(&CIDRS),
        ports,
        protocols,
        some(&["GET", "PUT"]),
        option::weighted(0.2, select(&PREFIXES[..])),
    )
        .prop_map(
            |(action, domains, cidrs, ports, protocols, methods, prefix)| Rule {
                action,
                domains,
                cidrs,
                ports,
                protocols,
                methods,
                prefix,
            },
        )
}

fn flows() -> impl Strategy<Value = Flow> {
    let names = prop::collection::vec(select(&NAMES[..]), 0..3);
    let request = option::of(option::of((
        select(&["GET", "PUT", "get"][..]),
        select(&PATHS[..]),
    )));
    let protocol = option::of(select(&[1, 6, 17, 47, 136][..]));
    (
        protocol,
        option::of(select(&ADDRESSES[..])),
        option::of(select(&[0, 79, 80, 443, 444][..])),
        names,
        option::of(option::of(select(&NAMES[..]))),
        request,
    )
        .prop_map(|(protocol, dst, port, resolved, claim, request)| Flow {
            protocol,
            dst,
            port,
            resolved,
            claim,
            request,
        })
}

fn file(rules: &[Rule], default: &str, strict: bool, loopback: bool) -> String {
    let list = |field: &str, items: Vec<String>| {
        if items.is_empty() {
            String::new()
        } else {
            format!("{field}: [{}], ", items.join(", "))
        }
    };
    let quoted = |items: &[&str]| {
        items
            .iter()
            .map(|item| format!("'{item}'"))
            .collect::<Vec<_>>()
    };
    let mut text = format!(
        "defaultAction: {default}\nstrictL7: {strict}\ngovernLoopback: {loopback}\nrules:\n"
    );
    for rule in rules {
        let ports = rule
            .ports
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        let prefix = rule
            .prefix
            .map(|prefix| format!("pathPrefix: {prefix}"))
            .unwrap_or_default();
        let mutations = if rule.action == "Modify" {
            ", mutations: [{type: RemoveHeader, header: x}]"
        } else {
            ""
        };
        text.push_str(&format!(
            "- {{action: {}, match: {{{}{}{}{}{}{prefix}}}{mutations}}}\n",
            rule.action,
            list("domains", quoted(&rule.domains)),
            list("cidrs", quoted(&rule.cidrs)),
            list("ports", ports),
            list(
                "protocols",
                rule.protocols.iter().map(u8::to_string).collect()
            ),
            list("methods", quoted(&rule.methods)),
        ));
    }
    if rules.is_empty() {
        text.replace("rules:\n", "rules: []\n")
    } else {
        text
    }
}

/// What a dimension is.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Yes,
    No,
    NotYet,
    Opaque,
}

fn is(truth: bool) -> Is {
    if truth { Is::Yes } else { Is::No }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], [_, tail @ ..]) => glob(rest, tail) || glob(pattern, tail),
        ([b'?', rest @ ..], [_, tail @ ..]) => glob(rest, tail),
        ([p, rest @ ..], [n, tail @ ..]) => p == n && glob(rest, tail),
        _ => false,
    }
}

fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    }
}

fn in_prefix(cidr: &str, dst: &str) -> bool {
    let (network, length) = cidr.split_once('/').unwrap();
    let (network, dst) = (bits(network.parse().unwrap()), bits(dst.parse().unwrap()));
    let length: usize = length.parse().unwrap();
    network.len() == dst.len() && network[..length] == dst[..length]
}

fn names(rule: &Rule, flow: &Flow) -> Is {
    let p = |name: &str| {
        rule.domains
            .iter()
            .any(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
    };
    let (any, all) = (
        flow.resolved.iter().any(|name| p(name)),
        flow.resolved.iter().all(|name| p(name)),
    );
    let deny = rule.action == "Deny";
    match flow.claim {
        None if deny => {
            if all && !flow.resolved.is_empty() {
                Is::Yes
            } else {
                Is::NotYet
            }
        }
        None => is(any),
        Some(None) => is(any),
        Some(Some(c)) if flow.resolved.contains(&c) => is(p(c)),
        Some(Some(c)) => is(deny && (p(c) || any)),
    }
}

fn dimensions(rule: &Rule, flow: &Flow) -> Vec<Is> {
    let mut found = Vec::new();
    if !rule.protocols.is_empty() {
        found.push(is(flow
            .protocol
            .is_some_and(|protocol| rule.protocols.contains(&protocol))));
    }
    if !rule.ports.is_empty() {
        let with_ports = flow
            .protocol
            .is_none_or(|protocol| [6, 17, 132].contains(&protocol));
        found.push(is(with_ports
            && flow.port.is_some_and(|port| {
                rule.ports
                    .iter()
                    .any(|(first, last)| *first <= port && port <= *last)
            })));
    }
    if !rule.cidrs.is_empty() {
        found.push(is(flow.dst.is_some_and(|dst| {
            rule.cidrs.iter().any(|cidr| in_prefix(cidr, dst))
        })));
    }
    if !rule.domains.is_empty() {
        found.push(names(rule, flow));
    }
    let request = |matches: &dyn Fn((&str, &str)) -> bool| match flow.request {
        None => Is::NotYet,
        Some(None) => Is::Opaque,
        Some(Some(request)) => is(matches(request)),
    };
    if !rule.methods.is_empty() {
        found.push(request(&|(method, _)| rule.methods.contains(&method)));
    }
    if let Some(prefix) = rule.prefix {
        let below = format!("{}/", prefix.trim_end_matches('/'));
        found.push(request(&|(_, path)| {
            path == prefix || path.starts_with(&below)
        }));
    }
    found
}

fn decide(
    rules: &[Rule],
    default: &str,
    strict: bool,
    loopback: bool,
    flow: &Flow,
) -> (Decision, Option<usize>) {
    let action = |action: &str| match action {
        "Allow" => Decision::Allow,
        "Deny" => Decision::Deny,
        _ => Decision::Modify,
    };
    if !loopback && flow.dst == Some("127.0.0.1") {
        return (Decision::Allow, None);
    }
    for (at, rule) in rules.iter().enumerate() {
        let found: Vec<_> = dimensions(rule, flow)
            .into_iter()
            .map(|dimension| match dimension {
                Is::Opaque => is(strict && rule.action == "Deny"),
                other => other,
            })
            .collect();
        if found.contains(&Is::No) {
            continue;
        }
        return (
            if found.contains(&Is::NotYet) {
                Decision::Held
            } else {
                action(rule.action)
            },
            Some(at),
        );
    }
    (action(default), None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_engine_decides_as_the_model_does(
        rules in prop::collection::vec(rules(), 0..8),
        default in select(&["Allow", "Deny"][..]),
        strict: bool,
        loopback: bool,
        flows in prop::collection::vec(flows(), 16),
    ) {
        let file = file(&rules, default, strict, loopback);
        let policy = parse_policy(&file).unwrap_or_else(|problems| panic!("{file}\n{problems}"));
        let ruleset = policy.select(&Workload::default()).unwrap().unwrap();
        for flow in flows {
            let facts = facts(&flow);
            let verdict = ruleset.evaluate(&facts);
            let found = (verdict.decision, verdict.rule.map(|rule| rule.index));
            prop_assert_eq!(found, decide(&rules, default, strict, loopback, &flow), "{}\n{:?}", file, flow);
        }
    }
}

fn facts(flow: &Flow) -> Facts {
    let claim = match flow.claim {
        None => Claim::NotYet,
        Some(None) => Claim::Nameless,
        Some(Some(name)) => Claim::Name(Name::new(name)),
    };
    let request = match flow.request {
        None => Request::NotYet,
        Some(None) => Request::Opaque,
        Some(Some((method, path))) => Request::Known {
            method: Some(Method::from_request(method)),
            path: Some(RequestPath::new(path)),
        },
    };
    let mut facts = Facts::default()
        .with_resolved(flow.resolved.iter().map(|name| Name::new(name)).collect())
        .with_claim(claim)
        .with_request(request);
    if let Some(protocol) = flow.protocol {
        facts = facts.with_protocol(Protocol(protocol));
    }
    if let Some(dst) = flow.dst {
        facts = facts.with_dst(dst.parse().unwrap());
    }
    match flow.port {
        Some(port) => facts.with_port(port),
        None => facts,
    }
}
