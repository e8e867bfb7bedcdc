//! Every kind of event as text, as coloured text and as JSON, against the files in `tests/golden`.
//! `BLESS=1 cargo test golden` writes them anew; the difference is then to be read.

use std::{env, fs, path::PathBuf};

use super::{
    Colour, Text,
    event::{Action, Body, Event, Mode, Outcome, Pod, Process, Reason, Request, Ruling, Subject},
    json::write_event,
    samples::{bare, connect_to, curl, flow, request, ruling},
};

/// Compares `text` with a file in `tests/golden`.
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; this is what there is now (BLESS=1 writes it):\n{text}",
        path.display()
    );
}

fn pod() -> Pod {
    Pod {
        namespace: Some("default".into()),
        name: Some("probe".into()),
        uid: Some("0d1f6ab2-6a3e-4d6b-8f5c-0b7f4a1c9e11".into()),
        container: Some("4f1c2d".into()),
        qos: Some("burstable".into()),
        node: Some("node-1".into()),
    }
}

/// An event of each kind, then each variation of the last part of the line.
fn events() -> Vec<Event> {
    let in_pod = |subject| Event {
        pod: Some(pod()),
        ..bare(subject)
    };
    let ruled = |ruling: Ruling| Event {
        pod: Some(pod()),
        ruling: Some(ruling),
        ..connect_to("93.184.216.34", 443)
    };
    let to = |destination: &str, port: Option<u16>, protocol| Subject::Connect {
        flow: flow(destination, port, protocol),
    };
    let mut from_port = flow("93.184.216.34", 443, 6);
    from_port.source_port = Some(40000);
    let mut unreadable = flow("::", None, 0);
    (unreadable.destination, unreadable.protocol) = (None, None);
    vec![
        in_pod(Subject::Dns {
            flow: flow("10.96.0.10", 53, 17),
            name: "example.com".into(),
            record: "AAAA".into(),
            outcome: Outcome::Asked,
            learned: None,
        }),
        in_pod(Subject::Tls {
            flow: flow("93.184.216.34", 443, 6),
            sni: Some("example.com".into()),
            ech: false,
        }),
        in_pod(Subject::Tls {
            flow: flow("2001:db8::1", 443, 6),
            sni: Some("example.com".into()),
            ech: false,
        }),
        in_pod(Subject::Http {
            flow: flow("93.184.216.34", 80, 6),
            request: request(&[]),
        }),
        in_pod(Subject::Http {
            flow: flow("93.184.216.34", 80, 6),
            request: request(&[("Accept", "*/*"), ("X-Trick", "a\r\nb")]),
        }),
        Event {
            process: Some(curl()),
            ..in_pod(Subject::Https {
                flow: None,
                request: request(&[("Accept", "*/*")]),
            })
        },
        Event {
            process: Some(curl()),
            ..in_pod(Subject::Https {
                flow: Some(flow("93.184.216.34", 443, 6)),
                request: request(&[]),
            })
        },
        Event {
            process: Some(curl()),
            ..in_pod(Subject::Https {
                flow: None,
                request: Request {
                    body: Some(Body {
                        content_type: Some("application/json".into()),
                        size: None,
                        captured: 9,
                        text: Some("{\"pin\":\"(redacted)\"".into()),
                        truncated: true,
                        redacted: true,
                    }),
                    ..request(&[("Accept", "*/*")])
                },
            })
        },
        Event {
            process: Some(curl()),
            ..in_pod(Subject::Https {
                flow: None,
                request: Request {
                    status: Some(404),
                    ..request(&[])
                },
            })
        },
        in_pod(Subject::Connect {
            flow: flow("93.184.216.34", 443, 6),
        }),
        bare(Subject::Connect { flow: from_port }),
        bare(to("2001:db8::1", Some(443), 6)),
        bare(to("1.1.1.1", Some(53), 17)),
        bare(to("1.1.1.1", None, 1)),
        bare(to("ff02::16", None, 58)),
        bare(to("192.0.2.1", None, 47)),
        bare(to("192.0.2.1", None, 6)),
        ruled(ruling(
            Action::Allow,
            Some("allow-web"),
            Reason::Rule,
            Mode::Enforce,
        )),
        ruled(ruling(
            Action::Deny,
            Some("deny-smtp"),
            Reason::Rule,
            Mode::Enforce,
        )),
        ruled(ruling(Action::Deny, None, Reason::Default, Mode::Enforce)),
        ruled(ruling(
            Action::Deny,
            Some("deny-smtp"),
            Reason::Rule,
            Mode::Log,
        )),
        ruled(ruling(Action::Deny, None, Reason::Default, Mode::DryRun)),
        ruled(ruling(
            Action::Modify,
            Some("inject-header"),
            Reason::Rule,
            Mode::Enforce,
        )),
        ruled(ruling(
            Action::Held,
            Some("allow-by-name"),
            Reason::Rule,
            Mode::Enforce,
        )),
        ruled(ruling(Action::Deny, None, Reason::Rule, Mode::Enforce)),
        ruled(ruling(
            Action::Deny,
            None,
            Reason::SourceRoute,
            Mode::Enforce,
        )),
        Event {
            ruling: Some(ruling(Action::Deny, None, Reason::Malformed, Mode::Enforce)),
            ..bare(Subject::Connect { flow: unreadable })
        },
        Event {
            process: Some(curl()),
            cgroup: Some("/system.slice/foo\\x2dbar.service".into()),
            ruling: Some(Ruling {
                opaque: true,
                unresolved: true,
                ..ruling(Action::Deny, None, Reason::Default, Mode::Log)
            }),
            suppressed: 17,
            ..connect_to("93.184.216.34", 443)
        },
        Event {
            process: Some(Process { pid: 1, comm: None }),
            pod: Some(Pod {
                uid: Some("0d1f6ab2".into()),
                ..Pod::default()
            }),
            ..connect_to("93.184.216.34", 443)
        },
        Event {
            process: Some(Process {
                pid: 2,
                comm: Some("\x1b[2Ja  action=Allow".into()),
            }),
            cgroup: Some("/a b\n".into()),
            ruling: Some(ruling(
                Action::Deny,
                Some("x\u{202e}  action=Allow"),
                Reason::Rule,
                Mode::Enforce,
            )),
            ..connect_to("93.184.216.34", 443)
        },
        bare(Subject::Dns {
            flow: flow("10.96.0.10", 53, 17),
            name: "a b\u{9b}.com".into(),
            record: "TYPE65280".into(),
            outcome: Outcome::Unreadable,
            learned: Some(2),
        }),
        bare(Subject::Tls {
            flow: flow("93.184.216.34", 443, 6),
            sni: Some("outer.example.com".into()),
            ech: true,
        }),
        bare(Subject::Tls {
            flow: flow("93.184.216.34", 443, 6),
            sni: None,
            ech: false,
        }),
        Event {
            ruling: Some(ruling(
                Action::Deny,
                Some("read-only"),
                Reason::Rule,
                Mode::Enforce,
            )),
            ..in_pod(Subject::Http {
                flow: flow("93.184.216.34", 80, 6),
                request: Request {
                    method: "POST".into(),
                    path: None,
                    ..request(&[])
                },
            })
        },
        ruled(ruling(
            Action::Deny,
            None,
            Reason::Unreadable,
            Mode::Enforce,
        )),
        ruled(ruling(Action::Deny, None, Reason::Ambiguous, Mode::Enforce)),
    ]
}

