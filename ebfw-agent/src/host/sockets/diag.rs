//! NETLINK_SOCK_DIAG: list the TCP sockets of a network namespace, destroy one (sock_diag(7), linux/inet_diag.h).
//!
//! A netlink socket belongs to the namespace in which it was made, wherever it is used later.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message types and flags (linux/netlink.h, linux/sock_diag.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Attribute with the cgroup of a socket, from Linux 5.9 (linux/inet_diag.h).
const INET_DIAG_CGROUP_ID: u16 = 21;
/// A netlink answer comes at once; this ends a wait that a lost message would make endless.
const ANSWER_WITHIN_S: i64 = 2;
/// `netlink_dump` (net/netlink/af_netlink.c) fills at most 32 KiB, and no more than the reader asked for.
const BUFFER: usize = 32 * 1024;

/// Address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6: also sockets that speak IPv4 through mapped addresses.
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// `struct inet_diag_sockid`: what identifies a socket. Ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SockId {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    /// Low half first.
    cookie: [u32; 2],
}

impl SockId {
    fn new(family: Family, source: SocketAddr, destination: SocketAddr, cookie: u64) -> Self {
        Self {
            source_port: source.port().to_be_bytes(),
            destination_port: destination.port().to_be_bytes(),
            source: address_bytes(family, source.ip()),
            destination: address_bytes(family, destination.ip()),
            interface: 0,
            cookie: [cookie as u32, (cookie >> 32) as u32],
        }
    }

    fn cookie(&self) -> u64 {
        u64::from(self.cookie[0]) | u64::from(self.cookie[1]) << 32
    }
}

/// An address as the kernel wants it for `family`: IPv4 in the first 4 bytes, or mapped.
fn address_bytes(family: Family, address: IpAddr) -> [u8; 16] {
    match (family, address.to_canonical()) {
        (Family::V4, IpAddr::V4(v4)) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        (Family::V6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        (Family::V4 | Family::V6, IpAddr::V6(v6)) => v6.octets(),
    }
}

/// `struct inet_diag_req_v2` behind a `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct Query {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SockId,
}

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Entry {
    family: u8,
    state: u8,
    _timer: u8,
    _retransmits: u8,
    id: SockId,
    _expires: u32,
    _receive_queue: u32,
    _send_queue: u32,
    _uid: u32,
    _inode: u32,
}

const _: () =
    assert!(size_of::<Query>() == 72 && size_of::<Entry>() == 72 && size_of::<SockId>() == 48);

/// A TCP socket as a dump lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its family.
    pub family: Family,
    /// TCP state: 1 is ESTABLISHED, 10 LISTEN (net/tcp_states.h).
    pub state: u8,
    /// Local end.
    pub source: SocketAddr,
    /// Remote end.
    pub destination: SocketAddr,
    /// The socket's cookie (SO_COOKIE).
    pub cookie: u64,
    /// Cgroup v2 id, where the kernel tells.
    pub cgroup_id: Option<u64>,
    id: SockId,
}

/// A netlink socket for one network namespace.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens one for the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_WITHIN_S, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Destroys the TCP socket with these ends and this cookie. ENOENT: there is none; the cookie keeps a successor safe.
    pub fn destroy(
        &mut self,
        family: Family,
        source: SocketAddr,
        destination: SocketAddr,
        cookie: u64,
    ) -> io::Result<()> {
        self.destroy_id(family, SockId::new(family, source, destination, cookie))
    }

    /// Destroys a socket that a dump listed.
    pub fn destroy_listed(&mut self, listed: &TcpSocket) -> io::Result<()> {
        self.destroy_id(listed.family, listed.id)
    }

    fn destroy_id(&mut self, family: Family, id: SockId) -> io::Result<()> {
        self.send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, family, id)?;
        self.receive(|_| {})
    }

    /// The TCP sockets of one family, in every state but TIME_WAIT.
    pub fn dump(&mut self, family: Family) -> io::Result<Vec<TcpSocket>> {
        let nothing = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.send(
            SOCK_DIAG_BY_FAMILY,
            NLM_F_REQUEST | NLM_F_DUMP,
            family,
            SockId::new(family, nothing, nothing, 0),
        )?;
        let mut sockets = Vec::new();
        self.receive(|message| sockets.extend(parse_entry(message)))?;
        Ok(sockets)
    }

    fn send(&mut self, kind: u16, flags: u16, family: Family, id: SockId) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = Header {
            length: size_of::<Query>() as u32,
            kind,
            flags,
            sequence: self.sequence,
            port: 0,
        };
        let time_wait = 1 << 6;
        let query = Query {
            header,
            family: family.number(),
            protocol: libc::IPPROTO_TCP as u8,
            extensions: 0,
            pad: 0,
            states: !time_wait,
            id,
        };
        sendto(
            self.socket.as_raw_fd(),
            query.as_bytes(),
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        Ok(())
    }

    /// Reads messages up to the end of the answer. What answers an older question is passed over.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for message in Messages(&self.buffer[..length]) {
                let (header, payload) = message?;
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return outcome(payload),
                    NLMSG_ERROR => return outcome(payload),
                    _ => take(payload),
                }
            }
        }
    }
}

