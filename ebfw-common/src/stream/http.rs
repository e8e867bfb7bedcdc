//! HTTP/1 (RFC 9112): host, method and path of every request on a connection.
//!
//! What servers do not read alike is malformed, unless the first line shows that it is another protocol: then it is opaque. Bodies with a
//! length are passed over in one step, chunked ones are followed. Lines of a head may end with a bare LF, as many servers take them; those
//! around chunks may not.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Step, Stream,
    authority::{Authority, hex},
    facts::{MAX_METHOD, MAX_PATH, flag, masked},
    hpack::kind,
    path::Path,
    protocol, why,
};
use crate::dns::lower;

/// Where in a message a stream is; 0 is before the first line.
mod state {
    pub(super) const START: u32 = 0;
    /// Behind the CR of an empty line before a request.
    pub(super) const START_CR: u32 = 1;
    pub(super) const METHOD: u32 = 2;
    pub(super) const TARGET: u32 = 3;
    pub(super) const PATH: u32 = 4;
    pub(super) const QUERY: u32 = 5;
    /// `http://` of a target.
    pub(super) const SCHEME: u32 = 6;
    /// The authority of a target that begins with a scheme.
    pub(super) const HOST: u32 = 7;
    /// The authority that is the target of CONNECT.
    pub(super) const TUNNEL: u32 = 8;
    /// Behind the target `*`.
    pub(super) const ASTERISK: u32 = 9;
    pub(super) const VERSION: u32 = 10;
    pub(super) const VERSION_CR: u32 = 11;
    /// A line that is none of HTTP, unless it speaks of it.
    pub(super) const OTHER: u32 = 12;
    /// At the start of a field's line.
    pub(super) const FIELD: u32 = 13;
    pub(super) const FIELD_NAME: u32 = 14;
    /// Before, in and behind a field's value.
    pub(super) const BEFORE_VALUE: u32 = 15;
    pub(super) const VALUE: u32 = 16;
    pub(super) const BEHIND_VALUE: u32 = 17;
    pub(super) const VALUE_CR: u32 = 18;
    /// Behind the CR of the empty line that ends a head.
    pub(super) const HEAD_CR: u32 = 19;
    pub(super) const CHUNK_SIZE: u32 = 20;
    pub(super) const CHUNK_EXTENSION: u32 = 21;
    pub(super) const CHUNK_SIZE_CR: u32 = 22;
    /// Behind a chunk.
    pub(super) const CHUNK_END: u32 = 23;
    pub(super) const CHUNK_END_CR: u32 = 24;
    /// The rest of HTTP/2's first bytes.
    pub(super) const PREFACE: u32 = 25;
}

/// Fields that say something.
mod field {
    pub(super) const OTHER: u32 = 0;
    pub(super) const HOST: u32 = 1;
    pub(super) const LENGTH: u32 = 2;
    pub(super) const CODING: u32 = 3;
    pub(super) const UPGRADE: u32 = 4;
}

/// Flags of [`Http::seen`].
pub(super) mod seen {
    /// There was a request, or an empty line before one: what follows is HTTP. This alone outlives a request.
    pub(super) const HTTP: u32 = 1;
    /// Of the present request: its fields.
    pub(super) const HOST: u32 = 2;
    pub(super) const LENGTH: u32 = 4;
    pub(super) const CHUNKED: u32 = 8;
    pub(super) const UPGRADE: u32 = 16;
    /// Its target names a host, which [`HOST`] must repeat.
    pub(in super::super) const AUTHORITY: u32 = 32;
    /// It is HTTP/1.0.
    pub(super) const OLD: u32 = 64;
    /// The fields are those behind a body.
    pub(super) const TRAILER: u32 = 128;
    /// The first line speaks of HTTP: `http/`, `://`, or a target that begins with a slash.
    pub(super) const SPEAKS: u32 = 256;
    /// Blanks stand before the first line, which some servers pass over: it must not be one of HTTP.
    pub(super) const BLANK: u32 = 512;
}

/// Letters as a number: of words of up to eight bytes, the last one lowest.
pub(super) const fn word(letters: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = 0;
    while at < letters.len() {
        word = word << 8 | letters[at] as u64;
        at += 1;
    }
    word
}

/// What follows the first line of HTTP/2 (RFC 9113, 3.4).
const PREFACE: u64 = word(b"\r\nSM\r\n\r\n");
/// Digits of a number that cannot overflow.
const MAX_LENGTH_DIGITS: u32 = 19;
const MAX_CHUNK_DIGITS: u32 = 15;

