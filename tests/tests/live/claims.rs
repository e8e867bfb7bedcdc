//! Claims: what a TLS client says about whom it talks to, against what it resolved.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use ebfw_common::abi::{Counter, claim_kind, inspect, mode, payload, reason, verdict};
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{v4, v6},
        recorder::Recorder,
    },
    path,
};

use super::said::{
    self, AT_ONCE, GOOD_NAMES, NO_EVIL, all_came, converse, is_ended, open, resolve, say,
};

const TLS: u16 = 443;

/// A handshake message with these extensions.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    let mut all = Vec::new();
    for (kind, bytes) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend(
            u16::try_from(bytes.len())
                .expect("it is short")
                .to_be_bytes(),
        );
        all.extend(bytes);
    }
    body.extend(u16::try_from(all.len()).expect("it is short").to_be_bytes());
    body.extend(all);
    let length = u32::try_from(body.len())
        .expect("it is short")
        .to_be_bytes();
    [&[1, length[1], length[2], length[3]], &body[..]].concat()
}

fn server_name(name: &str) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).expect("it is short");
    let mut bytes = (length + 3).to_be_bytes().to_vec();
    bytes.push(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend(name.bytes());
    (0, bytes)
}

/// Puts a message into records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len())
                .expect("it is short")
                .to_be_bytes();
            [&[22, 3, 1, length[0], length[1]], part].concat()
        })
        .collect()
}

/// A hello that names `name`, and says something else before and behind it.
pub(super) fn hello(name: &str) -> Vec<u8> {
    let around = (10, vec![0, 2, 0, 29]);
    let message = message(&[around.clone(), server_name(name), (51, vec![0; 40])]);
    records(&message, 1 << 14)
}

fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, TLS)
}

fn lab(policy: &str) -> Option<(Lab, Recorder)> {
    said::lab(policy, TLS)
}

#[test]
fn names_on_one_address_are_told_apart() {
    for policy in [GOOD_NAMES, NO_EVIL] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        for to in [v4(2), v6(2)] {
            let both = ["2.good.example", "2.evil.example"];
            lab.tended(move || {
                resolve(&both)?;
                say(at(to), &[&hello("2.good.example")])
            })
            .unwrap();
            let unread = lab.count(Counter::DecisionDeny);
            let evil = lab.tended(move || say(at(to), &[&hello("2.evil.example")]));
            assert!(is_ended(&evil), "{to}: {evil:?}");
            assert!(lab.count(Counter::DecisionDeny) > unread);
        }
        assert!(server.has(b"2.good.example"));
        assert!(!server.has(b"2.evil.example"));
        assert!(server.connections().len() >= 2);
    }
}

/// One way to say a hello.
type Way = fn(&str) -> Vec<Vec<u8>>;

/// Ways that a server takes for the same hello.
const WAYS: [(&str, Way); 7] = [
    ("byte by byte", |name| {
        hello(name).chunks(1).map(<[u8]>::to_vec).collect()
    }),
    ("a record for each byte", |name| {
        vec![records(&message(&[server_name(name)]), 1)]
    }),
    ("records of 50 bytes, sent in pieces of 7", |name| {
        let key = (51, vec![0; 1200]);
        let bytes = records(&message(&[key, server_name(name)]), 50);
        bytes.chunks(7).map(<[u8]>::to_vec).collect()
    }),
    ("as large as with post-quantum keys", |name| {
        vec![records(
            &message(&[(51, vec![1; 1700]), server_name(name)]),
            1 << 14,
        )]
    }),
    ("as large as can be", |name| {
        let all = message(&[(21, vec![0; 60_000]), server_name(name)]);
        vec![records(&all, 1 << 14)]
    }),
    ("the name comes last", |name| {
        vec![records(
            &message(&[(51, vec![1; 33]), server_name(name)]),
            1 << 14,
        )]
    }),
    ("capitals and a dot at the end", |name| {
        vec![hello(&format!("{}.", name.to_uppercase()))]
    }),
];

