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

/// What the client said: the name that it claims and its request. Numbers and not enums with fields, which no signature of a kernel
/// function takes, and of which the verifier would follow every variant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// [`claim`].
    pub claim: u32,
    /// Class of the claimed name; 0 if there is none.
    pub claimed: u32,
    /// [`request`].
    pub request: u32,
    /// Class of the request's method, see [`crate::request::class_of_method`]; 0 if it is not known.
    pub method: u32,
    /// Class of its path, see [`crate::request::class_of_path`]; 0 if it is not known.
    pub path: u32,
}

/// Values of [`Said::claim`].
pub mod claim {
    /// No payload yet: a name may still come.
    pub const PENDING: u32 = 0;
    /// The payload carries none.
    pub const NAMELESS: u32 = 1;
    /// One of the names that the workload resolved to the address.
    pub const RESOLVED: u32 = 2;
    /// A name that the workload did not resolve to the address.
    pub const FOREIGN: u32 = 3;
    /// How many there are.
    pub const STATES: usize = 4;
}

/// Values of [`Said::request`].
pub mod request {
    /// One may still come.
    pub const PENDING: u32 = 0;
    /// None can be read.
    pub const OPAQUE: u32 = 1;
    /// Method and path are known.
    pub const KNOWN: u32 = 2;
    /// One more than there are, so that a mask keeps to the tables.
    pub const STATES: usize = 4;
}

impl Said {
    /// Nothing yet: names that the client claims, method and path may still come.
    pub const NOTHING: Self = Self {
        claim: claim::PENDING,
        claimed: 0,
        request: request::PENDING,
        method: 0,
        path: 0,
    };
    /// Payload that is not read: it carries neither a name nor a request.
    pub const UNREAD: Self = Self {
        claim: claim::NAMELESS,
        request: request::OPAQUE,
        ..Self::NOTHING
    };

    /// What is known where nobody reads the payload.
    #[inline(always)]
    #[must_use]
    pub const fn unread(payload: bool) -> Self {
        // No branch, which the verifier would follow both ways.
        Self {
            claim: payload as u32 * claim::NAMELESS,
            request: payload as u32 * request::OPAQUE,
            ..Self::NOTHING
        }
    }
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
    /// What the client said.
    pub said: Said,
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
        /// Of a flow whose claim is pending: nothing that the client may say can change it. It can take an Allow by name away.
        settled: bool,
    },
    /// No rule matches, whatever the client may say if it has said nothing yet.
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
    /// The rules of word `index` that match for good if they match a flow whose claim is pending. `permits`: those that let it through.
    fn settled<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
        permits: u64,
    ) -> Result<u64, TableError>;
}

/// No rule looks at names or requests.
struct ByAddress<'a> {
    transport: Bitmap<'a>,
    address: Bitmap<'a>,
}

impl Rules for ByAddress<'_> {
    #[inline(always)]
    fn candidates(&self) -> u64 {
        self.transport.candidates & self.address.candidates
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        self.transport.word(index) & self.address.word(index)
    }

    #[inline(always)]
    fn certain<T: Tables>(&self, _: &T, _: &Header, _: u32) -> Result<u64, TableError> {
        Ok(u64::MAX)
    }

    #[inline(always)]
    fn settled<T: Tables>(&self, _: &T, _: &Header, _: u32, _: u64) -> Result<u64, TableError> {
        Ok(u64::MAX)
    }
}

/// The rules that a request satisfies: two bitmaps to be ANDed, whose numbers depend on the state of the request without a branch.
struct ByRequest<'a> {
    method: Bitmap<'a>,
    path: Bitmap<'a>,
    /// Class of the rules that match, of those that may.
    certain: u32,
}

impl<'a> ByRequest<'a> {
    #[inline(always)]
    fn of<T: Tables>(tables: &'a T, header: &Header, said: &Said) -> Result<Self, TableError> {
        if said.method >= header.methods || said.path >= header.paths {
            return Err(TableError);
        }
        let state = said.request as usize & (request::STATES - 1);
        let method = header.method_classes[state].wrapping_add(said.method);
        let path = header.path_classes[state].wrapping_add(said.path);
        Ok(Self {
            method: numbered(tables, header, header.method_bitmaps[state], method)?,
            path: numbered(tables, header, header.path_bitmaps[state], path)?,
            certain: header.requests_certain[state],
        })
    }
}

/// No rule looks at names.
struct Nameless<'a> {
    by_address: ByAddress<'a>,
    by_request: ByRequest<'a>,
}

