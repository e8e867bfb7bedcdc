//! From a name to its class: the set of domain patterns that match it. One walk, from the name's last byte to its first.
//!
//! The automaton is a double array: a state is a base, the edge over a symbol lies in the cell at base + symbol, and the cell says
//! which symbol it is for. No two states have the same base, so that this also says whose it is (as in Yata's darts-clone).
//! Generic over where cells and name lie, so that the kernel, the agent and the tests run this very code.
//! Knows neither patterns nor rules; `ebfw_policy::compile::Names` builds the cells.

use core::hint::black_box;

use crate::{abi::MAX_NAME, dns::lower};

/// The class of the names that no pattern matches.
pub const NO_CLASS: u32 = 0;

/// Cells of an automaton at most: 8 MiB.
pub const MAX_CELLS: u32 = 1 << 21;
/// Cells that lie together, so that the kernel looks for them once.
pub const CHUNK_CELLS: usize = 8192;
/// Classes of names are below this.
pub const MAX_CLASSES: u32 = 1 << 18;

/// The symbol of the edge that is taken where a state has none of its own for a byte.
pub const DEFAULT: u32 = 1;
/// The symbol of the end of the name; what follows is the class.
pub const END: u32 = 2;
/// Symbols are below this.
pub const SYMBOLS: u32 = FIRST_BYTE + 256;
const FIRST_BYTE: u32 = 3;

/// A cell has the symbol in its lowest bits, of which none is 0, so that an empty cell is for none. Above it stands what is behind the edge:
/// the next state or a class.
const SYMBOL_BITS: u32 = 9;
const SYMBOL: u32 = (1 << SYMBOL_BITS) - 1;
/// Set in what is behind an edge: it is a class, which is known, whatever the rest of the name is.
pub(crate) const DECIDED: u32 = 1 << (u32::BITS - SYMBOL_BITS - 1);
const _: () = assert!(SYMBOLS <= SYMBOL + 1);
const _: () = assert!(MAX_CELLS + SYMBOLS < DECIDED && MAX_CLASSES < DECIDED);

/// The symbol of a byte of a name. Upper and lower case are one.
#[inline(always)]
#[must_use]
pub const fn symbol(byte: u8) -> u32 {
    exact(lower(byte))
}

/// The symbol of a byte where case counts.
#[inline(always)]
#[must_use]
pub const fn exact(byte: u8) -> u32 {
    FIRST_BYTE + byte as u32
}

/// The cell of an edge over `symbol` to the state `next`, or of an end with the class `next`.
#[must_use]
pub const fn edge(symbol: u32, next: u32) -> u32 {
    next << SYMBOL_BITS | symbol
}

/// The cell of an edge over `symbol` behind which every name has the class `class`.
#[must_use]
pub const fn decided(symbol: u32, class: u32) -> u32 {
    edge(symbol, DECIDED | class)
}

/// The automaton, wherever it lies.
pub trait Cells {
    /// Cell `index`, 0 behind the last one; `None` only where the automaton itself is missing or cut off, which ends the walk. May
    /// keep in mind where it lies: the next one is probably near.
    fn cell(&mut self, index: u32) -> Option<u32>;
}

impl Cells for &[u32] {
    fn cell(&mut self, index: u32) -> Option<u32> {
        Some(self.get(index as usize).copied().unwrap_or(0))
    }
}

/// A name, wherever it lies.
pub trait Text {
    /// Byte `index` of the name, which is below its length.
    fn byte(&self, index: u32) -> u8;

    /// Hands the state of the walk through. The kernel's programs pass it through map memory, where the verifier forgets what it
    /// knew of it: else it would walk every path for itself.
    #[inline(always)]
    fn pass(&self, state: u32) -> u32 {
        state
    }
}

impl Text for [u8] {
    fn byte(&self, index: u32) -> u8 {
        self.get(index as usize).copied().unwrap_or(0)
    }
}

