//! HPACK (RFC 7541): the fields of a request, and of the table that client and server keep, what a later request may refer to.
//!
//! Of an entry its size is kept, what it means here, and its value if it means something. Sizes are summed up since the start: an entry is
//! evicted once more than the table's size was added behind it, so that nothing need be moved or counted out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Step, Stream,
    facts::{MAX_METHOD, flag, masked},
    http::{self, is_in_targets, is_token, seen, word},
    huffman::Transition,
    why,
};

/// Size of the table that a client may use at most. It is what servers grant unless they say otherwise; a client that uses more, as its
/// server allowed it to, is refused.
const MAX_TABLE: u32 = 4096;
/// Entries of a table of that size, each of 32 bytes at least (4.1).
const MAX_ENTRIES: u32 = MAX_TABLE / ENTRY_OVERHEAD;
const ENTRY_OVERHEAD: u32 = 32;
/// Entries of the static table.
const STATIC: u32 = 61;

/// What a field means.
pub(super) mod kind {
    pub(in super::super) const OTHER: u32 = 0;
    pub(in super::super) const AUTHORITY: u32 = 1;
    pub(in super::super) const METHOD: u32 = 2;
    pub(in super::super) const PATH: u32 = 3;
    pub(in super::super) const HOST: u32 = 4;
    pub(in super::super) const SCHEME: u32 = 5;
    /// What CONNECT is for (RFC 8441).
    pub(in super::super) const PROTOCOL: u32 = 6;
    /// Another that begins with a colon: no request has it.
    pub(in super::super) const PSEUDO: u32 = 7;
}

/// What was seen of a request: a bit for each [`kind`], above those of HTTP/1.
const SEEN: u32 = 1 << 16;

/// The bit of this [`kind`] among those.
pub(super) const fn bit(kind: u32) -> u32 {
    SEEN << kind
}

/// Fields behind which none of the request's own may come.
const ORDINARY: u32 = bit(kind::OTHER) | bit(kind::HOST);

/// Whether a request has a field of this [`kind`].
#[inline(always)]
pub(super) const fn has(seen: u32, kind: u32) -> bool {
    seen >> kind & SEEN != 0
}

/// Where in a field the block is; 0 is before one. What is done at the end of a number or string is a state of its own, in which the last
/// byte waits: so each part is there once, and the verifier need not follow it behind every other.
mod state {
    pub(super) const FIELD: u32 = 0;
    pub(super) const INTEGER: u32 = 1;
    /// The number is known.
    pub(super) const NUMBER: u32 = 2;
    /// The length of a name or value.
    pub(super) const LENGTH: u32 = 3;
    /// A value begins, which is in the block.
    pub(super) const VALUE: u32 = 4;
    /// A value begins, which was sent before.
    pub(super) const OLD_VALUE: u32 = 5;
    pub(super) const STRING: u32 = 6;
    /// Bytes that were sent before are read again.
    pub(super) const OLD_STRING: u32 = 7;
    /// The string is complete.
    pub(super) const END: u32 = 8;
}

/// What the number is that is read.
mod number {
    pub(super) const INDEX: u32 = 0;
    /// A name's index, of a field that goes into the table or not.
    pub(super) const NAME_TO_KEEP: u32 = 1;
    pub(super) const NAME: u32 = 2;
    pub(super) const TABLE_SIZE: u32 = 3;
    pub(super) const LENGTH: u32 = 4;
}

/// Bytes of a number behind the first, at most.
const MAX_MORE: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Entry {
    /// Sizes of all entries before it, since the start.
    before: u64,
    /// Where its value begins, modulo the memory for values, and its length.
    value: u32,
    length: u32,
    /// [`kind`].
    kind: u32,
    name_length: u32,
}

