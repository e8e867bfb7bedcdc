//! Names: what a workload may reach because of what it resolved, and what counts as resolved.

mod answers;
mod clients;
mod forgeries;
mod questions;
mod services;
mod whole;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use ebfw_common::abi::Counter;
use ebfw_test_need::tool;
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{Net, v4, v6},
        resolver::{A, AAAA, DNS, answer, ask, ask_stream, asking, question, serve, wire},
    },
    path,
};
use hickory_proto::{
    op::Message,
    rr::{Name, RData, Record, rdata::CNAME},
};

pub(super) use self::clients::go_program;
use super::{
    at, code,
    said::{NO_EVIL, RESOLVER},
};

/// Only the names below good.example are allowed.
const GOOD_NAMES: &str = "
defaultAction: Deny
rules:
- name: good names
  action: Allow
  match: {domains: ['*.good.example', good.example]}
";

fn tcp(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, Duration::from_secs(3)).map(drop)
}

/// Whether a datagram to `to` would be let out: the kernel asks when the socket is connected.
fn datagram(to: SocketAddr) -> io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    UdpSocket::bind(any)?.connect(to)
}

/// What `name` stands for: peer N in both families for `N.anything`, both peers 2 and 3 for `both.…`.
fn zone(question: &Message) -> Vec<IpAddr> {
    let name = question.queries[0].name().to_ascii().to_ascii_lowercase();
    match name.split('.').next() {
        Some("both") => vec![v4(2), v4(3), v6(2), v6(3)],
        Some(first) => match first.parse() {
            Ok(number) => vec![v4(number), v6(number)],
            Err(_) => vec![],
        },
        None => vec![],
    }
}

fn honest(question: &Message) -> Vec<Vec<u8>> {
    vec![wire(&answer(question, &zone(question)))]
}

/// A lab with a resolver that answers as `zone` says.
fn lab(policy: &str) -> Option<Lab> {
    let mut lab = Lab::open()?;
    lab.resolver(honest);
    lab.policy(policy);
    Some(lab)
}

#[test]
fn an_allowed_name_opens_its_addresses_and_no_others() {
    let Some(lab) = lab(GOOD_NAMES) else { return };
    for (like, kind) in [(v4 as fn(u8) -> IpAddr, A), (v6, AAAA)] {
        let before = lab.inside(move || tcp(at(like(2))));
        assert_eq!(code(&before), Some(libc::EPERM), "nothing was resolved yet");
        lab.inside(move || {
            ask(like(RESOLVER), "2.good.example", kind)?;
            tcp(at(like(2)))
        })
        .unwrap();
        let other = lab.inside(move || tcp(at(like(3))));
        assert_eq!(code(&other), Some(libc::EPERM), "another address");
        let wrong = lab.inside(move || {
            ask(like(RESOLVER), "3.evil.example", kind)?;
            tcp(at(like(3)))
        });
        assert_eq!(code(&wrong), Some(libc::EPERM), "another name");
        assert!(lab.wire().to(like(3)).is_empty(), "nothing got there");
    }
}

#[test]
fn names_are_learned_from_every_form_of_answer() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let mut answers = zone(asked);
        let name = asked.queries[0].name().clone();
        let text = name.to_ascii().to_ascii_lowercase();
        if text.starts_with("alias") {
            // Two aliases before the address, each in a zone of its own.
            let first = Name::from_ascii("a.cdn.example.").unwrap();
            let second = Name::from_ascii("b.cdn.example.").unwrap();
            let mut message = answer(asked, &[v4(4)]);
            let address = message.answers.remove(0).data;
            for (owner, target) in [(name, first.clone()), (first, second.clone())] {
                let data = RData::CNAME(CNAME(target));
                message.answers.push(Record::from_rdata(owner, 60, data));
            }
            message
                .answers
                .push(Record::from_rdata(second, 60, address));
            return vec![wire(&message)];
        }
        if text.starts_with("many") {
            answers = (0..32).map(|last| v4(100 + last)).collect();
        }
        vec![wire(&answer(asked, &answers))]
    });
    lab.policy(GOOD_NAMES);
    for (name, to, why) in [
        ("2.GOOD.eXample", v4(2), "capitals are no others"),
        ("alias.good.example", v4(4), "behind aliases"),
        ("many.good.example", v4(100), "the first of 32"),
        ("many.good.example", v4(131), "the last of 32"),
    ] {
        let result = lab.inside(move || {
            ask(v4(RESOLVER), name, A)?;
            datagram(at(to))
        });
        assert!(result.is_ok(), "{why}: {result:?}");
    }
    let over_tcp = lab.inside(|| {
        ask_stream(v4(RESOLVER), "6.good.example", A)?;
        tcp(at(v4(6)))
    });
    assert!(over_tcp.is_ok(), "over TCP: {over_tcp:?}");
    let over_v6 = lab.inside(|| {
        ask(v6(RESOLVER), "7.good.example", A)?;
        tcp(at(v4(7)))
    });
    assert!(over_v6.is_ok(), "asked over IPv6: {over_v6:?}");
}

