//! From an address to the classes of the names that the workload resolved to it.

use core::hint::black_box;

use ebfw_common::{
    abi::{Address, LearnedName, NAMES_PER_ADDRESS, NameKey, SHARED, SlotRef, SlotWord, slot_flag},
    classify::{NO_NAMES, Tables},
    layout::Header,
    names::{self, NO_CLASS, Text},
};

use crate::{
    automaton::{CLASS_BITS, Loaded},
    maps::{CONFIG, NAMES},
    report::boot_ns,
    tables::Instance,
    verifier::{forget, masked},
};

const PLACES: usize = NAMES_PER_ADDRESS as usize;
/// No name stands there: it is no class.
const ABSENT: u32 = (1 << CLASS_BITS) - 1;

/// The classes of the names that the workload resolved to an address, as [`ebfw_common::classify::Flow::names`] wants them. `since`: names that
/// had expired by then do not count; 0: now.
#[inline(always)]
pub fn resolved(
    word: SlotWord,
    slot: SlotRef,
    netns: u64,
    destination: Address,
    since: u64,
) -> [u32; PLACES] {
    if !word.has(slot_flag::NAMES) || netns == 0 {
        return NO_NAMES;
    }
    let [first, second] = destination.halves();
    let since = if since == 0 { boot_ns() } else { since };
    let shared = u64::from(word.has(slot_flag::SHARED_NAMES));
    let at =
        u64::from(slot.0) | u64::from(word.instance()) << INSTANCE_SHIFT | shared << SHARED_SHIFT;
    let lower = ebfw_names(first, second, at, since, netns);
    let upper = ebfw_names(first, second, at | 2 << PLACE_SHIFT, since, netns);
    let names = [
        lower as u32,
        (lower >> 32) as u32,
        upper as u32,
        (upper >> 32) as u32,
    ];
    // Places without a name repeat one that is there.
    let mut known = NO_CLASS;
    for class in names {
        known = one_of(class, known);
    }
    names.map(|class| one_of(class, known))
}

/// The class, or the other where that is [`ABSENT`].
#[inline(always)]
fn one_of(class: u32, other: u32) -> u32 {
    // Without a branch, of which the verifier would follow both ways for each place.
    let absent = (black_box(class ^ ABSENT).wrapping_sub(1).cast_signed() >> 31).cast_unsigned();
    class & !absent | other & absent
}

/// The classes of the names in two places of an address, of which `at` has the first: see [`ebfw_name`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_names(first: u64, second: u64, at: u64, since: u64, netns: u64) -> u64 {
    let class = u64::from(ebfw_name(first, second, at, since, netns));
    let next = ebfw_name(first, second, at + (1 << PLACE_SHIFT), since, netns);
    class | u64::from(next) << 32
}

/// Where the number of an address's place stands in the third argument of [`ebfw_class`], above the slot.
const PLACE_SHIFT: u32 = 32;
/// Where the number of the instance stands in it.
const INSTANCE_SHIFT: u32 = 40;
/// Where it says whether the names of services count too.
const SHARED_SHIFT: u32 = 56;

/// The class of one of the names of an address: the workload's own, or, where it has none there, one that a service learned. What a service
/// learned in a namespace counts in that one, since others may answer there under any address, and what it learned in the host's counts
/// everywhere. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_name(first: u64, second: u64, at: u64, since: u64, netns: u64) -> u32 {
    let own = ebfw_class(first, second, at, since, netns);
    if own != ABSENT || at >> SHARED_SHIFT & 1 == 0 {
        return own;
    }
    // Own names fill the places from the first on, shared ones from the last on, so that they seldom meet.
    let place = at >> PLACE_SHIFT & 3;
    let kept = at & (0xffff << INSTANCE_SHIFT) | u64::from(SHARED.0);
    let there = ebfw_class(
        first,
        second,
        kept | (3 - place) << PLACE_SHIFT,
        since,
        netns,
    );
    if there != ABSENT {
        return there;
    }
    let host = match CONFIG.get(0) {
        Some(config) => config.host_netns,
        None => 0,
    };
    if host == 0 || host == netns {
        return ABSENT;
    }
    let behind = (place + 2) & 3;
    ebfw_class(first, second, kept | behind << PLACE_SHIFT, since, host)
}

/// The class of the name that stands in a place of an address, if it had not expired at `since`: what was found last time, or a walk. `at`:
/// slot, place and instance. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_class(first: u64, second: u64, at: u64, since: u64, netns: u64) -> u32 {
    let key = NameKey {
        slot: SlotRef(at as u32),
        place: (at >> PLACE_SHIFT) as u32 & 0xff,
        address: Address::from_halves([first, second]),
        netns,
    };
    let Some(name) = NAMES.get_ptr_mut(key) else {
        return ABSENT;
    };
    // SAFETY: the entry lives until the program ends; `class` is one word, written at once, and right whoever wrote it last.
    let name = unsafe { &mut *name };
    if name.expires_ns < since {
        return ABSENT;
    }
    let Some(instance) = Instance::get((at >> INSTANCE_SHIFT) as u32 & 0xffff) else {
        return ABSENT;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return ABSENT;
    };
    let known = name.class;
    if (known >> 32) as u32 == header.automaton_serial {
        return known as u32;
    }
    let Some(class) = class_of(header, &Learned(name), name.length) else {
        return ABSENT;
    };
    name.class = u64::from(header.automaton_serial) << 32 | u64::from(class);
    class
}

/// The class of a name of `length` bytes under the automaton of a ruleset; `None` where that is missing.
#[inline(always)]
pub fn class_of(header: &Header, text: &impl Text, length: u32) -> Option<u32> {
    Some(names::class_of(
        &mut Loaded::of(header)?,
        header.automaton_root,
        text,
        length,
    ))
}

struct Learned<'a>(&'a LearnedName);

impl Text for Learned<'_> {
    #[inline(always)]
    fn byte(&self, index: u32) -> u8 {
        // SAFETY: the mask keeps to the array.
        unsafe { *self.0.text.get_unchecked(masked::<0xff>(index)) }
    }

    #[inline(always)]
    fn pass(&self, state: u32) -> u32 {
        forget(state, self.0.hash)
    }
}
