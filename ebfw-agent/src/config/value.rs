//! The types of single settings and how each is read from the text of a flag or variable.
//!
//! Nothing here knows where a text came from; `resolve` names the origin in its messages.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::ValueEnum;
use ebfw_common::abi::MAX_RESOLVERS;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// What the words of a boolean setting are, as an operator reads them in an error.
pub(super) const BOOLEAN_WORDS: &str = "true, false, 1, 0, t, f, yes, no, on, off";

/// How events and reports are written on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines of text for people.
    Text,
    /// JSON, one object a line.
    Json,
}

/// The words of `EBFW_ENFORCE_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EnforceMode {
    /// Observe only: no policy is evaluated.
    Off,
    /// Evaluate and report; everything goes out.
    Log,
    /// Evaluate and refuse what the policy denies.
    Enforce,
}

/// Where policies come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicySource {
    /// A policy file, `EBFW_POLICY`.
    File,
    /// Custom resources of a Kubernetes cluster.
    Crd,
}

/// Whether the kernel side is pinned and so outlives the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pinning {
    /// Links, programs and maps are pinned below `EBFW_PIN_DIR`.
    On,
    /// Nothing is pinned; enforcement ends with the process.
    Off,
}

/// What happens to the kernel side when the agent ends in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExit {
    /// The pinned programs go on with the last policy.
    Keep,
    /// Everything is taken off; traffic is unfiltered.
    Open,
}

/// What happens to packets of a workload that is not classified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownWorkload {
    /// Dropped without an error, so that TCP and DNS try again.
    Drop,
    /// Let through unjudged.
    Allow,
}

macro_rules! display_as_word {
    ($($word:ty),*) => {$(
        impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no variant is skipped");
                f.write_str(value.get_name())
            }
        }
    )*};
}
display_as_word!(
    Output,
    EnforceMode,
    PolicySource,
    Pinning,
    OnExit,
    UnknownWorkload
);

/// An address to listen on: `:9090` is the port on every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// The port on all addresses.
    Every(u16),
    /// One address and port.
    One(SocketAddr),
}

impl ListenAddr {
    /// The addresses to bind, the first that works wins: IPv6 with IPv4 in it, then IPv4 alone for
    /// nodes without IPv6.
    #[must_use]
    pub fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::Every(port) => vec![
                (Ipv6Addr::UNSPECIFIED, port).into(),
                (Ipv4Addr::UNSPECIFIED, port).into(),
            ],
            Self::One(address) => vec![address],
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(port) => write!(f, ":{port}"),
            Self::One(address) => address.fmt(f),
        }
    }
}

