//! Replies: what a workload sends on connections that the other side opened.
//!
//! An active TCP socket has to call connect; one that never did only answers. Who asked is noted by ingress: peers that sent to an
//! unconnected datagram socket, and those that a listener is about to answer.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_release},
};
use ebfw_common::{
    abi::Address,
    packet::{Packet, Transport, protocol},
};

use crate::{
    egress::LOOPBACK,
    maps::REPLIES,
    report::boot_ns,
    skb::Skb,
    socket::{LISTEN, RAW},
};

/// A peer may be answered for this long after its last datagram.
const REPLY_NS: u64 = 60_000_000_000;
/// A note younger than this is not written again.
const FRESH_NS: u64 = 1_000_000_000;

/// Who sent to which socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Peer {
    /// Cookie of the socket.
    pub cookie: u64,
    /// The peer's address.
    pub address: Address,
    /// The peer's port.
    pub port: u32,
    /// Protocol number.
    pub protocol: u32,
}

/// When and through which interface.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    /// Time since boot.
    pub boot_ns: u64,
    /// Interface.
    pub interface: u32,
    /// Zero.
    pub _pad: u32,
}

/// Notes that `peer` sent through `interface`.
#[inline(always)]
pub fn note(peer: &Peer, interface: u32) {
    let now = boot_ns();
    // SAFETY: the value is copied at once.
    if let Some(seen) = unsafe { REPLIES.get(peer) }
        && seen.interface == interface
        && now.saturating_sub(seen.boot_ns) < FRESH_NS
    {
        return;
    }
    let _ = REPLIES.insert(
        peer,
        Seen {
            boot_ns: now,
            interface,
            _pad: 0,
        },
        0,
    );
}

/// Whether a datagram to `peer` answers one of its own. A packet must leave where the peer's came in, so that a
/// workload cannot open the way to a stranger by sending itself a forged datagram over loopback.
#[inline(always)]
pub fn is_reply(peer: &Peer, interface: Option<u32>) -> bool {
    // SAFETY: the value is copied at once.
    let Some(seen) = (unsafe { REPLIES.get(peer) }) else {
        return false;
    };
    boot_ns().saturating_sub(seen.boot_ns) < REPLY_NS
        && interface.is_none_or(|interface| interface == seen.interface)
}

/// Whether somebody asked the listener for the connection that this packet answers, and by the same way. What leaves over loopback stays in its network,
/// where address translation makes another peer of who asked (a node's own client of a Service whose server is on the node). What came over
/// loopback is answered there alone: else a workload could make its listener answer a stranger by forging the first packet.
#[inline(never)]
pub fn is_asked(skb: Skb, packet: &Packet) -> bool {
    if skb.interface() == LOOPBACK {
        return true;
    }
    let peer = Peer {
        cookie: skb.cookie(),
        address: packet.destination,
        port: u32::from(packet.upper.ports.destination),
        protocol: u32::from(packet.protocol),
    };
    // SAFETY: the value is copied at once.
    let Some(seen) = (unsafe { REPLIES.get(peer) }) else {
        return false;
    };
    seen.interface != LOOPBACK
}

/// Whether the kernel itself answers with this packet: it comes from a raw socket that no process made, and it is of a kind
/// that only replies to, or looks after, the link (RFC 792, RFC 4443, RFC 4861, RFC 3810; TCP resets and bare acknowledgements).
#[inline(always)]
pub fn is_kernels(socket: &bpf_sock, packet: &Packet) -> bool {
    socket.type_ == RAW
        && match packet.upper.transport {
            Transport::Tcp => !packet.upper.payload,
            Transport::Icmp if packet.protocol == protocol::ICMP => {
                matches!(packet.upper.icmp, 0 | 3 | 5 | 11 | 12 | 14)
            }
            Transport::Icmp => matches!(packet.upper.icmp, 1..=4 | 129..=137 | 143),
            Transport::Datagram | Transport::Unknown => false,
        }
}

/// Whether something listens on the packet's source address and port. Tells replies of sockets that are older than the programs.
#[inline(never)]
pub fn has_listener(skb: Skb, packet: &Packet) -> bool {
    let ports = packet.upper.ports;
    // Remote address and port stay 0: no established socket matches, a listener does.
    let mut tuple = [0u32; 9];
    let port = u32::from(ports.source.to_be()) << 16;
    let length = match packet.destination.v4() {
        Some(_) => {
            let Address(source) = packet.source;
            tuple[1] = source[3];
            tuple[2] = port;
            12
        }
        None => {
            let Address(source) = packet.source;
            tuple[4] = source[0];
            tuple[5] = source[1];
            tuple[6] = source[2];
            tuple[7] = source[3];
            tuple[8] = port;
            36
        }
    };
    let tuple = ptr::from_mut(&mut tuple).cast::<bpf_sock_tuple>();
    // SAFETY: the tuple is as long as the length says; what the look-up returns is released on every path.
    unsafe {
        let found = bpf_sk_lookup_tcp(skb.0.cast(), tuple, length, BPF_F_CURRENT_NETNS as u64, 0);
        if found.is_null() {
            return false;
        }
        let listening = (*found).state == LISTEN;
        bpf_sk_release(found.cast());
        listening
    }
}