/// The error number at the start of NLMSG_ERROR and NLMSG_DONE, negative; 0 is success.
fn outcome(payload: &[u8]) -> io::Result<()> {
    match i32::read_from_prefix(payload) {
        Ok((0, _)) => Ok(()),
        Ok((code, _)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        Err(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<(Header, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let cut = || Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
        let Ok((header, _)) = Header::read_from_prefix(bytes) else {
            return cut();
        };
        let length = header.length as usize;
        let Some(payload) = bytes.get(size_of::<Header>()..length) else {
            return cut();
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((header, payload)))
    }
}

/// Reads a `struct inet_diag_msg` with its attributes; `None` for what is none.
fn parse_entry(message: &[u8]) -> Option<TcpSocket> {
    let (entry, attributes) = Entry::read_from_prefix(message).ok()?;
    let family = [Family::V4, Family::V6]
        .into_iter()
        .find(|family| family.number() == entry.family)?;
    let end = |address: [u8; 16], port: [u8; 2]| {
        SocketAddr::new(parse_address(family, address), u16::from_be_bytes(port))
    };
    Some(TcpSocket {
        family,
        state: entry.state,
        source: end(entry.id.source, entry.id.source_port),
        destination: end(entry.id.destination, entry.id.destination_port),
        cookie: entry.id.cookie(),
        cgroup_id: attribute(attributes, INET_DIAG_CGROUP_ID)
            .and_then(|value| u64::read_from_bytes(value).ok()),
        id: entry.id,
    })
}

fn parse_address(family: Family, bytes: [u8; 16]) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from([bytes[0], bytes[1], bytes[2], bytes[3]]).into(),
        Family::V6 => Ipv6Addr::from(bytes).into(),
    }
}

/// The value of an attribute in a list of `struct nlattr`.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let ([length, kind], _) = <[u16; 2]>::read_from_prefix(attributes).ok()?;
        let value = attributes.get(4..usize::from(length))?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            length: (16 + payload.len()) as u32,
            kind,
            flags: 0,
            sequence: 1,
            port: 0,
        };
        [header.as_bytes(), payload].concat()
    }

    #[test]
    fn cut_and_lying_messages_end_in_an_error() {
        let whole = message(NLMSG_DONE, &0i32.to_ne_bytes());
        for length in 1..whole.len() {
            assert!(
                Messages(&whole[..length]).next().unwrap().is_err(),
                "cut after {length} bytes"
            );
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&8u32.to_ne_bytes());
        assert!(
            Messages(&short).next().unwrap().is_err(),
            "shorter than its own header"
        );
        assert!(Messages(&[]).next().is_none());
    }

    #[test]
    fn messages_follow_each_other_on_four_byte_borders() {
        let mut two = message(7, b"abcde");
        two.extend([0; 3]);
        two.extend(message(8, b""));
        let read: Vec<_> = Messages(&two)
            .map(|message| {
                message
                    .map(|(header, payload)| (header.kind, payload.len()))
                    .unwrap()
            })
            .collect();
        assert_eq!(read, [(7, 5), (8, 0)]);
    }

    #[test]
    fn the_outcome_is_the_negative_error_number() {
        assert!(outcome(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(
            outcome(&(-2i32).to_ne_bytes()).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
        assert!(outcome(&i32::MIN.to_ne_bytes()).is_err());
        assert!(outcome(&[0]).is_err());
    }

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let list = |length: u16, kind: u16, value: &[u8]| {
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        for (attributes, expected, why) in [
            (list(12, 21, &[1; 8]), Some(8), "the one"),
            (
                [list(5, 3, &[9, 0, 0, 0]), list(12, 21, &[1; 8])].concat(),
                Some(8),
                "behind a padded one",
            ),
            (list(0, 3, &[]), None, "length 0 would never end"),
            (list(3, 3, &[]), None, "shorter than its header"),
            (list(200, 21, &[1; 8]), None, "longer than what is there"),
            (vec![], None, "none"),
        ] {
            assert_eq!(
                attribute(&attributes, 21).map(<[u8]>::len),
                expected,
                "{why}"
            );
        }
    }

    #[test]
    fn an_entry_that_is_cut_is_none() {
        let mut entry = vec![0; size_of::<Entry>()];
        entry[0] = libc::AF_INET as u8;
        assert!(parse_entry(&entry).is_some());
        assert!(parse_entry(&entry[..71]).is_none());
        entry[0] = 99;
        assert!(parse_entry(&entry).is_none(), "another family");
    }

    #[test]
    fn addresses_are_written_for_the_family_of_the_socket() {
        let v4: IpAddr = "1.2.3.4".parse().unwrap();
        let mapped: IpAddr = "::ffff:1.2.3.4".parse().unwrap();
        assert_eq!(address_bytes(Family::V4, mapped)[..5], [1, 2, 3, 4, 0]);
        assert_eq!(
            address_bytes(Family::V6, v4)[10..],
            [0xff, 0xff, 1, 2, 3, 4]
        );
    }
}
