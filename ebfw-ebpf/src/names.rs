//! From an address to the classes of the names that the workload resolved to it.

use ebfw_common::{
    abi::{Address, LearnedName, NAMES_PER_ADDRESS, NameKey, SHARED, SlotRef, SlotWord, slot_flag},
    classify::Tables,
    layout::Header,
    names::{self, MAX_CELLS, NO_CLASS, Text},
};

use crate::{
    decide::Question,
    maps::{AUTOMATA, CONFIG, Cells, NAMES},
    report::boot_ns,
    tables::Instance,
    verifier::{forget, masked},
};

const PLACES: usize = NAMES_PER_ADDRESS as usize;
/// Bits of a class: there are no more classes than cells.
pub const CLASS_BITS: u32 = 20;
const _: () = assert!(MAX_CELLS == 1 << CLASS_BITS);

/// No name stands there.
const ABSENT: u32 = u32::MAX;

/// Fills in the classes of the names that the workload resolved to the destination, as [`ebfw_common::classify::Flow::names`] wants them. A
/// function of its own for the sake of the stack.
#[inline(never)]
pub fn resolve(word: SlotWord, slot: SlotRef, netns: u64, question: &mut Question) {
    if !word.has(slot_flag::NAMES) || netns == 0 {
        return;
    }
    let [first, second] = question.destination.halves();
    let since = match question.opened_ns {
        0 => boot_ns(),
        opened => opened,
    };
    let shared = u64::from(word.has(slot_flag::SHARED_NAMES));
    for place in 0..PLACES {
        let at = u64::from(slot.0)
            | (place as u64) << PLACE_SHIFT
            | u64::from(word.instance()) << INSTANCE_SHIFT
            | shared << SHARED_SHIFT;
        question.names[place] = ebfw_name(first, second, at, since, netns);
    }
    // Places without a name repeat one that is there.
    let mut known = NO_CLASS;
    for class in question.names {
        if class != ABSENT {
            known = class;
        }
    }
    for class in &mut question.names {
        if *class == ABSENT {
            *class = known;
        }
    }
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
    let there = ebfw_class(first, second, kept | (3 - place) << PLACE_SHIFT, since, netns);
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
    let Some(cells) = AUTOMATA.get(header.automaton) else {
        return ABSENT;
    };
    let class = names::class_of(
        &Loaded(cells),
        header.automaton_root,
        &Learned(name),
        name.length,
    );
    name.class = u64::from(header.automaton_serial) << 32 | u64::from(class);
    class
}

struct Loaded(&'static Cells);

impl names::Cells for Loaded {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        self.0.get(index).copied()
    }
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
