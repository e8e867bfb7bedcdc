//! First match over a compiled ruleset: one class a dimension, AND, first set bit.
//!
//! Generic over where the tables lie, so that the kernel, the host tests and the fuzzers run this very code. Knows nothing of
//! sockets, workloads or packets. Cost does not depend on the number of rules but for the words of the first match.

use core::hint::black_box;

use crate::{
    abi::{Address, NAMES_PER_ADDRESS},
    layout::{BITS_WORDS, BLOCK_WORDS, Block, Header, MAX_SHIFT, halfwords, header_flag},
};

/// A compiled ruleset, wherever it lies.
pub trait Tables {
    /// Block `index`; `None` where there is none.
    fn block(&self, index: u32) -> Option<&Block>;
    /// Class of the longest IPv4 prefix that covers `address`, network order.
    ///
    /// # Errors
    ///
    /// Where the prefixes themselves are missing.
    fn class_v4(&self, address: [u8; 4]) -> Result<Option<u32>, TableError>;
    /// Class of the longest IPv6 prefix that covers `address`.
    ///
    /// # Errors
    ///
    /// As [`Tables::class_v4`].
    fn class_v6(&self, address: Address) -> Result<Option<u32>, TableError>;
}

/// An address taken apart, for code outside the kernel (whose compiler and verifier do badly with an enum of different sizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// IPv4, network order.
    V4([u8; 4]),
    /// IPv6.
    V6(Address),
}

impl Destination {
    /// The destination that an address stands for, `::ffff:a.b.c.d` being IPv4.
    #[must_use]
    pub fn from_mapped(address: impl Into<Address>) -> Self {
        let address = address.into();
        address.v4().map_or(Self::V6(address), Self::V4)
    }

    /// The address, IPv4 mapped.
    #[must_use]
    pub const fn mapped(self) -> Address {
        match self {
            Self::V4(address) => Address::mapped(address),
            Self::V6(address) => address,
        }
    }
}

/// What is known of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing was sent yet: names that the client claims, method and path may still come.
    Pending,
    /// It carries neither a name nor a request that can be read.
    Opaque,
}

/// [`Flow::names`] of a flow whose address has no name.
pub const NO_NAMES: [u32; NAMES] = [0; _];

/// The facts that rules are matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination address.
    pub destination: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port in host order; `None` where the protocol has none or the packet does not show it.
    pub port: Option<u16>,
    /// What is known of the payload.
    pub content: Content,
    /// Classes of the names that the workload resolved to the address, in any order. Places that are left repeat the first
    /// name. Class 0 are the names that no pattern means; see [`NO_NAMES`].
    pub names: [u32; NAMES],
}

/// What the ruleset says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Rule `rule` is the first that matches.
    Rule {
        /// Its index.
        rule: u16,
        /// Whether it lets the flow through.
        permits: bool,
    },
    /// No rule matches.
    Default {
        /// Whether the flow may leave.
        permits: bool,
    },
    /// Rule `rule` may match, once a fact is known that is not known yet; no rule before it can.
    Held {
        /// Its index.
        rule: u16,
    },
}

/// A table that is missing or out of range: the caller denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableError;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Where the bitmap of a class lies.
struct Bitmap<'a> {
    block: &'a Block,
    offset: usize,
    /// Bit `w`: word `w` is worth a look.
    candidates: u64,
}

impl Bitmap<'_> {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        // The mask is what shows the verifier that the index lies inside the block.
        self.block[(self.offset + index as usize) & (BITS_WORDS - 1)]
    }
}

/// Bitmap `class` of those that begin at block `first`.
#[inline(always)]
fn numbered<'a, T: Tables>(
    tables: &'a T,
    header: &Header,
    first: u32,
    class: u32,
) -> Result<Bitmap<'a>, TableError> {
    let shift = header.shift & 7;
    if shift > MAX_SHIFT {
        return Err(TableError);
    }
    let block = tables
        .block(first.wrapping_add(class >> (MAX_SHIFT - shift)))
        .ok_or(TableError)?;
    let position = class & ((64 >> shift) - 1);
    // Where there are no summaries their words are zero, and `visited` is zero where there are: no branch, which the verifier would
    // follow both ways for each bitmap.
    let summary = block[BITS_WORDS + (position as usize & (BLOCK_WORDS - BITS_WORDS - 1))];
    let candidates = summary | u64::from(header.visited);
    Ok(Bitmap {
        block,
        offset: ((position << shift) & 63) as usize,
        candidates,
    })
}

