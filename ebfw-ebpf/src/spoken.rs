//! Tells what clients said, and what was decided with it.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel};
use ebfw_common::{
    abi::{
        Address, ClaimEvent, Counter, FlowEvent, MAX_HEAD, MAX_PATH, SlotRef, SlotWord, claim_kind,
        hook, inspect, reason, verdict,
    },
    stream::{Facts, flag},
};

use crate::{
    claim,
    decide::Decision,
    maps::{CLAIM_EVENTS, CONFIG, EVENTS},
    report::{self, RateKey, count},
    skb::Skb,
    socket, stream, workload,
};

/// Set in [`RateKey::verdict`] of what clients say: it has a limit of its own beside that of the flow.
const SAID: u8 = 0x80;

/// Counts and tells a decision about the flow of the packet's socket that was taken with what the client said. `head`: it claims something.
#[inline(always)]
pub fn tell(skb: Skb, word: SlotWord, slot: SlotRef, decision: Decision, head: bool) {
    ebfw_tell(
        skb.0,
        word.0,
        decision.packed() | u64::from(slot.index()) << 40,
        u32::from(head),
    );
}

/// See [`tell`]. `packed`: the decision, and the slot's index from bit 40 on. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_tell(context: *mut __sk_buff, word: u64, packed: u64, head: u32) -> u32 {
    let skb = Skb(context);
    let decision = Decision::unpacked(packed);
    count(match decision.verdict {
        verdict::DENY => Counter::DecisionDeny,
        verdict::HELD => Counter::DecisionHeld,
        _ => Counter::DecisionAllow,
    });
    if decision.reason == reason::TABLES {
        count(Counter::TableError);
    }
    let inspects = CONFIG
        .get(0)
        .is_some_and(|config| config.inspect != inspect::OFF);
    // SAFETY: checked against null; entries live until the program ends.
    let held = unsafe { socket::find(skb.socket()).as_ref() }
        .is_some_and(|state| socket::verdict(state.verdict) == u32::from(verdict::HELD));
    let told = head != 0 && inspects;
    if held || decision.verdict == verdict::DENY && !told {
        ebfw_tell_flow(context, word, packed);
    }
    if told {
        ebfw_tell_claim(context, word, packed);
    }
    0
}

/// Writes the event of a flow. `packed`: verdict, reason, rule, whether rules were passed over, index of the slot. With external linkage, as
/// `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_tell_flow(context: *mut __sk_buff, word: u64, packed: u64) -> u32 {
    let skb = Skb(context);
    let Some(key) = key(skb, packed, 0) else {
        return 0;
    };
    let Some(suppressed) = report::admitted(&key, report::CONNECTIONS) else {
        return 0;
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::EventLost);
        return 0;
    };
    // SAFETY: `fill` sets every field; every bit pattern is an event.
    fill(
        unsafe { &mut *entry.as_mut_ptr() },
        skb,
        word,
        packed,
        suppressed,
    );
    entry.submit(0);
    1
}

/// Writes the event of what the client said. As [`ebfw_tell_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_tell_claim(context: *mut __sk_buff, word: u64, packed: u64) -> u32 {
    let skb = Skb(context);
    let Some(key) = key(skb, packed, SAID) else {
        return 0;
    };
    let Some(suppressed) = report::admitted(&key, report::CONNECTIONS) else {
        return 0;
    };
    let socket = skb.socket();
    if socket.is_null() {
        return 0;
    }
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    let Some(facts) = (unsafe { claim::find(socket).as_ref() }) else {
        return 0;
    };
    let with_heads = CONFIG
        .get(0)
        .is_some_and(|config| config.inspect == inspect::HEADS);
    if with_heads
        && facts.has(flag::REQUEST)
        // SAFETY: as above.
        && let Some(followed) = unsafe { stream::find(socket).as_ref() }
        && followed.head[1] > followed.head[0]
    {
        return with_head(skb, facts, followed.head, word, packed, suppressed);
    }
    let Some(mut entry) = CLAIM_EVENTS.reserve(0) else {
        count(Counter::ClaimEventLost);
        return 0;
    };
    // SAFETY: every field is set below; every bit pattern is an event.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    fill(&mut event.flow, skb, word, packed, suppressed);
    said(event, facts);
    entry.submit(0);
    1
}

/// An event with the head as it was sent, as much of it as there is room for.
#[repr(C)]
struct WithHead {
    event: ClaimEvent,
    head: [u8; MAX_HEAD],
}

