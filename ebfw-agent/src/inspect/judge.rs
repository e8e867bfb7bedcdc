//! What the rules of a workload say about a request inside TLS. Pure.
//!
//! The names that the workload resolved to the destination (R of SEMANTICS 4) are not asked for: the claimed name counts as the only one.
//! What is denied so is denied with any R. Where the claim is in R, it alone counts in both, so the verdicts are equal. Where it is not, an
//! Allow rule with `domains` matches nothing (here it may match), and a Deny rule matches whatever it matches here, and more. So going
//! through the rules in order, whatever is passed over before a Deny here is passed over there, or is itself a Deny. The other way round it
//! does not hold: a name that was never resolved can be let through here. That is the right way round for what may deny and never allow.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use ebfw_common::plaintext::Socket;
use ebfw_policy::{
    domain::Name,
    evaluate::Verdict,
    facts::{Claim, Facts, Request as Asked},
    policy::{Action, AnyOf, Protocol, Rule},
    ruleset::Ruleset,
};

use super::Request;
use crate::events::event::Mode;

/// What a policy says about a request inside TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing: none governs who wrote it.
    Ungoverned,
    /// It cannot be judged, since it is not known where it goes.
    Opaque,
    /// The kernel has denied it before it left, and nothing else is known of it.
    Unseen(Mode),
    /// What its rules say, and what that leads to.
    Ruled(Verdict, Mode),
}

/// The rules of a workload, as requests inside its TLS are judged by them.
#[derive(Debug)]
pub struct Rules {
    ruleset: Arc<Ruleset>,
    /// Those with which nothing is denied because of a name. Made when they are first needed.
    nameless: OnceLock<Ruleset>,
}

/// Whom a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Named(Name),
    /// An address that is not the destination's.
    Elsewhere,
    /// No name, which the kernel judges by names that nobody here knows.
    Nameless,
}

impl Rules {
    /// The rules of `ruleset`.
    #[must_use]
    pub fn new(ruleset: Arc<Ruleset>) -> Self {
        Self {
            ruleset,
            nameless: OnceLock::new(),
        }
    }

    /// What they say about `request`, which was written for the connection of `socket`. A Deny holds whatever else is known; an Allow says
    /// only that nothing known here denies.
    #[must_use]
    pub fn judge(&self, socket: &Socket, request: &Request) -> Verdict {
        let destination = IpAddr::from(socket.destination.octets()).to_canonical();
        let asked = asked(request);
        let is_ambiguous = asked == Asked::Ambiguous;
        let facts = Facts::default()
            .with_protocol(Protocol::TCP)
            .with_dst(destination)
            .with_port(socket.destination_port)
            .with_request(asked);
        if is_ambiguous {
            // Nor is its host to be relied on. What waits for it where no name is resolved is passed by with none.
            return self.ruleset.evaluate(&facts);
        }
        match Host::of(&request.host, destination) {
            Host::Named(name) => {
                let resolved = vec![name.clone()];
                self.ruleset
                    .evaluate(&facts.with_claim(Claim::Name(name)).with_resolved(resolved))
            }
            // A claim that no pattern means and nobody has resolved.
            Host::Elsewhere => self
                .ruleset
                .evaluate(&facts.with_claim(Claim::Name(Name::new("")))),
            Host::Nameless => self
                .nameless
                .get_or_init(|| nameless(&self.ruleset))
                .evaluate(&facts),
        }
    }
}