/// Where in HTTP/1 a stream is.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Http {
    /// The last 24 bytes of a word, the latest lowest in the first.
    word: [u64; 3],
    /// The number that is read, and the body's length.
    number: u64,
    length: u64,
    /// [`state`].
    state: u32,
    /// [`seen`].
    pub(super) seen: u32,
    /// [`field`].
    field: u32,
    /// Bytes of the word or the number that were read.
    read: u32,
    /// Bytes of the name that the target has; whether it is an address.
    pub(super) name_length: u32,
    pub(super) literal: u32,
    pub(super) authority: Authority,
    pub(super) path: Path,
}

/// Whether a byte may stand in a method or the name of a field (RFC 9110, 5.6.2).
#[inline(always)]
pub(super) const fn is_token(byte: u8) -> bool {
    /// A bit for each byte.
    const fn set(first: u8) -> u64 {
        let mut set = 0;
        let mut at = 0;
        while at < 64 {
            let byte = first + at;
            if byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
                )
                || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~')
            {
                set |= 1 << at;
            }
            at += 1;
        }
        set
    }
    const LOW: u64 = set(0);
    const HIGH: u64 = set(64);
    let half = if byte < 64 { LOW } else { HIGH };
    byte < 128 && half >> (byte & 63) & 1 != 0
}

/// Whether a byte may stand in a target. Those that some servers read as a slash or an end may not.
#[inline(always)]
pub(super) const fn is_in_targets(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && byte != b'#' && byte != b'\\'
}

/// Whether a byte may stand in a field's value.
#[inline(always)]
pub(super) const fn is_in_values(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

impl Http {
    #[inline(always)]
    fn has(&self, flag: u32) -> bool {
        self.seen & flag != 0
    }

    /// Whether the next byte that is read may be the first of a head.
    #[inline(always)]
    pub(super) fn is_between_heads(&self) -> bool {
        self.state == state::START
    }

    /// Whether what may stand in a field's value changes nothing now: the field is one that says nothing here. Whether the value has begun
    /// matters for others only.
    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.field == field::OTHER
            && self.state >= state::BEFORE_VALUE
            && self.state <= state::BEHIND_VALUE
    }

    /// Forgets the last word.
    #[inline(always)]
    pub(super) fn begin_word(&mut self) {
        self.word = [0; 3];
        self.read = 0;
    }

    #[inline(always)]
    pub(super) fn push_word(&mut self, byte: u8) {
        let [a, b, c] = self.word;
        self.word = [a << 8 | u64::from(byte), b << 8 | a >> 56, c << 8 | b >> 56];
        self.read += 1;
    }

    /// Whether the word is this one, which has at most 24 bytes.
    #[inline(always)]
    fn is_word(&self, letters: &'static [u8; 24], length: u32) -> bool {
        let [a, b, c] = self.word;
        let (c2, b2, a2) = const_words(letters);
        self.read == length && a == a2 && b == b2 && c == c2
    }

    #[inline(always)]
    fn begin_number(&mut self) {
        self.number = 0;
        self.read = 0;
    }
}

/// Three words of eight bytes.
#[inline(always)]
const fn const_words(letters: &[u8; 24]) -> (u64, u64, u64) {
    let (first, rest) = letters.split_at(8);
    let (second, third) = rest.split_at(8);
    (word(first), word(second), word(third))
}

/// Right-aligned in 24 bytes.
const fn padded(letters: &[u8]) -> [u8; 24] {
    let mut padded = [0; 24];
    let mut at = 0;
    while at < letters.len() {
        padded[24 - letters.len() + at] = letters[at];
        at += 1;
    }
    padded
}

/// Whether the last word is this constant.
macro_rules! is_word {
    ($http:expr, $letters:literal) => {{
        const LETTERS: &[u8; 24] = &padded($letters);
        $http.is_word(LETTERS, $letters.len() as u32)
    }};
}

/// Whether a stream that begins with `first` may be HTTP.
#[inline(always)]
pub(super) const fn begins(first: u8) -> bool {
    is_token(first) || first == b'\r' || first == b'\n' || is_blank(first)
}

/// Whether a server may pass over the byte before a request's first line: what Python's `split`, by which its servers read that line, takes for white
/// space in Latin-1, the ends of lines aside.
#[inline(always)]
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | 0x1c..=b' ' | 0x85 | 0xa0)
}

