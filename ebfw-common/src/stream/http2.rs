//! HTTP/2 without TLS (RFC 9113), behind its first 24 bytes: authority, method and path of every request on a connection.
//!
//! Only frames that carry fields are read. What a client sends first, its settings, is for the server's side of the compression.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{
    Step, Stream,
    facts::{MAX_PATH, flag},
    hpack::{self, Hpack, bit, kind},
    why,
};

/// Where in a frame a stream is; 0 is its header.
mod state {
    pub(super) const HEADER: u32 = 0;
    pub(super) const PAD_LENGTH: u32 = 1;
    pub(super) const PRIORITY: u32 = 2;
    pub(super) const BLOCK: u32 = 3;
}

/// Types of frames (6).
mod frame {
    pub(super) const HEADERS: u32 = 1;
    pub(super) const PUSH_PROMISE: u32 = 5;
    pub(super) const CONTINUATION: u32 = 9;
}

/// Flags of frames.
mod frame_flag {
    pub(super) const END_HEADERS: u32 = 4;
    pub(super) const PADDED: u32 = 8;
    pub(super) const PRIORITY: u32 = 0x20;
}

/// What a request has beside its method, or some of it.
const PARTS: u32 = bit(kind::PATH) | bit(kind::SCHEME) | bit(kind::PROTOCOL);
const HEADER: u32 = 9;
const PRIORITY: u32 = 5;

/// What is known of an HTTP/2 connection beside its [`Stream`]. Zeros are the start.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Http2 {
    hpack: Hpack,
    /// [`state`].
    state: u32,
    /// Bytes of the header or the priority that were read.
    read: u32,
    /// The frame's header.
    length: u32,
    kind: u32,
    flags: u32,
    id: u32,
    /// Bytes left of the block in this frame; bytes of padding behind it.
    left: u32,
    padding: u32,
    /// The highest stream that was opened.
    last: u32,
    /// Whether a block goes on in the next frame.
    continues: u32,
    /// Whether the block is behind a body.
    trailer: u32,
    _pad: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Reads a byte; [`Step::Again`]: the same byte is to be read again.
#[inline(always)]
pub(super) fn step(stream: &mut Stream, http2: &mut Http2, byte: u8) -> Step {
    match http2.state {
        state::HEADER => header(stream, http2, u32::from(byte)),
        state::BLOCK => {
            let trailer = http2.trailer != 0;
            let step = hpack::step(stream, &mut http2.hpack, trailer, byte);
            if step != Step::More {
                return step;
            }
            http2.left -= 1;
            if http2.left == 0 {
                return end_fragment(stream, http2);
            }
            Step::More
        }
        state::PAD_LENGTH => {
            let padding = u32::from(byte);
            http2.padding = padding;
            if padding > http2.left {
                return stream.malformed(why::FRAME);
            }
            http2.left -= padding;
            if http2.flags & frame_flag::PRIORITY != 0 {
                http2.state = state::PRIORITY;
                return Step::More;
            }
            begin_fragment(stream, http2)
        }
        _ => {
            http2.read += 1;
            if http2.read < PRIORITY {
                return Step::More;
            }
            begin_fragment(stream, http2)
        }
    }
}

/// Reads a byte of a frame's header.
#[inline(always)]
fn header(stream: &mut Stream, http2: &mut Http2, byte: u32) -> Step {
    let read = http2.read;
    http2.read = read + 1;
    match read {
        0 => http2.length = byte,
        1 | 2 => http2.length = http2.length << 8 | byte,
        3 => http2.kind = byte,
        4 => {
            http2.flags = byte;
            http2.id = 0;
        }
        _ => {
            http2.id = http2.id << 8 | byte;
            if read == HEADER - 1 {
                http2.read = 0;
                return begin_frame(stream, http2);
            }
        }
    }
    Step::More
}

#[inline(always)]
fn begin_frame(stream: &mut Stream, http2: &mut Http2) -> Step {
    // The highest bit means nothing (4.1).
    let id = http2.id & 0x7fff_ffff;
    if http2.continues != 0 {
        if http2.kind != frame::CONTINUATION || id != http2.continues {
            return stream.malformed(why::FRAME);
        }
        http2.padding = 0;
        http2.left = http2.length;
        return begin_fragment(stream, http2);
    }
    match http2.kind {
        frame::HEADERS => {}
        frame::PUSH_PROMISE | frame::CONTINUATION => return stream.malformed(why::FRAME),
        _ => {
            stream.restart_wait();
            stream.skip = u64::from(http2.length);
            return Step::More;
        }
    }
    // A client's streams are odd, and each higher than all before it; a second head on one comes behind its body (5.1.1, 8.1).
    if id & 1 == 0 {
        return stream.malformed(why::FRAME);
    }
    http2.trailer = u32::from(id <= http2.last);
    if id > http2.last {
        http2.last = id;
        stream.facts.clear();
        stream.http.seen = 0;
    }
    http2.hpack.begin_block();
    http2.continues = id;
    http2.padding = 0;
    let padded = http2.flags & frame_flag::PADDED != 0;
    let priority = http2.flags & frame_flag::PRIORITY != 0;
    let before = u32::from(padded) + if priority { PRIORITY } else { 0 };
    if before > http2.length {
        return stream.malformed(why::FRAME);
    }
    http2.left = http2.length - before;
    if padded {
        http2.state = state::PAD_LENGTH;
    } else if priority {
        http2.state = state::PRIORITY;
    } else {
        return begin_fragment(stream, http2);
    }
    Step::More
}

#[inline(always)]
fn begin_fragment(stream: &mut Stream, http2: &mut Http2) -> Step {
    http2.read = 0;
    http2.state = state::BLOCK;
    if http2.left == 0 {
        return end_fragment(stream, http2);
    }
    Step::More
}

/// Ends what a frame has of a block.
#[inline(always)]
fn end_fragment(stream: &mut Stream, http2: &mut Http2) -> Step {
    http2.state = state::HEADER;
    stream.skip = u64::from(http2.padding);
    if http2.flags & frame_flag::END_HEADERS == 0 {
        return Step::More;
    }
    http2.continues = 0;
    if !http2.hpack.is_between_fields() {
        return stream.malformed(why::FIELD);
    }
    if http2.trailer != 0 {
        return Step::More;
    }
    let Stream { facts, http, .. } = stream;
    let connect = facts.method_length == 7 && facts.method[..7] == *b"CONNECT";
    let found = http.seen & PARTS;
    // A tunnel has neither path nor scheme, unless it says what it is for (8.3.1, 8.5; RFC 8441, 4).
    let expected = match (connect, found) {
        (false, _) => bit(kind::PATH) | bit(kind::SCHEME),
        (true, 0) => 0,
        (true, _) => PARTS,
    };
    if facts.method_length == 0 || found != expected {
        return stream.malformed(why::REQUEST_LINE);
    }
    if found == 0 {
        // No path begins so.
        facts.path[0] = b'*';
        facts.path_length = 1;
    }
    facts.flags |= flag::REQUEST;
    if facts.path_length > MAX_PATH as u32 {
        facts.flags |= flag::CUT;
    }
    Step::Head
}