/// The longest name there is below `zone`: 253 bytes.
fn longest(zone: &str) -> String {
    let labels = ["2".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
    let rest = 253 - labels.len() - zone.len() - 2;
    format!("{labels}.{}.{zone}", "d".repeat(rest))
}

#[test]
fn odd_names_and_answers_teach_what_they_say_and_no_more() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let name = asked.queries[0].name().clone();
        let text = name.to_ascii();
        let mut message = answer(asked, &[v4(2)]);
        let alias = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|name| Name::from_ascii(name).expect("a name"));
            Record::from_rdata(from, 60, RData::CNAME(CNAME(to)))
        };
        match text.split('.').next() {
            Some("ages") => message.answers[0].ttl = 0,
            Some("negative") => message.answers[0].ttl = 1 << 31,
            Some("loop") => {
                message.answers = vec![
                    alias(&text, "a.loop.example."),
                    alias("a.loop.example.", "b.loop.example."),
                    alias("b.loop.example.", &text),
                ];
            }
            Some("self") => {
                let address = message.answers.remove(0);
                message.answers = vec![alias(&text, &text), address];
            }
            _ => {}
        }
        vec![wire(&message)]
    });
    let long = longest("good.example");
    let evil = longest("evil.example");
    assert_eq!((long.len(), evil.len()), (253, 253));
    for (name, opens, why) in [
        ("ages.good.example", true, "no time to live: 30 s at least"),
        ("negative.good.example", true, "a time that is none"),
        (
            "loop.good.example",
            false,
            "aliases in a circle say nothing",
        ),
        (
            "self.good.example",
            true,
            "an alias of itself, and an address",
        ),
        (long.as_str(), true, "the longest name"),
        (evil.as_str(), false, "the longest name, of others"),
        ("_x._tcp.good.example", true, "underscores"),
        ("a b\u{7}.good.example", true, "a space and a bell"),
        ("ü.good.example", true, "bytes that are no ASCII"),
        ("*.good.example", true, "an asterisk is a byte like others"),
        (
            "x.good.example.evil.example",
            false,
            "a good name before others",
        ),
        ("xgood.example", false, "no border of a label"),
    ] {
        // Afresh: what one name opened must not help the next.
        lab.policy(GOOD_NAMES);
        lab.outdate_names();
        let result = lab.inside(move || {
            let labels = Name::from_labels(name.split('.').map(str::as_bytes));
            let mut asked = question(7, "x.", A);
            asked.queries[0].set_name(labels.expect("labels of any bytes"));
            let socket = asking(v4(RESOLVER))?;
            socket.send(&wire(&asked))?;
            socket.recv(&mut [0; 4096])?;
            tcp(at(v4(2)))
        });
        let expected = (!opens).then_some(libc::EPERM);
        assert_eq!(code(&result), expected, "{why}: {result:?}");
    }
}

