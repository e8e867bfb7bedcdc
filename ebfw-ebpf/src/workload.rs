//! Which workload a socket belongs to: the nearest known ancestor of the cgroup that created it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
};
use ebfw_common::abi::{MAX_CGROUP_DEPTH, SlotRef, SlotWord, slot_flag};

use crate::maps::{CGROUPS, SLOTS};

/// No workload yet. The agent gives no workload slot 0, so a zeroed state is unbound.
pub const UNBOUND: SlotRef = SlotRef(0);

/// The answer.
#[derive(Clone, Copy)]
pub enum Membership {
    /// A workload that the agent has classified.
    Of(SlotRef, SlotWord),
    /// A cgroup that the agent has to look at first.
    Pending,
    /// Nobody's: no ancestor is known.
    Nobody,
}

/// A [`Membership`] in one word, which is what a function may return that is not inlined: the slot, or one of these two. The agent gives
/// no workload slot 0, nor as many slots as would reach the other.
pub type Found = u32;
const NOBODY: Found = UNBOUND.0;
const PENDING: Found = u32::MAX;

/// The word of a slot, if the reference still holds.
#[inline(always)]
pub fn slot_word(slot: SlotRef) -> Option<SlotWord> {
    let entry: *const u64 = SLOTS.get(slot.index())?;
    // SAFETY: array entries live as long as the map; the agent stores whole words, and one volatile read takes one.
    let word = SlotWord(unsafe { entry.read_volatile() });
    (word.has(slot_flag::LIVE) && word.generation() == slot.generation()).then_some(word)
}

#[inline(always)]
fn known(cgroup: u64) -> Option<SlotRef> {
    // SAFETY: the value is copied at once.
    unsafe { CGROUPS.get(cgroup) }.copied()
}

#[inline(always)]
pub fn find(cgroup: u64, ancestor: impl Fn(i32) -> u64) -> Found {
    if let Some(slot) = known(cgroup) {
        return slot.0;
    }
    let mut nearest = UNBOUND;
    // From the root down, so that the last one found is the nearest. Levels below the cgroup's own answer 0, which is no cgroup's id.
    for level in 0..=MAX_CGROUP_DEPTH as i32 {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        if let Some(slot) = known(id) {
            nearest = slot;
        }
    }
    match slot_word(nearest) {
        _ if nearest == UNBOUND => NOBODY,
        Some(word) if !word.has(slot_flag::OPEN) => nearest.0,
        _ => PENDING,
    }
}

#[inline(always)]
pub fn membership(found: Found) -> Membership {
    match found {
        NOBODY => Membership::Nobody,
        PENDING => Membership::Pending,
        slot => match slot_word(SlotRef(slot)) {
            Some(word) => Membership::Of(SlotRef(slot), word),
            None => Membership::Pending,
        },
    }
}

/// The cgroup of the packet's socket.
#[inline(always)]
pub fn cgroup_of_skb(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_skb_cgroup_id(skb) }
}

/// The workload of the packet's socket.
#[inline(always)]
pub fn of_skb(skb: *mut __sk_buff) -> Membership {
    membership(find_skb(skb))
}

#[inline(never)]
fn find_skb(skb: *mut __sk_buff) -> Found {
    // SAFETY: the helper takes the context.
    find(cgroup_of_skb(skb), |level| unsafe {
        bpf_skb_ancestor_cgroup_id(skb, level)
    })
}
