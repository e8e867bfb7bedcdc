//! What a client claimed and asked for on its connection: kept for as long as the socket lives, and classified for a decision.
//!
//! The words themselves are kept and not their classes, so that a new policy judges them anew.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
};
use ebfw_common::{
    abi::{Address, MAX_NAME, NAMES_PER_ADDRESS, NameKey, SHARED, SlotWord, slot_flag},
    names::NO_CLASS,
    stream::{Facts, flag},
};

use crate::{
    decide::{BROKEN_CLASS, Said, claim},
    maps::{CLAIMS, CONFIG, NAMES},
    skb::Skb,
    socket,
    verifier::masked,
    words::{self, ebfw_claim_class},
};

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    (&raw const CLAIMS).cast_mut().cast()
}

/// What the client of `socket`, which must not be null, claimed last; null where it claimed nothing so far.
#[inline(always)]
pub fn find(socket: *mut bpf_sock) -> *mut Facts {
    // SAFETY: the callers pass sockets that the verifier knows not to be null.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), 0) }.cast()
}

/// Keeps `facts`, of which map memory holds the original; `false` where there is no memory for that.
#[inline(always)]
pub fn keep(socket: *mut bpf_sock, facts: *const Facts) -> bool {
    forget_all(socket);
    let flags = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as in `find`; the facts have the map's value type.
    let kept = unsafe { bpf_sk_storage_get(map(), socket.cast(), facts.cast_mut().cast(), flags) };
    !kept.is_null()
}

/// Forgets what was claimed: the socket begins another connection.
#[inline(always)]
pub fn forget_all(socket: *mut bpf_sock) {
    // SAFETY: as in `find`.
    unsafe { bpf_sk_storage_delete(map(), socket.cast()) };
}

/// The claims of the packet's socket, if there are any.
#[inline(always)]
pub fn claimed(context: *mut __sk_buff) -> Option<&'static Facts> {
    let socket = Skb(context).socket();
    if socket.is_null() {
        return None;
    }
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    unsafe { find(socket).as_ref() }
}

/// What the packet's client has said, as a decision under `word` wants it; `transport` is the socket's flow key.
#[inline(always)]
pub fn said(skb: Skb, word: SlotWord, destination: Address, transport: u32) -> Said {
    let [first, second] = destination.halves();
    let name = if word.has(slot_flag::NAMES) {
        ebfw_claimed(skb.0, word.0, first, second, transport)
    } else {
        u64::from(claim::NAMELESS)
    };
    let mut said = Said {
        claim: name as u32,
        claimed: (name >> 32) as u32,
        ..Said::UNREAD
    };
    if word.has(slot_flag::REQUESTS) {
        words::ask(&mut said, skb.0, word.instance());
    }
    said
}

/// The kind of the claim in the lower half, its class in the upper. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_claimed(
    context: *mut __sk_buff,
    word: u64,
    first: u64,
    second: u64,
    transport: u32,
) -> u64 {
    let skb = Skb(context);
    let foreign = |class: u32| u64::from(claim::FOREIGN) | u64::from(class) << 32;
    let Some(facts) = claimed(context) else {
        return u64::from(claim::PENDING);
    };
    let destination = Address::from_halves([first, second]);
    if facts.has(flag::LITERAL) {
        let here = facts.address == destination;
        return if here {
            u64::from(claim::NAMELESS)
        } else {
            foreign(NO_CLASS)
        };
    }
    if !facts.has(flag::NAME) {
        return u64::from(claim::NAMELESS);
    }
    let class = ebfw_claim_class(context, SlotWord(word).instance());
    // SAFETY: checked against null; entries live until the program ends.
    let Some(state) = (unsafe { socket::find(skb.socket()).as_ref() }) else {
        return foreign(BROKEN_CLASS);
    };
    let since = match state.opened(transport, destination) {
        0 => crate::report::boot_ns(),
        opened => opened,
    };
    let owners = if SlotWord(word).has(slot_flag::SHARED_NAMES) {
        OWNERS
    } else {
        1
    };
    for place in 0..OWNERS * NAMES_PER_ADDRESS {
        if place < owners * NAMES_PER_ADDRESS
            && ebfw_is_resolved(context, place, first, second, since) != 0
        {
            return u64::from(claim::RESOLVED) | u64::from(class) << 32;
        }
    }
    foreign(class)
}

/// Whose names count: the workload's own, those of services in the network namespace of the socket, and in that of the host.
const OWNERS: u32 = 3;

/// Whether the claimed name stands in a place of an address, among the names that had not expired at `since`. `place`: the owner's number
/// (see [`OWNERS`]) and then the place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_is_resolved(
    context: *mut __sk_buff,
    place: u32,
    first: u64,
    second: u64,
    since: u64,
) -> u32 {
    let skb = Skb(context);
    let Some(facts) = claimed(context) else {
        return 0;
    };
    // SAFETY: checked against null; entries live until the program ends.
    let Some(state) = (unsafe { socket::find(skb.socket()).as_ref() }) else {
        return 0;
    };
    let host = match CONFIG.get(0) {
        Some(config) => config.host_netns,
        None => 0,
    };
    let (slot, netns) = match place / NAMES_PER_ADDRESS {
        0 => (state.slot, state.netns),
        1 => (SHARED, state.netns),
        _ => (SHARED, host),
    };
    let key = NameKey {
        slot,
        place: place % NAMES_PER_ADDRESS,
        address: Address::from_halves([first, second]),
        netns,
    };
    // SAFETY: the entry lives until the program ends.
    let Some(name) = (unsafe { NAMES.get(key) }) else {
        return 0;
    };
    let length = facts.name_length;
    if name.expires_ns < since || name.length != length {
        return 0;
    }
    for index in 0..MAX_NAME as u32 {
        // The black box keeps LLVM from making one limit of both, of which the verifier of kernel 5.10 does not see the end.
        if index >= black_box(length) {
            break;
        }
        let at = masked::<0xff>(index);
        // SAFETY: the mask keeps to the arrays.
        let (claimed, learned) =
            unsafe { (*facts.name.get_unchecked(at), *name.text.get_unchecked(at)) };
        if claimed != learned {
            return 0;
        }
    }
    1
}