/// A table and the field that is read.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Hpack {
    /// Sizes of all entries since the start, those that do not fit among them; what lies below `evicted` of them is gone.
    total: u64,
    evicted: u64,
    /// Entries since the start.
    inserted: u64,
    /// A value of the static table that is still to be read, first byte highest.
    constant: [u64; 2],
    /// What the client took off [`MAX_TABLE`].
    smaller: u32,
    /// [`state`].
    state: u32,
    /// [`number`], its value so far and the bytes behind the first.
    what: u32,
    number: u32,
    more: u32,
    /// Whether the field goes into the table.
    keep: u32,
    /// [`kind`].
    kind: u32,
    name_length: u32,
    /// Whether the string is the value.
    is_value: u32,
    /// Bytes left of the string; whether they are encoded; the node, and whether half of a byte was read.
    left: u32,
    huffman: u32,
    node: u32,
    half: u32,
    may_end: u32,
    value_length: u32,
    /// Where the next byte of a value goes.
    next: u32,
    /// Where the next byte is that is read again, and whether from the static table.
    again: u32,
    is_constant: u32,
    /// Fields of this block, less changes of the table's size.
    fields: u32,
    /// What was read of the path: nothing, the path, the query, an asterisk.
    path: u32,
    /// Whether the name begins with a colon.
    is_pseudo: u32,
    _pad: u32,
    entries: [Entry; MAX_ENTRIES as usize],
    values: [u8; MAX_TABLE as usize],
}

mod path {
    pub(super) const START: u32 = 0;
    pub(super) const PATH: u32 = 1;
    pub(super) const QUERY: u32 = 2;
    pub(super) const ASTERISK: u32 = 3;
}

/// Lengths of the static table's names, a byte each.
#[inline(always)]
fn static_name_length(index: u32) -> u32 {
    const LENGTHS: [u8; 64] = [
        0, 10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16,
        16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7,
        11, 6, 10, 25, 17, 10, 4, 3, 16, 0, 0,
    ];
    const fn eight(from: usize) -> u64 {
        let mut word = 0;
        let mut at = 8;
        while at > 0 {
            at -= 1;
            word = word << 8 | LENGTHS[from + at] as u64;
        }
        word
    }
    const WORDS: [u64; 8] = [
        eight(0),
        eight(8),
        eight(16),
        eight(24),
        eight(32),
        eight(40),
        eight(48),
        eight(56),
    ];
    let word = WORDS[masked(index >> 3, 7)];
    (word >> (8 * (index & 7))) as u32 & 0xff
}

#[inline(always)]
const fn static_kind(index: u32) -> u32 {
    match index {
        1 => kind::AUTHORITY,
        2 | 3 => kind::METHOD,
        4 | 5 => kind::PATH,
        6 | 7 => kind::SCHEME,
        8..=14 => kind::PSEUDO,
        38 => kind::HOST,
        _ => kind::OTHER,
    }
}

impl Hpack {
    #[inline(always)]
    pub(super) fn begin_block(&mut self) {
        self.fields = 0;
    }

    /// Whether a block may end there.
    #[inline(always)]
    pub(super) fn is_between_fields(&self) -> bool {
        self.state == state::FIELD
    }

    /// The place of the entry with this index, if there is one.
    #[inline(always)]
    fn place(&self, index: u32) -> Option<u32> {
        let back = u64::from(index - STATIC);
        if back > self.inserted || back > u64::from(MAX_ENTRIES) {
            return None;
        }
        let place = (self.inserted - back) as u32;
        let before = self.entries[masked(place, MAX_ENTRIES - 1)].before;
        (before >= self.evicted).then_some(place)
    }

    /// Evicts what no longer fits.
    #[inline(always)]
    fn evict(&mut self) {
        let size = u64::from(MAX_TABLE - self.smaller);
        let first = self.total.saturating_sub(size);
        if first > self.evicted {
            self.evicted = first;
        }
    }