/// Method and path.
fn asked(request: &Request) -> Asked {
    if request.ambiguous {
        return Asked::Ambiguous;
    }
    let method = text(&request.method);
    let path = (!request.path.is_empty()).then(|| text(&request.path));
    Asked::read(Some(&method), path.as_deref())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Host {
    fn of(host: &[u8], destination: IpAddr) -> Self {
        let Ok(text) = std::str::from_utf8(host) else {
            return Self::Nameless;
        };
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let address = match bare {
            Some(bare) => bare.parse().ok().map(|six: Ipv6Addr| IpAddr::V6(six)),
            None => text.parse().ok(),
        };
        match address.map(|address| address.to_canonical()) {
            Some(address) if address == destination => Self::Nameless,
            Some(_) => Self::Elsewhere,
            None if text.is_empty() || text.starts_with('[') => Self::Nameless,
            None => Self::Named(Name::new(text)),
        }
    }
}

/// The same rules for a request that names nobody: each Allow rule may mean the destination, and no Deny rule need.
fn nameless(ruleset: &Ruleset) -> Ruleset {
    let rules = ruleset.rules.iter().filter_map(|rule| {
        if matches!(rule.matches.domains, AnyOf::Anything) {
            return Some(Arc::clone(rule));
        }
        (rule.action != Action::Deny).then(|| {
            let mut rule = Rule::clone(rule);
            rule.matches.domains = AnyOf::Anything;
            Arc::new(rule)
        })
    });
    Ruleset {
        rules: rules.collect(),
        ..*ruleset
    }
}

#[cfg(test)]
mod tests {
    use ebfw_common::abi::Address;
    use ebfw_policy::{
        evaluate::{Decision, Reason},
        parse_policy,
        workload::Workload,
    };

    use super::*;
    use crate::inspect::SOCKET;

    fn ruleset(policy: &str) -> Arc<Ruleset> {
        let policy = parse_policy(policy).expect("a policy");
        let ruleset = policy.select(&Workload::default()).expect("it fits");
        Arc::new(ruleset.expect("it governs"))
    }

    fn request(line: &str, host: &str) -> Request {
        let (method, path) = line.split_once(' ').expect("method and path");
        Request {
            method: method.into(),
            host: host.into(),
            path: path.into(),
            ..Request::default()
        }
    }

    fn judged(policy: &str, line: &str, host: &str) -> (Decision, Option<String>) {
        let verdict = Rules::new(ruleset(policy)).judge(&SOCKET, &request(line, host));
        let rule = verdict.rule.map(|rule| rule.name.to_string());
        (verdict.decision, rule)
    }

    fn deny(rule: &str) -> (Decision, Option<String>) {
        (Decision::Deny, Some(rule.to_owned()))
    }

    fn allow(rule: &str) -> (Decision, Option<String>) {
        (Decision::Allow, Some(rule.to_owned()))
    }

    const DEFAULT_ALLOW: (Decision, Option<String>) = (Decision::Allow, None);
    const DEFAULT_DENY: (Decision, Option<String>) = (Decision::Deny, None);

    #[test]
    fn a_request_is_judged_by_method_path_name_and_destination() {
        let policy = "
defaultAction: Allow
rules:
- name: admin
  action: Deny
  match: {pathPrefix: /admin}
- name: deletes
  action: Deny
  match: {methods: [DELETE], domains: ['*.example.com']}
- name: net
  action: Deny
  match: {cidrs: [192.0.2.0/24], ports: [443], pathPrefix: /net}
- name: other-port
  action: Deny
  match: {ports: [8443]}
";
        for (line, host, expected) in [
            ("GET /admin/x", "a.example.com", deny("admin")),
            ("GET /a/../admin?x=1", "a.example.com", deny("admin")),
            ("GET /%61dmin", "a.example.com", deny("admin")),
            ("GET /administrator", "a.example.com", DEFAULT_ALLOW),
            ("DELETE /x", "A.Example.COM.", deny("deletes")),
            ("delete /x", "a.example.com", DEFAULT_ALLOW),
            ("DELETE /x", "example.org", DEFAULT_ALLOW),
            ("GET /net", "example.org", deny("net")),
            ("GET /x/..%2fadmin", "example.org", DEFAULT_DENY),
            ("OPTIONS *", "example.org", DEFAULT_ALLOW),
            ("CONNECT ", "example.org", DEFAULT_ALLOW),
        ] {
            assert_eq!(judged(policy, line, host), expected, "{line} {host}");
        }
        let elsewhere = Socket {
            destination: Address::mapped([198, 51, 100, 1]),
            ..SOCKET
        };
        let verdict =
            Rules::new(ruleset(policy)).judge(&elsewhere, &request("GET /net", "example.org"));
        assert_eq!(verdict.reason, Reason::Default);
    }

    #[test]
    fn a_host_that_is_not_allowed_is_denied_on_whatever_connection() {
        let policy = "
defaultAction: Deny
rules:
- name: good
  action: Allow
  match: {domains: [good.example], methods: [GET]}
";
        for (line, host, expected) in [
            ("GET /", "good.example", allow("good")),
            ("POST /", "good.example", DEFAULT_DENY),
            ("GET /", "evil.example", DEFAULT_DENY),
            ("GET /", "198.51.100.9", DEFAULT_DENY),
            ("GET /", "[2001:db8::1]", DEFAULT_DENY),
        ] {
            assert_eq!(judged(policy, line, host), expected, "{line} {host}");
        }
    }

    #[test]
    fn what_names_nobody_is_denied_only_where_no_name_could_allow_it() {
        let policy = "
defaultAction: Deny
rules:
- name: never
  action: Deny
  match: {domains: ['*'], methods: [PUT]}
- name: admin
  action: Deny
  match: {pathPrefix: /admin}
- name: good
  action: Allow
  match: {domains: [good.example], methods: [GET, PUT]}
";
        for host in ["", "192.0.2.7", "[::ffff:192.0.2.7]", "[x", "[x]"] {
            for (line, expected) in [
                ("GET /", allow("good")),
                ("GET /admin", deny("admin")),
                ("POST /", DEFAULT_DENY),
                ("PUT /", allow("good")),
                // With no name at all the first rule waits for what cannot be relied on.
                ("GET /x/..%2fadmin", (Decision::Deny, None)),
            ] {
                assert_eq!(judged(policy, line, host), expected, "{line} {host}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_denied_where_a_rule_waits_for_it_whatever_is_resolved() {
        let policy = |rules: &str| format!("defaultAction: Allow\nrules:\n{rules}\n");
        let two_hosts = Request {
            ambiguous: true,
            ..request("GET /x", "shop.example")
        };
        for (rules, expected) in [
            ("- {action: Deny, match: {pathPrefix: /admin}}", true),
            (
                "- {action: Deny, match: {domains: [x], pathPrefix: /admin}}",
                true,
            ),
            (
                "- {action: Allow, match: {ports: [443]}}\n- {action: Deny, match: {domains: [x], pathPrefix: /admin}}",
                false,
            ),
            ("- {action: Allow, match: {domains: [x]}}", false),
            (
                "- {action: Deny, match: {ports: [80], pathPrefix: /admin}}",
                false,
            ),
        ] {
            let own = Rules::new(ruleset(&policy(rules)));
            for request in [&request("GET /x/..%2fadmin", "shop.example"), &two_hosts] {
                let verdict = own.judge(&SOCKET, request);
                let is_denied = verdict.reason == Reason::Ambiguous;
                assert_eq!(is_denied, expected, "{rules} {request:?}");
                assert_eq!(verdict.decision == Decision::Deny, expected, "{rules}");
            }
        }
    }

    #[test]
    fn loopback_is_not_judged_unless_the_policy_says_so() {
        let loopback = Socket {
            destination: Address::mapped([127, 0, 0, 1]),
            ..SOCKET
        };
        let rules = Rules::new(ruleset("defaultAction: Deny\nrules: []\n"));
        let verdict = rules.judge(&loopback, &request("GET /", "x"));
        assert_eq!(
            (verdict.decision, verdict.reason),
            (Decision::Allow, Reason::Loopback)
        );
    }

    /// What the module's first lines claim, over all small policies and sets of resolved names.
    #[test]
    fn what_is_denied_here_is_denied_whatever_was_resolved() {
        let mut choices = vec![String::new()];
        for action in ["Allow", "Deny"] {
            let domains = ["[a.example]", "[b.example]", "['*']"];
            let fields = domains.map(|names| format!("domains: {names}"));
            let more = [
                "methods: [GET]",
                "pathPrefix: /x",
                "domains: [a.example], pathPrefix: /y",
            ];
            let fields = fields.into_iter().chain(more.map(str::to_owned));
            choices.extend(
                fields.map(|fields| format!("- {{action: {action}, match: {{{fields}}}}}\n")),
            );
        }
        let mut denied = 0;
        for default in ["Allow", "Deny"] {
            for first in &choices {
                for second in &choices {
                    let rules = format!("{first}{second}");
                    let rules = if rules.is_empty() { "  []\n" } else { &rules };
                    denied += denied_by(&format!("defaultAction: {default}\nrules:\n{rules}"));
                }
            }
        }
        assert!(denied > 1000, "{denied}");
    }

    /// How many requests a policy denies; each of them it denies whatever is resolved.
    fn denied_by(policy: &str) -> usize {
        const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];
        let ruleset = ruleset(policy);
        let rules = Rules::new(Arc::clone(&ruleset));
        let hosts = [NAMES[0], NAMES[2], "", "192.0.2.7", "198.51.100.9"];
        let requests = hosts.iter().flat_map(|host| {
            ["/", "/x", "/y/..%2fx", "/y\\x"]
                .map(|path| (*host, path, request(&format!("GET {path}"), host)))
        });
        let denied = requests
            .filter(|(_, _, request)| rules.judge(&SOCKET, request).decision == Decision::Deny);
        denied
            .inspect(|(host, path, _)| {
                for resolved in 0..8u8 {
                    let resolved = (0..3).filter(|bit| resolved & 1 << bit != 0);
                    let resolved: Vec<_> = resolved.map(|bit| Name::new(NAMES[bit])).collect();
                    for claim in claims(host) {
                        let facts = Facts::default()
                            .with_protocol(Protocol::TCP)
                            .with_dst("192.0.2.7".parse().unwrap())
                            .with_port(443)
                            .with_resolved(resolved.clone())
                            .with_claim(claim.clone())
                            .with_request(Asked::read(Some("GET"), Some(path)));
                        assert_eq!(
                            ruleset.evaluate(&facts).decision,
                            Decision::Deny,
                            "{policy}{host}{path}: {resolved:?} {claim:?}"
                        );
                    }
                }
            })
            .count()
    }

    /// What the kernel may take for the claim of a request to `host`: where that names nobody, the connection's SNI may.
    fn claims(host: &str) -> Vec<Claim> {
        let name = |name: &str| Claim::Name(Name::new(name));
        match host {
            "" | "192.0.2.7" => vec![
                Claim::Nameless,
                name("a.example"),
                name("b.example"),
                name("c.example"),
            ],
            "198.51.100.9" => vec![name("")],
            host => vec![name(host)],
        }
    }
}
