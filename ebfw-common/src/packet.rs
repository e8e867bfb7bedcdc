//! What an outgoing IP packet says of its flow: addresses, protocol, ports, whether it carries payload.
//!
//! Works on a [`Source`] of bytes (an skb in the kernel, a slice elsewhere) that begins with the IP header. Judges nothing, but tells
//! packets that no policy may let through ([`Malformed`]) from those whose transport it does not understand (no ports).

use crate::abi::Address;

/// IPv6 extension headers that are walked before a packet counts as malformed. Real packets carry three at most (RFC 8200, 4.1).
pub const MAX_EXTENSIONS: u32 = 8;
/// Length of the longest IPv4 options in bytes (RFC 791: header length 15 words, of which 5 are fixed).
pub const MAX_OPTIONS: usize = 40;

/// The bytes of a packet from its IP header on.
pub trait Source {
    /// Number of bytes.
    fn length(&self) -> u32;

    /// `N` 32-bit words at byte `OFFSET`, in memory order. The offset is a constant so that the kernel can check it once.
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]>;

    /// `N` 32-bit words at byte `offset`, in memory order.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    /// `length` (1..=40) bytes at byte 20, zeros behind them.
    fn options(&self, length: u32) -> Option<[u8; MAX_OPTIONS]>;
}

/// A packet that is denied wherever a policy governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A header is cut off, a length or version lies, an option is broken, or there are too many extension headers.
    Header,
    /// An IPv4 source route: the destination is not where the packet goes.
    SourceRoute,
    /// An IPv6 routing header: likewise.
    RoutingHeader,
}

/// The ports of a packet, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// What is behind the IP header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: [`Upper::ports`], [`Upper::payload`] and [`Upper::reset`] count.
    Tcp,
    /// UDP or SCTP: [`Upper::ports`] count.
    Datagram,
    /// ICMP or ICMPv6: [`Upper::icmp`] counts.
    Icmp,
    /// A later fragment, or a protocol without ports: only the protocol number is known.
    Unknown,
}

/// What the header behind the IP header says. Flat, and zero where a field does not count: the kernel's compiler copies what an enum leaves
/// undefined, and the verifier refuses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Which of the other fields count.
    pub transport: Transport,
    /// The ports.
    pub ports: Ports,
    /// Whether bytes follow the TCP header.
    pub payload: bool,
    /// Whether it is a bare reset (RST set, no payload).
    pub reset: bool,
    /// Type of the ICMP message.
    pub icmp: u8,
    /// Where the payload of TCP or UDP begins and ends, in bytes from the IP header's first; both 0 where there is none.
    pub start: u32,
    /// See `start`.
    pub end: u32,
}

impl Upper {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        transport: Transport::Unknown,
        ports: Ports {
            source: 0,
            destination: 0,
        },
        payload: false,
        reset: false,
        icmp: 0,
        start: 0,
        end: 0,
    };
}

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address; IPv4 mapped.
    pub source: Address,
    /// Destination address; IPv4 mapped.
    pub destination: Address,
    /// What is behind the IP header.
    pub upper: Upper,
    /// IP protocol number (of the last header that was understood).
    pub protocol: u8,
}

impl Packet {
    /// Whether the ports are known.
    #[inline(always)]
    #[must_use]
    pub fn has_ports(&self) -> bool {
        match self.upper.transport {
            Transport::Tcp | Transport::Datagram => true,
            Transport::Icmp | Transport::Unknown => false,
        }
    }

    /// The ports, where they are known.
    #[inline(always)]
    #[must_use]
    pub fn ports(&self) -> Option<Ports> {
        self.has_ports().then_some(self.upper.ports)
    }