#[inline(always)]
fn bitmap<'a, T: Tables>(
    tables: &'a T,
    header: &Header,
    class: u32,
) -> Result<Bitmap<'a>, TableError> {
    numbered(tables, header, header.bitmaps, class)
}

/// The two steps of an index: the halfword `high` of block `index` is a page, the halfword `low` of that page the answer.
#[inline(always)]
fn look_up<T: Tables>(
    tables: &T,
    index: u32,
    pages: u32,
    high: u8,
    low: u8,
) -> Result<u32, TableError> {
    let page = halfwords(tables.block(index).ok_or(TableError)?)[usize::from(high)];
    let page = tables
        .block(pages.wrapping_add(u32::from(page)))
        .ok_or(TableError)?;
    Ok(u32::from(halfwords(page)[usize::from(low)]))
}

#[inline(always)]
fn transport_class<T: Tables>(tables: &T, header: &Header, flow: &Flow) -> Result<u32, TableError> {
    let index = match (flow.protocol, flow.port) {
        (TCP, Some(_)) => header.ports[0],
        (UDP, Some(_)) => header.ports[1],
        (SCTP, Some(_)) => header.ports[2],
        _ => {
            let protocols = halfwords(tables.block(header.protocols).ok_or(TableError)?);
            return Ok(u32::from(protocols[usize::from(flow.protocol)]));
        }
    };
    let port = flow.port.unwrap_or(0);
    look_up(tables, index, header.pages, (port >> 8) as u8, port as u8)
}

#[inline(always)]
fn address_class<T: Tables>(
    tables: &T,
    header: &Header,
    destination: Address,
) -> Result<u32, TableError> {
    match destination.v4() {
        Some(address) if header.flags & header_flag::V4 != 0 => {
            Ok(tables.class_v4(address)?.unwrap_or(header.v4_default))
        }
        Some(_) => Ok(header.v4_default),
        None if header.flags & header_flag::V6 != 0 => {
            Ok(tables.class_v6(destination)?.unwrap_or(header.v6_default))
        }
        None => Ok(header.v6_default),
    }
}

/// The rules that match or may match a flow, word by word. One type for each way in which a ruleset looks at payload and names,
/// so that none pays for what it does not look at.
trait Rules {
    /// Bit `w`: word `w` is worth a look.
    fn candidates(&self) -> u64;
    /// The rules of word `index` that match or may match.
    fn word(&self, index: u32) -> u64;
    /// The rules of word `index` that match, if [`Rules::word`] gave them.
    fn certain<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
    ) -> Result<u64, TableError>;
}

/// No rule looks at names.
struct ByRequest<'a> {
    content: Content,
    transport: Bitmap<'a>,
    address: Bitmap<'a>,
    /// `None` if no rule looks at requests either.
    payload: Option<Bitmap<'a>>,
}

impl<'a> ByRequest<'a> {
    #[inline(always)]
    fn of<T: Tables>(
        tables: &'a T,
        header: &Header,
        content: Content,
        transport: Bitmap<'a>,
        address: Bitmap<'a>,
    ) -> Result<Self, TableError> {
        let class = match content {
            Content::Pending => header.content_pending_maybe,
            Content::Opaque => header.content_opaque,
        };
        let payload = if header.flags & header_flag::CONTENT == 0 {
            None
        } else {
            Some(bitmap(tables, header, class)?)
        };
        Ok(Self {
            content,
            transport,
            address,
            payload,
        })
    }
}

impl Rules for ByRequest<'_> {
    #[inline(always)]
    fn candidates(&self) -> u64 {
        let candidates = self.transport.candidates & self.address.candidates;
        match &self.payload {
            Some(payload) => candidates & payload.candidates,
            None => candidates,
        }
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let rules = self.transport.word(index) & self.address.word(index);
        match &self.payload {
            Some(payload) => rules & payload.word(index),
            None => rules,
        }
    }

    #[inline(always)]
    fn certain<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
    ) -> Result<u64, TableError> {
        if self.payload.is_none() || self.content == Content::Opaque {
            return Ok(u64::MAX);
        }
        Ok(bitmap(tables, header, header.content_pending_yes)?.word(index))
    }
}

