//! TLS: the server name in each `ClientHello` (RFC 8446, 4.1.2; RFC 6066, 3), across records.
//!
//! Numbers are read field by field; what says nothing is passed over. After a hello, records are followed until one that cannot be before
//! another hello: a server may ask for a second one (`HelloRetryRequest`), which may name another host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Step, Stream, facts::flag, why};

/// Fields of a hello. The lower two bits are the bytes of its number, less one; 0 is the start.
mod field {
    pub(super) const TYPE: u32 = 0;
    pub(super) const LENGTH: u32 = 1 << 2 | 2;
    pub(super) const SESSION: u32 = 2 << 2;
    pub(super) const CIPHERS: u32 = 3 << 2 | 1;
    pub(super) const COMPRESSION: u32 = 4 << 2;
    pub(super) const EXTENSIONS: u32 = 5 << 2 | 1;
    pub(super) const EXTENSION: u32 = 6 << 2 | 1;
    pub(super) const EXTENSION_LENGTH: u32 = 7 << 2 | 1;
    pub(super) const NAMES: u32 = 8 << 2 | 1;
    pub(super) const NAME_TYPE: u32 = 9 << 2;
    pub(super) const NAME_LENGTH: u32 = 10 << 2 | 1;
    pub(super) const NAME: u32 = 11 << 2;
    /// The last byte of a hello.
    pub(super) const LAST: u32 = 12 << 2;
}

/// Content types of records (RFC 8446, 5.1; RFC 6520).
mod content {
    pub(super) const CHANGE_CIPHER_SPEC: u32 = 20;
    pub(super) const ALERT: u32 = 21;
    pub(super) const HANDSHAKE: u32 = 22;
    pub(super) const DATA: u32 = 23;
    pub(super) const HEARTBEAT: u32 = 24;
}

mod extension {
    pub(super) const SERVER_NAME: u32 = 0;
    pub(super) const EARLY_DATA: u32 = 42;
    /// Encrypted hellos: the standard, and the draft before it that encrypted the name alone.
    pub(super) const ECH: u32 = 0xfe0d;
    pub(super) const ESNI: u32 = 0xffce;
}

const CLIENT_HELLO: u32 = 1;
/// Version and random.
const FIXED: u32 = 34;
/// The shortest hello: the fixed part, no session, one cipher, one compression.
const SHORTEST: u32 = FIXED + 1 + 4 + 2;
/// Longest plaintext of a record, and longest record (RFC 5246, 6.2).
const MAX_PLAINTEXT: u32 = 1 << 14;
const MAX_RECORD: u32 = MAX_PLAINTEXT + 2048;

/// First byte of the version in a record's header.
const VERSION: u32 = 3;
/// No server takes versions from here on for TLS.
const NO_VERSION: u32 = 16;

/// Flags of [`Tls::seen`].
mod seen {
    /// This hello has a server name.
    pub(super) const NAME: u32 = 1;
    /// There was a hello.
    pub(super) const HELLO: u32 = 2;
    /// It announced data that comes before the handshake is over: a second hello may come after it.
    pub(super) const EARLY_DATA: u32 = 4;
    /// There was a record.
    pub(super) const RECORD: u32 = 8;
}

/// Where in TLS a stream is.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Tls {
    /// Bytes of the record's header that were read.
    header: u32,
    /// Content type of the record.
    content: u32,
    /// The header's length, as it is read.
    length: u32,
    /// Bytes left of the record.
    record: u32,
    /// [`field`].
    field: u32,
    /// Bytes of the field's number that were read, and the number so far.
    read: u32,
    number: u32,
    /// Bytes of the hello to be passed over, once the next record is there.
    skip: u32,
    /// Bytes of the hello behind the present field.
    hello: u32,
    /// Type of the extension, later its length, or the bytes left of the name.
    extension: u32,
    /// [`seen`].
    seen: u32,
    _pad: u32,
}

/// Whether a stream that begins with `first` is TLS: no other protocol that is known begins with one of its content types. Some servers
/// ignore alerts before the first hello.
#[inline(always)]
pub(super) const fn begins(first: u8) -> bool {
    let first = first as u32;
    first >= content::CHANGE_CIPHER_SPEC && first <= content::HANDSHAKE
}

