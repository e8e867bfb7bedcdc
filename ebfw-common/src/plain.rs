//! Packets whose headers are the usual ones, read in a few steps: IPv4 without options that is no fragment, IPv6 without extension
//! headers, TCP or UDP behind it.
//!
//! Never a second opinion: what is said here is what [`crate::packet`] says, or nothing.

use crate::{
    abi::Address,
    packet::{Source, protocol},
};

/// What a plain packet says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Destination address; IPv4 mapped.
    pub destination: Address,
    /// Destination port, in host order.
    pub port: u16,
    /// [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u8,
}

/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;

/// Reads a plain IPv4 packet; `None` where it is not one.
#[inline(always)]
pub fn plain_v4<S: Source>(source: &S) -> Option<Plain> {
    let head: [u32; 7] = source.fixed::<0, 7>()?;
    let [version_length, _, high, low] = head[0].to_ne_bytes();
    let [_, _, flags, offset] = head[1].to_ne_bytes();
    let [_, number, ..] = head[2].to_ne_bytes();
    if version_length != 0x45 || u16::from_be_bytes([flags, offset]) & FRAGMENT != 0 {
        return None;
    }
    let end = u32::from(u16::from_be_bytes([high, low]));
    is_whole::<S, 20, 32>(source, number, end).then(|| Plain {
        destination: Address::mapped(head[4].to_ne_bytes()),
        port: destination_port(head[5]),
        protocol: number,
    })
}

/// Reads a plain IPv6 packet; `None` where it is not one.
#[inline(always)]
pub fn plain_v6<S: Source>(source: &S) -> Option<Plain> {
    let head: [u32; 12] = source.fixed::<0, 12>()?;
    let [high, low, number, _] = head[1].to_ne_bytes();
    if head[0].to_ne_bytes()[0] >> 4 != 6 {
        return None;
    }
    let end = u32::from(u16::from_be_bytes([high, low])) + 40;
    is_whole::<S, 40, 52>(source, number, end).then(|| Plain {
        destination: Address([head[6], head[7], head[8], head[9]]),
        port: destination_port(head[10]),
        protocol: number,
    })
}

/// Whether the header of TCP or UDP at byte `UPPER`, of TCP with its length at byte `LENGTH`, ends before the packet's stated end, and that
/// before the real one. A stated length of 0 (BIG TCP) is no plain packet.
#[inline(always)]
fn is_whole<S: Source, const UPPER: usize, const LENGTH: usize>(
    source: &S,
    number: u8,
    end: u32,
) -> bool {
    if end > source.length() || end < UPPER as u32 + 8 {
        return false;
    }
    match number {
        protocol::UDP => true,
        protocol::TCP => source.fixed::<LENGTH, 1>().is_some_and(|[word]| {
            let header = u32::from(word.to_ne_bytes()[0] >> 4) * 4;
            header >= 20 && UPPER as u32 + header <= end
        }),
        _ => false,
    }
}

#[inline(always)]
fn destination_port(word: u32) -> u16 {
    let [_, _, high, low] = word.to_ne_bytes();
    u16::from_be_bytes([high, low])
}