#[inline(always)]
pub(super) fn step(stream: &mut Stream, byte: u8) -> Step {
    let state = stream.http.state;
    if state >= state::FIELD {
        if state >= state::CHUNK_SIZE {
            return chunk(stream, byte);
        }
        return fields(stream, byte);
    }
    first_line(stream, byte)
}

/// Reads a byte of a request's first line.
#[inline(always)]
fn first_line(stream: &mut Stream, byte: u8) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    let state = http.state;
    if state <= state::START_CR {
        return start(stream, byte);
    }
    http.push_word(byte);
    let last = http.word[0];
    // Capitals or not.
    let speaks = last & 0xff_ffff_ffff | 0x20_2020_2000 == word(b"http/")
        || last & 0xff_ffff == word(b"://");
    if speaks {
        http.seen |= seen::SPEAKS;
    }
    match state {
        state::METHOD => {
            let length = facts.method_length;
            if is_token(byte) && length < MAX_METHOD as u32 {
                facts.method[masked(length, 31)] = byte;
                facts.method_length = length + 1;
            } else if byte == b' ' {
                http.state = state::TARGET;
            } else {
                return other(stream, byte);
            }
        }
        state::TARGET => return target(stream, byte),
        state::PATH => {
            if matches!(byte, b'?' | b' ') {
                if !http.path.finish(facts) {
                    return stream.malformed(why::TARGET);
                }
                if byte == b' ' {
                    return end_target(stream);
                }
                http.state = state::QUERY;
            } else if !is_in_targets(byte) || !http.path.push(facts, byte) {
                return stream.malformed(why::TARGET);
            }
        }
        state::QUERY => {
            if byte == b' ' {
                return end_target(stream);
            }
            if !is_in_targets(byte) {
                return stream.malformed(why::TARGET);
            }
        }
        state::SCHEME => {
            // The word has the method and a space before the target.
            let length = http.read - facts.method_length - 1;
            let lowered = last | 0x2020_2020_2020_2020;
            let http_scheme = lowered & 0xff_ffff_ffff_ffff == word(b"http:\x2f\x2f");
            let https_scheme = lowered == word(b"https:\x2f\x2f");
            if length > 8 || !is_in_targets(byte) {
                return other(stream, byte);
            }
            if length == 7 && http_scheme || length == 8 && https_scheme {
                http.state = state::HOST;
                http.authority.begin(name, facts);
            }
        }
        state::HOST => {
            if matches!(byte, b'/' | b'?' | b' ') {
                let step = end_host(stream, byte);
                if step != Step::More {
                    return step;
                }
            } else if !http.authority.push(name, facts, byte) {
                return stream.malformed(why::NAME);
            }
        }
        state::TUNNEL => {
            if byte == b' ' {
                return end_host(stream, byte);
            }
            raw(stream, byte);
            let Stream {
                http, facts, name, ..
            } = stream;
            if !http.authority.push(name, facts, byte) {
                return other(stream, byte);
            }
        }
        state::ASTERISK if byte == b' ' => return end_target(stream),
        state::VERSION => return version(stream, byte),
        state::VERSION_CR if byte == b'\n' => return end_line(stream),
        _ => return other(stream, byte),
    }
    // In one place, with the question mark.
    if stream.http.state == state::QUERY {
        stream.facts.push_query(byte);
    }
    Step::More
}

/// Reads a byte between requests.
#[inline(always)]
fn start(stream: &mut Stream, byte: u8) -> Step {
    let Stream { http, facts, .. } = stream;
    if byte == b'\n' {
        http.state = state::START;
        http.seen |= seen::HTTP;
    } else if http.state == state::START_CR {
        return stream.malformed(why::LINE);
    } else if byte == b'\r' {
        http.state = state::START_CR;
        http.seen |= seen::HTTP;
    } else if is_token(byte) {
        facts.clear();
        facts.method[0] = byte;
        facts.method_length = 1;
        http.seen &= seen::HTTP | seen::BLANK;
        http.begin_word();
        http.push_word(byte);
        http.state = state::METHOD;
    } else if http.has(seen::HTTP) {
        return stream.malformed(why::REQUEST_LINE);
    } else if is_blank(byte) {
        http.seen |= seen::BLANK;
    } else {
        return Step::Opaque;
    }
    Step::More
}

