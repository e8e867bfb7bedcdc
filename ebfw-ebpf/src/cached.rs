//! The short way of a packet that its socket's remembered verdict lets out: no parser, no workload, no rules.
//!
//! Only ever says what the long way would say: that a plain packet ([`ebfw_common::plain`]) of the remembered flow passes under the very
//! word under which the verdict was taken. Everything else goes the long way: a Deny has consequences, a held flow looks at payload, a
//! listener's reply is looked up, a packet to a resolver is read.

use aya_ebpf::bindings::bpf_sock;
use ebfw_common::{
    abi::verdict,
    packet::{MAX_OPTIONS, Source, protocol},
    plain::{Plain, plain_v4, plain_v6},
};

use crate::{
    dns,
    maps::SLOTS,
    skb::{ETH_P_IP, ETH_P_IPV6, Skb},
    socket::{LISTEN, SocketState, flow_key},
};

/// Whether the packet passes. `sk` is the socket whose state is `state`.
#[inline(always)]
pub fn passes(skb: Skb, sk: &bpf_sock, state: &SocketState) -> bool {
    let passed =
        state.verdict == u32::from(verdict::ALLOW) || state.verdict == u32::from(verdict::OBSERVED);
    // A word of 0 is none; one that is still in its slot is alive and of the slot's generation, as it was when the verdict was taken.
    if !passed || state.word == 0 || word_of(state) != Some(state.word) {
        return false;
    }
    let plain = match skb.ethertype() {
        ETH_P_IP => plain_v4(&Linear(skb)),
        ETH_P_IPV6 => plain_v6(&Linear(skb)),
        _ => None,
    };
    plain.is_some_and(|plain| is_remembered(&plain, sk, state))
}

#[inline(always)]
fn word_of(state: &SocketState) -> Option<u64> {
    let entry: *const u64 = SLOTS.get(state.slot.index())?;
    // SAFETY: array entries live as long as the map; the agent stores whole words, and one volatile read takes one.
    Some(unsafe { entry.read_volatile() })
}

#[inline(always)]
fn is_remembered(plain: &Plain, sk: &bpf_sock, state: &SocketState) -> bool {
    // A TCP socket that did not connect only answers, and one that listens now forgets that it did.
    let is_judged = plain.protocol != protocol::TCP || state.connected != 0 && sk.state != LISTEN;
    is_judged
        && plain.port != dns::PORT
        && state.transport == flow_key(plain.protocol, plain.port, true)
        && state.destination == plain.destination
}

/// The linear part of a packet, by direct access only: what lies elsewhere is not there.
struct Linear(Skb);

impl Source for Linear {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.length()
    }

    #[inline(always)]
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        self.0.linear::<OFFSET, N>()
    }

    #[inline(always)]
    fn words<const N: usize>(&self, _offset: u32) -> Option<[u32; N]> {
        None
    }

    #[inline(always)]
    fn options(&self, _length: u32) -> Option<[u8; MAX_OPTIONS]> {
        None
    }
}
