//! An outgoing packet, seen through its skb: headers by direct access where they lie in the linear part, else by copy.

use core::{
    ffi::c_void,
    hint,
    mem::{self, MaybeUninit},
    ptr,
};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes},
};
use ebfw_common::packet::{
    MAX_OPTIONS, Malformed, Packet, Ports, Source, Transport, Upper, parse_v4, parse_v6, protocol,
};

use crate::verifier::forget;

/// `ETH_P_IP` as it stands in `__sk_buff.protocol`.
pub const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;
/// `ETH_P_IPV6` likewise.
pub const ETH_P_IPV6: u32 = 0x86ddu16.to_be() as u32;

/// `PACKET_LOOPBACK` of `__sk_buff.pkt_type` (include/uapi/linux/if_packet.h).
const PACKET_LOOPBACK: u32 = 5;

/// The context of a `cgroup_skb` program; its data begin with the IP header.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// What [`Skb::parse`] finds. Its tag comes first: BTF, which describes the function, cannot express one that hides in a payload, as that
/// of a `Result` would.
#[repr(C, u8)]
pub enum Parsed {
    /// A packet.
    Packet(Packet),
    /// One that no policy may let through.
    Malformed(Malformed),
}

impl Skb {
    /// Parses the packet. A function of its own, so that what it needs of the stack is free again for others.
    #[inline(never)]
    pub fn parse(self) -> Parsed {
        let result = match self.ethertype() {
            ETH_P_IP => parse_v4(&self),
            ETH_P_IPV6 => parse_v6(&self),
            _ => Err(Malformed::Header),
        };
        match result {
            Ok(packet) => Parsed::Packet(self.forgotten(packet)),
            Err(why) => Parsed::Malformed(why),
        }
    }

    /// What the packet is for the link, in its order.
    #[inline(always)]
    pub fn ethertype(self) -> u32 {
        // SAFETY: the context outlives the program's run.
        unsafe { (*self.0).protocol }
    }

    /// Where the header of a TCP segment begins, without the parser; `None` behind IPv6 extension headers.
    #[inline(always)]
    pub fn tcp(self) -> Option<u32> {
        let [first]: [u32; 1] = self.fixed::<0, 1>()?;
        if self.ethertype() == ETH_P_IP {
            return Some(u32::from(first.to_ne_bytes()[0] & 15) * 4);
        }
        let [second]: [u32; 1] = self.fixed::<4, 1>()?;
        (second.to_ne_bytes()[2] == protocol::TCP).then_some(40)
    }

    /// `N` 32-bit words at byte `OFFSET`, if they lie in the linear part.
    #[inline(always)]
    pub fn linear<const OFFSET: usize, const N: usize>(self) -> Option<[u32; N]> {
        // SAFETY: the verifier admits the read only behind this very check. The network stack aligns IP headers to words.
        unsafe {
            let data = (*self.0).data as usize;
            (data + OFFSET + N * 4 <= (*self.0).data_end as usize)
                .then(|| *((data + OFFSET) as *const [u32; N]))
        }
    }

    #[inline(always)]
    fn forget(self, number: u32) -> u32 {
        forget(number, u64::from(self.length()))
    }

    /// The same packet, of which the verifier no longer knows on which of many ways through the headers it was found.
    #[expect(
        clippy::transmute_int_to_bool,
        reason = "a comparison would tell the verifier again"
    )]
    #[inline(always)]
    fn forgotten(self, packet: Packet) -> Packet {
        let Packet {
            source,
            destination,
            upper,
            protocol,
        } = packet;
        let byte = |byte: u8| self.forget(u32::from(byte)) as u8;
        // SAFETY: each byte is what it was, so that it is valid for its type.
        let (transport, payload, reset) = unsafe {
            (
                mem::transmute::<u8, Transport>(byte(upper.transport as u8)),
                mem::transmute::<u8, bool>(byte(u8::from(upper.payload))),
                mem::transmute::<u8, bool>(byte(u8::from(upper.reset))),
            )
        };
        let ports = Ports {
            source: self.forget(u32::from(upper.ports.source)) as u16,
            destination: self.forget(u32::from(upper.ports.destination)) as u16,
        };
        Packet {
            source,
            destination,
            upper: Upper {
                transport,
                ports,
                payload,
                reset,
                icmp: byte(upper.icmp),
                start: self.forget(upper.start),
                end: self.forget(upper.end),
            },
            protocol: byte(protocol),
        }
    }

    /// The socket that the packet belongs to, of which only addresses, ports and state may be read; null where there is none.
    #[inline(always)]
    pub fn any_socket(self) -> *mut bpf_sock {
        // SAFETY: the context outlives the program's run.
        unsafe { (*self.0).__bindgen_anon_2.sk }
    }

    /// The full socket that the packet belongs to; null where there is none.
    #[inline(always)]
    pub fn socket(self) -> *mut bpf_sock {
        // SAFETY: the context outlives the program's run, and the helper takes a socket that is not null.
        unsafe {
            let socket = self.any_socket();
            if socket.is_null() {
                socket
            } else {
                bpf_sk_fullsock(socket)
            }
        }
    }

    /// The interface on which the packet leaves or came in. The loopback device is 1 in every network namespace.
    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: the context outlives the program's run.
        unsafe { (*self.0).ifindex }
    }

    /// Whether this is the host's own copy of a multicast or broadcast that it sent (`dev_loopback_xmit`, net/core/dev.c): it seems
    /// to come in where it went out, from whatever source address the sender has chosen.
    #[inline(always)]
    pub fn is_own_copy(self) -> bool {
        // SAFETY: the context outlives the program's run.
        unsafe { (*self.0).pkt_type == PACKET_LOOPBACK }
    }

    /// Cookie of the packet's socket.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        // SAFETY: the helper takes the context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The first `length` (1..=`N`, a power of two) bytes from `offset` on.
    #[inline(always)]
    pub fn load_bytes<const N: usize>(self, offset: u32, to: &mut [u8; N], length: u32) -> bool {
        // The mask is what shows the verifier that the length fits; the compiler, which knows, must not drop it.
        let length = (hint::black_box(length.wrapping_sub(1)) & (N as u32 - 1)) + 1;
        self.load(offset, to.as_mut_ptr().cast(), length).is_some()
    }

    #[inline(always)]
    fn load(self, offset: u32, to: *mut c_void, length: u32) -> Option<()> {
        // SAFETY: `to` points to at least `length` writable bytes; the helper checks the packet's side.
        (unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, length) } == 0).then_some(())
    }
}

impl Source for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context outlives the program's run.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        self.linear::<OFFSET, N>()
            .or_else(|| self.words(OFFSET as u32))
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        self.load(offset, words.as_mut_ptr().cast(), (N * 4) as u32)?;
        // SAFETY: the helper has written all of it.
        Some(unsafe { words.assume_init() })
    }

    #[inline(always)]
    fn options(&self, length: u32) -> Option<[u8; MAX_OPTIONS]> {
        // A zero that the compiler does not know: else it clears the words by a call, for which the stack of kernel 5.10 has no room.
        let mut options = [hint::black_box(0u64); MAX_OPTIONS / 8];
        if length == 0 || length > MAX_OPTIONS as u32 {
            return None;
        }
        self.load(20, ptr::from_mut(&mut options).cast(), length)?;
        // SAFETY: as many bytes, each of them valid.
        Some(unsafe { mem::transmute::<[u64; MAX_OPTIONS / 8], [u8; MAX_OPTIONS]>(options) })
    }
}