/// The line is none of HTTP. Whether that makes it another protocol's shows at its end.
#[inline(always)]
fn other(stream: &mut Stream, byte: u8) -> Step {
    let Stream { http, facts, .. } = stream;
    http.state = state::OTHER;
    let get = facts.method_length == 3 && facts.method[..3] == *b"GET";
    let proxy = facts.method_length == 5 && facts.method[..5] == *b"PROXY";
    if http.has(seen::SPEAKS | seen::HTTP) || get || proxy {
        return stream.malformed(why::REQUEST_LINE);
    }
    if byte < b' ' && byte != b'\t' || byte == 0x7f {
        return Step::Opaque;
    }
    Step::More
}

/// Reads the first byte of a target.
#[inline(always)]
fn target(stream: &mut Stream, byte: u8) -> Step {
    let connect = is_word_before_target(stream, word(b"CONNECT"));
    let options = is_word_before_target(stream, word(b"OPTIONS"));
    let preface = is_word_before_target(stream, word(b"PRI"));
    let Stream {
        http, facts, name, ..
    } = stream;
    if byte == b'/' {
        http.seen |= seen::SPEAKS;
    }
    if http.has(seen::BLANK) {
        return other(stream, byte);
    }
    if connect {
        http.state = state::TUNNEL;
        http.authority.begin(name, facts);
        raw(stream, byte);
        let Stream {
            http, facts, name, ..
        } = stream;
        if !http.authority.push(name, facts, byte) {
            return other(stream, byte);
        }
    } else if byte == b'/' {
        http.state = state::PATH;
        http.path.begin(facts);
    } else if byte == b'*' && (options || preface) {
        http.state = state::ASTERISK;
        raw(stream, byte);
    } else if byte.is_ascii_alphabetic() {
        http.state = state::SCHEME;
    } else {
        return other(stream, byte);
    }
    Step::More
}

/// Whether the method is this one; asked at the target's first byte.
#[inline(always)]
fn is_word_before_target(stream: &Stream, method: u64) -> bool {
    let [last, before, ..] = stream.http.word;
    // Less a space and the target's first byte.
    last >> 16 | before << 48 == method
}

/// Keeps a byte of a target that is no path.
#[inline(always)]
fn raw(stream: &mut Stream, byte: u8) {
    let facts = &mut stream.facts;
    let length = facts.path_length;
    if length < MAX_PATH as u32 {
        facts.path[masked(length, MAX_PATH as u32 - 1)] = byte;
        facts.path_length = length + 1;
    }
}

/// Ends the authority of a target, with the byte behind it.
#[inline(always)]
fn end_host(stream: &mut Stream, byte: u8) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    if !http.authority.finish(name, facts) {
        return stream.malformed(why::NAME);
    }
    http.seen |= seen::AUTHORITY;
    http.name_length = facts.name_length;
    http.literal = facts.flags & flag::LITERAL;
    if http.state == state::TUNNEL {
        http.begin_word();
        http.state = state::VERSION;
        return Step::More;
    }
    http.path.begin(facts);
    if byte == b' ' {
        return end_target(stream);
    }
    http.state = if byte == b'/' {
        state::PATH
    } else {
        state::QUERY
    };
    Step::More
}

/// Ends the target with the space behind it.
#[inline(always)]
fn end_target(stream: &mut Stream) -> Step {
    let http = &mut stream.http;
    http.begin_word();
    http.state = state::VERSION;
    Step::More
}

/// Reads a byte of the version.
#[inline(always)]
fn version(stream: &mut Stream, byte: u8) -> Step {
    let http = &mut stream.http;
    if byte == b'\n' {
        return end_line(stream);
    }
    if byte == b'\r' {
        http.state = state::VERSION_CR;
        return Step::More;
    }
    if http.read > 8 {
        return other(stream, byte);
    }
    // Kept apart: what ends the line comes behind it.
    http.number = http.word[0];
    Step::More
}

/// Ends the first line.
#[inline(always)]
fn end_line(stream: &mut Stream) -> Step {
    let Stream { http, facts, .. } = stream;
    // With the bytes that end the line.
    let length = http.read - 1 - u32::from(http.state == state::VERSION_CR);
    let version = http.number;
    http.state = state::FIELD;
    if length == 8 && version == word(b"HTTP/1.1") {
        return Step::More;
    }
    if length == 8 && version == word(b"HTTP/1.0") {
        http.seen |= seen::OLD;
        return Step::More;
    }
    let star = facts.path_length == 1 && facts.path[0] == b'*';
    let pri = facts.method_length == 3 && facts.method[..3] == *b"PRI";
    // In the midst of HTTP/1 only behind an upgrade: else a server goes on reading what looks like frames here.
    let may_change = !http.has(seen::HTTP);
    if length == 8 && version == word(b"HTTP/2.0") && pri && star && may_change {
        http.read = 0;
        http.state = state::PREFACE;
        return Step::More;
    }
    other(stream, b'\n')
}

