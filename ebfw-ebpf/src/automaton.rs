//! The automaton of domain patterns, as it lies in the maps.

use ebfw_common::{
    layout::Header,
    names::{self, CHUNK_CELLS, MAX_CLASSES},
};

use crate::{
    maps::{AUTOMATA, Cells, Chunk},
    verifier::masked,
};

/// Bits of a class.
pub const CLASS_BITS: u32 = 20;
const _: () = assert!(
    MAX_CLASSES < (1 << CLASS_BITS) - 1,
    "the last one is no class"
);

/// The cells of an automaton that is loaded, and the chunk where the last one was found.
pub struct Loaded {
    cells: &'static Cells,
    number: u32,
    chunk: &'static Chunk,
}

impl Loaded {
    /// That of a ruleset.
    #[inline(always)]
    pub fn of(header: &Header) -> Option<Self> {
        let cells = AUTOMATA.get(header.automaton)?;
        Some(Self {
            cells,
            number: 0,
            chunk: cells.get(0)?,
        })
    }
}

const CHUNK_SHIFT: u32 = CHUNK_CELLS.trailing_zeros();

impl names::Cells for Loaded {
    #[inline(always)]
    fn cell(&mut self, index: u32) -> Option<u32> {
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
