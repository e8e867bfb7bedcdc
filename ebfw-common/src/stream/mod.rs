//! What a client says on a TCP connection, read byte by byte: names and requests.
//!
//! A [`Stream`] is memory: zeros are a connection of which nothing was read. [`Stream::begin`] is told the first byte, [`Stream::step`] takes
//! every byte in turn, and [`Stream::advance`] passes those over that need not be read. Where a step says [`Step::Head`], [`Stream::facts`]
//! hold what this head claims, until the next byte. Decides nothing, and knows neither packets nor policies.
//!
//! Written for the kernel's verifier, as `dns` is: numbers lie in memory, indexes are masked, a step has no loops.

mod authority;
mod facts;
mod hpack;
mod http;
mod http2;
mod huffman;
mod name;
mod path;
mod tls;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::{
    facts::{Facts, MAX_METHOD, MAX_PATH, MAX_PREFIX, flag},
    http2::Http2,
};
use self::{http::Http, name::Reader, tls::Tls};

/// What a byte led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// More is to come.
    More = 0,
    /// With this byte a name or a request is complete: [`Stream::facts`] are what to decide on. The stream goes on behind it.
    Head = 1,
    /// Neither TLS nor HTTP, or no longer: no name and no request will come.
    Opaque = 2,
    /// Nothing to come can change a fact.
    Finished = 3,
    /// What a server could read in another way than this reader; [`Stream::why`] says what it is.
    Malformed = 4,
    /// From here on HTTP/2: [`Stream::step_http2`] with a zeroed [`Http2`].
    Http2 = 5,
    /// The same byte is to be read again.
    Again = 6,
}

impl Step {
    /// The step of this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::More,
            1 => Self::Head,
            2 => Self::Opaque,
            3 => Self::Finished,
            5 => Self::Http2,
            6 => Self::Again,
            _ => Self::Malformed,
        }
    }
}

/// Why a stream is malformed. Numbers, since they cross the kernel's border.
pub mod why {
    /// It is not.
    pub const NONE: u32 = 0;
    /// A TLS record of a version, kind or length that has no place there.
    pub const RECORD: u32 = 1;
    /// A length inside a `ClientHello` that does not fit its surroundings.
    pub const HELLO_LENGTH: u32 = 2;
    /// A `ClientHello` with two server names.
    pub const TWO_NAMES: u32 = 3;
    /// A name with a byte that no name has, an empty part, or longer than names are.
    pub const NAME: u32 = 4;
    /// A first line of HTTP that is not as it should be.
    pub const REQUEST_LINE: u32 = 5;
    /// A target with a byte that some servers read as another, too long or too deep.
    pub const TARGET: u32 = 6;
    /// A line that does not end where it should: a bare CR.
    pub const LINE: u32 = 7;
    /// A field without a proper name, folded, or with a control character.
    pub const FIELD: u32 = 8;
    /// Two hosts, or one that is not the target's.
    pub const TWO_HOSTS: u32 = 9;
    /// No host, where there must be one.
    pub const NO_HOST: u32 = 10;
    /// A body whose length cannot be told, or that servers tell in different ways.
    pub const BODY: u32 = 11;
    /// A frame of HTTP/2 that has no place there, or does not fit its length.
    pub const FRAME: u32 = 12;
    /// A reference into a table that is not there, or a table that is larger than what is kept.
    pub const TABLE: u32 = 13;
    /// Nothing to decide on after so many bytes ([`super::MAX_WAIT`]).
    pub const LONG: u32 = 14;
}

/// Protocols, [`Stream::protocol`].
pub mod protocol {
    /// No byte was seen.
    pub const UNKNOWN: u32 = 0;
    /// TLS.
    pub const TLS: u32 = 1;
    /// HTTP/1.
    pub const HTTP1: u32 = 2;
    /// HTTP/2 without TLS.
    pub const HTTP2: u32 = 3;
    /// None of these.
    pub const OTHER: u32 = 4;
}

/// Bytes that a client may send before there is something to decide: no server takes longer heads, and what waits for a decision passes until
/// then.
pub const MAX_WAIT: u32 = 1 << 16;

