//! Packets as a hostile sender would craft them, each with what a reader of SEMANTICS must make of it.
//!
//! Uses nothing of the parser under test but its limits: bytes and meaning are built side by side. Packets begin with the IP header.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebfw_common::{
    classify::{Destination, Flow, NO_NAMES, Said},
    packet::MAX_EXTENSIONS,
};

mod extension;
mod hostile;
mod options;

pub use extension::Extension;
pub use hostile::disguise;
pub use options::{Broken, Harmless, Options, SourceRoute};

/// UDP-Lite: a protocol whose ports no rule may see.
pub const UDP_LITE: u8 = 136;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMPV6: u8 = 58;

/// A packet and its meaning.
#[derive(Clone, Debug)]
pub struct Packet {
    /// From the IP header on.
    pub bytes: Vec<u8>,
    /// As which the kernel sends it, whatever its first byte says.
    pub family: Family,
    /// What must be made of it.
    pub meaning: Meaning,
}

/// The protocol of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Bytes of the header without options.
    #[must_use]
    pub fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

impl Packet {
    /// The bytes in hexadecimal, for the output of a failed test.
    #[must_use]
    pub fn hex(&self) -> String {
        self.bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It goes somewhere: to be judged by the rules.
    Flow(Flow),
    /// It cannot be read to the end: denied where a policy governs.
    Malformed,
    /// It carries an IPv4 source route: likewise.
    SourceRoute,
    /// It carries an IPv6 routing header: likewise.
    RoutingHeader,
}

/// What follows the IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, where the protocol has one; [`UDP_LITE`] included.
    pub port: u16,
    /// Bytes behind the transport header.
    pub payload: usize,
    /// 32-bit words of options in a TCP header.
    pub tcp_options: usize,
}

impl Upper {
    /// The transport of a packet to `port` with a payload of some bytes.
    #[must_use]
    pub fn new(protocol: u8, port: u16, payload: usize) -> Self {
        Self {
            protocol,
            port,
            payload,
            tcp_options: 0,
        }
    }

    fn header(self) -> Vec<u8> {
        let port = self.port.to_be_bytes();
        match self.protocol {
            TCP => self.tcp_header(port),
            UDP | UDP_LITE => {
                let [high, low] = u16::try_from(8 + self.payload)
                    .expect("payloads are short")
                    .to_be_bytes();
                vec![0xc3, 0x50, port[0], port[1], high, low, 0, 0]
            }
            SCTP => vec![0xc3, 0x50, port[0], port[1], 1, 2, 3, 4, 0, 0, 0, 0],
            ICMPV6 => vec![128, 0, 0, 0, 0x12, 0x34, 0, 1],
            _ => vec![8, 0, 0, 0, 0x12, 0x34, 0, 1],
        }
    }

    fn tcp_header(self, port: [u8; 2]) -> Vec<u8> {
        const SYN: u8 = 2;
        const PSH_ACK: u8 = 0x18;
        const NO_OPERATION: u8 = 1;
        let flags = if self.payload == 0 { SYN } else { PSH_ACK };
        let words = 5 + self.tcp_options as u8;
        let mut header = vec![
            0xc3,
            0x50,
            port[0],
            port[1],
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            words << 4,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ];
        header.resize(usize::from(words) * 4, NO_OPERATION);
        header
    }

    /// Bytes of the header that must be there; none of a protocol that is not understood.
    fn needed(self) -> usize {
        match self.protocol {
            TCP | UDP | SCTP | 1 | ICMPV6 => self.header().len(),
            _ => 0,
        }
    }

    fn flow(self, destination: Destination) -> Flow {
        let pending = self.protocol == TCP && self.payload == 0;
        Flow {
            destination: destination.mapped(),
            protocol: self.protocol,
            port: matches!(self.protocol, TCP | UDP | SCTP).then_some(self.port),
            said: if pending { Said::NOTHING } else { Said::UNREAD },
            names: NO_NAMES,
        }
    }
}

/// A flow of which only the protocol number is seen.
fn portless(destination: Destination, protocol: u8) -> Flow {
    Flow {
        destination: destination.mapped(),
        protocol,
        port: None,
        said: Said::UNREAD,
        names: NO_NAMES,
    }
}

/// Which part of a datagram an IPv4 packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The fragment at offset 0.
    First,
    /// The fragment at this offset (not 0), in units of 8 bytes.
    Later(u16),
}

impl Part {
    /// The 16 bits of flags and offset.
    fn field(self) -> u16 {
        match self {
            Self::Whole => 0x4000,
            Self::First => 0x2000,
            Self::Later(offset) => offset & 0x1fff,
        }
    }
}

/// An IPv4 packet to be.
#[derive(Clone, Debug)]
pub struct V4 {
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Options behind the fixed header.
    pub options: Options,
    /// Fragment.
    pub part: Part,
    /// What the packet carries.
    pub upper: Upper,
    /// Bytes kept of what the packet carries: all where `None`. The stated length agrees.
    pub kept: Option<usize>,
}

