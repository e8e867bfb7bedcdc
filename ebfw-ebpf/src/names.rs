//! From an address to the classes of the names that the workload resolved to it.

use ebfw_common::{
    abi::{Address, LearnedName, NAMES_PER_ADDRESS, NameKey, SlotRef, SlotWord, slot_flag},
    classify::Tables,
    layout::Header,
    names::{self, CHUNK_CELLS, MAX_CELLS, NO_CLASS, Text},
};

use crate::{
    decide::Question,
    maps::{AUTOMATA, Cells, Chunk, NAMES},
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
    for place in 0..PLACES {
        let at = u64::from(slot.0) | (place as u64) << 32;
        question.names[place] = ebfw_class(first, second, at, word.0, netns);
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

/// The class of the name that stands in a place of an address, if it has not expired: what was found last time, or a walk. With external
/// linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_class(first: u64, second: u64, place: u64, word: u64, netns: u64) -> u32 {
    let key = NameKey {
        slot: SlotRef(place as u32),
        place: (place >> 32) as u32,
        address: Address::from_halves([first, second]),
        netns,
    };
    let Some(name) = NAMES.get_ptr_mut(key) else {
        return ABSENT;
    };
    // SAFETY: the entry lives until the program ends; `class` is one word, written at once, and right whoever wrote it last.
    let name = unsafe { &mut *name };
    if name.expires_ns < boot_ns() {
        return ABSENT;
    }
    let Some(instance) = Instance::get(SlotWord(word).instance()) else {
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
    let cells = AUTOMATA.get(header.automaton)?;
    let mut loaded = Loaded {
        cells,
        number: 0,
        chunk: cells.get(0)?,
    };
    Some(names::class_of(
        &mut loaded,
        header.automaton_root,
        text,
        length,
    ))
}

/// The cells of an automaton that is loaded, and the chunk where the last one was found.
struct Loaded {
    cells: &'static Cells,
    number: u32,
    chunk: &'static Chunk,
}

const CHUNK_SHIFT: u32 = CHUNK_CELLS.trailing_zeros();

impl names::Cells for Loaded {
    #[inline(always)]
    fn cell(&mut self, index: u32) -> Option<u64> {
        let number = index >> CHUNK_SHIFT;
        if number != self.number {
            self.chunk = self.cells.get(number)?;
            self.number = number;
        }
        let within = masked::<{ CHUNK_CELLS as u32 - 1 }>(index);
        // SAFETY: the mask keeps to the chunk.
        Some(unsafe { *self.chunk.get_unchecked(within) })
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
