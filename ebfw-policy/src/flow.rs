//! Flows as people and scripts write them for offline tests: `key=value` words or one JSON object a line.

mod json;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{
    cgroup::CgroupPath,
    check::{did_you_mean, protocols},
    domain::Name,
    evaluate::Decision,
    facts::{Claim, Facts, Request},
    policy::Protocol,
    workload::{PodFacts, Workload},
};

/// The keys of a flow, for messages; `label.KEY` stands for any label.
pub const KEYS: [&str; 20] = [
    "pod",
    "namespace",
    "ns",
    "name",
    "uid",
    "label.KEY",
    "cgroup",
    "dst",
    "ip",
    "port",
    "protocol",
    "domain",
    "host",
    "sni",
    "resolved",
    "claimed",
    "method",
    "path",
    "stage",
    "expect",
];

/// Why a text is no flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Nothing is given.
    #[error("the flow is empty; write `key=value` words, for example `dst=203.0.113.5 port=443`")]
    Empty,
    /// A word without `=`.
    #[error("`{0}` is not of the form key=value")]
    NoValue(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`{}; the keys are {}", meant.map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default(), KEYS.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// The key that was probably meant.
        meant: Option<&'static str>,
    },
    /// A fact that is given twice.
    #[error("`{key}` gives what another key gives already")]
    Twice {
        /// The second key.
        key: String,
    },
    /// A value that the key cannot have.
    #[error("`{key}={value}`: {wanted}")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What the key takes.
        wanted: &'static str,
    },
    /// A line that is no JSON object.
    #[error("not a JSON object with the fields of a flow: {0}")]
    Json(String),
}

/// A flow of an offline test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    labels: BTreeMap<String, String>,
    cgroup: Option<CgroupPath>,
    protocol: Option<Protocol>,
    dst: Option<IpAddr>,
    port: Option<u16>,
    resolved: Option<Vec<Name>>,
    claimed: Option<Name>,
    method: Option<String>,
    path: Option<String>,
    stage: Option<Stage>,
    expect: Option<Decision>,
}

/// How much of what the payload tells is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing yet.
    Connect,
    /// It is TLS that nobody looks into: there may be a name, but no request.
    Tls,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
        }
    }
}

impl Flow {
    /// Reads `key=value` words.
    ///
    /// # Errors
    /// Says which word is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self, FlowError> {
        let mut flow = Self::default();
        for word in text.split_whitespace() {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| FlowError::NoValue(word.to_owned()))?;
            flow.set(key, value)?;
        }
        if flow == Self::default() {
            Err(FlowError::Empty)
        } else {
            Ok(flow)
        }
    }

    /// Reads one JSON object.
    ///
    /// # Errors
    /// Says which field is wrong and what is allowed.
    pub fn parse_json(line: &str) -> Result<Self, FlowError> {
        json::parse(line)
    }

    /// Who sends.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let Self {
            namespace,
            name,
            uid,
            labels,
            cgroup,
            ..
        } = self;
        let known = namespace.is_some() || name.is_some() || uid.is_some() || !labels.is_empty();
        let pod = known.then(|| PodFacts {
            namespace: namespace.clone().unwrap_or_default(),
            name: name.clone().unwrap_or_default(),
            uid: uid.clone().unwrap_or_default(),
            labels: labels.clone(),
        });
        Workload {
            pod,
            cgroup: cgroup.clone(),
        }
    }

    /// What is known. With `stage=connect` nothing of the payload is, with `stage=tls` no request. Only TCP tells anything. ICMP is that of the destination's family.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let Self {
            protocol,
            dst,
            port,
            resolved,
            claimed,
            method,
            path,
            stage,
            ..
        } = self;
        let protocol = match (protocol, dst) {
            (Some(Protocol::ICMP), Some(IpAddr::V6(_))) => Some(Protocol::ICMPV6),
            (protocol, _) => *protocol,
        };
        let tells = protocol.is_none_or(|protocol| protocol == Protocol::TCP);
        let claimed = claimed.clone().map_or(Claim::Nameless, Claim::Name);
        let (claim, request) = match (*stage, tells) {
            (_, false) => (Claim::Nameless, Request::Opaque),
            (Some(Stage::Connect), true) => (Claim::NotYet, Request::NotYet),
            (Some(Stage::Tls), true) => (claimed, Request::Opaque),
            (None, true) => (claimed, Request::read(method.as_deref(), path.as_deref())),
        };
        let resolved = resolved.clone().unwrap_or_default();
        Facts {
            protocol,
            dst: *dst,
            port: *port,
            resolved,
            claim,
            request,
        }
    }

    /// What the writer expects: Allow, Deny or Modify.
    #[must_use]
    pub fn expect(&self) -> Option<Decision> {
        self.expect
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), FlowError> {
        if let Some(label) = key.strip_prefix("label.").filter(|label| !label.is_empty()) {
            let label = clean(key, label)?;
            let value = clean_or_empty(key, value)?;
            return match self.labels.insert(label, value) {
                None => Ok(()),
                Some(_) => Err(FlowError::Twice {
                    key: key.to_owned(),
                }),
            };
        }
        let bad = |wanted| FlowError::BadValue {
            key: key.to_owned(),
            value: value.to_owned(),
            wanted,
        };
        match key {
            "pod" => {
                let (namespace, name) = value
                    .split_once('/')
                    .filter(|(_, name)| !name.contains('/'))
                    .ok_or_else(|| bad("a pod is NAMESPACE/NAME"))?;
                once(key, &mut self.namespace, clean(key, namespace)?)?;
                once(key, &mut self.name, clean(key, name)?)
            }
            "namespace" | "ns" => once(key, &mut self.namespace, clean(key, value)?),
            "name" => once(key, &mut self.name, clean(key, value)?),
            "uid" => once(key, &mut self.uid, clean(key, value)?),
            "cgroup" => {
                let path = CgroupPath::new(&clean(key, value)?)
                    .ok_or_else(|| bad("a cgroup path begins with `/` and has no `.` or `..`"))?;
                once(key, &mut self.cgroup, path)
            }
            "dst" | "ip" => {
                let text = value
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .unwrap_or(value);
                let address: IpAddr = text
                    .parse()
                    .map_err(|_| bad("an IPv4 or IPv6 address is wanted"))?;
                once(key, &mut self.dst, address.to_canonical())
            }
            "port" => once(
                key,
                &mut self.port,
                number(value).ok_or_else(|| bad("a port is 0 to 65535"))?,
            ),
            "protocol" => {
                let named = protocols(value).ok_or_else(|| {
                    bad("TCP, UDP, SCTP, ICMP or a number from 0 to 255 is wanted")
                })?;
                once(
                    key,
                    &mut self.protocol,
                    *named
                        .first()
                        .expect("a protocol's name means one number at least"),
                )
            }
            "domain" | "host" | "sni" => {
                let name = dns_name(key, value)?;
                once(key, &mut self.claimed, name.clone())?;
                once(key, &mut self.resolved, vec![name])
            }
            "resolved" => {
                let names = value
                    .split(',')
                    .map(|name| dns_name(key, name))
                    .collect::<Result<_, _>>()?;
                once(key, &mut self.resolved, names)
            }
            "claimed" => once(key, &mut self.claimed, dns_name(key, value)?),
            "method" => once(key, &mut self.method, clean(key, value)?),
            "path" => once(key, &mut self.path, clean(key, value)?),
            "stage" => {
                let mut stages = [Stage::Connect, Stage::Tls].into_iter();
                let stage = stages.find(|stage| stage.word() == value);
                once(
                    key,
                    &mut self.stage,
                    stage.ok_or_else(|| bad("`connect` or `tls` is wanted"))?,
                )
            }
            "expect" => {
                let decision = match value.to_ascii_lowercase().as_str() {
                    "allow" => Decision::Allow,
                    "deny" => Decision::Deny,
                    "modify" => Decision::Modify,
                    _ => return Err(bad("allow, deny or modify is wanted")),
                };
                once(key, &mut self.expect, decision)
            }
            _ => Err(FlowError::UnknownKey {
                key: key.escape_debug().to_string(),
                meant: did_you_mean(key, KEYS),
            }),
        }
    }
}

/// The canonical text: what [`Flow::parse`] reads back as the same flow, the expectation left out.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            uid,
            labels,
            cgroup,
            protocol,
            dst,
            port,
            resolved,
            claimed,
            method,
            path,
            stage,
            expect: _,
        } = self;
        let mut words = Vec::new();
        match (namespace, name) {
            (Some(namespace), Some(name)) => words.push(format!("pod={namespace}/{name}")),
            (Some(namespace), None) => words.push(format!("namespace={namespace}")),
            (None, Some(name)) => words.push(format!("name={name}")),
            (None, None) => {}
        }
        words.extend(uid.iter().map(|uid| format!("uid={uid}")));
        words.extend(
            labels
                .iter()
                .map(|(key, value)| format!("label.{key}={value}")),
        );
        words.extend(cgroup.iter().map(|path| format!("cgroup={path}")));
        words.extend(
            protocol
                .iter()
                .map(|protocol| format!("protocol={protocol}")),
        );
        words.extend(dst.iter().map(|dst| format!("dst={dst}")));
        words.extend(port.iter().map(|port| format!("port={port}")));
        match (resolved.as_deref(), claimed) {
            (Some([name]), Some(claimed)) if name == claimed => {
                words.push(format!("domain={name}"))
            }
            (resolved, claimed) => {
                let names =
                    |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(",");
                words.extend(resolved.map(|resolved| format!("resolved={}", names(resolved))));
                words.extend(claimed.iter().map(|name| format!("claimed={name}")));
            }
        }
        words.extend(method.iter().map(|method| format!("method={method}")));
        words.extend(path.iter().map(|path| format!("path={path}")));
        words.extend(stage.iter().map(|stage| format!("stage={}", stage.word())));
        f.write_str(&words.join(" "))
    }
}

fn once<T>(key: &str, place: &mut Option<T>, value: T) -> Result<(), FlowError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(FlowError::Twice {
            key: key.to_owned(),
        }),
    }
}

/// A value that is not empty.
fn clean(key: &str, value: &str) -> Result<String, FlowError> {
    if value.is_empty() {
        return Err(FlowError::BadValue {
            key: key.to_owned(),
            value: String::new(),
            wanted: "a value is missing",
        });
    }
    clean_or_empty(key, value)
}

/// A value that can stand in one word of a line on a terminal.
fn clean_or_empty(key: &str, value: &str) -> Result<String, FlowError> {
    if value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let value = value.escape_debug().to_string();
        return Err(FlowError::BadValue {
            key: key.escape_debug().to_string(),
            value,
            wanted: "white space and control characters cannot be given",
        });
    }
    Ok(value.to_owned())
}

fn dns_name(key: &str, value: &str) -> Result<Name, FlowError> {
    let bad = |wanted| FlowError::BadValue {
        key: key.to_owned(),
        value: value.escape_debug().to_string(),
        wanted,
    };
    if !value.is_ascii() {
        return Err(bad("write labels that are not ASCII in their `xn--` form"));
    }
    let name = Name::new(&clean(key, value)?);
    let empty_label = name.as_str().split('.').any(str::is_empty);
    if empty_label
        || value.contains([',', '/', ':'])
        || name.as_str().len() > crate::domain::MAX_NAME
    {
        return Err(bad("a DNS name is wanted"));
    }
    if value.contains(['*', '?', '[', '{', '"', '\'']) {
        return Err(bad("one name is wanted, without quotes and wildcards"));
    }
    Ok(name)
}

fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}
