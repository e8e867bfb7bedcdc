//! Requests inside TLS as events tell them.

use ebfw_policy::evaluate::{self, Decision};
use jiff::Timestamp;

use super::{
    BootClock, Printable,
    decode::{self, DecodeError, canonical},
    event::{Action, Body, Flow, Header, Process, Protocol, Reason, Request, Ruling},
};
use crate::inspect::{self, Judgement, Seen};

/// A request and who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Https {
    /// When the write was made that completed it.
    pub(super) at: Timestamp,
    /// Cgroup v2 id of the calling thread.
    pub(super) cgroup_id: u64,
    /// Who wrote it, where that is known.
    pub(super) process: Option<Process>,
    /// What is asked.
    pub(super) request: Request,
    /// From the client to the server, where the socket is known.
    pub(super) flow: Option<Flow>,
    /// What the policy says about it, where one was evaluated.
    pub(super) ruling: Option<Ruling>,
}

/// Makes what the probes saw printable.
///
/// # Errors
/// Where its time is no moment that a calendar knows.
pub(super) fn read(seen: &Seen, clock: &BootClock) -> Result<Https, DecodeError> {
    let Seen {
        header,
        request,
        socket,
        is_head: _,
        judged,
    } = seen;
    let print = |bytes: &[u8]| Printable::from_bytes(bytes);
    Ok(Https {
        at: clock
            .wall(header.boot_ns)
            .ok_or(DecodeError::Time(header.boot_ns))?,
        cgroup_id: header.cgroup_id,
        process: (header.pid != 0).then(|| Process {
            pid: header.pid,
            comm: decode::name(&header.comm),
        }),
        request: Request {
            method: print(&request.method),
            host: print(&request.host),
            path: Some(print(&inspect::kept(&request.path))),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| Header {
                    name: print(name),
                    value: print(value),
                })
                .collect(),
            body: request.body.as_ref().map(body),
            status: request.status,
        },
        flow: socket.map(|socket| Flow {
            source: canonical(socket.source),
            source_port: Some(socket.source_port),
            destination: Some(canonical(socket.destination)),
            port: Some(socket.destination_port),
            protocol: Some(Protocol::TCP),
        }),
        ruling: judged.get().and_then(ruling),
    })
}

fn ruling(judgement: &Judgement) -> Option<Ruling> {
    let (verdict, mode) = match judgement {
        Judgement::Ungoverned | Judgement::Opaque => return None,
        Judgement::Ruled(verdict, mode) => (verdict, mode),
        Judgement::Unseen(mode) => {
            return Some(Ruling {
                action: Action::Deny,
                rule: None,
                reason: Reason::Unseen,
                mode: *mode,
                opaque: false,
                unresolved: false,
            });
        }
    };
    let action = match verdict.decision {
        Decision::Allow => Action::Allow,
        Decision::Deny => Action::Deny,
        Decision::Modify => Action::Modify,
        Decision::Held => Action::Held,
    };
    let reason = match verdict.reason {
        evaluate::Reason::Default => Reason::Default,
        evaluate::Reason::Ambiguous => Reason::Ambiguous,
        evaluate::Reason::Loopback => return None,
        evaluate::Reason::Rule | evaluate::Reason::Opaque | evaluate::Reason::Waiting(_) => {
            Reason::Rule
        }
    };
    let rule = verdict.rule.as_ref();
    Some(Ruling {
        action,
        rule: rule.map(|rule| Printable::from(&*rule.name)),
        reason,
        mode: *mode,
        opaque: !verdict.opaque.is_empty(),
        unresolved: false,
    })
}