/// Reads a byte of the fields.
#[inline(always)]
fn fields(stream: &mut Stream, byte: u8) -> Step {
    let http = &mut stream.http;
    match http.state {
        state::FIELD => {
            if byte == b'\r' {
                http.state = state::HEAD_CR;
            } else if byte == b'\n' {
                return end_head(stream);
            } else if is_token(byte) {
                http.begin_word();
                http.push_word(lower(byte));
                http.state = state::FIELD_NAME;
            } else {
                return stream.malformed(why::FIELD);
            }
            Step::More
        }
        state::FIELD_NAME => {
            if byte == b':' {
                return begin_value(stream);
            }
            if !is_token(byte) {
                return stream.malformed(why::FIELD);
            }
            http.push_word(lower(byte));
            Step::More
        }
        state::HEAD_CR | state::VALUE_CR if byte != b'\n' => stream.malformed(why::LINE),
        state::HEAD_CR => end_head(stream),
        _ => value(stream, byte),
    }
}

/// Sees which field it is.
#[inline(always)]
fn begin_value(stream: &mut Stream) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    http.state = state::BEFORE_VALUE;
    http.field = field::OTHER;
    if is_word!(http, b"host") {
        if http.has(seen::HOST | seen::TRAILER) {
            return stream.malformed(why::TWO_HOSTS);
        }
        http.seen |= seen::HOST;
        http.field = field::HOST;
        facts.flags &= !(flag::NAME | flag::LITERAL);
        http.authority.begin(name, facts);
    } else if is_word!(http, b"content-length") {
        if http.has(seen::TRAILER) {
            return stream.malformed(why::BODY);
        }
        http.field = field::LENGTH;
        http.begin_number();
    } else if is_word!(http, b"transfer-encoding") {
        if http.has(seen::CHUNKED | seen::TRAILER) {
            return stream.malformed(why::BODY);
        }
        http.seen |= seen::CHUNKED;
        http.field = field::CODING;
        http.begin_word();
    } else if is_word!(http, b"upgrade") {
        http.field = field::UPGRADE;
    }
    Step::More
}

/// Reads a byte of a value or around it.
#[inline(always)]
fn value(stream: &mut Stream, byte: u8) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    if byte == b'\n' {
        return end_value(stream);
    }
    if byte == b'\r' {
        http.state = state::VALUE_CR;
        return Step::More;
    }
    if byte == b' ' || byte == b'\t' {
        if http.state == state::VALUE {
            http.state = state::BEHIND_VALUE;
        }
        return Step::More;
    }
    if !is_in_values(byte) {
        return stream.malformed(why::FIELD);
    }
    let again = http.state == state::BEHIND_VALUE;
    http.state = state::VALUE;
    match http.field {
        field::HOST if again || !http.authority.push(name, facts, byte) => {
            return stream.malformed(why::NAME);
        }
        field::LENGTH => {
            // Too many digits are refused below, whatever they come to.
            let digit = u64::from(byte.wrapping_sub(b'0'));
            http.number = http.number.wrapping_mul(10).wrapping_add(digit);
            http.read += 1;
            if again || !byte.is_ascii_digit() || http.read > MAX_LENGTH_DIGITS {
                return stream.malformed(why::BODY);
            }
        }
        field::CODING => {
            http.push_word(lower(byte));
            if again {
                return stream.malformed(why::BODY);
            }
        }
        field::UPGRADE => http.seen |= seen::UPGRADE,
        _ => {}
    }
    Step::More
}

/// Ends a field.
#[inline(always)]
fn end_value(stream: &mut Stream) -> Step {
    let http = &mut stream.http;
    http.state = state::FIELD;
    match http.field {
        field::HOST => return end_host_value(stream),
        field::LENGTH => {
            let again = http.has(seen::LENGTH) && http.length != http.number;
            if http.read == 0 || again {
                return stream.malformed(why::BODY);
            }
            http.seen |= seen::LENGTH;
            http.length = http.number;
        }
        field::CODING if !is_word!(http, b"chunked") => return stream.malformed(why::BODY),
        _ => {}
    }
    Step::More
}