/// A filter for the agent's own log lines that `tracing-subscriber` accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter in the form that the subscriber takes.
    #[must_use]
    pub fn to_env_filter(&self) -> EnvFilter {
        // The client of the API server reports each failed try as an error of its own; the agent says once what is the matter.
        let quiet = "kube_client::client::builder=off";
        if self.0.contains("kube_client") {
            EnvFilter::new(&self.0)
        } else {
            EnvFilter::new(format!("{quiet},{}", self.0))
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Go's `strconv.ParseBool` set and yes, no, on, off, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Bytes of a body: more than this and requests that wait for theirs would take the agent's memory.
const MAX_BODY_LIMIT: usize = 65_536;

/// A number of bytes of a body.
pub(super) fn body_limit(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = is_number.then(|| text.parse().ok())??;
    (1..=MAX_BODY_LIMIT).contains(&limit).then_some(limit)
}

/// Addresses of resolvers with commas between them, at least one and not more than can be trusted.
pub(super) fn resolvers(text: &str) -> Option<BTreeSet<IpAddr>> {
    let addresses: Option<BTreeSet<IpAddr>> = text
        .split(',')
        .map(|address| resolver(address.trim()))
        .collect();
    addresses.filter(|addresses| addresses.len() <= MAX_RESOLVERS as usize)
}

/// The address of a resolver, in one form.
pub(super) fn resolver(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}

/// One of the words of `T`, as written there.
pub(super) fn word<T: ValueEnum>(text: &str) -> Option<T> {
    T::from_str(text, false).ok()
}

/// `:PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `localhost:PORT`.
pub(super) fn listen_addr(text: &str) -> Option<ListenAddr> {
    if let Ok(address) = text.parse() {
        return Some(ListenAddr::One(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok()?;
    match host {
        "" => Some(ListenAddr::Every(port)),
        "localhost" => Some(ListenAddr::One(
            (IpAddr::from(Ipv4Addr::LOCALHOST), port).into(),
        )),
        _ => None,
    }
}

/// A filter as in `info` or `warn,ebfw_agent::datapath=debug`. A word that is no level would be a
/// target to the library, and a mistyped level so switch everything off: refused.
pub(super) fn log_filter(text: &str) -> Option<LogFilter> {
    let bare = |part: &&str| !part.contains(['=', '[']);
    let level = |part: &str| !part.trim().is_empty() && part.trim().parse::<LevelFilter>().is_ok();
    if !text.split(',').filter(bare).all(level) {
        return None;
    }
    EnvFilter::try_new(text).ok()?;
    Some(LogFilter(text.to_owned()))
}

/// A path that does not depend on where the agent was started.
pub(super) fn absolute_path(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    (path.is_absolute() && !text.contains('\0')).then_some(path)
}

/// A file that may be named relative to the working directory.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// A name for events: one word of printable characters, so that it cannot forge a line of output.
pub(super) fn name(text: &str) -> Option<String> {
    let fits = (1..=253).contains(&text.len());
    let plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    (fits && plain).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go_and_the_words_people_write() {
        for (text, expected, why) in [
            ("true", Some(true), "plain"),
            ("TRUE", Some(true), "Go accepts capitals"),
            ("True", Some(true), "Go accepts a capital first letter"),
            ("t", Some(true), "Go's short form"),
            ("T", Some(true), "Go's short form"),
            ("1", Some(true), "Go's number"),
            ("yes", Some(true), "YAML 1.1 habit"),
            ("On", Some(true), "YAML 1.1 habit"),
            ("false", Some(false), "plain"),
            ("F", Some(false), "Go's short form"),
            ("0", Some(false), "Go's number"),
            ("no", Some(false), "YAML 1.1 habit"),
            ("OFF", Some(false), "YAML 1.1 habit"),
            ("", None, "empty is not false"),
            ("2", None, "only 0 and 1 are numbers here"),
            ("tru", None, "a typing error"),
            (" true", None, "no trimming: Go has none"),
            ("enabled", None, "not a word of the set"),
        ] {
            assert_eq!(boolean(text), expected, "{text:?}: {why}");
        }
    }

    #[test]
    fn listen_addresses_are_go_style_or_plain_socket_addresses() {
        let one = |text: &str| Some(ListenAddr::One(text.parse().unwrap()));
        for (text, expected, why) in [
            (
                ":9090",
                Some(ListenAddr::Every(9090)),
                "Go's form of every address",
            ),
            (":0", Some(ListenAddr::Every(0)), "any free port, for tests"),
            ("127.0.0.1:9090", one("127.0.0.1:9090"), "IPv4"),
            ("[::]:9090", one("[::]:9090"), "IPv6"),
            ("[::1]:80", one("[::1]:80"), "IPv6"),
            ("localhost:9090", one("127.0.0.1:9090"), "needs no resolver"),
            ("9090", None, "a port alone is no address"),
            (":", None, "no port"),
            (":+90", None, "a sign is no digit"),
            (":65536", None, "beyond the last port"),
            (":http", None, "names of services are not looked up"),
            ("::1:9090", None, "IPv6 without brackets is ambiguous"),
            ("example.com:9090", None, "names are not looked up"),
            ("127.0.0.1", None, "no port"),
        ] {
            assert_eq!(listen_addr(text), expected, "{text:?}: {why}");
        }
    }

    #[test]
    fn every_address_falls_back_to_ipv4_where_the_node_has_no_ipv6() {
        let candidates = ListenAddr::Every(9090).candidates();
        assert_eq!(
            candidates,
            [
                "[::]:9090".parse().unwrap(),
                "0.0.0.0:9090".parse().unwrap()
            ]
        );
    }

    #[test]
    fn words_are_exact() {
        for (text, expected, why) in [
            ("off", Some(EnforceMode::Off), "plain"),
            ("log", Some(EnforceMode::Log), "plain"),
            ("enforce", Some(EnforceMode::Enforce), "plain"),
            ("enforced", None, "must not mean off"),
            ("enf", None, "no abbreviations"),
            ("", None, "empty is not off"),
        ] {
            assert_eq!(word::<EnforceMode>(text), expected, "{text:?}: {why}");
        }
    }

    #[test]
    fn names_cannot_forge_a_line_of_output() {
        for (text, accepted, why) in [
            ("node-1.example.com", true, "plain"),
            ("", false, "empty"),
            ("a b", false, "would read as two fields"),
            ("a\nCONNECT", false, "would start a line"),
            ("a\u{1b}[31m", false, "escape codes"),
        ] {
            assert_eq!(name(text).is_some(), accepted, "{text:?}: {why}");
        }
        assert!(
            name(&"x".repeat(254)).is_none(),
            "longer than any host name"
        );
    }

    #[test]
    fn log_filters_are_checked_before_use() {
        for (text, accepted, why) in [
            ("info", true, "a level"),
            ("warn,ebfw_agent::datapath=debug", true, "per module"),
            ("ebfw_agent=loud", false, "no such level"),
            ("off", true, "silence, said so"),
            ("INFO", true, "the library reads levels in any case"),
            ("verbose", false, "would be a target, and so silence"),
            ("info,verbose", false, "also beside a level"),
            ("", false, "empty is no level"),
            ("[", false, "not a filter"),
        ] {
            assert_eq!(log_filter(text).is_some(), accepted, "{text:?}: {why}");
        }
    }

    #[test]
    fn resolvers_are_addresses_with_commas() {
        let many = |count: u32| -> String {
            let texts = (0..count).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string());
            texts.collect::<Vec<_>>().join(",")
        };
        for (text, expected, why) in [
            ("192.0.2.1", Some(1), "one"),
            ("192.0.2.1, 2001:db8::1", Some(2), "two, with a space"),
            (
                "192.0.2.1,::ffff:192.0.2.1",
                Some(1),
                "the same in two forms",
            ),
            ("", None, "none"),
            ("192.0.2.1,", None, "nothing behind the comma"),
            ("192.0.2.1:53", None, "a port: the programs know 53 alone"),
            ("192.0.2.0/24", None, "a prefix"),
            ("resolver.example", None, "a name"),
            ("0.0.0.0", None, "nowhere"),
            ("::", None, "nowhere"),
            ("224.0.0.251", None, "everybody"),
            (&many(256), Some(256), "as many as fit"),
            (&many(257), None, "one too many"),
        ] {
            assert_eq!(resolvers(text).map(|set| set.len()), expected, "{why}");
        }
    }

    #[test]
    fn paths_of_the_node_are_absolute() {
        assert!(absolute_path("/sys/fs/bpf/ebfw").is_some());
        assert!(
            absolute_path("ebfw").is_none(),
            "depends on the working directory"
        );
        assert!(absolute_path("").is_none(), "empty");
        assert!(path("").is_none(), "empty");
        assert!(path("policy.yaml").is_some());
    }
}