/// The class of the name of `length` bytes, which has no trailing dot.
///
/// What is longer than [`MAX_NAME`] is no name and has no class, even under `*`: whoever reads names refuses it.
#[inline(always)]
pub fn class_of(
    cells: &mut impl Cells,
    root: u32,
    text: &(impl Text + ?Sized),
    length: u32,
) -> u32 {
    if length > MAX_NAME as u32 {
        return NO_CLASS;
    }
    let backwards = |read| symbol(text.byte(length - 1 - read));
    walk::<{ MAX_NAME as u32 }>(cells, root, length, |state| text.pass(state), backwards)
        .unwrap_or(NO_CLASS)
}

/// Set in what [`walk_over_name`] says: it is a class, whatever the rest of the name is.
pub const IS_CLASS: u32 = DECIDED;

/// A part of [`class_of`], of `LIMIT` bytes at most, behind the first `read` of them, in `state`, which at first is the root. The state behind
/// it, or, with [`IS_CLASS`], the class; `None` where cells are missing.
#[inline(always)]
pub fn walk_over_name<const LIMIT: u32>(
    cells: &mut impl Cells,
    state: u32,
    text: &(impl Text + ?Sized),
    read: u32,
    length: u32,
) -> Option<u32> {
    let left = length.wrapping_sub(read);
    let backwards = |at: u32| symbol(text.byte(left.wrapping_sub(1).wrapping_sub(at)));
    walk_over::<LIMIT>(cells, state, left, |state| text.pass(state), backwards)
}

/// The class of a name that ends in `state`; `None` where cells are missing.
#[inline(always)]
pub fn end_of_name(cells: &mut impl Cells, state: u32) -> Option<u32> {
    end(cells, state)
}

/// Walks over `length` symbols, of which `symbol` gives one a time, `LIMIT` at most; `pass` is handed the state at each. `None` where
/// cells are missing.
#[inline(always)]
pub(crate) fn walk<const LIMIT: u32>(
    cells: &mut impl Cells,
    root: u32,
    length: u32,
    pass: impl Fn(u32) -> u32,
    symbol: impl Fn(u32) -> u32,
) -> Option<u32> {
    let state = walk_over::<LIMIT>(cells, root, length, pass, symbol)?;
    if state & DECIDED != 0 {
        return Some(state & !DECIDED);
    }
    end(cells, state)
}

/// A part of [`walk`]: the state behind it, or, with [`DECIDED`], the class.
#[inline(always)]
pub(crate) fn walk_over<const LIMIT: u32>(
    cells: &mut impl Cells,
    mut state: u32,
    length: u32,
    pass: impl Fn(u32) -> u32,
    symbol: impl Fn(u32) -> u32,
) -> Option<u32> {
    let mut read = 0;
    while read < LIMIT {
        // The black box keeps LLVM from making one limit of both, of which the verifier of kernel 5.10 does not see the end.
        if read >= black_box(length) {
            break;
        }
        state = pass(state);
        let next = follow(cells, state, symbol(read))?;
        if next & DECIDED != 0 {
            return Some(next);
        }
        state = next;
        read += 1;
    }
    Some(state)
}

/// The class of what ends in `state`.
#[inline(always)]
pub(crate) fn end(cells: &mut impl Cells, state: u32) -> Option<u32> {
    let end = cells.cell(state.wrapping_add(END))?;
    Some(if is_over(end, END) {
        behind(end)
    } else {
        NO_CLASS
    })
}

/// The state behind a symbol.
#[inline(always)]
fn follow(cells: &mut impl Cells, state: u32, symbol: u32) -> Option<u32> {
    let own = cells.cell(state.wrapping_add(symbol))?;
    if is_over(own, symbol) {
        return Some(behind(own));
    }
    let default = cells.cell(state.wrapping_add(DEFAULT))?;
    Some(if is_over(default, DEFAULT) {
        behind(default)
    } else {
        DECIDED | NO_CLASS
    })
}

/// Whether a cell holds an edge over `symbol`.
#[inline(always)]
const fn is_over(cell: u32, symbol: u32) -> bool {
    cell & SYMBOL == symbol
}

