//! Multipath TCP: what is said on its subflows is read as on any connection.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ebfw_common::abi::Counter;
use ebfw_test_need::not_run;
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{v4, v6},
        recorder::Recorder,
        resolver::{answer, wire},
        subflows::second_way,
    },
    path,
};

use super::{
    ALL,
    claims::hello,
    said::{GOOD_NAMES, NO_EVIL, all_came, is_ended, resolve},
};

const GOOD: &str = "2.good.example";
const EVIL: &str = "2.evil.example";
const TLS: u16 = 443;
const PATIENCE: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;
/// The option of a TCP header by which both sides say that they know it (RFC 8684).
const OPTION: u8 = 30;
/// Of that option: another subflow.
const JOIN: u8 = 1;

/// A lab with a server that knows Multipath TCP; `None`, said aloud, where the kernel does not.
fn lab(policy: &str) -> Option<(Lab, Recorder)> {
    let mut lab = Lab::open()?;
    let any: SocketAddr = ([0, 0, 0, 0], TLS).into();
    let listen = || {
        let socket = path::reusing(any, libc::IPPROTO_MPTCP)?;
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(16)?)?;
        Ok::<_, io::Error>(TcpListener::from(socket))
    };
    let listener = match lab.net().far.enter(listen).expect("the namespace exists") {
        Ok(listener) => listener,
        Err(error) => {
            not_run(&format!(
                "Multipath TCP: this kernel has no such thing: {error}"
            ));
            return None;
        }
    };
    let server = Recorder::on(listener);
    lab.resolver(|asked| vec![wire(&answer(asked, &[v4(2), v6(2)]))]);
    lab.policy(policy);
    lab.inside(|| resolve(&[GOOD, EVIL]))
        .expect("the resolver answers");
    Some((lab, server))
}

fn open(to: IpAddr) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to, TLS);
    let socket = path::socket(to, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    path::connect(&socket, to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends `parts` and waits until the server has all of them; `between` is called before the last.
fn say(parts: &[&[u8]], between: impl FnOnce()) -> io::Result<()> {
    let mut stream = open(v4(2))?;
    let (last, first) = parts.split_last().expect("something to say");
    for part in first {
        stream.write_all(part)?;
    }
    between();
    stream.write_all(last)?;
    all_came(&stream, parts.iter().map(|part| part.len()).sum())
}

/// The subtypes of Multipath TCP's options in the packets that came to peer 2: with a SYN, and without.
fn options(lab: &Lab) -> Vec<(bool, u8)> {
    let mut found = Vec::new();
    for frame in lab.wire().to(v4(2)) {
        let Some((head, mut rest)) = frame.bytes.get(20..).and_then(|tcp| {
            let length = usize::from(tcp.get(12)? >> 4) * 4;
            tcp.get(..length)?.split_at_checked(20)
        }) else {
            continue;
        };
        if frame.port() != Some(TLS) {
            continue;
        }
        while let [kind, more @ ..] = rest {
            let length = match (kind, more) {
                (0, _) => break,
                (1, _) => 1,
                (_, [length, ..]) => usize::from((*length).max(2)),
                (_, []) => break,
            };
            if *kind == OPTION {
                found.push((head[13] & 2 != 0, rest[2] >> 4));
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    found
}

/// To say a hello in two parts.
fn split(name: &'static str, cut: usize) -> impl FnOnce() -> io::Result<()> {
    move || {
        let hello = hello(name);
        let (first, second) = hello.split_at(cut);
        say(&[first, second], || {})
    }
}

/// Says a permitted hello until the server answers. Now and then an exchange over Multipath TCP stands still on a busy machine; where the
/// programs have dropped and refused nothing, they cannot be why, and a fresh connection is tried.
fn permitted(lab: &mut Lab, cut: usize) {
    for attempt in 1..=ATTEMPTS {
        let good = lab.tended(split(GOOD, cut));
        let Err(error) = good else {
            return;
        };
        let taken: Vec<u64> = [
            Counter::DecisionDeny,
            Counter::DecisionHeld,
            Counter::PacketDropped,
            Counter::CallRefused,
            Counter::PendingDropped,
            Counter::Malformed,
            Counter::TableError,
        ]
        .map(|counter| lab.count(counter))
        .into();
        let said = format!(
            "cut at {cut}, attempt {attempt}: {error}; options that came (with SYN, subtype): {:?}, counters: {:?}",
            options(lab),
            lab.counters()
        );
        assert!(
            error.kind() == io::ErrorKind::WouldBlock && taken.iter().all(|count| *count == 0),
            "{said}"
        );
        eprintln!("an exchange stands still: {said}");
    }
    panic!("{ATTEMPTS} exchanges stood still");
}

#[test]
fn a_hello_over_multipath_tcp_is_read() {
    for (policy, cut) in [
        (GOOD_NAMES, 1),
        (GOOD_NAMES, 60),
        (NO_EVIL, 1),
        (NO_EVIL, 60),
    ] {
        // A lab of its own for each: nothing has been dropped before the permitted exchange.
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        permitted(&mut lab, cut);
        let evil = lab.tended(split(EVIL, cut));
        assert!(is_ended(&evil), "cut at {cut}: {evil:?}");
        assert!(server.has(GOOD.as_bytes()));
        assert!(!server.has(EVIL.as_bytes()));
        // Both sides know it: without an answer in kind, no later packet would have the option.
        assert!(
            options(&lab).iter().any(|(syn, _)| !syn),
            "it was plain TCP"
        );
    }
}

#[test]
fn a_hello_that_is_spread_over_subflows_does_not_pass_as_another() {
    for policy in [ALL, GOOD_NAMES, NO_EVIL] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        second_way(lab.net()).expect("a kernel that knows Multipath TCP knows subflows");
        for (name, is_good) in [(GOOD, true), (EVIL, policy == ALL)] {
            let before = lab.count(Counter::Unreadable);
            let mut process = lab.start(move |line| {
                let hello = hello(name);
                let (first, second) = hello.split_at(30);
                say(&[first, second], || line.step())
            });
            process.reached();
            // The kernel joins once the first data are acknowledged; where a rule waits for what is said, it may not.
            eventually("a second subflow, or none", || {
                lab.tend();
                if policy == ALL {
                    options(&lab).contains(&(true, JOIN))
                } else {
                    lab.count(Counter::Unreadable) > before
                }
            });
            process.go();
            eventually("the process ends", || {
                lab.tend();
                process.is_heard()
            });
            let result = process.finish();
            assert_eq!(result.is_ok(), is_good, "{policy}: {name}: {result:?}");
            let came = server.connections().contains(&hello(name));
            assert_eq!(came, is_good, "{policy}: {name}");
        }
        assert_eq!(options(&lab).contains(&(true, JOIN)), policy == ALL);
    }
}
