//! Which events are not shown: traffic that the configuration calls internal.
//! It hides events, never verdicts, and never the event of a denied flow.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::event::{Action, Event, Subject};

/// `exclude.cidrs` and `exclude.domainSuffixes`.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    cidrs: Vec<IpNet>,
    /// Lower case, without dots at either end.
    suffixes: Vec<String>,
}

impl Filter {
    /// Hides flows to `cidrs`, and names that are one of `domain_suffixes` or below it.
    #[must_use]
    pub fn new(cidrs: Vec<IpNet>, domain_suffixes: Vec<String>) -> Self {
        let suffixes = domain_suffixes
            .iter()
            .map(|suffix| suffix.trim_matches('.').to_lowercase());
        Self {
            cidrs: cidrs.into_iter().map(canonical).collect(),
            suffixes: suffixes.filter(|suffix| !suffix.is_empty()).collect(),
        }
    }

    /// Whether `event` is not to be shown.
    #[must_use]
    pub fn hides(&self, event: &Event) -> bool {
        if event
            .ruling
            .as_ref()
            .is_some_and(|ruling| ruling.action == Action::Deny)
        {
            return false;
        }
        // A question is judged by its name alone: the resolver's address is internal nearly everywhere.
        let address = match &event.subject {
            Subject::Dns { .. } => None,
            Subject::Tls { .. }
            | Subject::Http { .. }
            | Subject::Https { .. }
            | Subject::Connect { .. } => event.subject.flow(),
        };
        address
            .and_then(|flow| flow.destination)
            .is_some_and(|address| self.has_address(address))
            || event
                .subject
                .domain()
                .is_some_and(|name| self.has_name(name.as_str()))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    fn has_name(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_lowercase();
        self.suffixes.iter().any(|suffix| {
            name.strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
}

/// `host` of `host:port`; addresses in brackets are no names.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A prefix of IPv4-mapped addresses as the prefix of IPv4 that it stands for.
fn canonical(cidr: IpNet) -> IpNet {
    let IpNet::V6(net) = cidr else { return cidr };
    let mapped = || {
        let address = net.network().to_ipv4_mapped()?;
        Ipv4Net::new(address, net.prefix_len().checked_sub(96)?).ok()
    };
    mapped().map_or(cidr, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        event::{Mode, Outcome, Reason, Request},
        samples::{bare, connect_to, flow, request, ruling},
    };

    fn filter() -> Filter {
        let cidrs = [
            "10.0.0.0/8",
            "127.0.0.0/8",
            "fc00::/7",
            "::ffff:192.168.0.0/112",
        ];
        Filter::new(
            cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ["cluster.local", ".Svc.", "in-addr.arpa", ""]
                .map(String::from)
                .to_vec(),
        )
    }

    #[test]
    fn internal_addresses_are_hidden() {
        for (destination, hidden, why) in [
            ("10.1.2.3", true, "in a prefix"),
            ("fd00::1", true, "in an IPv6 prefix"),
            (
                "192.168.0.7",
                true,
                "in a prefix that was written IPv4-mapped",
            ),
            ("192.169.0.7", false, "beside it"),
            ("11.0.0.1", false, "outside"),
            ("2001:db8::1", false, "outside, IPv6"),
        ] {
            assert_eq!(
                filter().hides(&connect_to(destination, 443)),
                hidden,
                "{destination}: {why}"
            );
        }
    }

    #[test]
    fn names_are_hidden_by_whole_labels() {
        for (name, hidden) in [
            ("cluster.local", true),
            ("web.default.CLUSTER.local.", true),
            ("notcluster.local", false),
            ("cluster.local.evil.com", false),
            ("api.svc", true),
            ("svc:8080", true),
            ("4.3.2.1.in-addr.arpa", true),
            ("example.com", false),
            ("", false),
        ] {
            let dns = bare(Subject::Dns {
                flow: flow("1.1.1.1", 53, 17),
                name: name.into(),
                record: "A".into(),
                outcome: Outcome::Asked,
                learned: None,
            });
            assert_eq!(filter().hides(&dns), hidden, "question {name:?}");
            let http = bare(Subject::Http {
                flow: flow("1.1.1.1", 80, 6),
                request: Request {
                    host: name.into(),
                    ..request(&[])
                },
            });
            assert_eq!(filter().hides(&http), hidden, "request {name:?}");
        }
    }

    #[test]
    fn a_question_to_an_internal_resolver_is_shown() {
        let dns = bare(Subject::Dns {
            flow: flow("10.96.0.10", 53, 17),
            name: "example.com".into(),
            record: "A".into(),
            outcome: Outcome::Asked,
            learned: None,
        });
        assert!(!filter().hides(&dns));
    }

    #[test]
    fn a_denied_flow_is_never_hidden() {
        for mode in Mode::ALL {
            let mut event = connect_to("10.1.2.3", 443);
            event.ruling = Some(ruling(Action::Deny, None, Reason::Default, mode));
            assert!(!filter().hides(&event), "denied in mode {}", mode.name());
            event.ruling = Some(ruling(Action::Allow, None, Reason::Default, mode));
            assert!(filter().hides(&event), "allowed in mode {}", mode.name());
        }
    }

    #[test]
    fn an_empty_filter_hides_nothing() {
        assert!(!Filter::default().hides(&connect_to("127.0.0.1", 80)));
    }
}
