//! What a workload sends on connections that others opened is no decision of the policy; what it opens itself is, whatever it did before.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use ebfw_common::abi::Counter;
use ebfw_test_need::not_run;
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{self, v4, v6},
        process::{Line, Process},
    },
    path::{self, MARK},
};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::{BAD, GOOD, NOTHING, ONLY_2, at, code};

/// Where the workload serves.
const SERVICE: u16 = 7000;
/// More than fits into any buffer.
const LARGE: usize = 4 << 20;

/// The workload's own address in the family of `like`.
fn own(like: IpAddr) -> SocketAddr {
    let address = if like.is_ipv4() { v4(1) } else { v6(1) };
    SocketAddr::new(address, SERVICE)
}

/// A connection from the far end's `from`.
fn dial(lab: &Lab, from: IpAddr) -> io::Result<TcpStream> {
    let work = || {
        let socket = TcpStream::connect_timeout(&own(from), Duration::from_secs(5));
        socket.inspect(|stream| {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        })
    };
    lab.net().far.enter(work)?
}

/// Listens, and says so.
fn listen(line: &mut Line, like: IpAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(own(like))?;
    line.step();
    Ok(listener)
}

#[test]
fn a_server_answers_under_default_deny() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    for like in [v4(GOOD), v6(GOOD)] {
        let replies = lab.count(Counter::Reply);
        let mut server = lab.start(move |line| {
            let (mut stream, _) = listen(line, like)?.accept()?;
            let mut request = [0; 4];
            stream.read_exact(&mut request)?;
            stream.write_all(&vec![b'r'; LARGE])
        });
        server.reached();
        server.go();
        let mut client = dial(&lab, like).unwrap();
        client.write_all(b"give").unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert_eq!(reply.len(), LARGE, "{like}");
        server.finish().unwrap();
        assert!(lab.count(Counter::Reply) > replies, "{like}");
    }
}

#[test]
fn a_listener_for_both_families_answers_both() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    let mut server = lab.start(|line| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVICE))?;
        line.step();
        for _ in 0..2 {
            listener.accept()?.0.write_all(MARK)?;
        }
        Ok(())
    });
    server.reached();
    server.go();
    for like in [v4(GOOD), v6(GOOD)] {
        let mut client = dial(&lab, like).unwrap();
        client.read_exact(&mut [0; MARK.len()]).unwrap();
    }
    server.finish().unwrap();
}

#[test]
fn a_server_answers_datagrams_to_their_sender_only() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    for (like, stranger) in [(v4(GOOD), v4(BAD)), (v6(GOOD), v6(BAD))] {
        let mut server = lab.start(move |line| {
            let socket = UdpSocket::bind(own(like))?;
            line.step();
            let mut buffer = [0; 16];
            let (_, peer) = socket.recv_from(&mut buffer)?;
            socket.send_to(MARK, peer)?;
            let elsewhere = SocketAddr::new(stranger, peer.port());
            let other_port = SocketAddr::new(peer.ip(), peer.port() ^ 1);
            for to in [elsewhere, other_port] {
                assert_eq!(code(&socket.send_to(MARK, to)), Some(libc::EPERM), "{to}");
            }
            Ok(())
        });
        server.reached();
        let client = lab.net().far.enter(|| UdpSocket::bind((like, 0)));
        let client = client.unwrap().unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        server.go();
        client.send_to(b"give", own(like)).unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], MARK, "{like}");
        server.finish().unwrap();
        assert!(lab.wire().to(stranger).is_empty());
    }
}

/// A socket that served before goes out: `prepare` makes it ready.
fn turns_around(prepare: fn(TcpListener, &TcpStream) -> io::Result<OwnedFd>) {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ONLY_2);
    for (to, expected) in [
        (v4(GOOD), None),
        (v4(BAD), Some(libc::EPERM)),
        (v6(GOOD), None),
        (v6(BAD), Some(libc::EPERM)),
    ] {
        let mut server: Process<()> = lab.start(move |line| {
            let listener = listen(line, to)?;
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"served")?;
            line.step();
            let socket = prepare(listener, &stream)?;
            let timeout = nix::sys::time::TimeVal::new(2, 0);
            setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
            let address = nix::sys::socket::SockaddrStorage::from(at(to));
            nix::sys::socket::connect(socket.as_raw_fd(), &address)?;
            TcpStream::from(socket).write_all(MARK)
        });
        server.reached();
        server.go();
        let mut client = dial(&lab, to).expect("the server listens");
        client.read_exact(&mut [0; 6]).expect("the server serves");
        server.reached();
        lab.wire().clear();
        server.go();
        let result = server.finish();
        assert_eq!(code(&result), expected, "{to}: {result:?}");
        let leaked = lab.wire().to(to);
        let leaked = leaked.iter().any(|frame| frame.carries(MARK));
        assert_eq!(leaked, expected.is_none(), "{to}");
        drop(client);
    }
}

#[test]
fn an_accepted_socket_that_is_disconnected_is_judged_like_any_other() {
    turns_around(|_, stream| {
        path::disconnect(stream)?;
        Ok(stream.try_clone()?.into())
    });
}

#[test]
fn an_accepted_socket_that_is_shut_down_is_judged_like_any_other() {
    turns_around(|_, stream| {
        shutdown(stream.as_raw_fd(), Shutdown::Both)?;
        path::disconnect(stream)?;
        Ok(stream.try_clone()?.into())
    });
}

