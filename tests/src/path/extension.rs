//! Ways to send with IP options and extension headers, harmless ones and those that lead the packet elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use super::{MARK, Send, connect, limit_send, send, send_to, set, socket};
use crate::lab::net::{v4, v6};

/// A connection whose first packet is lost is given up after this time.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(500);
/// Longer than a socket takes to be destroyed on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Harmless, IPv4.
pub const V4_WAYS: [(&str, Send); 2] = [
    ("IPv4 router alert, UDP", |to| {
        v4_options(to, libc::SOCK_DGRAM, &[148, 4, 0, 0])
    }),
    ("IPv4 no-operation options, TCP", |to| {
        v4_options(to, libc::SOCK_STREAM, &[1, 1, 1, 0])
    }),
];

/// Harmless, IPv6.
pub const V6_WAYS: [(&str, Send); 4] = [
    ("IPv6 destination options first, UDP", |to| {
        v6_header(to, libc::SOCK_DGRAM, libc::IPV6_DSTOPTS)
    }),
    ("IPv6 destination options first, TCP", |to| {
        v6_header(to, libc::SOCK_STREAM, libc::IPV6_DSTOPTS)
    }),
    ("IPv6 hop-by-hop options, UDP", |to| {
        v6_header(to, libc::SOCK_DGRAM, libc::IPV6_HOPOPTS)
    }),
    ("IPv6 hop-by-hop options, TCP", |to| {
        v6_header(to, libc::SOCK_STREAM, libc::IPV6_HOPOPTS)
    }),
];

/// Never to leave a governed workload: the address is not where the packet goes.
pub const V4_DETOURS: [(&str, Send); 4] = [
    ("loose source route, UDP", |to| {
        v4_options(to, libc::SOCK_DGRAM, &route(131))
    }),
    ("strict source route, UDP", |to| {
        v4_options(to, libc::SOCK_DGRAM, &route(137))
    }),
    ("loose source route, TCP", |to| {
        v4_options(to, libc::SOCK_STREAM, &route(131))
    }),
    ("loose source route in a control message", v4_control),
];

/// Likewise, IPv6.
pub const V6_DETOURS: [(&str, Send); 2] = [
    ("segment routing header, UDP", |to| {
        segments(to, libc::SOCK_DGRAM)
    }),
    ("segment routing header, TCP", |to| {
        segments(to, libc::SOCK_STREAM)
    }),
];

/// A TCP connection by a detour, loose source route or segment routing header, that waits for its peer.
///
/// # Errors
///
/// What the kernel says.
pub fn patient_detour(to: SocketAddr) -> io::Result<()> {
    let socket = if to.is_ipv4() {
        v4_socket(to, libc::SOCK_STREAM, &route(131))?
    } else {
        v6_segments(to, libc::SOCK_STREAM)?
    };
    speak(&socket, to, PATIENCE)
}

/// Makes what an open socket sends from now on take a detour, as [`V4_DETOURS`] and [`V6_DETOURS`] do.
///
/// # Errors
///
/// What the kernel says.
pub fn divert(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    if to.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &route(131))
    } else {
        set_segments(socket, to)
    }
}

fn v4_options(to: SocketAddr, kind: libc::c_int, options: &[u8]) -> io::Result<()> {
    speak(&v4_socket(to, kind, options)?, to, GIVEN_UP_AFTER)
}

fn v4_socket(to: SocketAddr, kind: libc::c_int, options: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket(to, kind, 0)?;
    set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, options)?;
    Ok(socket)
}

/// Connects, without waiting longer than `patience` where the first packet is lost, and sends.
fn speak(socket: &OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<()> {
    limit_send(socket, patience)?;
    connect(socket, to)?;
    send(socket, MARK, 0)
}

/// A route of one hop, to whom all policies of the tests let through.
fn route(kind: u8) -> Vec<u8> {
    let IpAddr::V4(hop) = v4(2) else {
        unreachable!("it is IPv4");
    };
    let mut option = vec![1, kind, 7, 4];
    option.extend(hop.octets());
    option
}

fn v4_control(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_DGRAM, 0)?;
    let option = route(131);
    let address = nix::sys::socket::SockaddrStorage::from(to);
    let data = [io::IoSlice::new(MARK)];
    // nix knows no IP_RETOPTS, by which a packet gets options of its own (ip(7)).
    let control = Control::new(libc::IPPROTO_IP, libc::IP_RETOPTS, &option);
    control.send(&socket, &data, &address)
}

/// One control message, written by hand.
struct Control(Vec<u64>);

impl Control {
    fn new(level: libc::c_int, kind: libc::c_int, value: &[u8]) -> Self {
        let length = size_of::<libc::cmsghdr>() + value.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(8), 0);
        let words = bytes.chunks_exact(8);
        Self(
            words
                .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
                .collect(),
        )
    }

    fn send(
        &self,
        socket: &impl AsRawFd,
        data: &[io::IoSlice<'_>],
        address: &nix::sys::socket::SockaddrStorage,
    ) -> io::Result<()> {
        use nix::sys::socket::SockaddrLike as _;
        // SAFETY: a message header of zeros has no address, no data and no control messages.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len();
        header.msg_iov = data.as_ptr().cast_mut().cast();
        header.msg_iovlen = data.len() as _;
        header.msg_control = self.0.as_ptr().cast_mut().cast();
        header.msg_controllen = (self.0.len() * 8) as _;
        // SAFETY: all that the header points to lives through the call, and is only read.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// An extension header of padding only.
fn v6_header(to: SocketAddr, kind: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let socket = socket(to, kind, 0)?;
    // Next header (the kernel's part), length 0: 8 bytes, PadN of 4.
    set(&socket, libc::IPPROTO_IPV6, name, &[0, 0, 1, 4, 0, 0, 0, 0])?;
    if kind == libc::SOCK_DGRAM {
        return send_to(&socket, MARK, 0, to);
    }
    speak(&socket, to, GIVEN_UP_AFTER)
}

fn segments(to: SocketAddr, kind: libc::c_int) -> io::Result<()> {
    speak(&v6_segments(to, kind)?, to, GIVEN_UP_AFTER)
}

fn v6_segments(to: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    let socket = socket(to, kind, 0)?;
    set_segments(&socket, to)?;
    Ok(socket)
}

/// `struct ipv6_sr_hdr`: via one hop, to whom all policies of the tests let through.
fn set_segments(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    const SEGMENT_ROUTING: u8 = 4;
    let (IpAddr::V6(hop), IpAddr::V6(last)) = (v6(2), to.ip()) else {
        unreachable!("these are IPv6");
    };
    let mut header = vec![0, 4, SEGMENT_ROUTING, 1, 1, 0, 0, 0];
    // The last segment comes first; the kernel fills it with the destination.
    header.extend(last.octets());
    header.extend(hop.octets());
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)
}
