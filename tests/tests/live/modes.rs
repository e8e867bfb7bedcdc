//! What is not enforced: loopback, the modes that only report, workloads that nothing governs.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use ebfw_common::abi::{Counter, hook, mode, reason, verdict};
use ebfw_tests::{
    lab::{
        Lab,
        net::{v4, v6},
    },
    path::{MARK, tcp},
};

use super::{ALL_BUT_3, BAD, GOOD, NOTHING, at, code};

const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// A conversation of the workload with itself.
fn talks_to_itself(address: IpAddr) -> io::Result<()> {
    let receiver = UdpSocket::bind((address, 0))?;
    UdpSocket::bind((address, 0))?.send_to(MARK, receiver.local_addr()?)?;
    receiver.recv(&mut [0; 64])?;
    let listener = TcpListener::bind((address, 0))?;
    let to = listener.local_addr()?;
    let client = thread::spawn(move || TcpStream::connect(to)?.write_all(MARK));
    listener
        .incoming()
        .next()
        .expect("there is no end to it")?
        .read_exact(&mut [0; 4])?;
    client.join().expect("it does not panic")
}

/// Connects to a listener of the workload's own.
fn connects_to_itself(address: IpAddr) -> io::Result<()> {
    let listener = TcpListener::bind((address, 0))?;
    TcpStream::connect(listener.local_addr()?).map(drop)
}

#[test]
fn the_own_loopback_passes_unjudged() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    for address in LOOPBACK {
        lab.inside(move || talks_to_itself(address)).unwrap();
    }
    let other = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));
    lab.inside(move || talks_to_itself(other)).unwrap();
    for address in [v4(1), v6(1)] {
        let result = lab.inside(move || connects_to_itself(address));
        assert_eq!(code(&result), Some(libc::EPERM), "no loopback: {result:?}");
    }
}

#[test]
fn loopback_is_judged_where_the_policy_says_so() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy("defaultAction: Deny\ngovernLoopback: true\nrules: []\n");
    for address in LOOPBACK {
        let result = lab.inside(move || connects_to_itself(address));
        assert_eq!(code(&result), Some(libc::EPERM), "{address}: {result:?}");
    }
    lab.policy(
        "
defaultAction: Deny
governLoopback: true
rules:
- {name: own, action: Allow, match: {cidrs: [127.0.0.0/8, '::1/128']}}
",
    );
    for address in LOOPBACK {
        lab.inside(move || talks_to_itself(address)).unwrap();
    }
}

/// The kernel takes the unspecified address for this host.
#[test]
fn the_unspecified_address_leads_nowhere_else() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    for any in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        let result = lab.inside(move || {
            let listener = TcpListener::bind((any, 0))?;
            let port = listener.local_addr()?.port();
            TcpStream::connect((any, port)).map(drop)
        });
        assert!(result.is_ok(), "{any}: {result:?}");
        // From an address of the wire it is that address, which is no loopback.
        let from = if any == "0.0.0.0" { v4(1) } else { v6(1) };
        let _ = lab.inside(move || {
            let socket = UdpSocket::bind((from, 0))?;
            socket.send_to(MARK, (any, 80)).map(drop)
        });
    }
    let seen = lab.wire().frames();
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn modes_that_only_report_let_out_and_say_deny() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    for (mode, number) in [(mode::LOG, 4), (mode::DRY_RUN, 5)] {
        lab.mode(mode);
        // Another port each time, so that the rate limit lets the event through.
        for to in [v4(BAD), v6(BAD)] {
            lab.events();
            lab.wire().clear();
            let denied = lab.count(Counter::DecisionDeny);
            let socket = move || {
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.send_to(MARK, (to, 1000 + number)).map(drop)
            };
            lab.inside(socket).unwrap();
            lab.inside(move || tcp::plain(at(to))).unwrap();
            let arrived = lab.wire().to(to);
            assert!(arrived.iter().any(|frame| frame.carries(MARK)), "{to}");
            assert!(lab.count(Counter::DecisionDeny) >= denied + 2, "{to}");
            let events = lab.events();
            let told = events.iter().filter(|event| {
                event.verdict == verdict::DENY && event.mode == mode && event.hook == hook::EGRESS
            });
            assert!(told.count() >= 2, "mode {mode}, {to}: {events:?}");
        }
    }
    lab.mode(mode::ENFORCE);
    let result = lab.inside(|| tcp::plain(at(v4(BAD))));
    assert_eq!(code(&result), Some(libc::EPERM), "and back: {result:?}");
}

#[test]
fn what_nothing_governs_is_observed() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy("defaultAction: Deny\npodSelector: {matchLabels: {app: web}}\nrules: []\n");
    lab.events();
    lab.inside(|| tcp::plain(at(v4(GOOD)))).unwrap();
    let events = lab.events();
    let seen = events.iter().find(|event| event.hook == hook::EGRESS);
    let seen = seen.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(
        (seen.verdict, seen.reason),
        (verdict::OBSERVED, reason::UNGOVERNED)
    );
}
