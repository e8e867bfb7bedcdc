//! Every way to send, to a peer that the policy allows and to one that it denies; an error of the call is not enough: nothing may arrive.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ebfw_common::abi::Counter;
use ebfw_test_need::not_run;
use ebfw_tests::{
    lab::{
        Lab, PORT, eventually,
        net::{mapped, v4, v6},
    },
    path::{MARK, Send, extension, icmp, raw, seldom, tcp, udp, uring},
};

use super::{ALL_BUT_3, BAD, GOOD, ONLY_2, code};

/// Peers of a family by their number.
type Peers = fn(u8) -> IpAddr;

/// Whether the kernel has no such thing, as opposed to refusing it.
pub(super) fn is_absent(result: &io::Result<()>) -> bool {
    let Err(error) = result else { return false };
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPROTONOSUPPORT
                | libc::ESOCKTNOSUPPORT
                | libc::EAFNOSUPPORT
                | libc::ENOSYS
                | libc::EOPNOTSUPP
                | libc::ENOPROTOOPT
        )
    )
}

/// What kernel 5.10 answers where a newer one does the thing: io_uring takes no address with SEND before 6.0, and SCTP gives an association
/// up that the first message was to open.
fn is_absent_in_old_kernels(name: &str, result: &io::Result<()>) -> bool {
    match name {
        "io_uring SEND with an address" => code(result) == Some(libc::EINVAL),
        "SCTP, one to many" => code(result) == Some(libc::EPIPE),
        _ => false,
    }
}

fn peer(peers: Peers, number: u8) -> SocketAddr {
    SocketAddr::new(peers(number), PORT)
}

/// Packets and calls that were stopped.
fn stopped(lab: &Lab) -> u64 {
    lab.count(Counter::CallRefused) + lab.count(Counter::PacketDropped)
}

fn sends(lab: &Lab, way: Send, to: SocketAddr) -> io::Result<()> {
    lab.wire().clear();
    lab.inside(move || way(to))
}

/// The allowed twin; `false` where the kernel has no such way.
fn passes(lab: &Lab, name: &str, way: Send, to: SocketAddr) -> bool {
    let before = stopped(lab);
    let result = sends(lab, way, to);
    if is_absent(&result) || is_absent_in_old_kernels(name, &result) {
        return false;
    }
    assert!(result.is_ok(), "{name} to {to}: {result:?}");
    assert_eq!(stopped(lab), before, "{name} to {to}: counted as stopped");
    let arrived = lab.wire().to(to.ip());
    assert!(
        arrived.iter().any(|frame| frame.carries(MARK)),
        "{name} to {to}: did not arrive: {arrived:?}"
    );
    true
}

/// How a program learns that its way is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Denial {
    /// The call fails with `EPERM`.
    Refused,
    /// The packet is gone; not every kernel tells.
    Untold,
    /// The call waits until the socket is destroyed.
    Aborted,
    /// The call fails some time, in the kernel's own way.
    Failed,
}

fn is_stopped(lab: &mut Lab, name: &str, way: Send, to: SocketAddr, denial: Denial) {
    let before = stopped(lab);
    lab.wire().clear();
    let process = lab.start(move |_| way(to));
    eventually("the process ends", || {
        if denial == Denial::Aborted {
            lab.tend();
        }
        process.is_heard()
    });
    let result = process.finish();
    let arrived = lab.wire().to(to.ip());
    assert!(
        arrived.is_empty(),
        "{name} to {to}: arrived though denied ({result:?}): {arrived:?}"
    );
    let code = code(&result);
    let expected = match denial {
        Denial::Refused => Some(libc::EPERM),
        Denial::Untold => code.filter(|code| *code == libc::EPERM),
        Denial::Aborted => Some(libc::ECONNABORTED),
        Denial::Failed => code.or(Some(0)),
    };
    assert_eq!(code, expected, "{name} to {to}: {result:?}");
    assert!(stopped(lab) > before, "{name} to {to}: counted nowhere");
}

/// Each way under a policy that denies one peer and under one that allows one peer.
fn judged(ways: &[(&str, Send)], families: &[Peers]) {
    judged_by(ways, families, Denial::Refused);
}

fn judged_by(ways: &[(&str, Send)], families: &[Peers], denial: Denial) {
    let Some(mut lab) = Lab::open() else { return };
    for policy in [ALL_BUT_3, ONLY_2] {
        lab.policy(policy);
        for peers in families {
            for (name, way) in ways {
                if passes(&lab, name, *way, peer(*peers, GOOD)) {
                    is_stopped(&mut lab, name, *way, peer(*peers, BAD), denial);
                } else if policy == ALL_BUT_3 {
                    let to = peers(GOOD);
                    not_run(&format!("{name} to {to}: this kernel has no such thing"));
                }
            }
        }
    }
}

#[test]
fn tcp_leaves_for_allowed_peers_only() {
    judged(&tcp::WAYS, &[v4, v6]);
}

#[test]
fn tcp_to_mapped_addresses_is_ipv4() {
    judged(&tcp::WAYS, &[mapped]);
}

