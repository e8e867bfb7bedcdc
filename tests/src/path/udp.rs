//! Ways to send datagrams: UDP and UDP-Lite.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use super::{MARK, Send, allowed, connect, disconnect, enable, send, send_to, set, socket};

/// Of UDP.
pub const WAYS: [(&str, Send); 9] = [
    ("UDP sendto", unconnected),
    ("UDP connect, send", connected),
    ("UDP reconnect after AF_UNSPEC", reconnected),
    ("UDP connect to another without AF_UNSPEC", connected_twice),
    ("UDP sendto on a socket connected elsewhere", over_another),
    ("UDP sendmmsg, an allowed peer first", many),
    ("UDP MSG_MORE", in_pieces),
    ("UDP_CORK", corked),
    ("UDP_SEGMENT", segmented),
];

/// Of UDP-Lite, which has no ports as far as policies go.
pub const LITE_WAYS: [(&str, Send); 2] = [
    ("UDP-Lite sendto", lite_unconnected),
    ("UDP-Lite connect, send", lite_connected),
];

fn datagrams(to: SocketAddr) -> io::Result<OwnedFd> {
    socket(to, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
}

/// sendto(2).
///
/// # Errors
///
/// What the kernel says.
pub fn unconnected(to: SocketAddr) -> io::Result<()> {
    send_to(&datagrams(to)?, MARK, 0, to)
}

/// connect(2), send(2).
///
/// # Errors
///
/// What the kernel says.
pub fn connected(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

/// Sends from the near end's own device, to whom a broadcast or multicast address means.
///
/// # Errors
///
/// What the kernel says.
pub fn to_group(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    enable(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    let device = crate::lab::net::NEAR_DEVICE.as_bytes();
    set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device)?;
    send_to(&socket, MARK, 0, to)
}

fn reconnected(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    connect(&socket, allowed(to))?;
    send(&socket, b"first", 0)?;
    disconnect(&socket)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

fn connected_twice(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    connect(&socket, allowed(to))?;
    send(&socket, b"first", 0)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}

fn over_another(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    connect(&socket, allowed(to))?;
    send(&socket, b"first", 0)?;
    send_to(&socket, MARK, 0, to)
}

fn many(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    let addresses = [allowed(to), to].map(SockaddrStorage::from);
    let mut data = libc::iovec {
        iov_base: MARK.as_ptr().cast_mut().cast(),
        iov_len: MARK.len(),
    };
    let data = &raw mut data;
    let mut messages = addresses.each_ref().map(|address| libc::mmsghdr {
        msg_hdr: header(address, data),
        msg_len: 0,
    });
    let mut rest = &mut messages[..];
    while !rest.is_empty() {
        let count = libc::c_uint::try_from(rest.len()).map_err(io::Error::other)?;
        // SAFETY: that many headers, whose addresses and data live through the call; the data are only read.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
        // What comes after the last message that could be sent is the next call's business.
        rest = match usize::try_from(sent) {
            Ok(sent) => &mut rest[sent..],
            Err(_) => return Err(io::Error::last_os_error()),
        };
    }
    Ok(())
}

fn header(address: &SockaddrStorage, data: *mut libc::iovec) -> libc::msghdr {
    // SAFETY: a message header of zeros has no address, no data and no control messages.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_namelen = address.len();
    header.msg_iov = data;
    header.msg_iovlen = 1;
    header.msg_control = ptr::null_mut();
    header
}

fn in_pieces(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    send_to(&socket, &MARK[..5], libc::MSG_MORE, to)?;
    send_to(&socket, &MARK[5..], 0, to)
}

fn corked(to: SocketAddr) -> io::Result<()> {
    const UDP_CORK: libc::c_int = 1;
    let socket = datagrams(to)?;
    enable(&socket, libc::SOL_UDP, UDP_CORK)?;
    send_to(&socket, &MARK[..5], 0, to)?;
    // The packet goes out with the option; the address of a later piece means nothing.
    send_to(&socket, &MARK[5..], 0, allowed(to))?;
    set(&socket, libc::SOL_UDP, UDP_CORK, &0i32.to_ne_bytes())
}

fn segmented(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    let length = i32::try_from(MARK.len()).map_err(io::Error::other)?;
    set(
        &socket,
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        &length.to_ne_bytes(),
    )?;
    send_to(&socket, &MARK.repeat(3), 0, to)
}

fn lite(to: SocketAddr) -> io::Result<OwnedFd> {
    socket(to, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)
}

fn lite_unconnected(to: SocketAddr) -> io::Result<()> {
    send_to(&lite(to)?, MARK, 0, to)
}

fn lite_connected(to: SocketAddr) -> io::Result<()> {
    let socket = lite(to)?;
    connect(&socket, to)?;
    send(&socket, MARK, 0)
}
