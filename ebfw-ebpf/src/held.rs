//! Answers that the programs cannot read alone: over TCP in several segments or several in one, over 4 KiB, too many records.
//!
//! The agent reads them ([`AnswerPiece`]) and learns from them as the programs do. Until it has, the packet counts as lost: TCP sends it
//! again, and a resolver's client asks again. So the application never sees an address before its name is known. An agent that does not read
//! holds nothing up for more than [`PATIENCE_NS`].

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_tcp_sock};
use ebfw_common::{
    abi::{AnswerPiece, Counter, Held, PIECE},
    dns::MAX_MESSAGE,
    packet::Source as _,
};

use crate::{
    dns::{self, Heard, ebfw_message},
    maps::{ANSWERS, HELD, SCRATCH},
    report::{boot_ns, count},
    skb::Skb,
    workload,
};

/// A packet is held back for so long, counted from the first one that was since the agent read last. TCP sends it again after 0.2, 0.6 and
/// 1.4 seconds; a resolver's client that has heard nothing asks again after 5.
const PATIENCE_NS: u64 = 2_000_000_000;
/// After this time a packet is held back anew: the agent may be there again.
const FORGIVEN_NS: u64 = 30_000_000_000;
/// An answer that the agent has read passes for so long when it comes again: less than any name lives.
const READ_NS: u64 = 30_000_000_000;
/// Pieces of the longest packet (64 KiB).
const PIECES: u32 = 17;
/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// How far the agent has read of what `what` means; as far as `read` where it is new.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, the entries would be copied to the stack"
)]
#[inline(never)]
fn held(talk: &Heard, what: u64, read: u32) -> *mut Held {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return ptr::null_mut();
    };
    // SAFETY: this CPU's own; see `Scratch`.
    let scratch = unsafe { &mut *scratch };
    scratch.held.what = what;
    scratch.held.netns = talk.netns;
    scratch.held.slot = talk.slot;
    scratch.held.protocol = talk.protocol;
    scratch.fresh.since_ns = 0;
    scratch.fresh.read_ns = 0;
    scratch.fresh.read = read;
    scratch.fresh.end = read;
    // Refused where there is one.
    let _ = HELD.insert(&scratch.held, &scratch.fresh, ONLY_NEW);
    match HELD.get_ptr_mut(&scratch.held) {
        Some(held) => held,
        None => ptr::null_mut(),
    }
}

/// Whether an answer over UDP passes that was not read whole.
#[inline(never)]
pub fn datagram(skb: Skb, talk: &Heard, what: u64) -> bool {
    let now = boot_ns();
    // Told in any case: it may say something else this time.
    let _ = ebfw_hand_over(skb.0, 0, 0, now);
    let held = held(talk, what, 0);
    if held.is_null() {
        return true;
    }
    // SAFETY: the entry lives until the program ends; its words are read and written one by one.
    let held = unsafe { &mut *held };
    held.read_ns != 0 && now.saturating_sub(held.read_ns) < READ_NS || lapses(held, talk, now)
}

/// Learns from a segment of a resolver; 0: it does not pass. A whole message at the place where one has to begin is read here. As
/// `ebfw_learn`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_segment(context: *mut __sk_buff) -> u32 {
    match SCRATCH.get_ptr_mut(0) {
        Some(scratch) => u32::from(segment(Skb(context), dns::talk_of(scratch))),
        None => 1,
    }
}