#[inline(always)]
pub(super) fn step(stream: &mut Stream, byte: u8) -> Step {
    if stream.tls.record == 0 {
        return header(stream, u32::from(byte));
    }
    stream.tls.record -= 1;
    if stream.tls.field == field::NAME {
        return name(stream, byte);
    }
    let number = stream.tls.number << 8 | u32::from(byte);
    let read = stream.tls.read;
    if read < stream.tls.field & 3 {
        stream.tls.number = number;
        stream.tls.read = read + 1;
        return Step::More;
    }
    stream.tls.number = 0;
    stream.tls.read = 0;
    take(stream, number)
}

/// Reads a byte of a record's header.
#[inline(always)]
fn header(stream: &mut Stream, byte: u32) -> Step {
    let tls = &mut stream.tls;
    let read = tls.header;
    tls.header = read + 1;
    match read {
        0 => {
            tls.content = byte;
            let between = tls.field == field::TYPE && tls.skip == 0;
            let fits = match byte {
                content::HANDSHAKE => true,
                content::CHANGE_CIPHER_SPEC | content::ALERT | content::HEARTBEAT => between,
                content::DATA if between && tls.seen & seen::HELLO != 0 => {
                    if tls.seen & seen::EARLY_DATA == 0 {
                        return Step::Finished;
                    }
                    true
                }
                _ => false,
            };
            if fits {
                Step::More
            } else {
                stream.malformed(why::RECORD)
            }
        }
        1 if byte != VERSION => {
            // Some servers take others, which no client sends; what else begins so is another protocol's.
            let first = tls.seen & seen::RECORD == 0;
            if first && tls.content != content::HANDSHAKE && byte >= NO_VERSION {
                return Step::Opaque;
            }
            stream.malformed(why::RECORD)
        }
        1 | 2 => {
            tls.seen |= seen::RECORD;
            tls.length = 0;
            Step::More
        }
        3 => {
            tls.length = byte << 8;
            Step::More
        }
        _ => {
            tls.header = 0;
            record(stream, stream.tls.length | byte)
        }
    }
}

/// Begins the body of a record.
#[inline(always)]
fn record(stream: &mut Stream, length: u32) -> Step {
    let content = stream.tls.content;
    if content == content::HANDSHAKE {
        if length == 0 || length > MAX_PLAINTEXT {
            return stream.malformed(why::RECORD);
        }
        stream.tls.record = length;
        pass(stream, stream.tls.skip);
        return Step::More;
    }
    if length > MAX_RECORD || length == 0 && content != content::DATA {
        return stream.malformed(why::RECORD);
    }
    stream.skip = u64::from(length);
    Step::More
}

/// Passes over `bytes` of the hello, the rest of them in the next record.
#[inline(always)]
fn pass(stream: &mut Stream, bytes: u32) {
    let now = if bytes < stream.tls.record {
        bytes
    } else {
        stream.tls.record
    };
    stream.tls.record -= now;
    stream.tls.skip = bytes - now;
    stream.skip = u64::from(now);
}

/// Takes a byte of the server name.
#[inline(always)]
fn name(stream: &mut Stream, byte: u8) -> Step {
    if !stream.name.push(&mut stream.facts, byte) {
        return stream.malformed(why::NAME);
    }
    stream.tls.extension -= 1;
    if stream.tls.extension != 0 {
        return Step::More;
    }
    if !stream.name.finish(&mut stream.facts) {
        return stream.malformed(why::NAME);
    }
    next_extension(stream)
}