#[test]
fn udp_leaves_for_allowed_peers_only() {
    judged(&udp::WAYS, &[v4, v6]);
}

#[test]
fn udp_to_mapped_addresses_is_ipv4() {
    judged(&udp::WAYS, &[mapped]);
}

#[test]
fn udp_lite_leaves_for_allowed_peers_only() {
    judged(&udp::LITE_WAYS, &[v4, v6]);
}

#[test]
fn io_uring_leaves_for_allowed_peers_only() {
    judged(&uring::WAYS, &[v4, v6]);
}

#[test]
fn icmp_leaves_for_allowed_peers_only() {
    judged(&icmp::RAW, &[v4, v6]);
    judged(&icmp::PINGS, &[v4]);
    // `ping_v6_sendmsg` (net/ipv6/ping.c) drops what `icmpv6_push_pending_frames` returns; connect is
    // asked before (`ping_v6_pre_connect`) from Linux 6.1 on.
    judged_by(&icmp::PINGS, &[v6], Denial::Untold);
}

#[test]
fn raw_packets_leave_for_allowed_peers_only() {
    judged(&raw::WAYS, &[v4, v6]);
    judged(&raw::V4_WAYS, &[v4]);
}

#[test]
fn harmless_options_and_extension_headers_change_nothing() {
    judged(&extension::V4_WAYS, &[v4]);
    judged(&extension::V6_WAYS, &[v6]);
}

#[test]
fn multipath_tcp_leaves_for_allowed_peers_only() {
    judged_by(&tcp::MULTIPATH_WAYS, &[v4, v6], Denial::Aborted);
}

/// Where the kernel has none, its packets are judged by the tests of the kernel programs alone.
#[test]
fn sctp_leaves_for_allowed_peers_only() {
    judged_by(&seldom::WAYS, &[v4, v6], Denial::Failed);
}

/// Such packets are denied wherever a policy governs, though every address in them is allowed.
#[test]
fn packets_that_go_elsewhere_than_they_say_never_leave() {
    let Some(mut lab) = Lab::open() else { return };
    let v4_ways = extension::V4_DETOURS.iter().map(|way| (way, v4 as Peers));
    let v6_ways = extension::V6_DETOURS.iter().map(|way| (way, v6 as Peers));
    let ways: Vec<_> = v4_ways.chain(v6_ways).collect();
    for policy in ["defaultAction: Allow\nrules: []\n", ONLY_2] {
        lab.policy(policy);
        for ((name, way), peers) in &ways {
            let before = lab.count(Counter::SourceRouted);
            let result = sends(&lab, *way, peer(*peers, GOOD));
            let arrived = lab.wire().frames();
            assert!(arrived.is_empty(), "{name}: {result:?}, {arrived:?}");
            if !is_absent(&result) {
                assert!(result.is_err(), "{name}");
                assert!(lab.count(Counter::SourceRouted) > before, "{name}");
            }
        }
    }
    for ((name, way), peers) in ways {
        lab.wire().clear();
        let to = peer(peers, GOOD);
        let result = lab.start_in(None, move |_| way(to)).finish();
        if is_absent(&result) {
            not_run(&format!("{name}: this kernel has no such thing"));
            continue;
        }
        let arrived = lab.wire().frames();
        assert!(!arrived.is_empty(), "{name}, ungoverned: {result:?}");
    }
}

/// A program learns of it as soon as the socket is destroyed, not when its first packet was repeated in vain.
#[test]
fn a_connection_by_a_detour_is_aborted() {
    for peers in [v4 as Peers, v6] {
        // A lab for each family, so that nothing that was sent before is still on the wire.
        let Some(mut lab) = Lab::open() else { return };
        lab.policy(ONLY_2);
        let to = peer(peers, GOOD);
        let destroyed = lab.tend();
        let process = lab.start(move |_| extension::patient_detour(to));
        eventually("the process ends", || {
            lab.tend();
            process.is_heard()
        });
        let result = process.finish();
        if is_absent(&result) {
            not_run(&format!("a detour to {to}: this kernel has no such thing"));
            continue;
        }
        assert_eq!(code(&result), Some(libc::ECONNABORTED), "{to}: {result:?}");
        assert!(lab.tend() > destroyed, "{to}: not destroyed by its request");
        let seen = lab.wire().frames();
        assert!(seen.is_empty(), "{to}: {seen:?}");
        assert!(passes(&lab, "TCP without a detour", tcp::plain, to), "{to}");
    }
}

#[test]
fn a_packet_that_hides_behind_too_many_headers_never_leaves() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(super::ALL);
    let before = lab.count(Counter::Malformed);
    let result = sends(&lab, raw::endless_chain, peer(v6, GOOD));
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
    assert!(lab.wire().frames().is_empty());
    assert!(lab.count(Counter::Malformed) > before);
    let ungoverned = lab.start_in(None, |_| raw::endless_chain(peer(v6, GOOD)));
    ungoverned.finish().unwrap();
    assert!(!lab.wire().frames().is_empty());
}