/// Names of a flow.
const NAMES: usize = NAMES_PER_ADDRESS as usize;

/// Rules look at names.
struct ByName<'a> {
    content: Content,
    candidates: u64,
    /// Transport, address, the rules that the payload satisfies whatever the names are, those that it satisfies if any name is
    /// meant, and the rules that mean each name. The bitmaps are taken apart, since eight blocks and eight offsets, in eight bytes
    /// each, would not fit on the kernel's stack.
    blocks: [&'a Block; 4 + NAMES],
    /// A byte for each.
    offsets: u64,
}

const _: () = assert!(4 + NAMES == size_of::<u64>());

/// Puts the offset of a bitmap into its byte. The black boxes here and below keep LLVM from putting off the sum until all parts
/// are there, and from taking it apart before it is needed: either puts all parts on the stack.
#[inline(always)]
fn packed(offsets: u64, bitmap: &Bitmap<'_>, place: usize) -> u64 {
    black_box(offsets | (bitmap.offset as u64) << (place * 8))
}

impl<'a> ByName<'a> {
    #[inline(always)]
    fn of<T: Tables>(
        tables: &'a T,
        header: &Header,
        flow: &Flow,
        transport: Bitmap<'a>,
        address: Bitmap<'a>,
    ) -> Result<Self, TableError> {
        let candidates = black_box(transport.candidates & address.candidates);
        let offsets = packed(packed(0, &transport, 0), &address, 1);

        let [a, b, c, d] = flow.names;
        let a = meaning(tables, header, a)?;
        let offsets = packed(offsets, &a, 4);
        let any = a.candidates;
        let b = meaning(tables, header, b)?;
        let offsets = packed(offsets, &b, 5);
        let any = black_box(any | b.candidates);
        let c = meaning(tables, header, c)?;
        let offsets = packed(offsets, &c, 6);
        let any = black_box(any | c.candidates);
        let d = meaning(tables, header, d)?;
        let offsets = packed(offsets, &d, 7);
        let any = black_box(any | d.candidates);

        let (always, by_any) = match flow.content {
            Content::Pending => (
                header.content_pending_maybe,
                header.content_pending_maybe_any,
            ),
            Content::Opaque => (header.content_opaque, header.content_opaque_any),
        };
        let by_any = bitmap(tables, header, by_any)?;
        let offsets = packed(offsets, &by_any, 3);
        let any = black_box(any & by_any.candidates);
        let always = bitmap(tables, header, always)?;
        let offsets = packed(offsets, &always, 2);
        let candidates = candidates & (any | always.candidates);
        Ok(Self {
            content: flow.content,
            candidates,
            blocks: [
                transport.block,
                address.block,
                always.block,
                by_any.block,
                a.block,
                b.block,
                c.block,
                d.block,
            ],
            offsets,
        })
    }

    /// Word `index` of the bitmap in `place`.
    #[inline(always)]
    fn word_of(&self, place: usize, offsets: u64, index: u32) -> u64 {
        let offset = (offsets >> (place * 8)) as usize;
        self.blocks[place][(offset + index as usize) & (BITS_WORDS - 1)]
    }

    /// Word `index` of the rules that mean each of the names.
    #[inline(always)]
    fn meant(&self, offsets: u64, index: u32) -> [u64; NAMES] {
        [
            self.word_of(4, offsets, index),
            self.word_of(5, offsets, index),
            self.word_of(6, offsets, index),
            self.word_of(7, offsets, index),
        ]
    }
}

impl Rules for ByName<'_> {
    #[inline(always)]
    fn candidates(&self) -> u64 {
        self.candidates
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let offsets = black_box(self.offsets);
        let [a, b, c, d] = self.meant(offsets, index);
        let payload =
            self.word_of(2, offsets, index) | self.word_of(3, offsets, index) & (a | b | c | d);
        payload & self.word_of(0, offsets, index) & self.word_of(1, offsets, index)
    }

    #[inline(always)]
    fn certain<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
    ) -> Result<u64, TableError> {
        if self.content == Content::Opaque {
            return Ok(u64::MAX);
        }
        let yes = bitmap(tables, header, header.content_pending_yes)?.word(index);
        let by_all = bitmap(tables, header, header.content_pending_yes_all)?.word(index);
        let [a, b, c, d] = self.meant(black_box(self.offsets), index);
        Ok(yes | by_all & a & b & c & d)
    }
}

