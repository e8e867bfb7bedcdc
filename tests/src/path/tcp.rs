//! Ways to send over TCP.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use super::{
    MARK, Send, allowed, connect, disconnect, enable, limit_send, send, send_to, socket,
    wait_writable,
};

/// A connection over the wire takes less.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);

/// All of them, by name.
pub const WAYS: [(&str, Send); 6] = [
    ("TCP connect", plain),
    ("TCP non-blocking connect", nonblocking),
    ("TCP reconnect after AF_UNSPEC", reconnect),
    ("TCP urgent data", urgent),
    ("TCP Fast Open (MSG_FASTOPEN)", fast_open),
    ("TCP Fast Open (TCP_FASTOPEN_CONNECT)", fast_open_connect),
];

/// Of Multipath TCP, whose subflows are sockets of the kernel's own.
pub const MULTIPATH_WAYS: [(&str, Send); 2] = [
    ("MPTCP connect", multipath),
    ("MPTCP Fast Open", multipath_fast_open),
];

/// connect(2), write(2).
///
/// # Errors
///
/// What the kernel says.
pub fn plain(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, CONNECTED_WITHIN)?.write_all(MARK)
}

fn nonblocking(to: SocketAddr) -> io::Result<()> {
    let socket = stream(to, libc::SOCK_NONBLOCK, libc::IPPROTO_TCP)?;
    match connect(&socket, to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait_writable(&socket, CONNECTED_WITHIN)?;
        }
        result => result?,
    }
    send(&socket, MARK, 0)
}

fn reconnect(to: SocketAddr) -> io::Result<()> {
    let socket = stream(to, 0, libc::IPPROTO_TCP)?;
    connect(&socket, allowed(to))?;
    disconnect(&socket)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

fn urgent(to: SocketAddr) -> io::Result<()> {
    let socket = stream(to, 0, libc::IPPROTO_TCP)?;
    connect(&socket, to)?;
    send(&socket, MARK, libc::MSG_OOB)
}

fn fast_open(to: SocketAddr) -> io::Result<()> {
    send_to(
        &stream(to, 0, libc::IPPROTO_TCP)?,
        MARK,
        libc::MSG_FASTOPEN,
        to,
    )
}

fn fast_open_connect(to: SocketAddr) -> io::Result<()> {
    let socket = stream(to, 0, libc::IPPROTO_TCP)?;
    enable(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

fn multipath(to: SocketAddr) -> io::Result<()> {
    let socket = stream(to, 0, libc::IPPROTO_MPTCP)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

fn multipath_fast_open(to: SocketAddr) -> io::Result<()> {
    send_to(
        &stream(to, 0, libc::IPPROTO_MPTCP)?,
        MARK,
        libc::MSG_FASTOPEN,
        to,
    )
}

/// A stream socket that does not wait for ever.
fn stream(to: SocketAddr, flags: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let socket = socket(to, libc::SOCK_STREAM | flags, protocol)?;
    limit_send(&socket, CONNECTED_WITHIN)?;
    Ok(socket)
}