#[test]
fn a_hello_is_read_however_it_is_sent() {
    let Some((mut lab, server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    for (why, way) in WAYS {
        for small in [false, true] {
            let say = |name: &'static str| {
                move || {
                    let stream = open(at(v4(2)))?;
                    if small {
                        path::set(
                            &stream,
                            libc::IPPROTO_TCP,
                            libc::TCP_MAXSEG,
                            &88i32.to_ne_bytes(),
                        )?;
                    }
                    let parts = way(name);
                    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
                    converse(&stream, &parts)
                }
            };
            let good = lab.tended(say("2.good.example"));
            assert!(good.is_ok(), "{why}, small {small}: {good:?}");
            let evil = lab.tended(say("2.evil.example"));
            assert!(is_ended(&evil), "{why}, small {small}: {evil:?}");
        }
    }
    let whole = |name: &str| {
        let got = server.connections();
        let ways = WAYS
            .iter()
            .filter(|(_, way)| got.contains(&way(name).concat()));
        ways.count()
    };
    assert_eq!(whole("2.good.example"), WAYS.len());
    assert_eq!(whole("2.evil.example"), 0);
}

#[test]
fn a_hello_is_read_wherever_it_is_cut() {
    let Some((mut lab, server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    let cuts = hello("2.good.example").len();
    let wrong = lab.tended(move || {
        let mut wrong = 0u64;
        for cut in 1..cuts {
            for (name, good) in [("2.good.example", true), ("2.evil.example", false)] {
                let hello = hello(name);
                let (first, second) = hello.split_at(cut);
                let result = say(at(v4(2)), &[first, second]);
                wrong += u64::from(if good {
                    result.is_err()
                } else {
                    !is_ended(&result)
                });
            }
        }
        Ok(wrong)
    });
    assert_eq!(wrong.unwrap(), 0);
    assert!(!server.connections().contains(&hello("2.evil.example")));
    let longest = server.connections().iter().map(Vec::len).max();
    assert_eq!(longest, Some(cuts));
}

/// What a client says, and what must come of it.
struct Case {
    why: &'static str,
    resolved: &'static [&'static str],
    said: Vec<u8>,
    /// Under a policy that allows names, and under one that denies names.
    passes: [bool; 2],
}

#[test]
fn claims_and_resolved_names_are_weighed_against_each_other() {
    let two_names = {
        let mut both = server_name("2.good.example").1;
        let more = server_name("2.evil.example").1;
        both.extend(&more[2..]);
        let length = u16::try_from(both.len() - 2).unwrap().to_be_bytes();
        both[..2].copy_from_slice(&length);
        (0, both)
    };
    let plain = |extensions: &[(u16, Vec<u8>)]| records(&message(extensions), 1 << 14);
    let retry = |second: &str| [hello("2.good.example"), hello(second)].concat();
    let cases = [
        Case {
            why: "a name that was not resolved to this address",
            resolved: &["2.good.example", "3.good.example"],
            said: hello("3.good.example"),
            passes: [false, true],
        },
        Case {
            why: "a bare address, a denied name",
            resolved: &[],
            said: hello("2.evil.example"),
            passes: [false, false],
        },
        Case {
            why: "a bare address, another name",
            resolved: &[],
            said: hello("2.other.example"),
            passes: [false, true],
        },
        Case {
            why: "a lie about what was resolved",
            resolved: &["2.evil.example"],
            said: hello("2.other.example"),
            passes: [false, false],
        },
        Case {
            why: "no name: what was resolved counts",
            resolved: &["2.good.example"],
            said: plain(&[(51, vec![0; 32])]),
            passes: [true, true],
        },
        Case {
            why: "no name, one of those resolved is denied",
            resolved: &["2.good.example", "2.evil.example"],
            said: plain(&[(51, vec![0; 32])]),
            passes: [true, false],
        },
        Case {
            why: "no extensions at all",
            resolved: &["2.good.example"],
            said: plain(&[]),
            passes: [true, true],
        },
        Case {
            why: "neither TLS nor HTTP",
            resolved: &["2.good.example"],
            said: b"SSH-2.0-something\r\n".to_vec(),
            passes: [true, true],
        },
        Case {
            why: "neither TLS nor HTTP, one of the names is denied",
            resolved: &["2.good.example", "2.evil.example"],
            said: b"SSH-2.0-something\r\n".to_vec(),
            passes: [true, false],
        },
        Case {
            why: "two names",
            resolved: &["2.good.example", "2.evil.example"],
            said: plain(std::slice::from_ref(&two_names)),
            passes: [false, false],
        },
        Case {
            why: "the name twice",
            resolved: &["2.good.example"],
            said: plain(&[server_name("2.good.example"), server_name("2.good.example")]),
            passes: [false, false],
        },
        Case {
            why: "the address itself is no name",
            resolved: &["2.good.example"],
            said: hello("10.99.0.2"),
            passes: [true, true],
        },
        Case {
            why: "the address itself, one of the names is denied",
            resolved: &["2.good.example", "2.evil.example"],
            said: hello("10.99.0.2"),
            passes: [true, false],
        },
        Case {
            why: "another address is another name",
            resolved: &["2.good.example"],
            said: hello("10.99.0.3"),
            passes: [false, true],
        },
        Case {
            why: "a number that some read as an address is a name",
            resolved: &["2.good.example"],
            said: hello("10.99.0.02"),
            passes: [false, true],
        },
        Case {
            why: "two dots at the end",
            resolved: &["2.good.example"],
            said: hello("2.good.example.."),
            passes: [false, false],
        },
        Case {
            why: "a byte that no name has",
            resolved: &["2.good.example"],
            said: hello("2.good.example\0.evil.example"),
            passes: [false, false],
        },
        Case {
            why: "an encrypted hello: its outer name counts",
            resolved: &["2.good.example"],
            said: plain(&[server_name("2.good.example"), (0xfe0d, vec![0; 200])]),
            passes: [true, true],
        },
        Case {
            why: "a second hello with the same name",
            resolved: &["2.good.example", "2.evil.example"],
            said: retry("2.good.example"),
            passes: [true, true],
        },
        Case {
            why: "a second hello with another name",
            resolved: &["2.good.example", "2.evil.example"],
            said: retry("2.evil.example"),
            passes: [false, false],
        },
        Case {
            why: "data behind the hello",
            resolved: &["2.good.example"],
            said: [hello("2.good.example"), vec![23, 3, 3, 0, 3, 1, 2, 3]].concat(),
            passes: [true, true],
        },
        Case {
            why: "a hello that is cut off says nothing that anybody can act on",
            resolved: &["2.good.example", "2.evil.example"],
            said: hello("2.evil.example")[..60].to_vec(),
            passes: [true, true],
        },
    ];
    for (policy, source) in [GOOD_NAMES, NO_EVIL].into_iter().enumerate() {
        for case in &cases {
            // What one case resolves must not be known in the next.
            let Some((mut lab, server)) = lab(source) else {
                return;
            };
            let Case {
                why,
                resolved,
                said,
                passes,
            } = case;
            let result = lab.tended(|| {
                resolve(resolved)?;
                say(at(v4(2)), &[said])
            });
            let passed = result.is_ok();
            assert_eq!(passed, passes[policy], "{why}, policy {policy}: {result:?}");
            let came = server.connections().contains(said);
            assert_eq!(came, passed, "{why}, policy {policy}");
        }
    }
}

#[test]
fn urgent_data_is_no_way_around() {
    for (policy, passes) in [
        (GOOD_NAMES, false),
        ("defaultAction: Allow\nrules: []\n", true),
    ] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        let result = lab.tended(|| {
            resolve(&["2.good.example"])?;
            let hello = hello("2.good.example");
            let mut stream = open(at(v4(2)))?;
            stream.write_all(&hello[..20])?;
            // SAFETY: the buffer is a byte long.
            let sent =
                unsafe { libc::send(stream.as_raw_fd(), [0u8].as_ptr().cast(), 1, libc::MSG_OOB) };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            stream.write_all(&hello[20..])?;
            all_came(&stream, hello.len())
        });
        assert_eq!(result.is_ok(), passes, "{result:?}");
        assert_eq!(
            server.connections().contains(&hello("2.good.example")),
            passes
        );
        if !passes {
            assert!(lab.count(Counter::Unreadable) > 0);
            let events = lab.events();
            let told = events
                .iter()
                .any(|event| event.verdict == verdict::DENY && event.reason == reason::UNREADABLE);
            assert!(told, "{events:?}");
        }
    }
}

/// Has the packets of a socket carry an IPv6 extension header of padding from now on, or none any more.
fn extend(socket: &impl AsRawFd, option: libc::c_int, carries: bool) -> io::Result<()> {
    let header: &[u8] = if carries {
        &[0, 0, 1, 4, 0, 0, 0, 0]
    } else {
        &[]
    };
    path::set(socket, libc::IPPROTO_IPV6, option, header)
}

#[test]
fn a_connection_that_opens_behind_extension_headers_is_not_read_but_denied() {
    let all = "defaultAction: Allow\nrules: []\n";
    for (policy, waits) in [(GOOD_NAMES, true), (NO_EVIL, true), (all, false)] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        for option in [libc::IPV6_DSTOPTS, libc::IPV6_HOPOPTS] {
            for carries in [true, false] {
                let came = server.connections().len();
                let unread = lab.count(Counter::Unreadable);
                let opened = lab.tended(move || {
                    resolve(&["2.good.example"])?;
                    let to = at(v6(2));
                    // What is no stream waits for nothing.
                    let datagrams = path::socket(to, libc::SOCK_DGRAM, 0)?;
                    extend(&datagrams, option, carries)?;
                    path::connect(&datagrams, to)?;
                    path::send(&datagrams, b"datagram", 0)?;
                    let socket = path::stream(to)?;
                    extend(&socket, option, carries)?;
                    path::connect(&socket, to)?;
                    // What follows looks as on any connection.
                    extend(&socket, option, false)?;
                    let stream = TcpStream::from(socket);
                    stream.set_read_timeout(Some(AT_ONCE))?;
                    converse(&stream, &[&hello("2.good.example")])
                });
                let denied = waits && carries;
                assert_eq!(opened.is_err(), denied, "{policy}: {opened:?}");
                if denied {
                    assert!(is_ended(&opened), "{policy}: {opened:?}");
                }
                assert_eq!(server.connections().len() > came, !denied, "{policy}");
                assert_eq!(lab.count(Counter::Unreadable) > unread, denied, "{policy}");
            }
        }
    }
}