#[test]
fn ten_thousand_fresh_addresses_are_known_before_they_are_used() {
    const PAIRS: u16 = 10_000;
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let name = asked.queries[0].name().to_ascii();
        let number: u16 = name[1..].split('.').next().unwrap().parse().unwrap();
        let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number);
        vec![wire(&answer(asked, &[address.into()]))]
    });
    lab.policy(GOOD_NAMES);
    let wrong = lab
        .inside(|| {
            let socket = asking(v6(RESOLVER))?;
            let mut wrong = 0u64;
            for number in 0..PAIRS {
                let zone = if number % 4 == 3 { "evil" } else { "good" };
                let name = format!("n{number}.{zone}.example");
                socket.send(&wire(&question(number, &name, AAAA)))?;
                socket.recv(&mut [0; 4096])?;
                let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number);
                let expected = if zone == "good" {
                    None
                } else {
                    Some(libc::EPERM)
                };
                wrong += u64::from(code(&datagram((address, 443).into())) != expected);
            }
            Ok(wrong)
        })
        .unwrap();
    assert_eq!(wrong, 0, "of {PAIRS} pairs");
}

#[test]
fn a_denied_name_closes_an_address_that_has_no_other() {
    let Some(lab) = lab(NO_EVIL) else { return };
    lab.inside(|| tcp(at(v4(3)))).unwrap();
    let evil = lab.inside(|| {
        ask(v4(RESOLVER), "3.evil.example", A)?;
        tcp(at(v4(3)))
    });
    assert_eq!(code(&evil), Some(libc::EPERM), "its only name is denied");
    let shared = lab.inside(|| {
        ask(v4(RESOLVER), "3.good.example", A)?;
        // A connection may still say which of the two it means; a datagram cannot.
        tcp(at(v4(3)))
    });
    assert!(shared.is_ok(), "{shared:?}");
    let nameless = lab.inside(|| datagram(at(v4(3))));
    assert_eq!(code(&nameless), Some(libc::EPERM), "a datagram has no name");
}

#[test]
fn names_stay_when_the_policy_changes() {
    let Some(mut lab) = lab(GOOD_NAMES) else {
        return;
    };
    lab.inside(|| {
        ask(v4(RESOLVER), "2.good.example", A)?;
        ask(v4(RESOLVER), "3.other.example", A)
    })
    .unwrap();
    lab.policy(&GOOD_NAMES.replace("good", "other"));
    let good = lab.inside(|| tcp(at(v4(2))));
    assert_eq!(code(&good), Some(libc::EPERM), "no longer allowed");
    lab.inside(|| tcp(at(v4(3)))).unwrap();
}

#[test]
fn a_flow_keeps_the_names_under_which_it_was_opened() {
    let Some(mut lab) = lab(GOOD_NAMES) else {
        return;
    };
    let mut connection = lab.start(|line| {
        ask(v4(RESOLVER), "2.good.example", A)?;
        let mut stream = TcpStream::connect(at(v4(2)))?;
        line.step();
        // The far end answers.
        stream.write_all(path::MARK)?;
        stream.read_exact(&mut [0])
    });
    connection.reached();
    let mut datagrams = lab.start(|line| {
        ask(v4(RESOLVER), "4.good.example", A)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at(v4(4)))?;
        socket.send(b"first")?;
        line.step();
        socket.send(b"second").map(drop)
    });
    datagrams.reached();
    lab.outdate_names();
    // Names that expired open nothing.
    for peer in [2, 4] {
        let result = lab.inside(move || tcp(at(v4(peer))));
        assert_eq!(code(&result), Some(libc::EPERM), "peer {peer}");
    }
    lab.policy(&format!(
        "{GOOD_NAMES}- {{name: other, action: Allow, match: {{cidrs: [192.0.2.0/24]}}}}\n"
    ));
    connection.go();
    datagrams.go();
    datagrams.finish().unwrap();
    connection.finish().unwrap();
    let result = lab.inside(|| tcp(at(v4(2))));
    assert_eq!(code(&result), Some(libc::EPERM), "a flow of its own");
}

#[test]
fn a_flow_that_kept_its_name_ends_where_a_policy_denies_it() {
    let Some(mut lab) = lab(GOOD_NAMES) else {
        return;
    };
    let mut datagrams = lab.start(|line| {
        ask(v4(RESOLVER), "4.good.example", A)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at(v4(4)))?;
        socket.send(b"first")?;
        line.step();
        socket.send(b"second").map(drop)
    });
    datagrams.reached();
    lab.outdate_names();
    lab.policy(&GOOD_NAMES.replace("good", "other"));
    datagrams.go();
    let result = datagrams.finish();
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
}

