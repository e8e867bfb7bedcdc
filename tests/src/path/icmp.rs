//! Ways to send over ICMP.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use nix::sys::{
    socket::{MsgFlags, recv, setsockopt, sockopt},
    time::TimeVal,
};

use super::{MARK, Send, connect, send, send_to, socket};

/// Without privileges.
pub const PINGS: [(&str, Send); 2] = [
    ("ping socket", ping),
    ("ping socket, connected", ping_connected),
];

/// With the capability for raw sockets.
pub const RAW: [(&str, Send); 1] = [("raw ICMP", raw)];

fn protocol(to: SocketAddr) -> libc::c_int {
    if to.is_ipv4() {
        libc::IPPROTO_ICMP
    } else {
        libc::IPPROTO_ICMPV6
    }
}

/// An echo request; the kernel computes the checksum where it matters here.
fn echo(to: SocketAddr) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut bytes = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    bytes.extend(MARK);
    bytes
}

fn without_port(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip(), 0)
}

fn ping(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_DGRAM, protocol(to))?;
    send_to(&socket, &echo(to), 0, without_port(to))
}

fn ping_connected(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_DGRAM, protocol(to))?;
    connect(&socket, without_port(to))?;
    send(&socket, &echo(to), 0)
}

fn raw(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, protocol(to))?;
    send_to(&socket, &echo(to), 0, without_port(to))
}

/// Whether `to` answers an echo request.
///
/// # Errors
///
/// What the kernel says; a time-out where nothing comes.
pub fn is_answered(to: IpAddr) -> io::Result<bool> {
    let to = SocketAddr::new(to, 0);
    let socket = socket(to, libc::SOCK_DGRAM, protocol(to))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    send_to(&socket, &echo(to), 0, to)?;
    let mut answer = [0; 64];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(answer[..length].ends_with(MARK))
}