/// A connection's bytes from the client, as far as they were read.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stream {
    /// Bytes to come that need not be read.
    skip: u64,
    protocol: u32,
    /// [`why`].
    why: u32,
    /// The last [`Step`] if it was the end, else 0.
    end: u32,
    /// Bytes since there was something to decide.
    waited: u32,
    /// Whether there was something to decide.
    judged: u32,
    _pad: u32,
    name: Reader,
    tls: Tls,
    http: Http,
    facts: Facts,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Stream {
    fn new_zeroed() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }

    /// What the head that was read last claims.
    #[inline(always)]
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// [`protocol`].
    #[inline(always)]
    #[must_use]
    pub fn protocol(&self) -> u32 {
        self.protocol
    }

    /// [`why`], where a step said [`Step::Malformed`].
    #[inline(always)]
    #[must_use]
    pub fn why(&self) -> u32 {
        self.why
    }

    /// Passes over bytes that need not be read, at most `available`; says how many.
    #[inline(always)]
    pub fn advance(&mut self, available: u64) -> u64 {
        let mut passed = if self.skip < available {
            self.skip
        } else {
            available
        };
        if self.judged == 0 {
            let left = u64::from(MAX_WAIT.saturating_sub(self.waited));
            if passed > left {
                passed = left;
            }
            self.waited += passed as u32;
        }
        self.skip -= passed;
        passed
    }

    /// How many bytes may be passed over as long as [`Stream::is_idle`] says so of each: of a stream of HTTP/1, of the value of a field that
    /// says nothing. [`Stream::idle`] is told how many were.
    #[inline(always)]
    #[must_use]
    pub fn idles(&self) -> u32 {
        if self.skip == 0 && self.http.is_idle() {
            MAX_WAIT.saturating_sub(self.waited)
        } else {
            0
        }
    }

    /// Whether a byte may be passed over. Cheaper than a step, which also finds nothing in it.
    #[inline(always)]
    #[must_use]
    pub const fn is_idle(byte: u8) -> bool {
        http::is_in_values(byte)
    }

    /// Passes over bytes, at most as many as [`Stream::idles`] said.
    #[inline(always)]
    pub fn idle(&mut self, bytes: u32) {
        self.waited += bytes;
    }

    /// Bytes until the next head of HTTP/1 begins, where that is known.
    #[inline(always)]
    #[must_use]
    pub fn until_head(&self) -> Option<u64> {
        let between =
            self.is_fresh() || self.protocol == protocol::HTTP1 && self.http.is_between_heads();
        between.then_some(self.skip)
    }

    /// What came so far belongs to what was decided on, if anything was.
    #[inline(always)]
    fn restart_wait(&mut self) {
        if self.judged != 0 {
            self.waited = 0;
        }
    }

    /// Whether the next byte would be the first.
    #[inline(always)]
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.protocol == protocol::UNKNOWN
    }

    /// Sees from a fresh stream's first byte, which is not read with that, what it is.
    #[inline(always)]
    pub fn begin(&mut self, first: u8) {
        self.protocol = if tls::begins(first) {
            protocol::TLS
        } else if http::begins(first) {
            protocol::HTTP1
        } else {
            protocol::OTHER
        };
    }

    /// Reads a byte of a stream that is not HTTP/2. [`Stream::begin`] must have seen the first.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> Step {
        if self.end != 0 {
            return Step::from_number(self.end);
        }
        match self.protocol {
            protocol::TLS => self.step_tls(byte),
            protocol::HTTP1 => self.step_http(byte),
            _ => self.ended(Step::Opaque),
        }
    }

    /// As [`Stream::step`], for a stream that is TLS.
    #[inline(always)]
    pub fn step_tls(&mut self, byte: u8) -> Step {
        if self.advance(1) != 0 {
            return Step::More;
        }
        let step = if self.waited >= MAX_WAIT {
            self.malformed(why::LONG)
        } else {
            tls::step(self, byte)
        };
        self.ended(step)
    }

    /// As [`Stream::step`], for a stream that is HTTP/1.
    #[inline(always)]
    pub fn step_http(&mut self, byte: u8) -> Step {
        if self.advance(1) != 0 {
            return Step::More;
        }
        let step = if self.waited >= MAX_WAIT {
            self.malformed(why::LONG)
        } else {
            http::step(self, byte)
        };
        self.ended(step)
    }

    /// As [`Stream::step`], for a stream that is HTTP/2. May say [`Step::Again`].
    #[inline(always)]
    pub fn step_http2(&mut self, http2: &mut Http2, byte: u8) -> Step {
        if self.advance(1) != 0 {
            return Step::More;
        }
        let step = if self.waited >= MAX_WAIT {
            self.malformed(why::LONG)
        } else {
            http2::step(self, http2, byte)
        };
        self.ended(step)
    }

    /// The step that ended the stream; [`Step::More`] where it has not ended.
    #[inline(always)]
    #[must_use]
    pub fn end(&self) -> Step {
        Step::from_number(self.end)
    }

    #[inline(always)]
    fn ended(&mut self, step: Step) -> Step {
        match step {
            Step::Http2 | Step::Again => return step,
            Step::Head => {
                self.waited = 0;
                self.judged = 1;
                return step;
            }
            Step::More => {
                self.waited += 1;
                return step;
            }
            Step::Opaque | Step::Finished | Step::Malformed => {}
        }
        self.end = step as u32;
        step
    }

    #[inline(always)]
    fn malformed(&mut self, why: u32) -> Step {
        self.why = why;
        Step::Malformed
    }
}
