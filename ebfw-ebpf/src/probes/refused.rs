//! Sockets on which a denied request was written: nothing more leaves on them.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns},
};
use ebfw_common::plaintext::kind;

use crate::{maps::REFUSED, socket};

/// The agent is told of a socket's dropped packets so often at most: it may have missed the last time.
const TELL_EVERY_NS: u64 = 1_000_000_000;

/// Whether the packet may not leave. What carries no payload may (the end of the connection, acknowledgements); where it is not clear whether
/// there is some, it may not.
#[inline(always)]
pub fn drops(skb: *mut __sk_buff) -> bool {
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let Some(refusal) = REFUSED.get_ptr_mut(cookie) else {
        return false;
    };
    // SAFETY: the context outlives the program's run.
    let length = unsafe { (*skb).len };
    if socket::payload(skb).is_some_and(|payload| length <= payload) {
        return false;
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: entries of the map are whole words that outlive the program's run. A race tells twice.
    let told = unsafe {
        (&raw mut (*refusal).last_ns).write_volatile(now);
        (&raw const (*refusal).told_ns).read_volatile()
    };
    if now - told >= TELL_EVERY_NS && tell(skb, cookie, now) {
        // SAFETY: as above.
        unsafe { (&raw mut (*refusal).told_ns).write_volatile(now) };
    }
    true
}

/// Asks the agent to destroy the socket.
#[inline(always)]
fn tell(skb: *mut __sk_buff, cookie: u64, now: u64) -> bool {
    let Some(socket) = socket::full(skb) else {
        return false;
    };
    socket::tell(socket, &socket::header(skb, cookie, kind::REFUSED, now))
}
