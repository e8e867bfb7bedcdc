//! The ways in which an unprivileged or privileged program sends, each as one function: what a firewall has to see through.
//! Each sends [`MARK`] to an address, or fails as the kernel says.

pub mod extension;
pub mod icmp;
pub mod raw;
pub mod seldom;
pub mod tcp;
pub mod udp;
pub mod uring;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::{
    socket::{SockaddrLike as _, SockaddrStorage, sockopt::SendTimeout},
    time::{TimeVal, TimeValLike as _},
};

/// What is sent: nothing else on the wire looks like it.
pub const MARK: &[u8] = b"the ebfw tests' secret";

/// A way to send.
pub type Send = fn(SocketAddr) -> io::Result<()>;

/// A peer that every policy of the tests allows, in the family of `like`.
#[must_use]
pub fn allowed(like: SocketAddr) -> SocketAddr {
    let address = match like.ip() {
        IpAddr::V4(_) => crate::lab::net::v4(2),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => crate::lab::net::mapped(2),
        IpAddr::V6(_) => crate::lab::net::v6(2),
    };
    SocketAddr::new(address, like.port())
}

/// Lets no call that sends wait for longer than this.
pub(crate) fn limit_send(socket: &impl AsFd, time: Duration) -> io::Result<()> {
    let microseconds = i64::try_from(time.as_micros()).map_err(io::Error::other)?;
    let time = TimeVal::microseconds(microseconds);
    nix::sys::socket::setsockopt(socket, SendTimeout, &time).map_err(Into::into)
}

fn family(address: SocketAddr) -> libc::c_int {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// A socket for `address`'s family.
///
/// # Errors
///
/// What the kernel says.
pub fn socket(
    address: SocketAddr,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::socket(family(address), kind | libc::SOCK_CLOEXEC, protocol) };
    check(fd)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A TCP socket.
///
/// # Errors
///
/// What the kernel says.
pub fn stream(address: SocketAddr) -> io::Result<OwnedFd> {
    socket(address, libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

/// connect(2).
///
/// # Errors
///
/// What the kernel says.
pub fn connect(socket: &impl AsRawFd, address: SocketAddr) -> io::Result<()> {
    let address = SockaddrStorage::from(address);
    nix::sys::socket::connect(socket.as_raw_fd(), &address).map_err(Into::into)
}

/// Takes the peer away from a socket.
///
/// # Errors
///
/// What the kernel says.
pub fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    let nobody = [0u8; 16];
    // SAFETY: the address is 16 bytes whose family is AF_UNSPEC, which is 0.
    check(unsafe { libc::connect(socket.as_raw_fd(), nobody.as_ptr().cast(), 16) })
}

/// A datagram socket with an address that need not be this host's.
///
/// # Errors
///
/// What the kernel says.
pub fn free_bound(address: SocketAddr) -> io::Result<UdpSocket> {
    free_bound_as(libc::SOCK_DGRAM, address).map(Into::into)
}

/// A TCP socket likewise, that waits half a second at most.
///
/// # Errors
///
/// What the kernel says.
pub fn free_bound_stream(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = free_bound_as(libc::SOCK_STREAM, address)?;
    limit_send(&socket, Duration::from_millis(500))?;
    Ok(socket)
}

fn free_bound_as(kind: libc::c_int, address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address, kind, 0)?;
    enable(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND)?;
    bind(&socket, address)?;
    Ok(socket)
}

/// A stream socket bound to `address`, which it shares with others.
///
/// # Errors
///
/// What the kernel says.
pub fn reusing(address: SocketAddr, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let socket = socket(address, libc::SOCK_STREAM, protocol)?;
    enable(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    enable(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
    limit_send(&socket, Duration::from_secs(3))?;
    bind(&socket, address)?;
    Ok(socket)
}

fn bind(socket: &impl AsRawFd, address: SocketAddr) -> io::Result<()> {
    let address = SockaddrStorage::from(address);
    nix::sys::socket::bind(socket.as_raw_fd(), &address).map_err(Into::into)
}

/// sendto(2).
pub(crate) fn send_to(
    socket: &impl AsRawFd,
    bytes: &[u8],
    flags: libc::c_int,
    address: SocketAddr,
) -> io::Result<()> {
    let address = SockaddrStorage::from(address);
    // SAFETY: buffer and address are as long as is said, and live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            address.as_ptr(),
            address.len(),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// send(2).
///
/// # Errors
///
/// What the kernel says.
pub fn send(socket: &impl AsRawFd, bytes: &[u8], flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the buffer is as long as is said, and lives through the call.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// setsockopt(2) with a value of plain bytes.
pub fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the value is as long as is said, and lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    })
}

/// setsockopt(2) with 1.
pub(crate) fn enable(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<()> {
    set(socket, level, name, &1i32.to_ne_bytes())
}

/// getsockopt(2) of `N` bytes.
pub fn get<const N: usize>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<[u8; N]> {
    let (mut value, mut length) = ([0; N], N as libc::socklen_t);
    // SAFETY: the value has room for as many bytes as the length says.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// The error that waits in a socket.
pub(crate) fn pending_error(socket: &impl AsRawFd) -> io::Result<()> {
    match i32::from_ne_bytes(get(socket, libc::SOL_SOCKET, libc::SO_ERROR)?) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Waits until the socket can be written to, or has failed.
pub(crate) fn wait_writable(socket: &impl AsRawFd, time: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let time = libc::c_int::try_from(time.as_millis()).map_err(io::Error::other)?;
    // SAFETY: one entry, which lives through the call.
    match unsafe { libc::poll(&raw mut poll, 1, time) } {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        1 => pending_error(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