/// Ends the value that names the host. Where another did before, it must be the same.
#[inline(always)]
pub(super) fn end_host_value(stream: &mut Stream) -> Step {
    let Stream {
        http, facts, name, ..
    } = stream;
    // An empty one names nothing.
    let named = !http.authority.is_empty();
    if named && !http.authority.finish(name, facts) {
        return stream.malformed(why::NAME);
    }
    let differs = name.differs(facts, http.name_length)
        || facts.flags & flag::LITERAL != http.literal
        || !named;
    if http.has(seen::AUTHORITY) && differs {
        return stream.malformed(why::TWO_HOSTS);
    }
    Step::More
}

/// What a field of HTTP/2 means whose name is the last word.
#[inline(always)]
pub(super) fn kind_of_word(http: &Http) -> u32 {
    if is_word!(http, b":authority") {
        kind::AUTHORITY
    } else if is_word!(http, b":method") {
        kind::METHOD
    } else if is_word!(http, b":path") {
        kind::PATH
    } else if is_word!(http, b"host") {
        kind::HOST
    } else if is_word!(http, b":scheme") {
        kind::SCHEME
    } else if is_word!(http, b":protocol") {
        kind::PROTOCOL
    } else {
        kind::OTHER
    }
}

/// Ends a head, or the fields behind a body.
#[inline(always)]
fn end_head(stream: &mut Stream) -> Step {
    let Stream { http, facts, .. } = stream;
    http.state = state::START;
    if http.has(seen::TRAILER) {
        return Step::More;
    }
    let (old, host) = (http.has(seen::OLD), http.has(seen::HOST));
    if !host && !old {
        return stream.malformed(why::NO_HOST);
    }
    let (sized, chunked) = (http.has(seen::LENGTH), http.has(seen::CHUNKED));
    let connect = facts.method_length == 7 && facts.method[..7] == *b"CONNECT";
    let body = sized && http.length != 0;
    if chunked && (sized || old) || connect && (chunked || body) {
        return stream.malformed(why::BODY);
    }
    // Behind these, what is no HTTP is a tunnel's.
    if connect || http.has(seen::UPGRADE) {
        http.seen &= !seen::HTTP;
    } else {
        http.seen |= seen::HTTP;
    }
    if chunked {
        http.state = state::CHUNK_SIZE;
        http.begin_number();
    } else if sized {
        stream.skip = http.length;
    }
    facts.flags |= flag::REQUEST;
    if facts.path_length > MAX_PATH as u32 {
        facts.flags |= flag::CUT;
    }
    Step::Head
}

/// Reads a byte around a chunk, or of HTTP/2's preface.
#[inline(always)]
fn chunk(stream: &mut Stream, byte: u8) -> Step {
    stream.restart_wait();
    let http = &mut stream.http;
    match http.state {
        state::CHUNK_SIZE => {
            let digit = hex(byte);
            if digit < 16 && http.read < MAX_CHUNK_DIGITS {
                http.number = http.number << 4 | u64::from(digit);
                http.read += 1;
                return Step::More;
            }
            if http.read == 0 {
                return stream.malformed(why::BODY);
            }
            http.state = match byte {
                b';' => state::CHUNK_EXTENSION,
                b'\r' => state::CHUNK_SIZE_CR,
                _ => return stream.malformed(why::BODY),
            };
        }
        state::CHUNK_EXTENSION if byte == b'\r' => http.state = state::CHUNK_SIZE_CR,
        state::CHUNK_EXTENSION if is_in_values(byte) => {}
        state::CHUNK_SIZE_CR if byte == b'\n' => {
            if http.number == 0 {
                http.seen |= seen::TRAILER;
                http.state = state::FIELD;
            } else {
                http.state = state::CHUNK_END;
                stream.skip = http.number;
            }
        }
        state::CHUNK_END if byte == b'\r' => http.state = state::CHUNK_END_CR,
        state::CHUNK_END_CR if byte == b'\n' => {
            http.state = state::CHUNK_SIZE;
            http.begin_number();
        }
        state::PREFACE => {
            let expected = (PREFACE << (8 * (http.read & 7)) >> 56) as u8;
            if byte != expected {
                return stream.malformed(why::REQUEST_LINE);
            }
            http.read += 1;
            if http.read == 8 {
                stream.protocol = protocol::HTTP2;
                return Step::Http2;
            }
        }
        _ => return stream.malformed(why::BODY),
    }
    Step::More
}
