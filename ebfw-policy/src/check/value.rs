//! Reads the entries of the dimensions: domains, prefixes, ports, protocols, globs, methods.

use std::net::IpAddr;

use ebfw_common::request::{MAX_METHOD, MAX_PATH_PREFIX};
use ipnet::{IpNet, Ipv4Net};

use super::{
    Check,
    field::{did_you_mean, shorten},
};
use crate::{
    cgroup::CgroupGlob,
    diagnostics::Code,
    domain::{DomainError, DomainPattern},
    http::{Method, PathPrefix},
    policy::{PortRange, Protocol},
    yaml::NodeId,
};

/// The names that `protocols` knows.
pub(crate) const PROTOCOLS: [(&str, &[Protocol]); 4] = [
    ("TCP", &[Protocol::TCP]),
    ("UDP", &[Protocol::UDP]),
    ("SCTP", &[Protocol::SCTP]),
    ("ICMP", &[Protocol::ICMP, Protocol::ICMPV6]),
];

/// The protocols that a name or number means.
pub(crate) fn protocols(text: &str) -> Option<Vec<Protocol>> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse().ok().filter(|_| !has_leading_zero(text));
        return number.map(|number| vec![Protocol(number)]);
    }
    PROTOCOLS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, protocols)| protocols.to_vec())
}

/// `010` is ten to some and eight to others, readers of YAML 1.1 among them.
fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0')
}

impl Check<'_, '_> {
    pub(super) fn domain(&mut self, node: NodeId, entries: &mut Vec<DomainPattern>) {
        let Some(text) = self.text(node, "a name or a glob over names") else {
            return;
        };
        match DomainPattern::new(text, self.domain_match) {
            Ok(pattern) => entries.push(pattern),
            Err(error) => {
                let hint = domain_hint(text, &error);
                self.report(Code::BadGlob, node, error.to_string(), hint);
            }
        }
    }

    pub(super) fn cgroup(&mut self, node: NodeId, entries: &mut Vec<CgroupGlob>) {
        let Some(text) = self.text(node, "a glob over cgroup paths") else {
            return;
        };
        match CgroupGlob::new(text) {
            Ok(glob) => entries.push(glob),
            Err(error) => {
                let hint = text
                    .strip_prefix("sys/fs/cgroup")
                    .or_else(|| text.strip_prefix("/sys/fs/cgroup"));
                let hint =
                    hint.map(|rest| format!("leave the mount point out: `{}`", shorten(rest)));
                self.report(Code::BadGlob, node, error.to_string(), hint);
            }
        }
    }

    pub(super) fn cidr(&mut self, node: NodeId, entries: &mut Vec<IpNet>) {
        let Some(text) = self.text(node, "a prefix such as \"203.0.113.0/24\"") else {
            return;
        };
        match prefix(text) {
            Ok(prefix) => entries.push(prefix),
            Err((message, hint)) => self.report(Code::BadPrefix, node, message, Some(hint)),
        }
    }

    pub(super) fn port(&mut self, node: NodeId, entries: &mut Vec<PortRange>) {
        let Some(text) = self.scalar(node, "a port or a range such as \"8000-8999\"") else {
            return;
        };
        match port_range(text) {
            Ok(range) => entries.push(range),
            Err((message, hint)) => self.report(Code::BadPort, node, message, Some(hint)),
        }
    }

    pub(super) fn protocol(&mut self, node: NodeId, entries: &mut Vec<Protocol>) {
        let Some(text) = self.scalar(node, "a protocol") else {
            return;
        };
        match protocols(text) {
            Some(protocols) => entries.extend(protocols),
            None => {
                let hint = protocol_hint(text);
                self.report(
                    Code::BadValue,
                    node,
                    format!("`{}` is no protocol", shorten(text)),
                    Some(hint),
                );
            }
        }
    }

    pub(super) fn method(&mut self, node: NodeId, entries: &mut Vec<Method>) {
        let Some(text) = self.text(node, "an HTTP method") else {
            return;
        };
        match Method::from_policy(text) {
            Some(method) => entries.push(method),
            None => {
                let hint =
                    format!("a method is one word of at most {MAX_METHOD} bytes, such as `GET`");
                self.report(
                    Code::BadValue,
                    node,
                    format!("`{}` is no HTTP method", shorten(text)),
                    Some(hint),
                );
            }
        }
    }

    pub(super) fn path_prefix(&mut self, node: NodeId) -> Option<PathPrefix> {
        let text = self.text(node, "a path")?;
        let prefix = PathPrefix::new(text);
        if prefix.is_none() {
            let hint = if text.starts_with('/') && !text.contains(['?', '#']) {
                format!(
                    "of a request's path the first {MAX_PATH_PREFIX} bytes can be compared: use a shorter prefix"
                )
            } else {
                "it begins with `/` and has neither `?` nor `#`; the query is never compared"
                    .to_owned()
            };
            self.report(
                Code::BadValue,
                node,
                format!("`{}` is no path prefix", shorten(text)),
                Some(hint),
            );
        }
        prefix
    }
}

/// Names that `protocols` does not know and people write: as in `/etc/protocols`, without what stands between letters.
const NUMBERS: [(&str, u8); 9] = [
    ("ICMPV6", 58),
    ("IPV6ICMP", 58),
    ("ICMP6", 58),
    ("UDPLITE", 136),
    ("GRE", 47),
    ("ESP", 50),
    ("AH", 51),
    ("IGMP", 2),
    ("DCCP", 33),
];