/// Sends `bytes` from pages that this process can still write to.
pub(super) fn gift(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    use nix::{
        fcntl::{SpliceFFlags, splice, vmsplice},
        unistd::pipe,
    };
    let (read, write) = pipe()?;
    let vectors = [io::IoSlice::new(bytes)];
    let length = vmsplice(&write, &vectors, SpliceFFlags::empty())?;
    assert_eq!(length, bytes.len());
    let length = splice(&read, None, stream, None, length, SpliceFFlags::empty())?;
    assert_eq!(length, bytes.len());
    Ok(())
}

#[test]
fn a_hello_that_can_still_change_is_not_believed() {
    for (policy, passes) in [
        (GOOD_NAMES, false),
        (NO_EVIL, false),
        ("defaultAction: Allow\nrules: []\n", true),
    ] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        let result = lab.tended(|| {
            resolve(&["2.good.example", "2.evil.example"])?;
            // The first time it dies on the way; what is sent again is what stands in the page by then.
            let mut page = hello("2.good.example");
            let stream = open(at(v4(2)))?;
            path::set(&stream, libc::IPPROTO_IP, libc::IP_TTL, &1i32.to_ne_bytes())?;
            gift(&stream, &page)?;
            page.copy_from_slice(&hello("2.evil.example"));
            std::hint::black_box(&page);
            path::set(
                &stream,
                libc::IPPROTO_IP,
                libc::IP_TTL,
                &64i32.to_ne_bytes(),
            )?;
            all_came(&stream, page.len())
        });
        assert_eq!(result.is_ok(), passes, "{result:?}");
        assert_eq!(server.connections().is_empty(), !passes);
        let copied = lab.tended(|| say(at(v4(2)), &[&hello("2.good.example")]));
        assert!(
            copied.is_ok(),
            "the same from memory of its own: {copied:?}"
        );
    }
}