fn text(colour: Colour) -> String {
    events()
        .iter()
        .map(|event| format!("{}\n", Text::new(event, colour)))
        .collect()
}

#[test]
fn golden_text() {
    assert_golden("events.txt", &text(Colour::Never));
}

#[test]
fn golden_text_in_colour() {
    let visible = text(Colour::Ansi).replace('\x1b', "^[");
    assert_golden("events.ansi.txt", &visible);
}

#[test]
fn golden_json() {
    let mut lines = Vec::new();
    for event in events() {
        write_event(&mut lines, &event);
        lines.push(b'\n');
    }
    assert_golden("events.jsonl", &String::from_utf8(lines).unwrap());
}

#[test]
fn plain_text_holds_no_control_characters_but_line_feeds() {
    assert!(
        !text(Colour::Never)
            .chars()
            .any(|c| c.is_control() && c != '\n')
    );
}

#[test]
fn each_json_line_is_an_object_on_its_own() {
    for event in events() {
        let mut line = Vec::new();
        write_event(&mut line, &event);
        assert!(!line.contains(&b'\n'));
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&line).unwrap();
        assert!(
            !object.values().any(serde_json::Value::is_null),
            "what is not known is absent"
        );
    }
}

#[test]
fn every_json_key_is_documented() {
    let docs = include_str!("../../../docs/events.md");
    for event in events() {
        let mut line = Vec::new();
        write_event(&mut line, &event);
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&line).unwrap();
        for key in object.keys() {
            assert!(
                docs.contains(&format!("| `{key}` |")),
                "docs/events.md lacks `{key}`"
            );
        }
    }
}
