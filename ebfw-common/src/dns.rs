//! DNS messages (RFC 1035, 4): the question and the addresses of an answer, read step by step.
//!
//! Written for the kernel's verifier: a caller's loop bounds the steps, what is carried from one to the next goes through memory
//! ([`Kept`]), and every index into the message is masked. The same code runs in the tests and the fuzzer.

use core::hint::black_box;

use crate::abi::Address;

/// The longest message that is read: more goes to user space.
pub const MAX_MESSAGE: u32 = 4096;
/// Bytes of a question that are kept: the longest name as it is sent (255), type and class.
pub const MAX_QUESTION: usize = 272;
/// Length of the header.
pub const HEADER: u32 = 12;
/// Steps of [`Name::step`] that reach the end of the longest name.
pub const NAME_STEPS: u32 = 255;
/// Steps of [`Records::step`] that are made for one answer: labels of owner names and records. As many as there can be records in
/// [`MAX_MESSAGE`] bytes, each with a pointer or the root as its owner (11 bytes at least), and a hundred labels more.
pub const RECORD_STEPS: u32 = 480;

/// Type A.
pub const A: u16 = 1;
/// Type AAAA.
pub const AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// A message, `MAX_MESSAGE` bytes of memory.
pub trait Message {
    /// Byte `at`, which the implementation masks to the memory's size.
    fn byte(&self, at: u32) -> u8;

    /// Its length. Asked for in every step, so that the verifier does not carry from one to the next what it learned about it.
    fn end(&self) -> u32;

    /// Two bytes in network order.
    #[inline(always)]
    fn half(&self, at: u32) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    /// Four bytes in memory order.
    #[inline(always)]
    fn word(&self, at: u32) -> u32 {
        u32::from_ne_bytes([
            self.byte(at),
            self.byte(at + 1),
            self.byte(at + 2),
            self.byte(at + 3),
        ])
    }
}

/// A number that lives in memory: reading it back makes the verifier forget what it knew, without which it would follow each value that
/// a loop could have had. The compiler is kept from seeing through it by a pointer that it does not know.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept<T: Copy>(T);

impl<T: Copy> Kept<T> {
    /// Puts a number into memory.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The number.
    #[inline(always)]
    pub fn get(&self) -> T {
        *black_box(&self.0)
    }

    /// Replaces it.
    #[inline(always)]
    pub fn set(&mut self, value: T) {
        *black_box(&mut self.0) = value;
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Question,
    /// An answer that says something.
    Answer,
    /// An answer that is cut off. Most clients ask again over TCP, and some (musl before 1.2.4) take what there is.
    Truncated,
    /// An answer that is an error, or none that names a host.
    Empty,
    /// An answer that says something, but not to one question.
    Unreadable,
    /// Another kind of message, or a question that is not one.
    Other,
}

/// Reads the header.
#[inline(always)]
pub fn kind(message: &impl Message) -> Kind {
    const RESPONSE: u8 = 0x80;
    const OPCODE: u8 = 0x78;
    const TRUNCATED: u8 = 2;
    const RCODE: u8 = 15;
    let flags = message.byte(2);
    let is_one = message.half(4) == 1;
    if flags & OPCODE != 0 {
        Kind::Other
    } else if flags & RESPONSE == 0 {
        if is_one { Kind::Question } else { Kind::Other }
    } else if message.byte(3) & RCODE != 0 || message.half(6) == 0 {
        Kind::Empty
    } else if !is_one {
        Kind::Unreadable
    } else if flags & TRUNCATED != 0 {
        Kind::Truncated
    } else {
        Kind::Answer
    }
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More is to come.
    More,
    /// The end.
    Done,
    /// What cannot be read.
    Bad,
}

/// The name of the question, as it is read. Lies in map memory: 280 bytes are more than a stack has.
#[repr(C)]
pub struct Name {
    /// Hash so far.
    hash: Kept<u64>,
    /// Bytes left of the present label.
    left: Kept<u32>,
    /// Bytes of `text`.
    length: Kept<u32>,
    /// Lower case, dots between labels.
    text: [u8; 256],
}

impl Name {
    /// An empty one, for where there is no map.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hash: Kept::new(0),
            left: Kept::new(0),
            length: Kept::new(0),
            text: [0; 256],
        }
    }

    /// Begins with the question's first label.
    #[inline(always)]
    pub fn begin(&mut self, message: &impl Message, seed: u64) -> Step {
        let first = message.byte(HEADER);
        self.hash.set(seed);
        self.left.set(u32::from(first));
        self.length.set(0);
        // The root has no name; pointers have no place in a question.
        if first == 0 || first & 0xc0 != 0 {
            return Step::Bad;
        }
        Step::More
    }

    /// Reads byte `index` (0, 1, ... up to [`NAME_STEPS`]) behind the first length.
    #[inline(always)]
    pub fn step(&mut self, message: &impl Message, index: u32) -> Step {
        let at = HEADER + 1 + index;
        if at >= message.end() {
            return Step::Bad;
        }
        let byte = message.byte(at);
        let left = self.left.get();
        let letter = if left == 0 {
            if byte == 0 {
                self.length.set(index);
                return Step::Done;
            }
            if byte & 0xc0 != 0 {
                return Step::Bad;
            }
            self.left.set(u32::from(byte));
            b'.'
        } else {
            self.left.set(left - 1);
            // A dot inside a label would read as two labels.
            if byte == b'.' {
                return Step::Bad;
            }
            lower(byte)
        };
        self.text[(index & 0xff) as usize] = letter;
        let hash = (self.hash.get() ^ u64::from(letter)).wrapping_mul(0x0100_0000_01b3);
        self.hash.set(hash ^ hash >> 29);
        Step::More
    }

    /// The hash of the whole name.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Bytes of the name.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        self.length.get()
    }

    /// The memory of the name.
    #[inline(always)]
    pub fn text(&self) -> &[u8; 256] {
        &self.text
    }

    /// Where type and class of the question begin.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        HEADER + 2 + self.length.get()
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::new()
    }
}

