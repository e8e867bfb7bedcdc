//! Events as JSON, one object a line. Keys that existed keep their names and meaning; what was added since are new keys behind them.
//! A key whose value is not known is absent.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{
    Printable,
    event::{Body, Event, Pod, Protocol, Reason, Ruling},
    text::DEFAULT_RULE,
};

/// The object, in the order of its keys.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_type: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<PodObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "protocol_name"
    )]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    opaque: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a Printable>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    ech: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<BodyObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "is_false")]
    unresolved: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BodyObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    captured: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a Printable>,
    truncated: bool,
    redacted: bool,
}

#[derive(Serialize)]
struct HeaderObject<'a> {
    name: &'a Printable,
    value: &'a Printable,
}

#[derive(Serialize)]
struct PodObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<&'a Printable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a Printable>,
}

impl<'a> From<&'a Pod> for PodObject<'a> {
    fn from(pod: &'a Pod) -> Self {
        let Pod {
            namespace,
            name,
            uid,
            container,
            qos,
            node,
        } = pod;
        Self {
            namespace: namespace.as_ref(),
            name: name.as_ref(),
            uid: uid.as_ref(),
            container: container.as_ref(),
            qos: qos.as_ref(),
            node: node.as_ref(),
        }
    }
}

impl<'a> From<&'a Body> for BodyObject<'a> {
    fn from(body: &'a Body) -> Self {
        let Body {
            content_type,
            size,
            captured,
            text,
            truncated,
            redacted,
        } = body;
        Self {
            content_type: content_type.as_ref(),
            size: *size,
            captured: *captured,
            text: text.as_ref(),
            truncated: *truncated,
            redacted: *redacted,
        }
    }
}

impl<'a> From<&'a Event> for Line<'a> {
    fn from(event: &'a Event) -> Self {
        let Event {
            at,
            subject,
            process,
            pod,
            cgroup,
            ruling,
            suppressed,
        } = event;
        let flow = subject.flow();
        let request = subject.request();
        Self {
            ts: format!("{at:.9}"),
            kind: subject.kind().name(),
            src: flow.map(|flow| flow.source),
            dst: flow.and_then(|flow| flow.destination),
            port: flow.and_then(|flow| flow.port),
            domain: subject.domain(),
            dns_type: subject.record(),
            method: request.map(|request| &request.method),
            path: request.and_then(|request| request.path.as_ref()),
            headers: request.map_or_else(Vec::new, |request| {
                request
                    .headers
                    .iter()
                    .map(|header| HeaderObject {
                        name: &header.name,
                        value: &header.value,
                    })
                    .collect()
            }),
            pid: process.as_ref().map(|process| process.pid),
            comm: process.as_ref().and_then(|process| process.comm.as_ref()),
            pod: pod.as_ref().map(PodObject::from),
            action: ruling.as_ref().map(|ruling| ruling.action.name()),
            rule: ruling.as_ref().and_then(rule),
            mode: ruling.as_ref().map(|ruling| ruling.mode.name()),
            protocol: flow.and_then(|flow| flow.protocol),
            src_port: flow.and_then(|flow| flow.source_port),
            reason: ruling.as_ref().map(|ruling| ruling.reason.name()),
            opaque: ruling.as_ref().is_some_and(|ruling| ruling.opaque),
            cgroup: cgroup.as_ref(),
            suppressed: *suppressed,
            outcome: subject.outcome().map(|(outcome, _)| outcome.name()),
            learned: subject.outcome().and_then(|(_, learned)| learned),
            ech: subject.is_ech(),
            body: request
                .and_then(|request| request.body.as_ref())
                .map(BodyObject::from),
            status: request.and_then(|request| request.status),
            unresolved: ruling.as_ref().is_some_and(|ruling| ruling.unresolved),
        }
    }
}

fn rule(ruling: &Ruling) -> Option<&str> {
    match ruling.reason {
        Reason::Default => Some(DEFAULT_RULE),
        _ => ruling.rule.as_ref().map(Printable::as_str),
    }
}

fn protocol_name<S: Serializer>(
    protocol: &Option<Protocol>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&protocol.expect("the field is skipped where it is absent"))
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Appends the event to `out` as one object without a line feed.
pub(super) fn write_event(out: &mut Vec<u8>, event: &Event) {
    serde_json::to_writer(out, &Line::from(event))
        .expect("strings and numbers have a JSON form and a Vec takes them");
}
