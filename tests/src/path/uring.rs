//! Ways to send through io_uring, which enters the network stack from other functions than the system calls do.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use super::{MARK, Send, socket};

/// All of them, by name.
pub const WAYS: [(&str, Send); 4] = [
    ("io_uring CONNECT, SEND", connect),
    ("io_uring CONNECT, SEND with SQPOLL", connect_polled),
    ("io_uring SEND with an address", send_to),
    ("io_uring SENDMSG", send_message),
];

/// Submits one operation and waits for it.
///
/// # Safety
///
/// What the operation points to lives through the call.
unsafe fn run(ring: &mut IoUring, operation: &Entry) -> io::Result<()> {
    // SAFETY: the caller says so, and the operation is waited for.
    unsafe { ring.submission().push(operation) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().expect("one was waited for");
    match done.result() {
        code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}

fn connect(to: SocketAddr) -> io::Result<()> {
    connect_by(IoUring::new(8)?, to)
}

fn connect_polled(to: SocketAddr) -> io::Result<()> {
    connect_by(IoUring::builder().setup_sqpoll(100).build(8)?, to)
}

fn connect_by(mut ring: IoUring, to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    let address = SockaddrStorage::from(to);
    let fd = Fd(socket.as_raw_fd());
    let connect = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
    // SAFETY: the address lives to the end of this function.
    unsafe { run(&mut ring, &connect) }?;
    let send = opcode::Send::new(fd, MARK.as_ptr(), MARK.len() as u32).build();
    // SAFETY: the bytes are a constant.
    unsafe { run(&mut ring, &send) }
}

fn datagrams(to: SocketAddr) -> io::Result<OwnedFd> {
    socket(to, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
}

fn send_to(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    let address = SockaddrStorage::from(to);
    let send = opcode::Send::new(Fd(socket.as_raw_fd()), MARK.as_ptr(), MARK.len() as u32)
        .dest_addr(address.as_ptr())
        .dest_addr_len(address.len())
        .build();
    // SAFETY: the address lives to the end of this function; the bytes are a constant.
    unsafe { run(&mut IoUring::new(8)?, &send) }
}

fn send_message(to: SocketAddr) -> io::Result<()> {
    let socket = datagrams(to)?;
    let address = SockaddrStorage::from(to);
    let mut data = libc::iovec {
        iov_base: MARK.as_ptr().cast_mut().cast(),
        iov_len: MARK.len(),
    };
    // SAFETY: a message header of zeros has no address, no data and no control messages.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_namelen = address.len();
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    let send = opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const header).build();
    // SAFETY: header, address and data live to the end of this function.
    unsafe { run(&mut IoUring::new(8)?, &send) }
}
