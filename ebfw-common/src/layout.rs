//! How a compiled ruleset lies in its blocks: written by `ebfw_policy::compile`, read by [`crate::classify`].
//!
//! ARCHITECTURE.md, "Tables", says what each block holds; this file fixes the numbers.

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

/// Bits of [`Header::flags`]. Tables outlive the agent that wrote them, so a bit keeps its meaning; 2 and 4 are free.
pub mod header_flag {
    /// Some rule looks at names, method or path: the content dimension takes part.
    pub const CONTENT: u32 = 1;
    /// There are IPv4 prefixes.
    pub const V4: u32 = 8;
    /// There are IPv6 prefixes.
    pub const V6: u32 = 16;
    /// Some rule looks at names ([`CONTENT`] is set too): the name fields of the header count.
    pub const NAMES: u32 = 32;
}

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
    /// Class of the rules that may match a flow without payload so far, whatever its names are.
    pub content_pending_maybe: u32,
    /// Class of the rules that may if any name is meant.
    pub content_pending_maybe_any: u32,
    /// Class of those that match it, once they may.
    pub content_pending_yes: u32,
    /// Class of those that match it if all names are meant.
    pub content_pending_yes_all: u32,
    /// Class of the rules that match a payload which carries neither name nor request, whatever the flow's names are.
    pub content_opaque: u32,
    /// Class of the rules that match it if any name is meant.
    pub content_opaque_any: u32,
    /// Number of name classes.
    pub name_classes: u32,
    /// First block of the name index.
    pub name_index: u32,
    /// First block of name pages.
    pub name_pages: u32,
    /// First block of the bitmaps of names; they are numbered apart from the others.
    pub name_bitmaps: u32,
    /// Bits of the words of a bitmap where bitmaps have no summary, else 0.
    pub visited: u32,
    /// Number of the automaton whose classes these are. Filled in when the ruleset is loaded, as the next two.
    pub automaton: u32,
    /// Its serial: distinct for every automaton that was ever loaded.
    pub automaton_serial: u32,
    /// The state in which its walk begins.
    pub automaton_root: u32,
    /// Zero.
    pub _pad: [u32; BLOCK_WORDS * 2 - 27],
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
            content_pending_maybe: 0,
            content_pending_maybe_any: 0,
            content_pending_yes: 0,
            content_pending_yes_all: 0,
            content_opaque: 0,
            content_opaque_any: 0,
            name_classes: 0,
            name_index: 0,
            name_pages: 0,
            name_bitmaps: 0,
            visited: 0,
            automaton: 0,
            automaton_serial: 0,
            automaton_root: 0,
            _pad: [0; BLOCK_WORDS * 2 - 27],
        }
    }
}

const _: () = assert!(
    size_of::<Header>() == size_of::<Block>() && size_of::<Halfwords>() == size_of::<Block>()
);
