//! How a compiled ruleset lies in its blocks: written by `ebfw_policy::compile`, read by [`crate::classify`].
//!
//! ARCHITECTURE.md, "Tables", says what each block holds; this file fixes the numbers.

use crate::classify::{claim, request};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut, transmute_ref};

/// 64-bit words of a block: 64 for bits or halfwords, 8 for summaries.
pub const BLOCK_WORDS: usize = 72;
/// Words of a block that hold bits.
pub const BITS_WORDS: usize = 64;
/// The largest [`Header::shift`]: 64 words of 64 bits, [`crate::abi::MAX_RULES`] rules.
pub const MAX_SHIFT: u32 = 6;
/// From this shift on a bitmap has a summary; below, all of its (at most four) words are visited.
pub const SUMMARY_SHIFT: u32 = 3;

/// The unit of storage.
pub type Block = [u64; BLOCK_WORDS];
/// A block seen as halfwords, of which the first 256 are used.
pub type Halfwords = [u16; BLOCK_WORDS * 4];

/// Sees a block as halfwords.
#[inline(always)]
#[must_use]
pub fn halfwords(block: &Block) -> &Halfwords {
    transmute_ref!(block)
}

/// Bits of [`Header::flags`]. Tables outlive the agent that wrote them, so a bit keeps its meaning; 1, 2 and 4 are free.
pub mod header_flag {
    /// There are IPv4 prefixes.
    pub const V4: u32 = 8;
    /// There are IPv6 prefixes.
    pub const V6: u32 = 16;
    /// Some rule looks at names: the name fields of the header count.
    pub const NAMES: u32 = 32;
    /// Some rule looks at method or path: the request fields of the header count.
    pub const REQUESTS: u32 = 64;
}

/// Halfwords of the header that are free.
const PAD: usize = BLOCK_WORDS * 2 - 54;

/// Block 0 of a ruleset: its shape. "Block" is the number of a block in the same ruleset, "class" the number of a bitmap.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// A bitmap has `1 << shift` words.
    pub shift: u32,
    /// Number of rules.
    pub rules: u32,
    /// 1: a flow that no rule matches may leave.
    pub default_permits: u32,
    /// [`header_flag`].
    pub flags: u32,
    /// Block of the permit bits: bit `i` is set where rule `i` lets the flow through.
    pub permits: u32,
    /// First block of bitmaps.
    pub bitmaps: u32,
    /// Blocks of the port index of TCP, UDP and SCTP.
    pub ports: [u32; 3],
    /// First block of port pages.
    pub pages: u32,
    /// Block: protocol number → class, where no ports are known.
    pub protocols: u32,
    /// Class of an IPv4 address that no prefix covers.
    pub v4_default: u32,
    /// Class of an IPv6 address that no prefix covers.
    pub v6_default: u32,
    /// By [`claim`]: class of the rules that match or may match whatever the names are.
    pub names_always: [u32; claim::STATES],
    /// By [`claim`]: class of the rules that match, of those that may.
    pub names_certain: [u32; claim::STATES],
    /// By [`request`]: class of the rules that match, of those that may.
    pub requests_certain: [u32; request::STATES],
    /// Number of name classes.
    pub name_classes: u32,
    /// First block of the name index.
    pub name_index: u32,
    /// First block of name pages.
    pub name_pages: u32,
    /// First block of the bitmaps of names; they are numbered apart from the others.
    pub name_bitmaps: u32,
    /// Number of classes of methods. Class 0 are the methods that no rule names.
    pub methods: u32,
    /// Number of classes of paths. Class 0 are the paths that no rule means.
    pub paths: u32,
    /// By [`request`]: first block of the bitmaps of methods, those of all classes where there is no method.
    pub method_bitmaps: [u32; request::STATES],
    /// By [`request`]: the bitmap of the method of class 0.
    pub method_classes: [u32; request::STATES],
    /// By [`request`]: first block of the bitmaps of paths, those of all classes where there is no path.
    pub path_bitmaps: [u32; request::STATES],
    /// By [`request`]: the bitmap of the path of class 0.
    pub path_classes: [u32; request::STATES],
    /// The state in which the walk over a method begins.
    pub method_root: u32,
    /// The state in which the walk over a path begins.
    pub path_root: u32,
    /// First block of the cells that both walks go over, [`BITS_WORDS`] a block.
    pub cells: u32,
    /// Bits of the words of a bitmap where bitmaps have no summary, else 0.
    pub visited: u32,
    /// Number of the automaton whose classes these are. Filled in when the ruleset is loaded, as the next two.
    pub automaton: u32,
    /// Its serial: distinct for every automaton that was ever loaded.
    pub automaton_serial: u32,
    /// The state in which its walk begins.
    pub automaton_root: u32,
    /// Zero.
    pub _pad: [u32; PAD],
}

impl Header {
    /// Sees block 0 as the header.
    #[inline(always)]
    #[must_use]
    pub fn of(block: &Block) -> &Self {
        transmute_ref!(block)
    }

    /// Sees block 0 as the header, to change it.
    #[must_use]
    pub fn of_mut(block: &mut Block) -> &mut Self {
        transmute_mut!(block)
    }

    /// An empty header, to be filled by the compiler.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            shift: 0,
            rules: 0,
            default_permits: 0,
            flags: 0,
            permits: 0,
            bitmaps: 0,
            ports: [0; 3],
            pages: 0,
            protocols: 0,
            v4_default: 0,
            v6_default: 0,
            names_always: [0; _],
            names_certain: [0; _],
            requests_certain: [0; _],
            name_classes: 0,
            name_index: 0,
            name_pages: 0,
            name_bitmaps: 0,
            methods: 0,
            paths: 0,
            method_bitmaps: [0; _],
            method_classes: [0; _],
            path_bitmaps: [0; _],
            path_classes: [0; _],
            method_root: 0,
            path_root: 0,
            cells: 0,
            visited: 0,
            automaton: 0,
            automaton_serial: 0,
            automaton_root: 0,
            _pad: [0; PAD],
        }
    }
}

const _: () = assert!(
    size_of::<Header>() == size_of::<Block>() && size_of::<Halfwords>() == size_of::<Block>()
);