fn protocol_hint(text: &str) -> String {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let known = NUMBERS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(&word));
    let allowed = "llowed are `TCP`, `UDP`, `SCTP`, `ICMP` and the numbers 0 to 255";
    let named = PROTOCOLS.iter().map(|(name, _)| *name);
    match (known, did_you_mean(text, named)) {
        (Some((_, 58)), _) => format!("write `ICMP`, which is that of IPv6 too, or 58; a{allowed}"),
        (Some((_, number)), _) => format!("write its number, {number}; a{allowed}"),
        (None, Some(meant)) => format!("did you mean `{meant}`? A{allowed}"),
        (None, None) => format!("a{allowed}"),
    }
}

fn domain_hint(text: &str, error: &DomainError) -> Option<String> {
    match error {
        DomainError::Empty => Some("leave `domains` out to match any name".to_owned()),
        DomainError::EmptyLabel(_) if text.starts_with('.') && text.len() > 1 => {
            Some(format!("did you mean `*{}`?", shorten(text)))
        }
        DomainError::EmptyLabel(_) => Some(
            "`*` alone means every name, `*.example.com` every name below example.com".to_owned(),
        ),
        DomainError::DoubleStar(_) => Some(format!(
            "`*` goes across dots already: did you mean `{}`?",
            shorten(&single_stars(text))
        )),
        DomainError::Character(_, ':' | '/') => Some(
            "a domain has no scheme, port or path; ports go into `ports`, paths into `pathPrefix`"
                .to_owned(),
        ),
        DomainError::Character(_, '\\') => {
            Some("nothing is escaped in a glob: a dot is a dot".to_owned())
        }
        DomainError::Address(_) => Some("put addresses into `cidrs`".to_owned()),
        DomainError::NotAscii(_) => {
            Some("write each label that is not ASCII in its `xn--` form".to_owned())
        }
        DomainError::TooLong | DomainError::Character(..) | DomainError::Glob(..) => None,
    }
}

fn single_stars(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '*' || !single.ends_with('*') {
            single.push(c);
        }
    }
    single
}

/// A prefix, or what is wrong with it and what was meant.
pub(crate) fn prefix(text: &str) -> Result<IpNet, (String, String)> {
    let shown = shorten(text);
    if let Ok(address) = text.parse::<IpAddr>() {
        let hint = format!("write `{}`", IpNet::from(address));
        return Err((format!("`{shown}` has no prefix length"), hint));
    }
    let Some(prefix) = address_and_length(text) else {
        return Err((format!("`{shown}` is no prefix"), prefix_hint(text)));
    };
    let whole = prefix.trunc();
    if whole != prefix {
        let hint = format!(
            "did you mean `{whole}`, or the one address `{}`?",
            IpNet::from(prefix.addr())
        );
        return Err((format!("`{shown}` has host bits set"), hint));
    }
    Ok(unmapped(prefix))
}

/// What is wrong with a text that is no prefix.
fn prefix_hint(text: &str) -> String {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    match address.parse::<IpAddr>() {
        Ok(_) if is_number && has_leading_zero(length) => {
            "the length begins with a zero: write it without".to_owned()
        }
        Ok(IpAddr::V4(_)) if is_number => "the length of an IPv4 prefix is 0 to 32".to_owned(),
        Ok(IpAddr::V6(_)) if is_number => "the length of an IPv6 prefix is 0 to 128".to_owned(),
        Ok(IpAddr::V4(_)) if length.parse::<IpAddr>().is_ok() => {
            "write the number of bits instead of the mask, such as `203.0.113.0/24`".to_owned()
        }
        Err(_) if address.contains('%') => {
            "a prefix has no zone: `fe80::/10` is all link-local addresses, on whatever interface"
                .to_owned()
        }
        Ok(_) | Err(_) => {
            "a prefix is an IPv4 or IPv6 address, `/` and a length, such as `203.0.113.0/24`"
                .to_owned()
        }
    }
}

/// Stricter than `IpNet`'s own reading: `010.0.0.0/8` is ten to some and eight to others.
pub(crate) fn address_and_length(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !has_leading_zero(length) && length.bytes().all(|b| b.is_ascii_digit());
    IpNet::new(
        address.parse().ok()?,
        length.parse().ok().filter(|_| digits)?,
    )
    .ok()
}

/// `::ffff:a.b.c.d/n` as the IPv4 prefix that it is.
fn unmapped(prefix: IpNet) -> IpNet {
    let IpNet::V6(v6) = prefix else { return prefix };
    let length = v6.prefix_len().checked_sub(96);
    let v4 = v6
        .network()
        .to_ipv4_mapped()
        .zip(length)
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    v4.map_or(prefix, IpNet::V4)
}

/// A port or a range, or what is wrong with it.
pub(crate) fn port_range(text: &str) -> Result<PortRange, (String, String)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if digits && has_leading_zero(part) {
            return Err((
                format!("`{}` begins with a zero", shorten(part)),
                "some read such a number to the base of eight: write it without".to_owned(),
            ));
        }
        match part.parse::<u64>() {
            Ok(port @ 1..=65535) if digits => Ok(port as u16),
            Ok(0) if digits => Err(("0 is no port".to_owned(), "ports are 1 to 65535".to_owned())),
            _ if digits => Err((
                format!("{} is above 65535", shorten(part)),
                "ports are 1 to 65535".to_owned(),
            )),
            _ => Err((
                format!("`{}` is no port", shorten(text)),
                "a port is a number from 1 to 65535, a range is \"8000-8999\"".to_owned(),
            )),
        }
    };
    let (first, last) = (number(first)?, number(last)?);
    PortRange::new(first, last).ok_or_else(|| {
        (
            format!("the range {first}-{last} is reversed"),
            format!("did you mean `{last}-{first}`?"),
        )
    })
}
