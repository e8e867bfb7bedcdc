//! What a rule matches, with real sockets: addresses at the edges of prefixes, ports, ranges, protocols, and who comes first.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use ebfw_test_need::not_run;
use ebfw_tests::{
    lab::{
        Lab,
        net::{v4, v6},
    },
    path::{icmp, udp},
};

use super::{at, code};

/// Something is sent, and it arrives or not.
struct Row {
    send: fn(SocketAddr) -> io::Result<()>,
    to: SocketAddr,
    arrives: bool,
    why: &'static str,
}

/// A connection that is refused by the peer was let through by us.
fn tcp(to: SocketAddr) -> io::Result<()> {
    match TcpStream::connect_timeout(&to, Duration::from_secs(3)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        result => result.map(drop),
    }
}

fn row(
    send: fn(SocketAddr) -> io::Result<()>,
    to: (IpAddr, u16),
    arrives: bool,
    why: &'static str,
) -> Row {
    Row {
        send,
        to: to.into(),
        arrives,
        why,
    }
}

fn check(policy: &str, rows: &[Row]) {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(policy);
    for Row {
        send,
        to,
        arrives,
        why,
    } in rows
    {
        lab.wire().clear();
        let (send, to) = (*send, *to);
        let result = lab.inside(move || send(to));
        // The kernel has lost UDP-Lite on the way to 7.3.
        if code(&result) == Some(libc::EPROTONOSUPPORT) {
            not_run(&format!("{to}, {why}: this kernel has no such protocol"));
            continue;
        }
        let seen = lab.wire().to(to.ip());
        let expected = if *arrives { None } else { Some(libc::EPERM) };
        assert_eq!(code(&result), expected, "{to}, {why}: {result:?}");
        assert_eq!(!seen.is_empty(), *arrives, "{to}, {why}: {seen:?}");
    }
}

#[test]
fn a_prefix_ends_where_it_ends() {
    check(
        "
defaultAction: Deny
rules:
- name: four to seven
  action: Allow
  match: {cidrs: [10.99.0.4/30, 'fd99::4/126']}
",
        &[
            row(tcp, (v4(3), 80), false, "one before"),
            row(tcp, (v4(4), 80), true, "the first"),
            row(tcp, (v4(7), 80), true, "the last"),
            row(tcp, (v4(8), 80), false, "one behind"),
            row(udp::unconnected, (v6(3), 80), false, "one before"),
            row(udp::unconnected, (v6(4), 80), true, "the first"),
            row(udp::unconnected, (v6(7), 80), true, "the last"),
            row(udp::unconnected, (v6(8), 80), false, "one behind"),
        ],
    );
}

#[test]
fn a_port_range_ends_where_it_ends() {
    check(
        "
defaultAction: Allow
rules:
- name: services
  action: Deny
  match: {ports: [443, '8000-8999']}
",
        &[
            row(tcp, (v4(2), 442), true, "one before"),
            row(tcp, (v4(2), 443), false, "the port"),
            row(tcp, (v6(2), 443), false, "in both families"),
            row(udp::connected, (v4(2), 443), false, "in all protocols"),
            row(tcp, (v4(2), 444), true, "one behind"),
            row(tcp, (v4(2), 7999), true, "one before the range"),
            row(tcp, (v4(2), 8000), false, "its first"),
            row(udp::unconnected, (v6(2), 8500), false, "its middle"),
            row(tcp, (v4(2), 8999), false, "its last"),
            row(tcp, (v4(2), 9000), true, "one behind it"),
            row(icmp::PINGS[0].1, (v4(2), 0), true, "what has no ports"),
            row(
                udp::LITE_WAYS[0].1,
                (v4(2), 443),
                true,
                "UDP-Lite has none either",
            ),
        ],
    );
}