/// Lower case. Without a branch, each of which would double what the verifier follows.
#[inline(always)]
#[must_use]
pub const fn lower(byte: u8) -> u8 {
    let letter = byte as i64;
    // Both differences are negative for capitals, and for nothing else.
    let capital = (b'A' as i64 - 1 - letter) & (letter - b'Z' as i64 - 1);
    byte | ((capital >> 63) & 0x20) as u8
}

/// Whether two bytes of a question are the same, capitals or not. Letters aside it also takes some others for the same, which does no harm:
/// the message has the right id, port, socket and resolver already.
#[inline(always)]
#[must_use]
pub fn same(a: u8, b: u8) -> bool {
    (a ^ b) & !0x20 == 0
}

/// 1 for 0, and 0 for all others below 2^63. Without a branch, each of which would double what the verifier follows.
#[inline(always)]
fn is_zero(number: u64) -> u64 {
    number.wrapping_sub(1) >> 63
}

/// A record's address and time to live.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// Its first four words of data.
    data: [u32; 4],
    /// Seconds, as they were sent.
    ttl: u32,
    /// 1: type A.
    is_v4: u32,
}

impl Answer {
    /// The address.
    #[inline(always)]
    #[must_use]
    pub fn address(&self) -> Address {
        if self.is_v4 == 1 {
            Address([0, 0, 0xffffu32.to_be(), self.data[0]])
        } else {
            Address(self.data)
        }
    }

    /// Seconds that the name lives: its time to live, at least 30 s and at most a day, and the grace (SEMANTICS 4). A time with its top bit
    /// set counts as 0 (RFC 2181, 8).
    #[inline(always)]
    #[must_use]
    pub fn lifetime_s(&self) -> u64 {
        lifetime_s(self.ttl)
    }
}

/// As [`Answer::lifetime_s`], for a time to live as it was sent.
#[inline(always)]
#[must_use]
pub const fn lifetime_s(ttl: u32) -> u64 {
    let ttl = if ttl < 30 || ttl >> 31 != 0 {
        30
    } else if ttl > 86_400 {
        86_400
    } else {
        ttl
    };
    ttl as u64 + crate::abi::NAME_GRACE_S
}

/// The records of an answer, as they are read.
#[repr(C)]
pub struct Records {
    at: Kept<u32>,
    left: Kept<u32>,
    is_address: Kept<u32>,
    answer: Answer,
}

