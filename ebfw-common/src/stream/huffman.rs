//! The Huffman code of HPACK (RFC 7541, appendix B) as a machine that takes half a byte at a time, of which at most one symbol comes.
//!
//! The code is canonical, so that the lengths say it all. The machine is built when this is compiled.

use super::facts::masked;

/// Set in a transition: it gives a symbol.
const SYMBOL: u32 = 1 << 16;
/// Set: the string may end there, as what came behind the last symbol is padding.
const END: u32 = 1 << 17;
/// Set: there is no such code.
const NONE: u32 = 1 << 18;

/// What half a byte leads to.
#[derive(Clone, Copy)]
pub(super) struct Transition(u32);

impl Transition {
    /// From `node` with the four bits `bits`.
    #[inline(always)]
    pub(super) fn of(node: u32, bits: u32) -> Self {
        Self(TRANSITIONS[masked(node << 4 | bits, NODES as u32 * 16 - 1)])
    }

    /// The next node. The first is 0.
    #[inline(always)]
    pub(super) const fn node(self) -> u32 {
        self.0 & 0xff
    }

    /// Whether a symbol was completed.
    #[inline(always)]
    pub(super) const fn is_symbol(self) -> bool {
        self.0 & SYMBOL != 0
    }

    /// The symbol.
    #[inline(always)]
    pub(super) const fn symbol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub(super) const fn may_end(self) -> bool {
        self.0 & END != 0
    }

    #[inline(always)]
    pub(super) const fn is_none(self) -> bool {
        self.0 & NONE != 0
    }
}

/// Symbols: the bytes, and the end of string, which no string has.
const SYMBOLS: usize = 257;
const NODES: usize = SYMBOLS - 1;
const LONGEST: u8 = 30;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

static TRANSITIONS: [u32; NODES * 16] = transitions();

/// Child of a node: another node, or `LEAF` and a symbol.
const LEAF: u16 = 1 << 15;

/// The code's tree. A node's first child is for the bit 0.
const fn tree() -> [[u16; 2]; NODES] {
    let mut tree = [[0; 2]; NODES];
    let (mut nodes, mut code, mut length) = (1, 0u32, 0);
    while length < LONGEST {
        length += 1;
        code <<= 1;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] == length {
                let (mut node, mut bit) = (0, length);
                while bit > 1 {
                    bit -= 1;
                    let side = (code >> bit & 1) as usize;
                    if tree[node][side] == 0 {
                        tree[node][side] = nodes;
                        nodes += 1;
                    }
                    node = tree[node][side] as usize;
                }
                tree[node][(code & 1) as usize] = LEAF | symbol as u16;
                code += 1;
            }
            symbol += 1;
        }
    }
    assert!(nodes as usize == NODES && code == 1 << LONGEST);
    tree
}

const fn transitions() -> [u32; NODES * 16] {
    let tree = tree();
    // Nodes behind at most seven ones, where padding may end (5.2).
    let mut ends = [false; NODES];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        ends[node] = true;
        node = tree[node][1] as usize;
        ones += 1;
    }
    let mut transitions = [0; NODES * 16];
    let mut at = 0;
    while at < transitions.len() {
        let (mut node, mut transition, mut bit) = (at >> 4, 0, 4);
        while bit > 0 {
            bit -= 1;
            let next = tree[node][at >> bit & 1];
            node = next as usize;
            if next & LEAF != 0 {
                let symbol = (next & !LEAF) as u32;
                transition |= if symbol < 256 {
                    SYMBOL | symbol << 8
                } else {
                    NONE
                };
                node = 0;
            }
        }
        transitions[at] = transition | node as u32 | if ends[node] { END } else { 0 };
        at += 1;
    }
    transitions
}