#[test]
fn answers_that_nobody_asked_for_teach_nothing() {
    /// What comes back, one after the other, and what the client waits for.
    struct Case {
        why: &'static str,
        forge: fn(&Message) -> Vec<Vec<u8>>,
    }
    fn named(asked: &Message, name: &str) -> Message {
        let mut other = question(asked.metadata.id, name, A);
        other.metadata.id = asked.metadata.id;
        answer(&other, &[v4(2)])
    }
    let cases = [
        Case {
            why: "another id",
            forge: |asked| {
                let mut forged = answer(asked, &[v4(2)]);
                forged.metadata.id = asked.metadata.id.wrapping_add(1);
                vec![wire(&forged)]
            },
        },
        Case {
            why: "another question",
            forge: |asked| vec![wire(&named(asked, "2.good.example"))],
        },
        Case {
            why: "another type",
            forge: |asked| {
                let mut other = question(asked.metadata.id, "x.evil.example", AAAA);
                other.metadata.id = asked.metadata.id;
                vec![wire(&answer(&other, &[v6(2)]))]
            },
        },
        Case {
            why: "a second answer to a question that was answered",
            forge: |asked| {
                let honest = answer(asked, &[v4(5)]);
                vec![wire(&honest), wire(&answer(asked, &[v4(2)]))]
            },
        },
    ];
    for Case { why, forge } in cases {
        let Some(mut lab) = Lab::open() else { return };
        lab.resolver(forge);
        // Everything is a good name here: only what was learned at all is told from what was not.
        lab.policy("defaultAction: Deny\nrules:\n- name: any name\n  action: Allow\n  match: {domains: ['*']}\n");
        let unasked = lab.count(Counter::NameUnasked);
        let messages = forge(&question(0, "x.evil.example", A)).len();
        lab.inside(move || {
            let socket = asking(v4(RESOLVER))?;
            socket.send(&wire(&question(7, "x.evil.example", A)))?;
            (0..messages).try_for_each(|_| socket.recv(&mut [0; 4096]).map(drop))
        })
        .unwrap();
        eventually(why, || lab.count(Counter::NameUnasked) > unasked);
        let result = lab.inside(|| tcp(at(v4(2))));
        assert_eq!(code(&result), Some(libc::EPERM), "{why}");
    }
}

#[test]
fn only_trusted_resolvers_teach() {
    let Some(mut lab) = lab(GOOD_NAMES) else {
        return;
    };
    // The one with number 8 answers as well; the policy lets the question out, but nobody trusts it.
    lab.policy(&format!(
        "{GOOD_NAMES}- name: any resolver\n  action: Allow\n  match: {{ports: [{DNS}]}}\n"
    ));
    let result = lab.inside(|| {
        ask(v4(8), "2.good.example", A)?;
        tcp(at(v4(2)))
    });
    assert_eq!(code(&result), Some(libc::EPERM));
    lab.inside(|| {
        ask(v4(RESOLVER), "2.good.example", A)?;
        tcp(at(v4(2)))
    })
    .unwrap();
}

#[test]
fn a_workload_is_not_its_own_resolver() {
    let Some(lab) = lab(GOOD_NAMES) else { return };
    let result = lab.inside(|| {
        // Any process may send itself a packet from an address that it does not have (IPV6_FREEBIND).
        let forger = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet6,
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        path::set(
            &forger,
            libc::IPPROTO_IPV6,
            libc::IPV6_FREEBIND,
            &1i32.to_ne_bytes(),
        )?;
        let forger = UdpSocket::from(forger);
        let bound = {
            use std::os::fd::AsRawFd as _;
            let source = std::net::SocketAddrV6::new("fd99::9".parse().unwrap(), DNS, 0, 0);
            nix::sys::socket::bind(
                forger.as_raw_fd(),
                &nix::sys::socket::SockaddrIn6::from(source),
            )
        };
        bound?;
        let victim = asking(v6(RESOLVER))?;
        let asked = question(7, "2.good.example", AAAA);
        // The honest answer has peer 2; the forged one comes first and says 3.
        forger.send_to(&wire(&answer(&asked, &[v6(3)])), victim.local_addr()?)?;
        victim.send(&wire(&asked))?;
        forger.send_to(&wire(&answer(&asked, &[v6(3)])), victim.local_addr()?)?;
        victim.recv(&mut [0; 4096])?;
        tcp(at(v6(3)))
    });
    assert_eq!(code(&result), Some(libc::EPERM));
}