impl V4 {
    /// A packet without anything special.
    #[must_use]
    pub fn plain(destination: Ipv4Addr, upper: Upper) -> Self {
        Self {
            destination,
            options: Options::none(),
            part: Part::Whole,
            upper,
            kept: None,
        }
    }

    /// Bytes and meaning.
    #[must_use]
    pub fn build(&self) -> Packet {
        let mut carried = self.upper.header();
        carried.resize(carried.len() + self.upper.payload, 0x5a);
        if let Some(kept) = self.kept {
            carried.truncate(kept);
        }
        Packet {
            meaning: self.meaning(&carried),
            family: Family::V4,
            bytes: self.bytes(&carried),
        }
    }

    fn bytes(&self, carried: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.bytes().len() / 4;
        let total = (words * 4 + carried.len()) as u16;
        let mut bytes = vec![0x40 | words as u8, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.part.field().to_be_bytes());
        bytes.extend([64, self.upper.protocol, 0, 0]);
        bytes.extend([192, 0, 2, 99]);
        bytes.extend(self.destination.octets());
        bytes.extend(self.options.bytes());
        bytes.extend(carried);
        bytes
    }

    fn meaning(&self, carried: &[u8]) -> Meaning {
        if let Some(refusal) = self.options.refusal() {
            return refusal;
        }
        let destination = Destination::V4(self.destination.octets());
        match self.part {
            Part::Later(_) => Meaning::Flow(portless(destination, self.upper.protocol)),
            Part::Whole | Part::First => upper_meaning(self.upper, destination, carried.len()),
        }
    }
}

/// The meaning of a transport header of which `left` bytes are there, payload included.
fn upper_meaning(upper: Upper, destination: Destination, left: usize) -> Meaning {
    if left < upper.needed() {
        return Meaning::Malformed;
    }
    let payload = left.saturating_sub(upper.header().len());
    Meaning::Flow(Upper { payload, ..upper }.flow(destination))
}

/// An IPv6 packet to be.
#[derive(Clone, Debug)]
pub struct V6 {
    /// Destination address; an IPv4-mapped one means IPv4.
    pub destination: Ipv6Addr,
    /// Extension headers.
    pub chain: Vec<Extension>,
    /// What the packet carries behind them.
    pub upper: Upper,
    /// Bytes kept of what follows the fixed header: all where `None`. The stated length agrees.
    pub kept: Option<usize>,
}

impl V6 {
    /// A packet without extension headers.
    #[must_use]
    pub fn plain(destination: Ipv6Addr, upper: Upper) -> Self {
        Self {
            destination,
            chain: Vec::new(),
            upper,
            kept: None,
        }
    }

    /// Bytes and meaning.
    #[must_use]
    pub fn build(&self) -> Packet {
        let mut carried = Vec::new();
        for (position, extension) in self.chain.iter().enumerate() {
            carried.extend(extension.bytes(self.number_at(position + 1)));
        }
        carried.extend(self.upper.header());
        carried.resize(carried.len() + self.upper.payload, 0x5a);
        if let Some(kept) = self.kept {
            carried.truncate(kept);
        }
        Packet {
            meaning: self.meaning(carried.len()),
            family: Family::V6,
            bytes: self.bytes(&carried),
        }
    }

    /// The number that announces what is at `position` of the chain.
    fn number_at(&self, position: usize) -> u8 {
        self.chain
            .get(position)
            .map_or(self.upper.protocol, |extension| extension.number())
    }

    fn bytes(&self, carried: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((carried.len() as u16).to_be_bytes());
        bytes.extend([self.number_at(0), 64]);
        bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99).octets());
        bytes.extend(self.destination.octets());
        bytes.extend(carried);
        bytes
    }

    fn meaning(&self, carried: usize) -> Meaning {
        let destination = Destination::from_mapped(self.destination.octets());
        let mut left = carried;
        for (position, extension) in self.chain.iter().enumerate() {
            if position == MAX_EXTENSIONS as usize {
                return Meaning::Malformed;
            }
            if matches!(extension, Extension::Routing { .. }) {
                return Meaning::RoutingHeader;
            }
            if left < extension.length() {
                return Meaning::Malformed;
            }
            left -= extension.length();
            if matches!(extension, Extension::LaterFragment { .. }) {
                return Meaning::Flow(portless(destination, self.number_at(position + 1)));
            }
        }
        upper_meaning(self.upper, destination, left)
    }
}

/// A TCP packet that carries `payload`, from 192.0.2.1 to 198.51.100.1.
///
/// # Panics
///
/// If it is longer than packets are.
#[must_use]
pub fn segment(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(40 + payload.len()).expect("a packet's size");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    packet.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1]);
    packet.extend([0; 5]);
    packet.extend(payload);
    packet
}