#[test]
fn a_listener_that_is_shut_down_is_judged_like_any_other() {
    turns_around(|listener, _| {
        shutdown(listener.as_raw_fd(), Shutdown::Both)?;
        // A listener that was shut down is closed, and keeps its port.
        Ok(listener.into())
    });
}

#[test]
fn a_listener_that_is_disconnected_is_judged_like_any_other() {
    turns_around(|listener, _| {
        path::disconnect(&listener)?;
        Ok(listener.into())
    });
}

/// With IPV6_FREEBIND any process can send itself a datagram from anybody's address.
#[test]
fn a_forged_datagram_over_loopback_opens_no_way() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(
        "
defaultAction: Deny
rules:
- {name: own, action: Allow, match: {cidrs: ['fd99::1/128', 10.99.0.1/32]}}
",
    );
    let result = lab.inside(|| {
        let socket = UdpSocket::bind((v6(1), SERVICE))?;
        let forger = path::free_bound(at(v6(BAD)))?;
        forger.send_to(b"answer me", (v6(1), SERVICE))?;
        let mut buffer = [0; 16];
        let (_, peer) = socket.recv_from(&mut buffer)?;
        assert_eq!(peer, at(v6(BAD)), "the forgery arrives");
        socket.send_to(MARK, peer).map(drop)
    });
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
    assert!(lab.wire().to(v6(BAD)).is_empty());
}

#[test]
fn the_kernel_answers_pings_under_default_deny() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    // A process must be there: the answer is the kernel's, not the workload's.
    let mut process = lab.start(|line| {
        line.step();
        Ok(())
    });
    process.reached();
    for to in [v4(1), v6(1)] {
        let answered = lab.net().far.enter(|| path::icmp::is_answered(to));
        assert!(answered.unwrap().unwrap(), "{to}");
    }
    process.go();
    process.finish().unwrap();
}

#[test]
fn a_closed_port_says_so_under_default_deny() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    for like in [v4(GOOD), v6(GOOD)] {
        let refused = dial(&lab, like).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{like}");
    }
}

/// A subflow of Multipath TCP is a socket of the kernel's own, which no create hook has seen, and a listener on its port is no proof
/// that it answers somebody.
#[test]
fn a_listener_on_the_same_port_makes_no_connection_an_answer() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ONLY_2);
    for (protocol, aborted) in [(libc::IPPROTO_TCP, false), (libc::IPPROTO_MPTCP, true)] {
        for to in [v4(BAD), v6(BAD)] {
            lab.wire().clear();
            let process = lab.start(move |_| {
                let listener = path::reusing(own(to), libc::IPPROTO_TCP)?;
                nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN)?;
                let socket = path::reusing(own(to), protocol)?;
                path::connect(&socket, at(to))?;
                path::send(&socket, MARK, 0)
            });
            eventually("the process ends", || {
                lab.tend();
                process.is_heard()
            });
            let result = process.finish();
            if code(&result) == Some(libc::EPROTONOSUPPORT) {
                not_run(&format!(
                    "protocol {protocol} to {to}: this kernel has no such thing"
                ));
                continue;
            }
            let seen = lab.wire().to(to);
            assert!(seen.is_empty(), "{protocol} to {to}: {result:?}, {seen:?}");
            let code = code(&result);
            let is_told = code == Some(libc::EPERM) || aborted && code == Some(libc::ECONNABORTED);
            assert!(is_told, "{protocol} to {to}: {result:?}");
        }
    }
}

/// What a listener answers goes to whoever the first packet says it is from: a forged one must not make it answer a stranger.
#[test]
fn a_forged_connection_over_loopback_opens_no_way() {
    let Some(mut lab) = Lab::open() else { return };
    if !super::hook_sees_answers_of_listeners() {
        return not_run("forged connections: this kernel shows no program what a listener answers");
    }
    lab.policy(super::ALL_BUT_3);
    let result = lab.inside(|| {
        let _listener = TcpListener::bind((v6(1), SERVICE))?;
        let forger = path::free_bound_stream(at(v6(BAD)))?;
        path::connect(&forger, (v6(1), SERVICE).into())
    });
    let seen = lab.wire().to(v6(BAD));
    assert!(seen.is_empty(), "{result:?}: {seen:?}");
    assert!(result.is_err(), "nobody answers");
    lab.inside(|| {
        let _listener = TcpListener::bind((v6(1), SERVICE))?;
        TcpStream::connect((v6(1), SERVICE)).map(drop)
    })
    .unwrap();
}

/// A multicast datagram comes back on the device that it leaves through: a forged one must not pass for a stranger's question.
#[test]
fn a_forged_datagram_by_way_of_multicast_opens_no_way() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(super::ALL_BUT_3);
    let result = lab.inside(|| {
        let device = nix::net::if_::if_nametoindex(net::NEAR_DEVICE)?;
        let group = "ff02::99".parse().expect("an address");
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, SERVICE))?;
        socket.join_multicast_v6(&group, device)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let forger = path::free_bound(at(v6(BAD)))?;
        let to = SocketAddrV6::new(group, SERVICE, 0, device);
        forger.send_to(b"answer me", to)?;
        let (_, peer) = socket.recv_from(&mut [0; 16])?;
        assert_eq!(peer, at(v6(BAD)), "the forgery arrives");
        socket.send_to(MARK, peer).map(drop)
    });
    let seen = lab.wire().to(v6(BAD));
    assert!(seen.is_empty(), "{result:?}: {seen:?}");
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
}