impl Rules for Nameless<'_> {
    #[inline(always)]
    fn candidates(&self) -> u64 {
        let ByRequest {
            method,
            path,
            certain: _,
        } = &self.by_request;
        self.by_address.candidates() & method.candidates & path.candidates
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let ByRequest {
            method,
            path,
            certain: _,
        } = &self.by_request;
        self.by_address.word(index) & method.word(index) & path.word(index)
    }

    #[inline(always)]
    fn certain<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
    ) -> Result<u64, TableError> {
        Ok(bitmap(tables, header, self.by_request.certain)?.word(index))
    }

    #[inline(always)]
    fn settled<T: Tables>(&self, _: &T, _: &Header, _: u32, _: u64) -> Result<u64, TableError> {
        Ok(u64::MAX)
    }
}

/// Names of a flow.
const NAMES: usize = NAMES_PER_ADDRESS as usize;

/// Rules look at names, and at requests if `REQUESTS`.
struct ByName<'a, const REQUESTS: bool> {
    candidates: u64,
    /// Classes of the rules that match by name and by request, of those that may.
    certain: [u32; 2],
    /// Transport, address, the rules that the payload satisfies whatever the names are, those that mean each name and the claimed one,
    /// and those that the method and the path satisfy. The bitmaps are taken apart, since ten blocks and ten offsets, in eight
    /// bytes each, would not fit on the kernel's stack.
    blocks: [&'a Block; PLACES],
    /// [`OFFSET_BITS`] for each.
    offsets: u64,
    /// The rules that let a flow through.
    permits: &'a Block,
    /// All bits where those do not look at the flow's names, else none: a claim is foreign.
    foreign: u64,
}

const TRANSPORT: usize = 0;
const ADDRESS: usize = 1;
const ALWAYS: usize = 2;
const FIRST_NAME: usize = 3;
const CLAIMED: usize = FIRST_NAME + NAMES;
const METHOD: usize = CLAIMED + 1;
const PATH: usize = METHOD + 1;
const PLACES: usize = PATH + 1;
/// A bitmap begins at one of 64 words.
const OFFSET_BITS: usize = 6;

const _: () = assert!(PLACES * OFFSET_BITS <= 64 && BITS_WORDS == 1 << OFFSET_BITS);

/// Puts the offset of a bitmap into its place. The black boxes here and below keep LLVM from putting off the sum until all parts
/// are there, and from taking it apart before it is needed: either puts all parts on the stack.
#[inline(always)]
fn packed(offsets: u64, bitmap: &Bitmap<'_>, place: usize) -> u64 {
    black_box(offsets | (bitmap.offset as u64) << (place * OFFSET_BITS))
}

impl<'a, const REQUESTS: bool> ByName<'a, REQUESTS> {
    #[inline(always)]
    fn of<T: Tables>(
        tables: &'a T,
        header: &Header,
        flow: &Flow,
        transport: Bitmap<'a>,
        address: Bitmap<'a>,
    ) -> Result<Self, TableError> {
        let candidates = black_box(transport.candidates & address.candidates);
        let offsets = packed(packed(0, &transport, TRANSPORT), &address, ADDRESS);

        let state = flow.said.claim as usize & (claim::STATES - 1);
        let [first, second, third, fourth, claimed] = counted(flow);
        let a = meaning(tables, header, first)?;
        let offsets = packed(offsets, &a, FIRST_NAME);
        let any = a.candidates;
        let b = meaning(tables, header, second)?;
        let offsets = packed(offsets, &b, FIRST_NAME + 1);
        let any = black_box(any | b.candidates);
        let c = meaning(tables, header, third)?;
        let offsets = packed(offsets, &c, FIRST_NAME + 2);
        let any = black_box(any | c.candidates);
        let d = meaning(tables, header, fourth)?;
        let offsets = packed(offsets, &d, FIRST_NAME + 3);
        let any = black_box(any | d.candidates);
        let e = meaning(tables, header, claimed)?;
        let offsets = packed(offsets, &e, CLAIMED);
        let any = black_box(any | e.candidates);

        let always = bitmap(tables, header, header.names_always[state])?;
        let offsets = packed(offsets, &always, ALWAYS);
        let candidates = black_box(candidates & (any | always.candidates));
        let (candidates, offsets, method, path, certain) = if REQUESTS {
            let ByRequest {
                method,
                path,
                certain,
            } = ByRequest::of(tables, header, &flow.said)?;
            (
                candidates & method.candidates & path.candidates,
                packed(packed(offsets, &method, METHOD), &path, PATH),
                method.block,
                path.block,
                certain,
            )
        } else {
            (candidates, offsets, transport.block, transport.block, 0)
        };
        Ok(Self {
            candidates,
            certain: [header.names_certain[state], certain],
            blocks: [
                transport.block,
                address.block,
                always.block,
                a.block,
                b.block,
                c.block,
                d.block,
                e.block,
                method,
                path,
            ],
            offsets,
            permits: tables.block(header.permits).ok_or(TableError)?,
            foreign: every_bit_if(flow.said.claim & flow.said.claim >> 1),
        })
    }