/// The rules that mean the names of a class.
#[inline(always)]
fn meaning<'a, T: Tables>(
    tables: &'a T,
    header: &Header,
    class: u32,
) -> Result<Bitmap<'a>, TableError> {
    if class >= header.name_classes {
        return Err(TableError);
    }
    let index = header.name_index.wrapping_add(class >> 16);
    let number = look_up(
        tables,
        index,
        header.name_pages,
        (class >> 8) as u8,
        class as u8,
    )?;
    numbered(tables, header, header.name_bitmaps, number)
}

/// Decides `flow`: the first rule that matches, the first that may match, or the default.
///
/// # Errors
///
/// [`TableError`] where a table is missing: the ruleset is broken and the flow must not pass.
#[inline(always)]
pub fn classify<T: Tables>(
    tables: &T,
    header: &Header,
    flow: &Flow,
) -> Result<Outcome, TableError> {
    let transport = bitmap(tables, header, transport_class(tables, header, flow)?)?;
    let address = address_class(tables, header, flow.destination)?;
    let address = bitmap(tables, header, address)?;
    if header.flags & header_flag::NAMES == 0 {
        let by_request = ByRequest::of(tables, header, flow.content, transport, address)?;
        return first_match(tables, header, &by_request);
    }
    let by_name = ByName::of(tables, header, flow, transport, address)?;
    first_match(tables, header, &by_name)
}

#[inline(always)]
fn first_match<T: Tables>(
    tables: &T,
    header: &Header,
    rules: &impl Rules,
) -> Result<Outcome, TableError> {
    let mut candidates = rules.candidates();
    // At most one pass a word; the bound is what lets the verifier see the end.
    for _ in 0..BITS_WORDS {
        if candidates == 0 {
            break;
        }
        let word = lowest_bit(candidates);
        let matching = rules.word(word);
        if matching != 0 {
            return outcome(tables, header, rules, word, matching);
        }
        candidates &= candidates - 1;
    }
    Ok(Outcome::Default {
        permits: header.default_permits == 1,
    })
}

/// What the first rule of `matching`, of word `word`, makes of the flow.
#[inline(always)]
fn outcome<T: Tables>(
    tables: &T,
    header: &Header,
    rules: &impl Rules,
    word: u32,
    matching: u64,
) -> Result<Outcome, TableError> {
    // The place of the bit comes last: the verifier gets here from every pass of the loop, and goes on until it meets a branch that
    // it knows.
    let certain = rules.certain(tables, header, word)? & lowest(matching) != 0;
    let permits = tables.block(header.permits).ok_or(TableError)?;
    let permits = permits[word as usize & (BITS_WORDS - 1)] & lowest(matching) != 0;
    let rule = (word * 64 + lowest_bit(matching)) as u16;
    Ok(if certain {
        Outcome::Rule { rule, permits }
    } else {
        Outcome::Held { rule }
    })
}

/// The lowest set bit alone.
#[inline(always)]
fn lowest(word: u64) -> u64 {
    word & word.wrapping_neg()
}

/// Index of the lowest set bit, without the table look-up that LLVM makes of `trailing_zeros` for the kernel's target.
#[inline(always)]
fn lowest_bit(word: u64) -> u32 {
    let mut below = lowest(word).wrapping_sub(1);
    below -= (below >> 1) & 0x5555_5555_5555_5555;
    below = (below & 0x3333_3333_3333_3333) + ((below >> 2) & 0x3333_3333_3333_3333);
    below = (below + (below >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // LLVM knows how large this can be and would drop the masks behind it, which the verifier needs since it does not know.
    black_box((below.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_found_at_every_position() {
        for bit in 0..64 {
            assert_eq!(lowest_bit(1 << bit), bit);
            assert_eq!(lowest_bit(u64::MAX << bit), bit);
        }
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped = Destination::V4([192, 0, 2, 1]).mapped();
        assert_eq!(
            Destination::from_mapped(mapped),
            Destination::V4([192, 0, 2, 1])
        );
    }
}