#[test]
fn a_new_policy_judges_what_was_claimed_before() {
    let Some((mut lab, server)) = lab(NO_EVIL) else {
        return;
    };
    lab.inside(|| resolve(&["2.good.example", "2.other.example"]))
        .unwrap();
    for (name, passes) in [("2.good.example", true), ("2.other.example", false)] {
        lab.policy(NO_EVIL);
        let mut process = lab.start(move |line| {
            let mut stream = open(at(v4(2)))?;
            // A record behind the hello: it is over, and nothing is read any more.
            stream.write_all(&[hello(name), vec![23, 3, 3, 0, 1, 0]].concat())?;
            line.step();
            stream.write_all(b"more")?;
            all_came(&stream, hello(name).len() + 10)
        });
        process.reached();
        lab.policy(GOOD_NAMES);
        process.go();
        eventually("the process ends", || {
            lab.tend();
            process.is_heard()
        });
        let result = process.finish();
        assert_eq!(result.is_ok(), passes, "{name}: {result:?}");
    }
    assert_eq!(server.connections().len(), 2);
}

#[test]
fn a_connection_begins_anew_on_the_same_socket() {
    let Some((mut lab, server)) = lab(GOOD_NAMES) else {
        return;
    };
    let result = lab.tended(|| {
        resolve(&["2.good.example", "2.evil.example"])?;
        let stream = open(at(v4(2)))?;
        let both = [hello("2.good.example"), vec![23, 3, 3, 0, 1, 0]].concat();
        (&stream).write_all(&both)?;
        // Ends the connection without closing the socket, then connects it again.
        let nowhere = libc::sockaddr {
            sa_family: libc::AF_UNSPEC as u16,
            sa_data: [0; 14],
        };
        let length = size_of_val(&nowhere) as libc::socklen_t;
        // SAFETY: the address is as long as the length says.
        if unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let SocketAddr::V4(to) = at(v4(2)) else {
            unreachable!()
        };
        nix::sys::socket::connect(stream.as_raw_fd(), &nix::sys::socket::SockaddrIn::from(to))?;
        converse(&stream, &[&hello("2.evil.example")])
    });
    assert!(is_ended(&result), "{result:?}");
    assert!(!server.has(b"2.evil.example"));
}