    /// Notes a byte of a value that may go into the table.
    #[inline(always)]
    fn keep_byte(&mut self, byte: u8) {
        self.value_length += 1;
        if self.kind != kind::OTHER && self.keep != 0 {
            self.values[masked(self.next, MAX_TABLE - 1)] = byte;
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Puts the field that was read into the table.
    #[inline(always)]
    fn insert(&mut self) {
        let place = masked(self.inserted as u32, MAX_ENTRIES - 1);
        self.entries[place] = Entry {
            before: self.total,
            value: self.next.wrapping_sub(self.value_length),
            length: self.value_length,
            kind: self.kind,
            name_length: self.name_length,
        };
        self.inserted += 1;
        let size = u64::from(self.name_length) + u64::from(self.value_length);
        self.total += size + u64::from(ENTRY_OVERHEAD);
        self.evict();
    }
}

/// Reads a byte of a block. [`Step::Again`]: it is still to be read; [`Step::More`]: it was read.
#[inline(always)]
pub(super) fn step(stream: &mut Stream, hpack: &mut Hpack, trailer: bool, byte: u8) -> Step {
    match hpack.state {
        state::FIELD => representation(stream, hpack, byte),
        state::INTEGER => {
            hpack.number += u32::from(byte & 0x7f) << (7 * (hpack.more & 3));
            hpack.more += 1;
            if byte & 0x80 == 0 {
                hpack.state = state::NUMBER;
                return Step::Again;
            }
            if hpack.more >= MAX_MORE {
                return stream.malformed(why::FIELD);
            }
            Step::More
        }
        state::NUMBER => take(stream, hpack),
        state::LENGTH => {
            hpack.huffman = u32::from(byte >> 7);
            integer(hpack, number::LENGTH, byte, 0x7f)
        }
        state::VALUE | state::OLD_VALUE => begin_value(stream, hpack, trailer),
        state::END => end_string(stream, hpack, trailer),
        _ => string(stream, hpack, trailer, byte),
    }
}

/// Sees how a field is written (6).
#[inline(always)]
fn representation(stream: &mut Stream, hpack: &mut Hpack, byte: u8) -> Step {
    let (what, mask) = if byte & 0x80 != 0 {
        (number::INDEX, 0x7f)
    } else if byte & 0x40 != 0 {
        (number::NAME_TO_KEEP, 0x3f)
    } else if byte & 0x20 != 0 {
        (number::TABLE_SIZE, 0x1f)
    } else {
        (number::NAME, 0x0f)
    };
    if what != number::TABLE_SIZE {
        hpack.fields = 1;
    } else if hpack.fields != 0 {
        return stream.malformed(why::FIELD);
    }
    integer(hpack, what, byte, mask)
}

/// Begins a number with the lower bits of `byte`.
#[inline(always)]
fn integer(hpack: &mut Hpack, what: u32, byte: u8, mask: u8) -> Step {
    hpack.what = what;
    hpack.number = u32::from(byte & mask);
    hpack.more = 0;
    if byte & mask == mask {
        hpack.state = state::INTEGER;
        return Step::More;
    }
    hpack.state = state::NUMBER;
    Step::Again
}

/// Takes a number.
#[inline(always)]
fn take(stream: &mut Stream, hpack: &mut Hpack) -> Step {
    let number = hpack.number;
    match hpack.what {
        number::LENGTH => return begin_string(hpack),
        number::TABLE_SIZE => {
            hpack.state = state::FIELD;
            if number > MAX_TABLE {
                return stream.malformed(why::TABLE);
            }
            hpack.smaller = MAX_TABLE - number;
            hpack.evict();
            return Step::More;
        }
        _ => {}
    }
    let indexed = hpack.what == number::INDEX;
    hpack.keep = u32::from(hpack.what == number::NAME_TO_KEEP);
    hpack.state = state::LENGTH;
    if number == 0 {
        if indexed {
            return stream.malformed(why::FIELD);
        }
        hpack.is_value = 0;
        hpack.name_length = 0;
        hpack.is_pseudo = 0;
        stream.http.begin_word();
        return Step::More;
    }
    hpack.is_value = 1;
    if number <= STATIC {
        hpack.kind = static_kind(number);
        hpack.name_length = static_name_length(number);
        hpack.is_constant = 1;
        let (first, second, length) = match number {
            2 => (b"GET\0\0\0\0\0", [0; 8], 3),
            3 => (b"POST\0\0\0\0", [0; 8], 4),
            4 => (b"/\0\0\0\0\0\0\0", [0; 8], 1),
            5 => (b"/index.h", *b"tml\0\0\0\0\0", 11),
            _ => (&[0; 8], [0; 8], 0),
        };
        hpack.constant = [word(first), word(&second)];
        hpack.left = length;
    } else {
        let Some(place) = hpack.place(number) else {
            return stream.malformed(why::TABLE);
        };
        let Entry {
            before: _,
            value,
            length,
            kind,
            name_length,
        } = hpack.entries[masked(place, MAX_ENTRIES - 1)];
        hpack.kind = kind;
        hpack.name_length = name_length;
        hpack.is_constant = 0;
        hpack.again = value;
        // Of others the value is not kept.
        hpack.left = if kind == kind::OTHER { 0 } else { length };
    }
    if !indexed {
        return Step::More;
    }
    hpack.huffman = 0;
    hpack.state = state::OLD_VALUE;
    Step::Again
}

/// Begins a name or value of the length that was read.
#[inline(always)]
fn begin_string(hpack: &mut Hpack) -> Step {
    hpack.left = hpack.number;
    hpack.node = 0;
    hpack.half = 0;
    hpack.may_end = 1;
    hpack.value_length = 0;
    if hpack.is_value != 0 {
        hpack.state = state::VALUE;
        return Step::Again;
    }
    hpack.state = state::STRING;
    if hpack.left == 0 {
        hpack.state = state::END;
        return Step::Again;
    }
    Step::More
}

/// Reads a byte of a string, or half of one.
#[inline(always)]
fn string(stream: &mut Stream, hpack: &mut Hpack, trailer: bool, byte: u8) -> Step {
    let old = hpack.state == state::OLD_STRING;
    let mut symbol = byte;
    let mut is_symbol = true;
    let mut whole = true;
    if hpack.huffman != 0 {
        let second = hpack.half != 0;
        let bits = if second { byte & 15 } else { byte >> 4 };
        hpack.half = u32::from(!second);
        whole = second;
        let transition = Transition::of(hpack.node, u32::from(bits));
        if transition.is_none() {
            return stream.malformed(why::FIELD);
        }
        hpack.node = transition.node();
        hpack.may_end = u32::from(transition.may_end());
        is_symbol = transition.is_symbol();
        symbol = transition.symbol();
    } else if old {
        symbol = old_byte(hpack);
    }
    if whole {
        hpack.left -= 1;
    }
    let complete = hpack.left == 0;
    if complete {
        hpack.state = state::END;
    }
    let step = if !is_symbol {
        Step::More
    } else if hpack.is_value == 0 {
        name_byte(stream, hpack, symbol)
    } else {
        if !old {
            hpack.keep_byte(symbol);
        }
        value_byte(stream, hpack, trailer, symbol)
    };
    if step == Step::More && (!whole || old || complete) {
        Step::Again
    } else {
        step
    }
}

/// Takes a byte of a name. What names may not have, some servers take for something else (RFC 9113, 8.2.1).
#[inline(always)]
fn name_byte(stream: &mut Stream, hpack: &mut Hpack, byte: u8) -> Step {
    let begins = hpack.name_length == 0;
    let is_colon = byte == b':';
    if is_colon && begins {
        hpack.is_pseudo = 1;
    } else if is_colon || byte <= b' ' || byte >= 0x7f || byte.is_ascii_uppercase() {
        return stream.malformed(why::FIELD);
    }
    hpack.name_length += 1;
    stream.http.push_word(byte);
    Step::More
}

/// The next byte of a value that was sent before.
#[inline(always)]
fn old_byte(hpack: &mut Hpack) -> u8 {
    if hpack.is_constant != 0 {
        let [first, second] = hpack.constant;
        hpack.constant = [first << 8 | second >> 56, second << 8];
        return (first >> 56) as u8;
    }
    let byte = hpack.values[masked(hpack.again, MAX_TABLE - 1)];
    hpack.again = hpack.again.wrapping_add(1);
    byte
}

/// Ends a name, or a value with its field.
#[inline(always)]
fn end_string(stream: &mut Stream, hpack: &mut Hpack, trailer: bool) -> Step {
    if hpack.huffman != 0 && hpack.may_end == 0 {
        return stream.malformed(why::FIELD);
    }
    if hpack.is_value == 0 {
        if hpack.name_length == 0 {
            return stream.malformed(why::FIELD);
        }
        let known = http::kind_of_word(&stream.http);
        hpack.kind = if hpack.is_pseudo != 0 && known == kind::OTHER {
            kind::PSEUDO
        } else {
            known
        };
        hpack.is_value = 1;
        hpack.state = state::LENGTH;
        return Step::More;
    }
    if hpack.keep != 0 {
        hpack.insert();
    }
    end_value(stream, hpack, trailer)
}

/// Begins the value of a field. Those of the request come before all others, and none of them twice (RFC 9113, 8.3).
#[inline(always)]
fn begin_value(stream: &mut Stream, hpack: &mut Hpack, trailer: bool) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    let kind = hpack.kind;
    let old = hpack.state == state::OLD_VALUE;
    let waits = old || hpack.left == 0;
    hpack.state = if hpack.left == 0 {
        state::END
    } else if old {
        state::OLD_STRING
    } else {
        state::STRING
    };
    let step = if waits { Step::Again } else { Step::More };
    if kind == kind::OTHER {
        http.seen |= SEEN << kind::OTHER;
        return step;
    }
    if trailer {
        return if kind == kind::HOST {
            stream.malformed(why::TWO_HOSTS)
        } else {
            stream.malformed(why::REQUEST_LINE)
        };
    }
    let is_host = kind == kind::HOST || kind == kind::AUTHORITY;
    if kind == kind::PSEUDO || kind != kind::HOST && http.seen & ORDINARY != 0 {
        return stream.malformed(why::FIELD);
    }
    if has(http.seen, kind) {
        return if is_host {
            stream.malformed(why::TWO_HOSTS)
        } else {
            stream.malformed(why::REQUEST_LINE)
        };
    }
    http.seen |= SEEN << kind;
    if is_host {
        // The other of the two may have named the host already.
        http.name_length = facts.name_length;
        http.literal = facts.flags & flag::LITERAL;
        facts.flags &= !(flag::NAME | flag::LITERAL);
        http.authority.begin(name, facts);
    }
    hpack.path = path::START;
    step
}

/// Takes a byte of a value.
#[inline(always)]
fn value_byte(stream: &mut Stream, hpack: &mut Hpack, trailer: bool, byte: u8) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    // Where HTTP/1 follows behind the server, these end the field.
    const ENDS: u32 = 1 | 1 << b'\r' | 1 << b'\n';
    if byte < 32 && ENDS >> byte & 1 != 0 {
        return stream.malformed(why::FIELD);
    }
    if trailer {
        return Step::More;
    }
    match hpack.kind {
        kind::AUTHORITY | kind::HOST if !http.authority.push(name, facts, byte) => {
            return stream.malformed(why::NAME);
        }
        kind::METHOD => {
            let length = facts.method_length;
            if !is_token(byte) || length >= MAX_METHOD as u32 {
                return stream.malformed(why::REQUEST_LINE);
            }
            facts.method[masked(length, 31)] = byte;
            facts.method_length = length + 1;
        }
        kind::PATH => return path_byte(stream, hpack, byte),
        _ => {}
    }
    Step::More
}