/// Takes the number of a field.
#[inline(always)]
fn take(stream: &mut Stream, number: u32) -> Step {
    let Stream {
        tls, facts, name, ..
    } = stream;
    match tls.field {
        field::TYPE => {
            if number != CLIENT_HELLO {
                // No hello can come after another message; and before the first one there is none.
                if tls.seen & seen::HELLO != 0 {
                    return Step::Finished;
                }
                return stream.malformed(why::RECORD);
            }
            facts.clear();
            tls.seen = seen::RECORD;
            tls.field = field::LENGTH;
        }
        field::LENGTH => {
            if number < SHORTEST {
                return stream.malformed(why::HELLO_LENGTH);
            }
            tls.hello = number - FIXED;
            tls.field = field::SESSION;
            pass(stream, FIXED);
        }
        // Each is followed by a length of its own, so that the hello cannot end with it.
        field::SESSION => return within(stream, number, 1, field::CIPHERS),
        field::CIPHERS => return within(stream, number, 2, field::COMPRESSION),
        field::COMPRESSION => {
            if number == 0 {
                return stream.malformed(why::HELLO_LENGTH);
            }
            if number + 1 == tls.hello {
                return to_the_last(stream, number);
            }
            return within(stream, number, 1, field::EXTENSIONS);
        }
        field::EXTENSIONS => {
            if number + 2 != tls.hello {
                return stream.malformed(why::HELLO_LENGTH);
            }
            tls.hello = number;
            return next_extension(stream);
        }
        field::EXTENSION => {
            tls.extension = number;
            tls.field = field::EXTENSION_LENGTH;
        }
        field::EXTENSION_LENGTH => return extension(stream, number),
        field::NAMES => {
            if number + 2 != tls.extension {
                return stream.malformed(why::HELLO_LENGTH);
            }
            tls.field = field::NAME_TYPE;
        }
        field::NAME_TYPE => {
            if number != 0 {
                return stream.malformed(why::NAME);
            }
            tls.field = field::NAME_LENGTH;
        }
        field::NAME_LENGTH => {
            // One name and nothing behind it.
            if number == 0 || number + 5 != tls.extension {
                return stream.malformed(why::TWO_NAMES);
            }
            tls.extension = number;
            tls.field = field::NAME;
            name.begin(facts);
        }
        _ => return complete(stream),
    }
    Step::More
}

/// Passes over `bytes` behind a length of `own` bytes; behind them comes the field `next`.
#[inline(always)]
fn within(stream: &mut Stream, bytes: u32, own: u32, next: u32) -> Step {
    let tls = &mut stream.tls;
    let all = own + bytes;
    if all >= tls.hello {
        return stream.malformed(why::HELLO_LENGTH);
    }
    tls.hello -= all;
    tls.field = next;
    pass(stream, bytes);
    Step::More
}

/// Passes over the hello's last `bytes`, at least one, but for the very last: it must be read for what it completes.
#[inline(always)]
fn to_the_last(stream: &mut Stream, bytes: u32) -> Step {
    stream.tls.field = field::LAST;
    pass(stream, bytes - 1);
    Step::More
}

/// Begins the extension that has `length` bytes.
#[inline(always)]
fn extension(stream: &mut Stream, length: u32) -> Step {
    let Stream { tls, facts, .. } = stream;
    let all = length + 4;
    if all > tls.hello {
        return stream.malformed(why::HELLO_LENGTH);
    }
    tls.hello -= all;
    match tls.extension {
        extension::SERVER_NAME => {
            if tls.seen & seen::NAME != 0 {
                return stream.malformed(why::TWO_NAMES);
            }
            tls.seen |= seen::NAME;
            tls.extension = length;
            tls.field = field::NAMES;
            // The lengths, the type and a name (RFC 6066, 3). What is shorter would be read beyond its end.
            if length < 6 {
                return stream.malformed(why::HELLO_LENGTH);
            }
            return Step::More;
        }
        extension::ECH | extension::ESNI => facts.flags |= flag::ECH,
        extension::EARLY_DATA => tls.seen |= seen::EARLY_DATA,
        _ => {}
    }
    if length != 0 && tls.hello == 0 {
        return to_the_last(stream, length);
    }
    pass(stream, length);
    next_extension(stream)
}

/// Goes on to the next extension, if the hello is not complete.
#[inline(always)]
fn next_extension(stream: &mut Stream) -> Step {
    if stream.tls.hello == 0 {
        return complete(stream);
    }
    stream.tls.field = field::EXTENSION;
    Step::More
}

#[inline(always)]
fn complete(stream: &mut Stream) -> Step {
    stream.tls.field = field::TYPE;
    stream.tls.seen |= seen::HELLO;
    Step::Head
}