/// What stands behind an edge: the next state, or, with [`DECIDED`], a class.
#[inline(always)]
const fn behind(cell: u32) -> u32 {
    cell >> SYMBOL_BITS
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{cell::RefCell, vec, vec::Vec};

    use super::*;

    const A: u32 = 1;
    const B: u32 = 400;

    /// `ab` has class 5, whatever ends in `xb` has 6, `a?` for any other byte than `b` and `x` at its end has 7.
    fn cells() -> Vec<u32> {
        let c = 800;
        let mut cells = vec![0; 1200];
        let mut put = |state: u32, symbol: u32, cell: fn(u32, u32) -> u32, next| {
            cells[(state + symbol) as usize] = cell(symbol, next);
        };
        put(A, symbol(b'b'), edge, B);
        put(A, symbol(b'x'), decided, NO_CLASS);
        put(A, DEFAULT, edge, c);
        put(B, symbol(b'a'), edge, 900);
        put(B, symbol(b'x'), decided, 6);
        put(900, END, edge, 5);
        put(c, symbol(b'a'), edge, 901);
        put(901, END, edge, 7);
        cells
    }

    fn class(name: &[u8]) -> u32 {
        class_of(&mut cells().as_slice(), A, name, name.len() as u32)
    }

    #[test]
    fn a_name_is_read_from_its_last_byte() {
        for (name, expected, why) in [
            (&b"ab"[..], 5, "its own edges"),
            (b"AB", 5, "case does not count"),
            (b"aB", 5, "case does not count"),
            (b"xb", 6, "decided before its end"),
            (b"what.ever.xb", 6, "decided, so the rest is not read"),
            (b"a-", 7, "over the default edge"),
            (b"a\xff", 7, "over the default edge, not ASCII"),
            (b"a\0", 7, "over the default edge, not a character"),
            (b"", NO_CLASS, "nothing"),
            (b"b", NO_CLASS, "ends where no name ends"),
            (b"cb", NO_CLASS, "no edge, no default edge"),
            (b"ax", NO_CLASS, "its own edge beats the default edge"),
            (b"aab", NO_CLASS, "longer than what matches"),
        ] {
            assert_eq!(class(name), expected, "{why}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_name_has_no_class() {
        let mut longest = [b'.'; MAX_NAME + 1];
        longest[MAX_NAME - 2..MAX_NAME].copy_from_slice(b"xb");
        assert_eq!(class(&longest[..MAX_NAME]), 6);
        longest[MAX_NAME - 1..].copy_from_slice(b"xb");
        assert_eq!(class(&longest), NO_CLASS);
    }

    #[test]
    fn broken_cells_end_the_walk_without_a_class() {
        for (root, cells, why) in [
            (1, vec![], "no cells"),
            (u32::MAX, cells(), "a root beyond all cells"),
            (1, vec![0; 500], "nobody's cells"),
            (
                1,
                vec![edge(symbol(b'c'), 9); 500],
                "cells of other symbols",
            ),
        ] {
            let class = class_of(&mut cells.as_slice(), root, &b"ab"[..], 2);
            assert_eq!(class, NO_CLASS, "{why}");
        }
        let circle = vec![edge(symbol(b'a'), 1); 500];
        assert_eq!(
            class_of(&mut circle.as_slice(), 1, &[b'a'; 253][..], 253),
            NO_CLASS,
            "no end"
        );
        let last = edge(symbol(b'a'), DECIDED - 1);
        assert_eq!(behind(last), DECIDED - 1, "a state is no class");
        assert_eq!(
            behind(decided(SYMBOLS - 1, MAX_CLASSES)),
            DECIDED | MAX_CLASSES
        );
    }

    #[test]
    fn the_state_is_handed_through_at_every_byte() {
        struct Watched(RefCell<Vec<u32>>);
        impl Text for Watched {
            fn byte(&self, index: u32) -> u8 {
                b"ab"[index as usize]
            }
            fn pass(&self, state: u32) -> u32 {
                self.0.borrow_mut().push(state);
                state
            }
        }
        let text = Watched(RefCell::default());
        assert_eq!(class_of(&mut cells().as_slice(), A, &text, 2), 5);
        assert_eq!(text.0.into_inner(), [A, B]);
    }
}