    /// Word `index` of the bitmap in `place`.
    #[inline(always)]
    fn word_of(&self, place: usize, offsets: u64, index: u32) -> u64 {
        let offset = (offsets >> (place * OFFSET_BITS)) as usize;
        self.blocks[place][(offset + index as usize) & (BITS_WORDS - 1)]
    }

    /// Word `index` of the rules that mean each of the resolved names.
    #[inline(always)]
    fn meant(&self, offsets: u64, index: u32) -> [u64; NAMES] {
        [
            self.word_of(FIRST_NAME, offsets, index),
            self.word_of(FIRST_NAME + 1, offsets, index),
            self.word_of(FIRST_NAME + 2, offsets, index),
            self.word_of(FIRST_NAME + 3, offsets, index),
        ]
    }
}

impl<const REQUESTS: bool> Rules for ByName<'_, REQUESTS> {
    #[inline(always)]
    fn candidates(&self) -> u64 {
        self.candidates
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let offsets = black_box(self.offsets);
        let [a, b, c, d] = self.meant(offsets, index);
        let any = a | b | c | d | self.word_of(CLAIMED, offsets, index);
        let permits = self.permits[index as usize & (BITS_WORDS - 1)];
        let by_name = self.word_of(ALWAYS, offsets, index) | any & !(permits & self.foreign);
        let rules = by_name
            & self.word_of(TRANSPORT, offsets, index)
            & self.word_of(ADDRESS, offsets, index);
        if !REQUESTS {
            return rules;
        }
        rules & self.word_of(METHOD, offsets, index) & self.word_of(PATH, offsets, index)
    }

    #[inline(always)]
    fn certain<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
    ) -> Result<u64, TableError> {
        let [by_name, by_request] = self.certain;
        // A claim can only take an Allow away, but it can bring a Deny about unless all names are meant.
        let by_name = bitmap(tables, header, by_name)?.word(index);
        let [a, b, c, d] = self.meant(black_box(self.offsets), index);
        let certain = by_name | a & b & c & d;
        if !REQUESTS {
            return Ok(certain);
        }
        Ok(certain & bitmap(tables, header, by_request)?.word(index))
    }

    #[inline(always)]
    fn settled<T: Tables>(
        &self,
        tables: &T,
        header: &Header,
        index: u32,
        permits: u64,
    ) -> Result<u64, TableError> {
        let nameless = header.names_always[claim::NAMELESS as usize];
        Ok(!permits | bitmap(tables, header, nameless)?.word(index))
    }
}

/// All bits if the lowest bit of `condition` is set, else none: no branch, which the verifier would follow both ways.
#[inline(always)]
fn every_bit_if(condition: u32) -> u64 {
    black_box(u64::from(condition & 1).wrapping_neg())
}

/// The names that count, and the claimed one: where one of the resolved names is claimed, it alone; where none is claimed, any of them in
/// its place.
#[inline(always)]
fn counted(flow: &Flow) -> [u32; NAMES + 1] {
    let said = &flow.said;
    let choose = |mask: u64, one: u32, other: u32| one ^ (one ^ other) & mask as u32;
    let resolved = every_bit_if(said.claim >> 1 & !said.claim);
    let claimed = every_bit_if(said.claim >> 1);
    let [a, b, c, d] = flow.names;
    [
        choose(resolved, a, said.claimed),
        choose(resolved, b, said.claimed),
        choose(resolved, c, said.claimed),
        choose(resolved, d, said.claimed),
        choose(claimed, d, said.claimed),
    ]
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
    let requests = header.flags & header_flag::REQUESTS != 0;
    if header.flags & header_flag::NAMES != 0 {
        return if requests {
            let by_name = ByName::<true>::of(tables, header, flow, transport, address)?;
            first_match(tables, header, &by_name)
        } else {
            let by_name = ByName::<false>::of(tables, header, flow, transport, address)?;
            first_match(tables, header, &by_name)
        };
    }
    let by_address = ByAddress { transport, address };
    if requests {
        let by_request = ByRequest::of(tables, header, &flow.said)?;
        return first_match(
            tables,
            header,
            &Nameless {
                by_address,
                by_request,
            },
        );
    }
    first_match(tables, header, &by_address)
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
    let permits = tables.block(header.permits).ok_or(TableError)?[word as usize & (BITS_WORDS - 1)];
    let settled = rules.settled(tables, header, word, permits)? & lowest(matching) != 0;
    let permits = permits & lowest(matching) != 0;
    let rule = (word * 64 + lowest_bit(matching)) as u16;
    Ok(if certain {
        Outcome::Rule {
            rule,
            permits,
            settled,
        }
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
