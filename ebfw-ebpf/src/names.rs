//! From an address to the classes of the names that the workload resolved to it.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use ebfw_common::{
    abi::{Address, LearnedName, NAMES_PER_ADDRESS, NameKey, SlotRef},
    classify::NO_NAMES,
    layout::{Header, header_flag},
    names::{self, NO_CLASS, Text},
};

use crate::{
    maps::{AUTOMATA, Cells, NAMES},
    verifier::{forget, masked},
};

const PLACES: usize = NAMES_PER_ADDRESS as usize;
/// No name stands there.
const ABSENT: u32 = u32::MAX;

/// The classes of the names that the workload resolved to `destination`, as [`ebfw_common::classify::Flow::names`] wants them.
#[inline(always)]
pub fn of(slot: SlotRef, destination: Address, header: &Header) -> [u32; PLACES] {
    let mut classes = NO_NAMES;
    if header.flags & header_flag::NAMES == 0 {
        return classes;
    }
    let Address([a, b, c, d]) = destination;
    let automaton = u64::from(header.automaton) << 32 | u64::from(header.automaton_root);
    let mut first = ABSENT;
    for place in 0..PLACES {
        let class = ebfw_class(
            u64::from(a) | u64::from(b) << 32,
            u64::from(c) | u64::from(d) << 32,
            u64::from(slot.0) | (place as u64) << 32,
            automaton,
            header.automaton_serial,
        );
        classes[place] = class;
        if first == ABSENT {
            first = class;
        }
    }
    // Places without a name repeat one that is there.
    let first = if first == ABSENT { NO_CLASS } else { first };
    for class in &mut classes {
        if *class == ABSENT {
            *class = first;
        }
    }
    classes
}

/// The class of the name that stands in a place of an address, if it has not expired: what was found last time, or a walk. With external
/// linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_class(
    first: u64,
    second: u64,
    place: u64,
    automaton: u64,
    serial: u32,
) -> u32 {
    let key = NameKey {
        slot: SlotRef(place as u32),
        place: (place >> 32) as u32,
        address: Address([
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ]),
    };
    let Some(name) = NAMES.get_ptr_mut(key) else {
        return ABSENT;
    };
    // SAFETY: the entry lives until the program ends; `class` is one word, written at once, and right whoever wrote it last.
    let name = unsafe { &mut *name };
    // SAFETY: the helper has no arguments.
    if name.expires_ns < unsafe { bpf_ktime_get_boot_ns() } {
        return ABSENT;
    }
    let known = name.class;
    if (known >> 32) as u32 == serial {
        return known as u32;
    }
    let Some(cells) = AUTOMATA.get((automaton >> 32) as u32) else {
        return ABSENT;
    };
    let class = names::class_of(
        &Loaded(cells),
        automaton as u32,
        &Learned(name),
        name.length,
    );
    name.class = u64::from(serial) << 32 | u64::from(class);
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
