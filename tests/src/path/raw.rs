//! Ways to send packets whose headers the program writes itself.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use super::{MARK, Send, allowed, connect, enable, send, send_to, socket};
use crate::lab::net::{v4, v6};

/// For both families.
pub const WAYS: [(&str, Send); 4] = [
    ("raw UDP", udp),
    ("raw UDP, connected", udp_connected),
    ("raw protocol 253", unknown),
    ("own IP header", own_header),
];

/// For IPv4.
pub const V4_WAYS: [(&str, Send); 3] = [
    ("own IP header, sent to another address", lying),
    ("hand-made first fragment", first_fragment),
    ("hand-made later fragment", later_fragment),
];

/// RFC 3692: for experiments.
const UNKNOWN: libc::c_int = 253;
/// IP header flag: more fragments.
const MORE: u16 = 0x2000;

fn bare(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip(), 0)
}

fn udp_segment(to: SocketAddr) -> Vec<u8> {
    let length = 8 + MARK.len() as u16;
    let mut bytes = [40000, to.port(), length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(MARK);
    bytes
}

fn udp(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    send_to(&socket, &udp_segment(to), 0, bare(to))
}

fn udp_connected(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    connect(&socket, bare(to))?;
    send(&socket, &udp_segment(to), 0)
}

fn unknown(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, UNKNOWN)?;
    send_to(&socket, MARK, 0, bare(to))
}

fn own_header(to: SocketAddr) -> io::Result<()> {
    send_packet(&packet(to, 0), to)
}

/// The header says `to`; the kernel is told another address.
fn lying(to: SocketAddr) -> io::Result<()> {
    send_packet(&packet(to, 0), allowed(to))
}

fn first_fragment(to: SocketAddr) -> io::Result<()> {
    send_packet(&packet(to, MORE), to)
}

fn later_fragment(to: SocketAddr) -> io::Result<()> {
    send_packet(&packet(to, 64), to)
}

/// More extension headers than any real packet has, then UDP. IPv6 only.
///
/// # Errors
///
/// What the kernel says.
pub fn endless_chain(to: SocketAddr) -> io::Result<()> {
    const HEADERS: usize = 12;
    const DESTINATION_OPTIONS: u8 = 60;
    let plain = packet(to, 0);
    let (ip, segment) = plain.split_at(40);
    let mut chained = ip.to_vec();
    let length = (HEADERS * 8 + segment.len()) as u16;
    chained[4..6].copy_from_slice(&length.to_be_bytes());
    chained[6] = DESTINATION_OPTIONS;
    for left in (0..HEADERS).rev() {
        let next = if left == 0 { 17 } else { DESTINATION_OPTIONS };
        chained.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    chained.extend(segment);
    send_packet(&chained, to)
}

fn send_packet(packet: &[u8], to: SocketAddr) -> io::Result<()> {
    Headers::open(to)?.send(packet, to)
}

/// A socket for packets with IP headers of their own.
#[derive(Debug)]
pub struct Headers(OwnedFd);

impl Headers {
    /// Opens one for the family of `like`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open(like: SocketAddr) -> io::Result<Self> {
        let socket = socket(like, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        if like.is_ipv6() {
            enable(&socket, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL)?;
        }
        Ok(Self(socket))
    }

    /// Sends a packet that begins with its IP header, by the way to `to`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        send_to(&self.0, packet, 0, bare(to))
    }
}

/// A UDP packet with its IP header; `fragment` is the field with flags and offset.
fn packet(to: SocketAddr, fragment: u16) -> Vec<u8> {
    let segment = udp_segment(to);
    let mut bytes = match (to.ip(), v4(1), v6(1)) {
        (IpAddr::V4(to), IpAddr::V4(from), _) => {
            let length = 20 + segment.len() as u16;
            let mut bytes = vec![0x45, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 7]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([64, 17, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes
        }
        (IpAddr::V6(to), _, IpAddr::V6(from)) => {
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend((segment.len() as u16).to_be_bytes());
            bytes.extend([17, 64]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes
        }
        _ => unreachable!("the near end has an address of each family"),
    };
    bytes.extend(segment);
    bytes
}