fn body(body: &inspect::Body) -> Body {
    let inspect::Body {
        content_type,
        size,
        captured,
        text,
        truncated,
        redacted,
    } = body;
    Body {
        content_type: (!content_type.is_empty()).then(|| Printable::from_bytes(content_type)),
        size: *size,
        captured: *captured,
        text: text.as_deref().map(Printable::from_bytes),
        truncated: *truncated,
        redacted: *redacted,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use ebfw_common::{abi::Address, plaintext::Socket};
    use ebfw_policy::evaluate::{RuleRef, Verdict};

    use super::*;
    use crate::events::{
        event::{Event, Mode, Subject},
        json,
        samples::clock,
        text::{Colour, Text},
    };

    /// Of a request in no pod and no cgroup that is known.
    fn event(told: Https) -> Event {
        let Https {
            at,
            process,
            request,
            cgroup_id: _,
            flow,
            ruling,
        } = told;
        Event {
            at,
            subject: Subject::Https { flow, request },
            process,
            pod: None,
            cgroup: None,
            ruling,
            suppressed: 0,
        }
    }

    #[test]
    fn a_request_reads_as_its_interface_says() {
        let seen = Seen {
            header: inspect::sample(4711),
            request: inspect::Request {
                method: b"GET".to_vec(),
                host: b"example.com".to_vec(),
                path: b"/a\x1b[2J".to_vec(),
                headers: vec![(b"accept".to_vec(), b"*/*".to_vec())],
                body: Some(inspect::Body {
                    content_type: b"text/plain".to_vec(),
                    size: Some(20),
                    captured: 5,
                    text: Some(b"a\nb\x1b\xff".to_vec()),
                    truncated: true,
                    redacted: false,
                }),
                ambiguous: false,
                status: None,
            },
            socket: Some(Socket {
                source: Address::mapped([10, 42, 0, 9]),
                ..inspect::SOCKET
            }),
            is_head: false,
            judged: Arc::new(OnceLock::from(Judgement::Ruled(
                Verdict {
                    decision: Decision::Deny,
                    rule: Some(RuleRef {
                        index: 0,
                        name: "admin".into(),
                    }),
                    reason: evaluate::Reason::Rule,
                    opaque: Vec::new(),
                },
                Mode::DryRun,
            ))),
        };
        let told = read(&seen, &clock()).unwrap();
        assert_eq!(told.cgroup_id, 42);
        let event = event(told);
        assert_eq!(
            Text::new(&event, Colour::Never).to_string(),
            "HTTPS  [pid=4711 curl] GET example.com/a\\x1b[2J  (192.0.2.7:443)  action=Deny rule=admin  mode=dry-run\n           accept: */*\n           \
             body (text/plain, 5 of 20 bytes): a\\x0ab\\x1b\\xff"
        );
        let mut line = Vec::new();
        json::write_event(&mut line, &event);
        let line = String::from_utf8(line).unwrap();
        for part in [
            "\"kind\":\"https\"",
            "\"domain\":\"example.com\"",
            "\"method\":\"GET\"",
            "\"pid\":4711",
            "\"src\":\"10.42.0.9\"",
            "\"dst\":\"192.0.2.7\",\"port\":443",
            "\"comm\":\"curl\"",
            "\"action\":\"deny\",\"rule\":\"admin\",\"mode\":\"dry-run\"",
            "\"body\":{\"contentType\":\"text/plain\",\"size\":20,\"captured\":5,\"text\":\"a\\\\x0ab\\\\x1b\\\\xff\",\
             \"truncated\":true,\"redacted\":false}",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn of_what_only_the_kernel_denied_the_socket_is_told() {
        let seen = Seen {
            socket: Some(inspect::SOCKET),
            judged: Arc::new(OnceLock::from(Judgement::Unseen(Mode::Enforce))),
            ..Seen::new(inspect::sample(0), inspect::Request::default())
        };
        let event = event(read(&seen, &clock()).unwrap());
        let text = Text::new(&event, Colour::Never).to_string();
        assert!(
            text.starts_with("HTTPS  ")
                && text.ends_with("(192.0.2.7:443)  action=Deny  reason=unseen"),
            "{text}"
        );
        let mut line = Vec::new();
        json::write_event(&mut line, &event);
        let line = String::from_utf8(line).unwrap();
        assert!(
            line.contains("\"action\":\"deny\",\"mode\":\"enforce\""),
            "{line}"
        );
        assert!(
            line.contains("\"reason\":\"unseen\"") && !line.contains("\"pid\""),
            "{line}"
        );
    }
}