impl Records {
    /// None, for where there is no map.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            at: Kept::new(0),
            left: Kept::new(0),
            is_address: Kept::new(0),
            answer: Answer {
                data: [0; 4],
                ttl: 0,
                is_v4: 0,
            },
        }
    }

    /// Begins behind the question.
    #[inline(always)]
    pub fn begin(&mut self, message: &impl Message, question_end: u32) {
        self.at.set(question_end + 4);
        self.left.set(u32::from(message.half(6)));
        self.is_address.set(0);
    }

    /// Whether all records were read.
    #[inline(always)]
    pub fn complete(&self) -> bool {
        self.left.get() == 0
    }

    /// The address that the last step read, if it read one.
    #[inline(always)]
    pub fn answer(&self) -> Option<&Answer> {
        if self.is_address.get() != 0 {
            Some(&self.answer)
        } else {
            None
        }
    }

    /// Skips a label of an owner's name, or reads a record.
    #[inline(always)]
    pub fn step(&mut self, message: &impl Message) -> Step {
        let at = self.at.get();
        self.is_address.set(0);
        if self.left.get() == 0 {
            return Step::Done;
        }
        if at >= message.end() {
            return Step::Bad;
        }
        let length = message.byte(at);
        if length != 0 && length & 0xc0 == 0 {
            self.at.set(at + u32::from(length) + 1);
            return Step::More;
        }
        // The root is one byte, a pointer two; then type, class, time to live and length (RFC 1035, 3.2.1).
        let record = at + 1 + u32::from(length >> 7);
        let size = u32::from(message.half(record + 8));
        let data = record + 10;
        if data + size > message.end() || length != 0 && length & 0xc0 != 0xc0 {
            return Step::Bad;
        }
        self.at.set(data + size);
        self.left.set(self.left.get() - 1);
        let (kind, class) = (message.half(record), message.half(record + 2));
        let is = |wanted: u16, bytes: u32| {
            is_zero(
                u64::from(kind ^ wanted) | u64::from(class ^ CLASS_IN) | u64::from(size ^ bytes),
            )
        };
        let (v4, v6) = (is(A, 4), is(AAAA, 16));
        self.answer.data = [
            message.word(data),
            message.word(data + 4),
            message.word(data + 8),
            message.word(data + 12),
        ];
        self.answer.ttl = message.word(record + 4).to_be();
        self.answer.is_v4 = v4 as u32;
        self.is_address.set((v4 | v6) as u32);
        Step::More
    }
}

impl Default for Records {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether an answer must not point a name here: loopback, link-local, multicast, broadcast, unspecified, or an IPv4 address wrapped for
/// NAT64 (RFC 6052, 2.1; RFC 8215).
#[inline(always)]
#[must_use]
pub fn is_special(address: Address) -> bool {
    let Address([a, b, c, d]) = address;
    if let Some([first, second, ..]) = address.v4() {
        return first == 0 || first == 127 || first >= 224 || first == 169 && second == 254;
    }
    let high = u32::from_be(a);
    let unspecified_or_loopback = a == 0 && b == 0 && c == 0 && u32::from_be(d) <= 1;
    let second = u32::from_be(b);
    let nat64 = high == 0x0064_ff9b && (second | c == 0 || second >> 16 == 1);
    unspecified_or_loopback || nat64 || high >> 22 == 0xfe80 >> 6 || high >> 24 == 0xff
}

/// The first place of the set that a question belongs to: of the socket with this cookie, with this id (network order), from this port.
#[inline(always)]
#[must_use]
pub const fn set_of(cookie: u64, id: u16, port: u32) -> u32 {
    let mixed = (cookie ^ (id as u64) << 16 ^ port as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as u32 & (QUESTION_SETS - 1)) * QUESTION_WAYS
}

/// Questions of one workload that may be open: so many sets. Many more than are ever open, since where a set is full, one of it is lost.
pub const QUESTION_SETS: u32 = 512;
/// Places of each set.
pub const QUESTION_WAYS: u32 = 8;
/// A question is answered within this time, or never.
pub const ANSWER_NS: u64 = 5_000_000_000;

/// A message in memory, for user space.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Message for Bytes<'_> {
    fn byte(&self, at: u32) -> u8 {
        self.0.get(at as usize).copied().unwrap_or(0)
    }

    fn end(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}