#[inline(always)]
fn segment(skb: Skb, talk: &Heard) -> bool {
    let Some(sequence) = sequence_of(skb) else {
        count(Counter::NameUnreadable);
        return true;
    };
    let sk = skb.socket();
    if sk.is_null() {
        return true;
    }
    // SAFETY: checked against null, as the helper's result is.
    let Some(tcp) = (unsafe { bpf_tcp_sock(sk).as_ref() }) else {
        return true;
    };
    let held = held(talk, skb.cookie(), tcp.rcv_nxt);
    if held.is_null() {
        return true;
    }
    // SAFETY: the entry lives until the program ends; its words are read and written one by one.
    let held = unsafe { &mut *held };
    let end = sequence.wrapping_add(talk.end - talk.start);
    // Sent again, and read before.
    if !is_before(held.read, end) {
        return true;
    }
    let begins = sequence == held.end;
    let length = prefix(skb, talk);
    if begins
        && length != 0
        && sequence == held.read
        && length + 2 == talk.end - talk.start
        && length <= MAX_MESSAGE
        && ebfw_message(skb.0, talk.start + 2) == 0
    {
        held.read = end;
        held.end = end;
        return true;
    }
    let now = boot_ns();
    let told = ebfw_hand_over(skb.0, sequence, held.read, now) != 0;
    if begins && length != 0 {
        held.end = sequence.wrapping_add(length + 2);
    }
    if told && is_before(end, held.end) {
        return true;
    }
    let passes = lapses(held, talk, now);
    if passes {
        held.read = end;
        held.end = end;
    }
    passes
}

/// Whether `a` comes before `b`, as sequence numbers do (RFC 9293, 3.4).
#[inline(always)]
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// The length of the message that begins with the segment; 0, so that nothing passes for that reason, where it is too short to say.
#[inline(always)]
fn prefix(skb: Skb, talk: &Heard) -> u32 {
    match skb.words::<1>(talk.start) {
        Some([prefix]) if talk.start + 4 <= talk.end => {
            let [high, low, ..] = prefix.to_ne_bytes();
            u32::from(u16::from_be_bytes([high, low]))
        }
        _ => 0,
    }
}

/// The sequence number of a segment's first byte of payload; `None` behind IPv6 extension headers, with which no resolver answers. Not one of
/// the parser's results, for the sake of egress' stack.
#[inline(always)]
fn sequence_of(skb: Skb) -> Option<u32> {
    let header = skb.tcp()?;
    let [sequence] = skb.words::<1>(header + 4)?;
    Some(u32::from_be(sequence))
}

/// Whether a packet passes that the agent has not read.
#[inline(always)]
fn lapses(held: &mut Held, talk: &Heard, now: u64) -> bool {
    if talk.waits == 0 {
        return true;
    }
    let waited = now.saturating_sub(held.since_ns);
    if held.since_ns == 0 || waited > FORGIVEN_NS {
        held.since_ns = now;
    } else if waited > PATIENCE_NS {
        count(Counter::NameUnreadable);
        return true;
    }
    count(Counter::AnswerHeld);
    false
}

/// Hands the packet of whom the scratch says talks to the agent; 0: not all of it. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_hand_over(
    context: *mut __sk_buff,
    sequence: u32,
    next: u32,
    now: u64,
) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    u32::from(hand_over(
        Skb(context),
        dns::talk_of(scratch),
        sequence,
        next,
        now,
    ))
}

#[inline(always)]
fn hand_over(skb: Skb, talk: &Heard, sequence: u32, next: u32, now: u64) -> bool {
    let total = talk.end - talk.start;
    let mut offset = 0;
    for _ in 0..PIECES {
        if offset >= total {
            return true;
        }
        let Some(mut entry) = ANSWERS.reserve(0) else {
            count(Counter::AnswerLost);
            return false;
        };
        // SAFETY: all fields are set, the bytes by the helper as far as `length` says; every bit pattern is an `AnswerPiece`.
        let piece: &mut AnswerPiece = unsafe { &mut *entry.as_mut_ptr() };
        let left = total - offset;
        let length = if left > PIECE as u32 {
            PIECE as u32
        } else {
            left
        };
        piece.boot_ns = now;
        piece.cgroup_id = workload::cgroup_of_skb(skb.0);
        piece.cookie = skb.cookie();
        piece.netns = talk.netns;
        piece.slot = talk.slot;
        piece.sequence = sequence;
        piece.next = next;
        piece.total = total;
        piece.offset = offset;
        piece.source = talk.source;
        piece.resolver = talk.resolver;
        piece.port = talk.port as u16;
        piece.protocol = talk.protocol as u16;
        piece.owner = talk.owner;
        let loaded = skb.load_bytes(talk.start + offset, &mut piece.bytes, length);
        piece.length = if loaded { length } else { 0 };
        entry.submit(0);
        offset += PIECE as u32;
    }
    offset >= total
}