#[test]
fn what_was_resolved_in_another_network_namespace_does_not_count() {
    let Some(lab) = lab(GOOD_NAMES) else { return };
    // Any process may make namespaces, and answer in one of them under the address of the resolver.
    let own = Net::new().unwrap();
    serve(&own.far, |asked| vec![wire(&answer(asked, &[v4(3)]))]).unwrap();
    let learned = lab.count(Counter::NameLearned);
    lab.elsewhere(&own.near, || {
        ask(v4(RESOLVER), "2.good.example", A)?;
        // There it counts, and there it does no harm.
        datagram(at(v4(3)))
    })
    .unwrap();
    assert!(lab.count(Counter::NameLearned) > learned);
    let result = lab.inside(|| datagram(at(v4(3))));
    assert_eq!(
        code(&result),
        Some(libc::EPERM),
        "what the forged answer says"
    );
    lab.inside(|| {
        ask(v4(RESOLVER), "2.good.example", A)?;
        datagram(at(v4(2)))
    })
    .unwrap();
}

#[test]
fn special_addresses_are_not_learned() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| vec![wire(&answer(asked, &[[169, 254, 169, 254].into()]))]);
    lab.policy(GOOD_NAMES);
    let special = lab.count(Counter::NameSpecial);
    let result = lab.inside(|| {
        ask(v4(RESOLVER), "metadata.good.example", A)?;
        datagram(at([169, 254, 169, 254].into()))
    });
    assert_eq!(code(&result), Some(libc::EPERM));
    assert!(lab.count(Counter::NameSpecial) > special);
}

/// Runs a program that finds its resolver in /etc/resolv.conf, which it sees with a content of its own.
fn run(program: &str, arguments: &[&str]) -> io::Result<bool> {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let file = std::env::temp_dir().join(format!("ebfw-resolv-{}", std::process::id()));
    fs::write(
        &file,
        "nameserver 10.99.0.9\noptions timeout:5 attempts:1\n",
    )?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let target = fs::canonicalize("/etc/resolv.conf")?;
    mount(Some(&file), &target, none, MsFlags::MS_BIND, none)?;
    fs::remove_file(&file)?;
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(status.success())
}

#[test]
fn real_programs_reach_what_they_resolved_and_nothing_else() {
    const PYTHON: &str =
        "import socket, sys; socket.create_connection((sys.argv[1], 80), 5).close()";
    const CURL: &str =
        "curl -s --http0.9 --max-time 2 -o /dev/null -w '%{remote_ip}' http://$1/ | grep -q 99";
    // Each resolves `NAME` and reports whether that worked; the first two connect as well.
    let programs: [(&str, &[&str], bool); 4] = [
        ("python3", &["-c", PYTHON, "NAME"], true),
        ("sh", &["-c", CURL, "sh", "NAME"], true),
        ("getent", &["ahosts", "NAME"], false),
        ("dig", &["+tries=1", "NAME", "A"], false),
    ];
    for (program, arguments, connects) in programs {
        let Some(lab) = lab(GOOD_NAMES) else { return };
        let needed = if program == "sh" { "curl" } else { program };
        if !tool(needed) {
            continue;
        }
        for (name, peer, good) in [("2.good.example", 2, true), ("3.evil.example", 3, false)] {
            let worked = lab
                .inside(move || {
                    let arguments: Vec<_> = arguments
                        .iter()
                        .map(|text| text.replace("NAME", name))
                        .collect();
                    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                    let worked = run(program, &arguments)?;
                    Ok(u64::from(worked))
                })
                .unwrap();
            let expected = if connects { good } else { true };
            assert_eq!(worked == 1, expected, "{program} {name}");
            let reached = lab.inside(move || tcp(at(v4(peer))));
            assert_eq!(reached.is_ok(), good, "{program} {name}: {reached:?}");
        }
    }
}
