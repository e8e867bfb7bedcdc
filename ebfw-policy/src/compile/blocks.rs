//! The numbered pieces of a ruleset laid out in blocks.

use ebfw_common::{
    layout::{BITS_WORDS, Block, Halfwords, Header, MAX_SHIFT, SUMMARY_SHIFT},
    names::SYMBOLS,
};
use zerocopy::transmute;

use super::{bitmap::Classes, ports::ByteIndex};

/// The blocks so far; block 0 is kept for the header.
pub(super) struct Blocks(Vec<Block>);

impl Blocks {
    pub(super) fn new() -> Self {
        Self(vec![transmute!(Header::empty())])
    }

    fn next(&self) -> u32 {
        u32::try_from(self.0.len()).expect("fewer than 2^32 blocks fit into memory")
    }

    /// One bit a rule.
    pub(super) fn push_bits(&mut self, words: &[u64]) -> u32 {
        let index = self.next();
        let mut block: Block = [0; _];
        block[..words.len()].copy_from_slice(words);
        self.0.push(block);
        index
    }

    /// One value a byte.
    pub(super) fn push_index(&mut self, values: &ByteIndex) -> u32 {
        let index = self.next();
        let mut halfwords: Halfwords = [0; _];
        halfwords[..values.len()].copy_from_slice(values);
        self.0.push(transmute!(halfwords));
        index
    }

    /// Several such, one after the other.
    pub(super) fn push_indexes<'a>(&mut self, indexes: impl Iterator<Item = &'a ByteIndex>) -> u32 {
        let first = self.next();
        for values in indexes {
            self.push_index(values);
        }
        first
    }

    /// The bitmaps of all classes, in order.
    pub(super) fn push_classes(&mut self, classes: &Classes, shift: u32) -> u32 {
        let first = self.next();
        let bitmaps: Vec<&[u64]> = classes.iter().collect();
        for together in bitmaps.chunks(1 << (MAX_SHIFT - shift)) {
            self.0.push(bitmap_block(together, shift));
        }
        first
    }

    /// The cells of an automaton, and room for any symbol of any state behind the last one.
    pub(super) fn push_cells(&mut self, cells: &[u32]) -> u32 {
        let first = self.next();
        let room = cells.len() + SYMBOLS as usize;
        for number in 0..room.div_ceil(BITS_WORDS) {
            let rest = cells.get(number * BITS_WORDS..).unwrap_or_default();
            let words: Vec<u64> = rest
                .iter()
                .take(BITS_WORDS)
                .copied()
                .map(u64::from)
                .collect();
            self.push_bits(&words);
        }
        first
    }

    pub(super) fn finish(mut self, header: Header) -> Vec<Block> {
        self.0[0] = transmute!(header);
        self.0
    }
}

fn bitmap_block(bitmaps: &[&[u64]], shift: u32) -> Block {
    let mut block: Block = [0; _];
    for (position, words) in bitmaps.iter().enumerate() {
        block[position << shift..][..words.len()].copy_from_slice(words);
        if shift >= SUMMARY_SHIFT {
            block[BITS_WORDS + position] = summary(words);
        }
    }
    block
}

/// Bit `w` is set where word `w` holds a rule.
fn summary(words: &[u64]) -> u64 {
    words
        .iter()
        .enumerate()
        .filter(|(_, word)| **word != 0)
        .fold(0, |bits, (index, _)| bits | 1 << index)
}