#[inline(always)]
fn path_byte(stream: &mut Stream, hpack: &mut Hpack, byte: u8) -> Step {
    let Stream { http, facts, .. } = stream;
    let fits = match hpack.path {
        path::START if byte == b'/' => {
            hpack.path = path::PATH;
            http.path.begin(facts);
            true
        }
        path::START if byte == b'*' => {
            hpack.path = path::ASTERISK;
            facts.path[0] = byte;
            facts.path_length = 1;
            true
        }
        path::PATH if byte == b'?' => {
            hpack.path = path::QUERY;
            let fits = http.path.finish(facts);
            facts.push_query(byte);
            fits
        }
        path::PATH => is_in_targets(byte) && http.path.push(facts, byte),
        path::QUERY => {
            facts.push_query(byte);
            is_in_targets(byte)
        }
        _ => false,
    };
    if fits {
        Step::More
    } else {
        stream.malformed(why::TARGET)
    }
}

/// Ends a field.
#[inline(always)]
fn end_value(stream: &mut Stream, hpack: &mut Hpack, trailer: bool) -> Step {
    hpack.state = state::FIELD;
    if trailer {
        return Step::More;
    }
    let Stream { http, facts, .. } = stream;
    match hpack.kind {
        kind::AUTHORITY | kind::HOST => {
            let both = has(http.seen, kind::AUTHORITY) && has(http.seen, kind::HOST);
            if both {
                http.seen |= seen::AUTHORITY;
            }
            return http::end_host_value(stream);
        }
        kind::PATH => match hpack.path {
            path::START => return stream.malformed(why::TARGET),
            path::PATH if !http.path.finish(facts) => return stream.malformed(why::TARGET),
            _ => {}
        },
        _ => {}
    }
    Step::More
}