    /// Whether bytes of an application leave with it: every datagram counts, and of TCP what carries payload.
    #[inline(always)]
    #[must_use]
    pub fn carries_payload(&self) -> bool {
        self.upper.transport != Transport::Tcp || self.upper.payload
    }
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Parses an IPv4 packet.
///
/// # Errors
///
/// [`Malformed`] says why the packet must not leave.
#[inline(always)]
pub fn parse_v4<S: Source>(source: &S) -> Result<Packet, Malformed> {
    let head: [u32; 5] = source.fixed::<0, 5>().ok_or(Malformed::Header)?;
    let [version_length, _, total_high, total_low] = head[0].to_ne_bytes();
    if version_length >> 4 != 4 || version_length & 15 < 5 {
        return Err(Malformed::Header);
    }
    let header_length = u32::from(version_length & 15) * 4;
    let end = packet_end(
        source,
        u32::from(u16::from_be_bytes([total_high, total_low])),
    )?;
    if end < header_length {
        return Err(Malformed::Header);
    }
    if header_length > 20 {
        check_options(source, header_length - 20)?;
    }
    let [_, _, flags, offset] = head[1].to_ne_bytes();
    let [_, number, ..] = head[2].to_ne_bytes();
    let upper = if u16::from_be_bytes([flags, offset]) & 0x1fff != 0 {
        Upper::UNKNOWN
    } else if header_length == 20 {
        transport_fixed::<S, 20>(source, number, end)?
    } else {
        transport_at(source, number, header_length, end)?
    };
    Ok(Packet {
        source: Address::mapped(head[3].to_ne_bytes()),
        destination: Address::mapped(head[4].to_ne_bytes()),
        upper,
        protocol: number,
    })
}

/// Where the packet ends. The kernel sets a length of 0 on packets over 64 KiB that the device will cut (BIG TCP).
#[inline(always)]
fn packet_end<S: Source>(source: &S, stated: u32) -> Result<u32, Malformed> {
    if stated > source.length() {
        return Err(Malformed::Header);
    }
    Ok(if stated == 0 { source.length() } else { stated })
}

/// Walks the options byte by byte, the index being the loop's own so that the verifier has nothing to track.
#[inline(always)]
fn check_options<S: Source>(source: &S, length: u32) -> Result<(), Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let options = source.options(length).ok_or(Malformed::Header)?;
    let mut skip = 0u32;
    for index in 0..MAX_OPTIONS {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        match options[index] {
            END => return Ok(()),
            NO_OPERATION => {}
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Malformed::SourceRoute),
            _ => {
                let stated = if index + 1 < MAX_OPTIONS {
                    options[index + 1]
                } else {
                    0
                };
                if stated < 2 || index as u32 + u32::from(stated) > length {
                    return Err(Malformed::Header);
                }
                skip = u32::from(stated) - 1;
            }
        }
    }
    Ok(())
}

/// Parses an IPv6 packet.
///
/// # Errors
///
/// [`Malformed`] says why the packet must not leave.
#[inline(always)]
pub fn parse_v6<S: Source>(source: &S) -> Result<Packet, Malformed> {
    let head: [u32; 10] = source.fixed::<0, 10>().ok_or(Malformed::Header)?;
    if head[0].to_ne_bytes()[0] >> 4 != 6 {
        return Err(Malformed::Header);
    }
    let [length_high, length_low, next, _] = head[1].to_ne_bytes();
    let stated = u32::from(u16::from_be_bytes([length_high, length_low]));
    let end = packet_end(source, if stated == 0 { 0 } else { stated + 40 })?;
    let (number, upper) = match next {
        protocol::TCP | protocol::UDP => (next, transport_fixed::<S, 40>(source, next, end)?),
        _ => behind_extensions(source, next, end)?,
    };
    Ok(Packet {
        source: Address([head[2], head[3], head[4], head[5]]),
        destination: Address([head[6], head[7], head[8], head[9]]),
        upper,
        protocol: number,
    })
}

