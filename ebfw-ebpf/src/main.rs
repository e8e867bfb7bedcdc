//! The kernel programs of ebfw: the hooks. What they do is in the modules; what they share with the agent is in `ebfw-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod automaton;
mod cached;
mod call;
mod caller;
mod claim;
mod decide;
mod dns;
mod egress;
mod follow;
mod held;
mod judge;
mod maps;
mod names;
mod reader;
mod reply;
mod report;
mod rulesets;
mod skb;
mod socket;
mod spoken;
mod stream;
mod tables;
mod trial;
mod verifier;
mod words;
mod workload;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext, SockContext},
};
use ebfw_common::abi::{Address, hook};

use crate::call::Call;

/// Judges every packet that leaves.
#[cgroup_skb(egress)]
pub fn ebfw_egress(context: SkBuffContext) -> i32 {
    egress::egress::<true>(context.skb.skb) as i32
}

/// Reads what the client of a TCP connection says, for [`ebfw_egress`], which goes on with it where a decision or an event waits for that.
#[cgroup_skb(egress)]
pub fn ebfw_reader(context: SkBuffContext) -> i32 {
    follow::read(skb::Skb(context.skb.skb)) as i32
}

/// Notes who may be answered, and learns names; lets everything in but an answer that the agent has to read first.
#[cgroup_skb(ingress)]
pub fn ebfw_ingress(context: SkBuffContext) -> i32 {
    i32::from(egress::ingress(context.skb.skb))
}

/// Binds a new socket to its workload.
#[cgroup_sock(sock_create)]
pub fn ebfw_create(context: SockContext) -> i32 {
    call::create(context.sock);
    1
}

/// Refuses a connect to a denied IPv4 destination.
#[cgroup_sock_addr(connect4)]
pub fn ebfw_connect4(context: SockAddrContext) -> i32 {
    v4(context.sock_addr, hook::CONNECT)
}

/// Refuses a connect to a denied IPv6 destination.
#[cgroup_sock_addr(connect6)]
pub fn ebfw_connect6(context: SockAddrContext) -> i32 {
    v6(context.sock_addr, hook::CONNECT)
}

/// Refuses a datagram to a denied IPv4 destination.
#[cgroup_sock_addr(sendmsg4)]
pub fn ebfw_sendmsg4(context: SockAddrContext) -> i32 {
    v4(context.sock_addr, hook::SENDMSG)
}

/// Refuses a datagram to a denied IPv6 destination.
#[cgroup_sock_addr(sendmsg6)]
pub fn ebfw_sendmsg6(context: SockAddrContext) -> i32 {
    v6(context.sock_addr, hook::SENDMSG)
}

/// As [`ebfw_egress`] for a socket that remembers nothing, for benchmarks.
#[cgroup_skb(egress)]
pub fn ebfw_uncached(context: SkBuffContext) -> i32 {
    egress::egress::<false>(context.skb.skb) as i32
}

/// The verdict on what the map `TRIAL` says of a packet, for tests.
#[cgroup_skb(egress)]
pub fn ebfw_trial(context: SkBuffContext) -> i32 {
    trial::trial(context.skb.skb) as i32
}

/// Walks over the name in the map `TRIAL`, for benchmarks.
#[cgroup_skb(egress)]
pub fn ebfw_walk(_context: SkBuffContext) -> i32 {
    trial::walk();
    1
}

/// Lets every packet pass: what the hook itself costs, for benchmarks.
#[cgroup_skb(egress)]
pub fn ebfw_empty(_context: SkBuffContext) -> i32 {
    1
}

/// Reads the stream that a packet carries, for tests of the readers.
#[cgroup_skb(egress)]
pub fn ebfw_read(context: SkBuffContext) -> i32 {
    stream::trial(context.skb.skb)
}

#[inline(always)]
fn v4(address: *mut bpf_sock_addr, hook: u8) -> i32 {
    // SAFETY: the context outlives the program's run.
    let destination = Address::mapped(unsafe { (*address).user_ip4 }.to_ne_bytes());
    i32::from(call::permits(&Call {
        address,
        destination,
        hook,
    }))
}

#[inline(always)]
fn v6(address: *mut bpf_sock_addr, hook: u8) -> i32 {
    // SAFETY: the context outlives the program's run. Each word is read by itself, since the verifier refuses computed offsets here.
    let [a, b, c, d] = unsafe {
        [
            (&raw const (*address).user_ip6[0]).read_volatile(),
            (&raw const (*address).user_ip6[1]).read_volatile(),
            (&raw const (*address).user_ip6[2]).read_volatile(),
            (&raw const (*address).user_ip6[3]).read_volatile(),
        ]
    };
    let destination = Address([a, b, c, d]);
    i32::from(call::permits(&Call {
        address,
        destination,
        hook,
    }))
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
