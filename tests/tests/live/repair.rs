//! TCP_REPAIR, by which a process with CAP_NET_ADMIN makes up a connection's state: what it can still win, and what not.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use ebfw_tests::{
    lab::{Lab, net::v4, recorder::Recorder},
    path,
};

use super::{
    claims::hello,
    said::{self, AT_ONCE, GOOD_NAMES, NO_EVIL, converse, is_ended, open, resolve},
};

const PORT: u16 = 443;
/// include/uapi/linux/tcp.h
const RECEIVES: i32 = 1;
const SENDS: i32 = 2;
const OFF: i32 = 0;
/// RFC 7323, 2.2.
const WINDOW_SCALE: u32 = 3;

fn lab(policy: &str) -> Option<(Lab, Recorder)> {
    said::lab(policy, PORT)
}

fn to() -> SocketAddr {
    SocketAddr::new(v4(2), PORT)
}

fn set(socket: &impl std::os::fd::AsRawFd, option: libc::c_int, value: i32) -> io::Result<()> {
    path::set(socket, libc::IPPROTO_TCP, option, &value.to_ne_bytes())
}

fn get<const N: usize>(socket: &TcpStream, option: libc::c_int) -> io::Result<[u8; N]> {
    path::get(socket, libc::IPPROTO_TCP, option)
}

/// Makes a connection anew, behind its handshake: another socket, of which no SYN was seen, goes on where it stands.
fn made_anew(old: TcpStream) -> io::Result<TcpStream> {
    let near = old.local_addr()?;
    set(&old, libc::TCP_REPAIR, 1)?;
    let number = |queue| {
        set(&old, libc::TCP_REPAIR_QUEUE, queue)?;
        get::<4>(&old, libc::TCP_QUEUE_SEQ)
    };
    let numbers = [(RECEIVES, number(RECEIVES)?), (SENDS, number(SENDS)?)];
    // Behind state, retransmits and the like: how far the peer shifts its window, and how far this side does.
    let [.., shifts, _] = get::<8>(&old, libc::TCP_INFO)?;
    // Under repair nothing is said to the peer.
    drop(old);
    let socket: OwnedFd = path::stream(to())?;
    path::set(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        &1i32.to_ne_bytes(),
    )?;
    set(&socket, libc::TCP_REPAIR, 1)?;
    nix::sys::socket::bind(
        socket.as_raw_fd(),
        &nix::sys::socket::SockaddrStorage::from(near),
    )?;
    for (queue, number) in numbers {
        set(&socket, libc::TCP_REPAIR_QUEUE, queue)?;
        path::set(&socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &number)?;
    }
    path::connect(&socket, to())?;
    let scale = [
        WINDOW_SCALE,
        u32::from(shifts & 15) | u32::from(shifts >> 4) << 16,
    ];
    let scale = scale.map(u32::to_ne_bytes).concat();
    path::set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &scale)?;
    set(&socket, libc::TCP_REPAIR, OFF)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(AT_ONCE))?;
    Ok(stream)
}

#[test]
fn a_connection_that_is_made_up_is_judged_by_its_names_as_one_that_is_older_than_the_policy() {
    const GOOD: &str = "2.good.example";
    const EVIL: &str = "2.evil.example";
    for (policy, names, passes, why) in [
        (GOOD_NAMES, &[GOOD][..], true, "an allowed name"),
        (NO_EVIL, &[GOOD], true, "no denied name"),
        (
            GOOD_NAMES,
            &[],
            false,
            "no name: nothing is won by what is said",
        ),
        (GOOD_NAMES, &[EVIL], false, "no allowed name"),
        (NO_EVIL, &[GOOD, EVIL], false, "a denied name among others"),
    ] {
        let Some((mut lab, server)) = lab("defaultAction: Allow\nrules: []\n") else {
            return;
        };
        let mut process = lab.start(move |line| {
            resolve(names)?;
            let old = open(to())?;
            line.step();
            let anew = made_anew(old)?;
            converse(&anew, &[&hello(GOOD)])
        });
        process.reached();
        lab.policy(policy);
        process.go();
        ebfw_tests::lab::eventually("the process ends", || {
            lab.tend();
            process.is_heard()
        });
        let result = process.finish();
        assert_eq!(result.is_ok(), passes, "{why}: {result:?}");
        assert_eq!(server.has(GOOD.as_bytes()), passes, "{why}");
    }
}

/// Requests for `/public` alone.
const PUBLIC: &str = "
defaultAction: Deny
rules:
- {name: public, action: Allow, match: {methods: [GET], pathPrefix: /public}}
";

#[test]
fn what_is_put_into_the_queue_under_repair_is_read_when_it_is_sent() {
    for (path, passes) in [("/public/2", true), ("/private", false)] {
        let Some((mut lab, server)) = lab(PUBLIC) else {
            return;
        };
        let result = lab.tended(move || {
            let stream = open(to())?;
            let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
            path::send(&stream, request("/public").as_bytes(), 0)?;
            set(&stream, libc::TCP_REPAIR, 1)?;
            set(&stream, libc::TCP_REPAIR_QUEUE, SENDS)?;
            // The kernel takes it as sent; the peer gets it when it is sent again.
            path::send(&stream, request(path).as_bytes(), 0)?;
            set(&stream, libc::TCP_REPAIR, OFF)?;
            said::all_came(&stream, request("/public").len() + request(path).len())
        });
        assert_eq!(result.is_ok(), passes, "{path}: {result:?}");
        assert!(passes || is_ended(&result), "{path}: {result:?}");
        assert_eq!(server.has(path.as_bytes()), passes, "{path}");
    }
}
