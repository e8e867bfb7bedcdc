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
    classify::Tables as _,
    layout::Header,
    names::{IS_CLASS, NO_CLASS, Text, end_of_name, walk_over_name},
    request::{MAX_PATH, class_of_method, end_of_path, walk_over_path},
    stream::{Facts, flag},
};

use crate::{
    decide::{BROKEN_CLASS, Said, claim, request},
    maps::{CLAIMS, CONFIG, NAMES},
    names::Loaded,
    skb::Skb,
    socket,
    tables::Instance,
    verifier::{forget, masked},
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
fn claimed(skb: Skb) -> Option<&'static Facts> {
    let socket = skb.socket();
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
    let asked = if word.has(slot_flag::REQUESTS) {
        ebfw_request(skb.0, word.instance())
    } else {
        u64::from(request::OPAQUE)
    };
    Said {
        claim: name as u32,
        claimed: (name >> 32) as u32,
        request: asked as u32 & 0xff,
        method: (asked >> 16) as u32 & 0xffff,
        path: (asked >> 32) as u32,
    }
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
    let Some(facts) = claimed(skb) else {
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

/// The class of the claimed name under the instance's automaton.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_claim_class(context: *mut __sk_buff, instance_number: u32) -> u32 {
    let Some(facts) = claimed(Skb(context)) else {
        return BROKEN_CLASS;
    };
    let Some(instance) = Instance::get(instance_number) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let mut state = header.automaton_root;
    for part in 0..PARTS_OF_NAME {
        if part * PART >= facts.name_length {
            break;
        }
        state = ebfw_name_part(context, instance_number, part * PART, state);
        if state & IS_CLASS != 0 {
            return class_in(state);
        }
    }
    let Some(mut cells) = Loaded::of(header) else {
        return BROKEN_CLASS;
    };
    end_of_name(&mut cells, state).unwrap_or(BROKEN_CLASS)
}

/// Bytes that are walked over in one call, which the verifier follows once however many there are.
const PART: u32 = 64;
const PARTS_OF_NAME: u32 = (MAX_NAME as u32).div_ceil(PART);
const PARTS_OF_PATH: u32 = MAX_PATH as u32 / PART;

/// The class that a part of a walk has found.
#[inline(always)]
fn class_in(state: u32) -> u32 {
    if state == BROKEN_CLASS {
        BROKEN_CLASS
    } else {
        state & !IS_CLASS
    }
}

/// Walks over the claimed name behind the first `read` bytes of the walk, in `state`; see [`walk_over_name`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_name_part(
    context: *mut __sk_buff,
    instance: u32,
    read: u32,
    state: u32,
) -> u32 {
    let Some(facts) = claimed(Skb(context)) else {
        return BROKEN_CLASS;
    };
    let Some(instance) = Instance::get(instance) else {
        return BROKEN_CLASS;
    };
    let Some(mut cells) = instance.block(0).map(Header::of).and_then(Loaded::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<255>(&facts.name, facts);
    walk_over_name::<PART>(&mut cells, state, &text, read, facts.name_length)
        .unwrap_or(BROKEN_CLASS)
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
    let Some(facts) = claimed(skb) else {
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

/// The kind of the request in the lowest byte, the class of its method from bit 16 on, that of its path from bit 32 on.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_request(context: *mut __sk_buff, instance: u32) -> u64 {
    let Some(facts) = claimed(Skb(context)) else {
        return u64::from(request::PENDING);
    };
    if !facts.has(flag::REQUEST) {
        return u64::from(request::OPAQUE);
    }
    let method = u64::from(ebfw_method(context, instance)) & 0xffff;
    let path = u64::from(ebfw_path(context, instance));
    u64::from(request::KNOWN) | method << 16 | path << 32
}

/// The class of the request's method.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_method(context: *mut __sk_buff, instance: u32) -> u32 {
    let Some(facts) = claimed(Skb(context)) else {
        return BROKEN_CLASS;
    };
    let Some(instance) = Instance::get(instance) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<31>(&facts.method, facts);
    class_of_method(&instance, header, &text, facts.method_length).unwrap_or(BROKEN_CLASS)
}

/// The class of the request's path.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_path(context: *mut __sk_buff, instance_number: u32) -> u32 {
    let Some(facts) = claimed(Skb(context)) else {
        return BROKEN_CLASS;
    };
    let Some(instance) = Instance::get(instance_number) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let mut state = header.path_root;
    for part in 0..PARTS_OF_PATH {
        if part * PART >= facts.path_length {
            break;
        }
        state = ebfw_path_part(context, instance_number, part * PART, state);
        if state & IS_CLASS != 0 {
            return class_in(state);
        }
    }
    end_of_path(&instance, header, state).unwrap_or(BROKEN_CLASS)
}

/// Walks over the request's path from byte `from` on, in `state`; see [`walk_over_path`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_path_part(
    context: *mut __sk_buff,
    instance: u32,
    from: u32,
    state: u32,
) -> u32 {
    let Some(facts) = claimed(Skb(context)) else {
        return BROKEN_CLASS;
    };
    let Some(instance) = Instance::get(instance) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<511>(&facts.path, facts);
    let length = facts.path_length.wrapping_sub(from);
    walk_over_path::<PART, _>(&instance, header, &text, state, from, length).unwrap_or(BROKEN_CLASS)
}

/// A text in the claims' memory, of which `MASK` + 1 bytes are there.
struct Words<'a, const MASK: u32>(&'a [u8], &'a Facts);

impl<const MASK: u32> Text for Words<'_, MASK> {
    #[inline(always)]
    fn byte(&self, index: u32) -> u8 {
        // SAFETY: the mask keeps to the array.
        unsafe { *self.0.get_unchecked(masked::<MASK>(index)) }
    }

    #[inline(always)]
    fn pass(&self, state: u32) -> u32 {
        forget(state, u64::from(self.1.flags))
    }
}