#[test]
fn a_protocol_is_that_protocol() {
    check(
        "
defaultAction: Deny
rules:
- name: lookups
  action: Allow
  match: {protocols: [UDP], ports: [53]}
- name: pings
  action: Allow
  match: {protocols: [ICMP]}
- name: lite
  action: Allow
  match: {protocols: [136], cidrs: [10.99.0.4/32]}
",
        &[
            row(udp::unconnected, (v4(2), 53), true, "UDP"),
            row(tcp, (v4(2), 53), false, "TCP on the same port"),
            row(udp::connected, (v6(2), 54), false, "UDP on another port"),
            row(icmp::PINGS[0].1, (v4(2), 0), true, "ICMP"),
            row(icmp::RAW[0].1, (v6(2), 0), true, "ICMPv6 by the same name"),
            row(udp::LITE_WAYS[1].1, (v4(4), 53), true, "by its number"),
            row(udp::LITE_WAYS[1].1, (v4(2), 53), false, "elsewhere"),
        ],
    );
}

#[test]
fn the_first_match_decides_not_the_longest_prefix() {
    check(
        "
defaultAction: Allow
rules:
- {name: one, action: Allow, match: {cidrs: [10.99.0.4/32]}}
- {name: net, action: Deny, match: {cidrs: [10.99.0.0/24]}}
- {name: another, action: Allow, match: {cidrs: [10.99.0.5/32]}}
- {name: wide, action: Allow, match: {cidrs: ['fd99::/64']}}
- {name: narrow, action: Deny, match: {cidrs: ['fd99::6/128']}}
",
        &[
            row(tcp, (v4(4), 80), true, "before the net"),
            row(tcp, (v4(5), 80), false, "behind the net, though longer"),
            row(tcp, (v4(6), 80), false, "only the net"),
            row(tcp, (v6(6), 80), true, "a Deny behind a wider Allow"),
        ],
    );
}

#[test]
fn a_deny_before_everything_else_wins() {
    check(
        "
defaultAction: Allow
rules:
- {name: narrow, action: Deny, match: {cidrs: ['fd99::6/128', 10.99.0.6/32], ports: [80]}}
- {name: wide, action: Allow, match: {cidrs: ['fd99::/64', 10.99.0.0/24]}}
",
        &[
            row(tcp, (v6(6), 80), false, "the port"),
            row(tcp, (v6(6), 81), true, "another port"),
            row(tcp, (v4(6), 80), false, "the port"),
            row(tcp, (v4(7), 80), true, "another address"),
        ],
    );
}

#[test]
fn one_socket_may_speak_with_allowed_and_denied_peers_in_turn() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(super::ALL_BUT_3);
    let wrong = lab.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let mut wrong = 0u64;
        for _ in 0..100 {
            let good = socket.send_to(b"x", at(v4(super::GOOD)));
            let bad = socket.send_to(b"x", at(v4(super::BAD)));
            wrong += u64::from(good.is_err()) + u64::from(code(&bad) != Some(libc::EPERM));
        }
        Ok(wrong)
    });
    assert_eq!(wrong.unwrap(), 0);
    assert_eq!(lab.wire().to(v4(super::GOOD)).len(), 100);
    assert!(lab.wire().to(v4(super::BAD)).is_empty());
}

#[test]
fn broadcast_and_multicast_are_destinations_like_others() {
    let Some(mut lab) = Lab::open() else { return };
    let groups = ["10.99.0.255", "255.255.255.255", "239.1.2.3", "ff02::99"];
    let allowed = "
defaultAction: Deny
rules:
- name: groups
  action: Allow
  match: {cidrs: [10.99.0.255/32, 255.255.255.255/32, 239.1.2.0/24, 'ff02::/16']}
";
    for (policy, expected) in [(super::NOTHING, Some(libc::EPERM)), (allowed, None)] {
        lab.policy(policy);
        for group in groups {
            let to: IpAddr = group.parse().expect("an address");
            lab.wire().clear();
            let result = lab.inside(move || udp::to_group(at(to)));
            assert_eq!(code(&result), expected, "{group}: {result:?}");
            let seen = lab.wire().to(to);
            assert_eq!(seen.is_empty(), expected.is_some(), "{group}: {seen:?}");
        }
    }
}
