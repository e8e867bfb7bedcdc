//! Ways to send over a transport that many kernels lack: SCTP.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use super::{MARK, Send, connect, limit_send, send, socket};

/// All of them, by name.
pub const WAYS: [(&str, Send); 2] = [("SCTP, one to one", sctp), ("SCTP, one to many", sctp_many)];

/// An association over the wire takes less.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// An SCTP socket that listens, or the reason why there is none.
///
/// # Errors
///
/// What the kernel says.
pub fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(at, libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
    super::bind(&socket, at)?;
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN)?;
    Ok(socket)
}

fn sctp(to: SocketAddr) -> io::Result<()> {
    speak(to, libc::SOCK_STREAM)
}

fn sctp_many(to: SocketAddr) -> io::Result<()> {
    speak(to, libc::SOCK_SEQPACKET)
}

fn speak(to: SocketAddr, kind: libc::c_int) -> io::Result<()> {
    let socket = socket(to, kind, libc::IPPROTO_SCTP)?;
    limit_send(&socket, CONNECTED_WITHIN)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}