/// Walks the extension headers that begin at byte 40 and returns the protocol behind them.
#[inline(always)]
fn behind_extensions<S: Source>(source: &S, first: u8, end: u32) -> Result<(u8, Upper), Malformed> {
    let mut next = first;
    let mut offset = 40u32;
    for walked in 0..MAX_EXTENSIONS + 1 {
        match next {
            protocol::HOP_BY_HOP
            | protocol::DESTINATION_OPTIONS
            | protocol::AUTHENTICATION
            | protocol::FRAGMENT
                if walked == MAX_EXTENSIONS =>
            {
                return Err(Malformed::Header);
            }
            protocol::ROUTING => return Err(Malformed::RoutingHeader),
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::AUTHENTICATION => {
                let [following, length, ..] =
                    source.words::<1>(offset).ok_or(Malformed::Header)?[0].to_ne_bytes();
                // RFC 4302, 2.2: the length of AH counts words of 4 bytes, less 2; RFC 8200, 4.3: all others 8 bytes, less 1.
                let length = u32::from(length);
                offset += if next == protocol::AUTHENTICATION {
                    (length + 2) * 4
                } else {
                    (length + 1) * 8
                };
                next = following;
            }
            protocol::FRAGMENT => {
                let [following, _, high, low] =
                    source.words::<1>(offset).ok_or(Malformed::Header)?[0].to_ne_bytes();
                offset += 8;
                next = following;
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    if offset > end {
                        return Err(Malformed::Header);
                    }
                    return Ok((next, Upper::UNKNOWN));
                }
            }
            _ => return Ok((next, transport_at(source, next, offset, end)?)),
        }
        if offset > end {
            return Err(Malformed::Header);
        }
    }
    Err(Malformed::Header)
}

#[inline(always)]
fn transport_fixed<S: Source, const OFFSET: usize>(
    source: &S,
    number: u8,
    end: u32,
) -> Result<Upper, Malformed> {
    transport(
        number,
        OFFSET as u32,
        end,
        || source.fixed::<OFFSET, 5>(),
        || source.fixed::<OFFSET, 2>(),
    )
}

#[inline(always)]
fn transport_at<S: Source>(
    source: &S,
    number: u8,
    offset: u32,
    end: u32,
) -> Result<Upper, Malformed> {
    transport(
        number,
        offset,
        end,
        || source.words::<5>(offset),
        || source.words::<2>(offset),
    )
}

#[inline(always)]
fn transport(
    number: u8,
    offset: u32,
    end: u32,
    five: impl Fn() -> Option<[u32; 5]>,
    two: impl Fn() -> Option<[u32; 2]>,
) -> Result<Upper, Malformed> {
    match number {
        protocol::TCP => {
            let words = five().ok_or(Malformed::Header)?;
            let [data_offset, flags, ..] = words[3].to_ne_bytes();
            let header_length = u32::from(data_offset >> 4) * 4;
            if header_length < 20 || offset + header_length > end {
                return Err(Malformed::Header);
            }
            let payload = end > offset + header_length;
            Ok(Upper {
                transport: Transport::Tcp,
                ports: ports(words[0]),
                payload,
                reset: flags & 4 != 0 && !payload,
                icmp: 0,
                start: offset + header_length,
                end,
            })
        }
        protocol::UDP | protocol::SCTP => {
            let words = two().ok_or(Malformed::Header)?;
            if offset + if number == protocol::UDP { 8 } else { 12 } > end {
                return Err(Malformed::Header);
            }
            Ok(Upper {
                transport: Transport::Datagram,
                ports: ports(words[0]),
                start: offset + 8,
                end,
                ..Upper::UNKNOWN
            })
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let words = two().ok_or(Malformed::Header)?;
            if offset + 8 > end {
                return Err(Malformed::Header);
            }
            Ok(Upper {
                transport: Transport::Icmp,
                icmp: words[0].to_ne_bytes()[0],
                ..Upper::UNKNOWN
            })
        }
        _ => Ok(Upper::UNKNOWN),
    }
}

#[inline(always)]
fn ports(word: u32) -> Ports {
    let [a, b, c, d] = word.to_ne_bytes();
    Ports {
        source: u16::from_be_bytes([a, b]),
        destination: u16::from_be_bytes([c, d]),
    }
}

/// A packet in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Source for Bytes<'_> {
    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        self.words(OFFSET as u32)
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = offset as usize;
        let bytes = self.0.get(start..start.checked_add(N * 4)?)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn options(&self, length: u32) -> Option<[u8; MAX_OPTIONS]> {
        let mut options = [0; MAX_OPTIONS];
        let length = length as usize;
        options
            .get_mut(..length)?
            .copy_from_slice(self.0.get(20..20 + length)?);
        Some(options)
    }
}
