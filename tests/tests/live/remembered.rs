//! What a socket remembers lets out plain packets of that flow, and nothing else.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
};

use ebfw_test_need::not_run;
use ebfw_tests::{
    lab::{
        Lab, PORT, eventually,
        net::{v4, v6},
    },
    packet::{Extension, Options, Packet, Part, SourceRoute, Upper, V4, V6},
    path::{MARK, extension::divert, raw::Headers},
};

use super::{ALL, BAD, GOOD, at, code, paths::is_absent};

/// One flow is allowed.
fn one_flow() -> String {
    format!(
        "
defaultAction: Deny
rules:
- name: one
  action: Allow
  match: {{cidrs: [10.99.0.{GOOD}/32, 'fd99::{GOOD}/128'], ports: [{PORT}], protocols: [UDP]}}
"
    )
}

/// The remembered packet, and others with what becomes of them.
struct Table {
    to: SocketAddr,
    plain: Packet,
    others: Vec<(&'static str, SocketAddr, Packet, bool)>,
}

fn v4_table() -> Table {
    let std::net::IpAddr::V4(good) = v4(GOOD) else {
        unreachable!("it is IPv4");
    };
    let std::net::IpAddr::V4(bad) = v4(BAD) else {
        unreachable!("it is IPv4");
    };
    let plain = V4::plain(good, Upper::new(17, PORT, 8));
    let upper = |upper| V4 {
        upper,
        ..plain.clone()
    };
    let part = |part| V4 {
        part,
        ..plain.clone()
    };
    let to = at(v4(GOOD));
    let others = vec![
        (
            "another destination",
            at(v4(BAD)),
            V4 {
                destination: bad,
                ..plain.clone()
            },
            false,
        ),
        (
            "another port",
            to,
            upper(Upper::new(17, PORT + 1, 8)),
            false,
        ),
        ("TCP", to, upper(Upper::new(6, PORT, 8)), false),
        ("SCTP", to, upper(Upper::new(132, PORT, 8)), false),
        ("a first fragment", to, part(Part::First), true),
        ("a later fragment", to, part(Part::Later(1)), false),
        (
            "a source route",
            to,
            V4 {
                options: Options::source_route(SourceRoute::Loose, 0),
                ..plain.clone()
            },
            false,
        ),
        (
            "half a header",
            to,
            V4 {
                kept: Some(6),
                ..plain.clone()
            },
            false,
        ),
    ];
    Table {
        to,
        plain: plain.build(),
        others: others
            .into_iter()
            .map(|(why, to, packet, passes)| (why, to, packet.build(), passes))
            .collect(),
    }
}

fn v6_table() -> Table {
    let std::net::IpAddr::V6(good) = v6(GOOD) else {
        unreachable!("it is IPv6");
    };
    let std::net::IpAddr::V6(bad) = v6(BAD) else {
        unreachable!("it is IPv6");
    };
    let plain = V6::plain(good, Upper::new(17, PORT, 8));
    let upper = |upper| V6 {
        upper,
        ..plain.clone()
    };
    let chain = |extension| V6 {
        chain: vec![extension],
        ..plain.clone()
    };
    let to = at(v6(GOOD));
    let others = vec![
        (
            "another destination",
            at(v6(BAD)),
            V6 {
                destination: bad,
                ..plain.clone()
            },
            false,
        ),
        (
            "another port",
            to,
            upper(Upper::new(17, PORT + 1, 8)),
            false,
        ),
        ("TCP", to, upper(Upper::new(6, PORT, 8)), false),
        (
            "a later fragment",
            to,
            chain(Extension::LaterFragment { offset: 1 }),
            false,
        ),
        (
            "a routing header",
            to,
            chain(Extension::Routing { kind: 4 }),
            false,
        ),
        (
            "half a header",
            to,
            V6 {
                kept: Some(6),
                ..plain.clone()
            },
            false,
        ),
    ];
    Table {
        to,
        plain: plain.build(),
        others: others
            .into_iter()
            .map(|(why, to, packet, passes)| (why, to, packet.build(), passes))
            .collect(),
    }
}

#[test]
fn a_remembered_verdict_is_for_plain_packets_of_its_flow_only() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(&one_flow());
    for Table { to, plain, others } in [v4_table(), v6_table()] {
        for (why, other_to, packet, passes) in others {
            lab.wire().clear();
            // Both packets by one socket, the plain one twice before and once behind.
            let (first, bytes) = (plain.bytes.clone(), packet.bytes);
            let sent = lab.inside(move || {
                let socket = Headers::open(to)?;
                socket.send(&first, to)?;
                socket.send(&first, to)?;
                let other = socket.send(&bytes, other_to);
                socket.send(&first, to)?;
                Ok(u64::from(other.is_ok()))
            });
            assert_eq!(sent.unwrap(), u64::from(passes), "{why} to {other_to}");
            let expected = 3 + usize::from(passes);
            // The first packets wait until the neighbour is found.
            eventually("what may leave arrives", || {
                lab.wire().frames().len() >= expected
            });
            let arrived = lab.wire().frames();
            assert_eq!(arrived.len(), expected, "{why} to {other_to}: {arrived:?}");
        }
    }
}

/// Sends by one socket, first on the straight way and then by a detour; `expected` is what ends it.
fn turns_off(work: fn(SocketAddr) -> io::Result<()>, expected: i32) {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL);
    for to in [v4(GOOD), v6(GOOD)].map(at) {
        lab.wire().clear();
        let process = lab.start(move |_| work(to));
        eventually("the process ends", || {
            lab.tend();
            process.is_heard()
        });
        let result = process.finish();
        if is_absent(&result) {
            not_run(&format!("a detour to {to}: this kernel has no such thing"));
            continue;
        }
        assert_eq!(code(&result), Some(expected), "{to}: {result:?}");
        let frames = lab.wire().frames();
        assert!(frames.iter().any(|frame| frame.carries(b"before")), "{to}");
        assert!(frames.iter().all(|frame| !frame.carries(MARK)), "{to}");
    }
}

#[test]
fn a_datagram_socket_that_takes_a_detour_later_is_stopped() {
    turns_off(
        |to| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            for _ in 0..3 {
                socket.send(b"before")?;
            }
            divert(&socket, to)?;
            socket.send(MARK).map(drop)
        },
        libc::EPERM,
    );
}

#[test]
fn a_connection_that_takes_a_detour_later_is_aborted() {
    turns_off(
        |to| {
            let mut stream = TcpStream::connect(to)?;
            for _ in 0..3 {
                stream.write_all(b"before")?;
                stream.read_exact(&mut [0; 6])?;
            }
            divert(&stream, to)?;
            stream.write_all(MARK)?;
            stream.read_exact(&mut [0])
        },
        libc::ECONNABORTED,
    );
}