#[inline(always)]
fn with_head(
    skb: Skb,
    facts: &Facts,
    [from, to]: [u32; 2],
    word: u64,
    packed: u64,
    suppressed: u32,
) -> u32 {
    let Some(mut entry) = CLAIM_EVENTS.reserve_untyped::<WithHead>(0) else {
        count(Counter::ClaimEventLost);
        return 0;
    };
    // SAFETY: every field that counts is set below; every bit pattern is an event.
    let WithHead { event, head } = unsafe { &mut *entry.as_mut_ptr() };
    fill(&mut event.flow, skb, word, packed, suppressed);
    said(event, facts);
    let length = to - from;
    let length = if length < MAX_HEAD as u32 {
        length
    } else {
        MAX_HEAD as u32
    };
    if skb.load_bytes(from, head, length) {
        event.head_length = length;
    }
    entry.submit(0);
    1
}

#[inline(always)]
fn said(event: &mut ClaimEvent, facts: &Facts) {
    let is_request = facts.has(flag::REQUEST);
    event.kind = if is_request {
        claim_kind::HTTP
    } else {
        claim_kind::TLS
    };
    event.ech = u8::from(facts.has(flag::ECH));
    event.name_length = if facts.has(flag::NAME) {
        facts.name_length as u16
    } else {
        0
    };
    event.is_address = u32::from(facts.has(flag::LITERAL));
    event.address = facts.address;
    event.method_length = if is_request {
        facts.method_length as u16
    } else {
        0
    };
    let path = facts.path_length + facts.query_length;
    let path = if path < MAX_PATH as u32 {
        path as u16
    } else {
        MAX_PATH as u16
    };
    event.path_length = if is_request { path } else { 0 };
    event.head_length = 0;
    // SAFETY: as many bytes, from map memory.
    unsafe {
        copy(&raw mut event.name, &raw const facts.name);
        copy(&raw mut event.method, &raw const facts.method);
        copy(&raw mut event.path, &raw const facts.path);
    }
}

/// # Safety
///
/// Both point to memory of the kernel's that is theirs alone.
#[inline(always)]
unsafe fn copy<const N: usize>(to: *mut [u8; N], from: *const [u8; N]) {
    // SAFETY: see above.
    unsafe { bpf_probe_read_kernel(to.cast(), N as u32, from.cast()) };
}

/// What is rate-limited together with this.
#[inline(always)]
fn key(skb: Skb, packed: u64, kind: u8) -> Option<RateKey> {
    // SAFETY: checked against null; entries live until the program ends.
    let state = unsafe { socket::find(skb.socket()).as_ref() }?;
    Some(RateKey {
        slot: (packed >> 40) as u32,
        port: (state.transport >> 16) as u16,
        protocol: (state.transport >> 8) as u8,
        verdict: packed as u8 | kind,
        destination: state.destination,
    })
}

#[inline(always)]
fn fill(event: &mut FlowEvent, skb: Skb, word: u64, packed: u64, suppressed: u32) {
    let socket = skb.socket();
    event.boot_ns = report::boot_ns();
    event.suppressed = suppressed;
    event.cgroup_id = workload::cgroup_of_skb(skb.0);
    event.cookie = skb.cookie();
    event.slot_word = word;
    event.rule = (packed >> 16) as u16;
    event.hook = hook::EGRESS;
    event.verdict = packed as u8;
    event.reason = (packed >> 8) as u8;
    event.payload = (packed >> 32) as u8 & 3;
    event.mode = CONFIG.get(0).map_or(0, |config| config.mode);
    event.has_ports = 1;
    // SAFETY: checked against null.
    if let Some(socket) = unsafe { socket.as_ref() } {
        event.source = socket::source(socket);
        event.source_port = socket.src_port as u16;
    } else {
        event.source = Address::UNSPECIFIED;
        event.source_port = 0;
    }
    // SAFETY: checked against null; entries live until the program ends.
    if let Some(state) = unsafe { socket::find(socket).as_ref() } {
        event.destination = state.destination;
        event.destination_port = (state.transport >> 16) as u16;
        event.protocol = (state.transport >> 8) as u8;
        event.pid = state.pid;
        event.comm = state.comm;
    } else {
        event.destination = Address::UNSPECIFIED;
        event.destination_port = 0;
        event.protocol = 0;
        event.pid = 0;
        event.comm = [0; 16];
    }
}