#[test]
fn modes_that_only_report_let_claims_out_and_say_deny() {
    let Some((mut lab, server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inspect(inspect::ON);
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    for mode in [mode::LOG, mode::DRY_RUN] {
        lab.mode(mode);
        lab.claims();
        lab.inside(|| say(at(v4(2)), &[&hello("2.evil.example")]))
            .unwrap();
        let claims = lab.claims();
        let told = claims.iter().any(|claim| {
            claim.kind == claim_kind::TLS
                && claim.flow.verdict == verdict::DENY
                && claim.flow.mode == mode
                && claim.name[..usize::from(claim.name_length)] == *b"2.evil.example"
        });
        assert!(told, "{claims:?}");
    }
    assert!(server.connections().contains(&hello("2.evil.example")));
}

#[test]
fn events_say_where_a_claimed_name_was_not_resolved() {
    let Some((mut lab, _server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inspect(inspect::ON);
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    lab.claims();
    for (name, verdict, payload, why) in [
        ("2.good.example", verdict::ALLOW, 0, "allowed"),
        (
            "2.evil.example",
            verdict::DENY,
            0,
            "resolved, and allowed by no rule",
        ),
        (
            "3.good.example",
            verdict::DENY,
            payload::UNRESOLVED,
            "a name of another address",
        ),
    ] {
        let _ = lab.tended(|| say(at(v4(2)), &[&hello(name)]));
        let claims = lab.claims();
        let told: Vec<_> = claims
            .iter()
            .map(|claim| (claim.flow.verdict, claim.flow.payload))
            .collect();
        assert_eq!(told, [(verdict, payload)], "{why}");
    }
}

#[test]
fn what_nothing_waits_for_is_read_only_for_events() {
    let Some((mut lab, _server)) = lab("defaultAction: Allow\nrules: []\n") else {
        return;
    };
    for (inspects, expected) in [(inspect::OFF, 0), (inspect::ON, 1)] {
        lab.inspect(inspects);
        lab.claims();
        lab.inside(|| say(at(v4(2)), &[&hello("2.good.example")]))
            .unwrap();
        // Odd streams are given up without a word.
        for odd in [
            &b"\x16\x03\x01\xff\xff\xff"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ] {
            lab.inside(|| say(at(v4(2)), &[odd])).unwrap();
        }
        assert_eq!(lab.claims().len(), expected, "inspect {inspects}");
    }
}

/// The first packet of a QUIC client, as the standard has it (RFC 9001, A.2); its ClientHello names example.com.
const QUIC_INITIAL: &[u8] = include_bytes!("fixtures/quic-initial.bin");

#[test]
fn quic_is_decided_by_resolved_names_or_refused() {
    let initial = |peer| {
        move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(at(v4(peer)))?;
            socket.send(QUIC_INITIAL).map(drop)
        }
    };
    let refused = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let Some((mut lab, _server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inside(|| resolve(&["2.good.example", "3.evil.example"]))
        .unwrap();
    lab.inside(initial(2)).unwrap();
    assert_eq!(refused(lab.inside(initial(3))), Some(libc::EPERM));
    let arrived = |lab: &Lab| {
        lab.wire()
            .to(v4(2))
            .iter()
            .any(|frame| frame.carries(&QUIC_INITIAL[..40]))
    };
    assert!(arrived(&lab));
    lab.policy(&format!("quic: deny\n{GOOD_NAMES}"));
    lab.wire().clear();
    assert_eq!(
        refused(lab.inside(initial(2))),
        Some(libc::EPERM),
        "refused at once"
    );
    assert!(!arrived(&lab));
    // So the client goes on with TCP.
    lab.tended(|| say(at(v4(2)), &[&hello("2.good.example")]))
        .unwrap();
}

#[test]
fn a_denied_client_hears_of_it_at_once() {
    let Some((mut lab, _server)) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    let median = lab.tended(|| {
        let mut times = Vec::new();
        for _ in 0..21 {
            let mut stream = open(at(v4(2)))?;
            let begin = std::time::Instant::now();
            stream.write_all(&hello("2.evil.example"))?;
            let read = stream.read(&mut [0; 1]);
            assert!(is_ended(&read.map(drop)));
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_micros() as u64)
    });
    let median = Duration::from_micros(median.unwrap());
    eprintln!("a denied client hears of it after {median:?}");
    assert!(median < AT_ONCE, "{median:?}");
}

#[test]
fn a_hello_in_the_first_packet_is_read_too() {
    let Some((mut lab, server)) = lab(GOOD_NAMES) else {
        return;
    };
    path::set(
        &server,
        libc::IPPROTO_TCP,
        libc::TCP_FASTOPEN,
        &16i32.to_ne_bytes(),
    )
    .unwrap();
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .unwrap();
    for (name, passes) in [("2.good.example", true), ("2.evil.example", false)] {
        let result = lab.tended(move || {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            let SocketAddr::V4(to) = at(v4(2)) else {
                unreachable!("it is IPv4")
            };
            let said = hello(name);
            nix::sys::socket::sendto(
                socket.as_raw_fd(),
                &said,
                &nix::sys::socket::SockaddrIn::from(to),
                nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
            )?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(AT_ONCE))?;
            all_came(&stream, said.len())
        });
        assert_eq!(result.is_ok(), passes, "{name}: {result:?}");
        assert_eq!(server.has(name.as_bytes()), passes, "{name}");
    }
    let syn_with_data = lab.wire().to(v4(2)).iter().any(|frame| {
        frame.bytes.get(33).is_some_and(|flags| flags & 2 != 0) && frame.carries(b"2.good.example")
    });
    assert!(syn_with_data, "the first packet carried it");
}
