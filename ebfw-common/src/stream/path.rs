//! A request's path, brought to its normal form while it is read: as `ebfw_policy::http::RequestPath` has it, byte for byte.
//!
//! Escapes are written as they come and replaced once they are whole. A segment is kept or taken back at its end; where it began is
//! remembered, so that what is longer than the memory for it still comes out right behind `..`.
//!
//! Some servers take an encoded slash or backslash for the border of a segment, and leave out what is behind a semicolon. Where that would make
//! `.` or `..` of a part of a segment (`..%2f`, `..;`), the path is refused: it would lead them elsewhere, and no honest client writes it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    authority::hex,
    facts::{Facts, MAX_PATH, masked},
};

/// Segments of a path that can be open at once.
const MAX_DEPTH: u32 = 64;
/// Bytes of a path at most: no server takes more.
const MAX_BYTES: u32 = 65_000;

/// A path as it is read.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Path {
    /// Where the present segment begins.
    segment: u32,
    /// Segments before it.
    depth: u32,
    /// The last four bytes.
    last: u32,
    /// 1: behind `%`. Else the first digit of an escape, or 0.
    escape: u32,
    /// Where the part of the segment begins that is behind an encoded slash.
    part: u32,
    _pad: u32,
    /// Where they begin.
    starts: [u16; MAX_DEPTH as usize],
}

const PERCENT: u32 = 1;

#[inline(always)]
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether `size` bytes that end with `last` are `.` or `..`. One comparison: each is a branch in the kernel, and followed both ways.
#[inline(always)]
const fn is_dots(size: u32, last: u32) -> bool {
    const DOTS: u32 = (b'.' as u32) << 8 | b'.' as u32;
    let other_size = size.wrapping_sub(1) & !1;
    let counted = 0xffff >> (16u32.wrapping_sub(8u32.wrapping_mul(size)) & 31);
    (other_size | (last ^ DOTS) & counted) == 0
}

impl Path {
    /// Begins with the first slash.
    #[inline(always)]
    pub(super) fn begin(&mut self, facts: &mut Facts) {
        self.segment = 1;
        self.depth = 0;
        self.last = 0;
        self.escape = 0;
        self.part = 1;
        facts.path_length = 0;
        self.write(facts, b'/');
    }

    /// Takes a byte of the path; `false` where it is too long, too deep, or leads elsewhere with some servers.
    #[inline(always)]
    pub(super) fn push(&mut self, facts: &mut Facts, byte: u8) -> bool {
        let escape = self.escape;
        self.escape = 0;
        let mut written = byte;
        let is_digit = hex(byte) < 16;
        if is_digit && escape == PERCENT {
            self.escape = u32::from(byte);
        } else if is_digit && escape != 0 {
            let meant = (hex(escape as u8) << 4 | hex(byte)) as u8;
            let splits = matches!(meant, b'/' | b'\\');
            // Of the escape two bytes were written.
            let before = is_dots(facts.path_length - 2 - self.part, self.last >> 16);
            if meant == 0 || before && (splits || meant == b';') {
                return false;
            }
            if splits {
                self.part = facts.path_length + 1;
            }
            written = self.unescape(facts, escape as u8, byte);
        } else if byte == b';' && is_dots(facts.path_length - self.part, self.last) {
            return false;
        } else if byte == b'%' {
            self.escape = PERCENT;
        } else if byte == b'/' {
            return self.slash(facts);
        }
        self.write(facts, written);
        facts.path_length < MAX_BYTES
    }

    /// Ends the path; `false` as in [`Path::push`].
    #[inline(always)]
    #[must_use]
    pub(super) fn finish(&mut self, facts: &mut Facts) -> bool {
        let leads_elsewhere = self.leads_elsewhere(facts);
        self.close(facts);
        !leads_elsewhere
    }

    /// Whether the last part of a segment with encoded slashes is `.` or `..`.
    #[inline(always)]
    fn leads_elsewhere(&self, facts: &Facts) -> bool {
        self.part != self.segment && is_dots(facts.path_length - self.part, self.last)
    }

    /// Replaces what was written of an escape; returns the byte that is still to be written.
    #[inline(always)]
    fn unescape(&mut self, facts: &mut Facts, first: u8, second: u8) -> u8 {
        let byte = (hex(first) << 4 | hex(second)) as u8;
        if is_unreserved(byte) {
            facts.path_length -= 2;
            self.last >>= 16;
            return byte;
        }
        facts.path_length -= 1;
        self.last >>= 8;
        self.write(facts, first.to_ascii_uppercase());
        second.to_ascii_uppercase()
    }

    /// Ends a segment and begins the next.
    #[inline(always)]
    fn slash(&mut self, facts: &mut Facts) -> bool {
        if self.leads_elsewhere(facts) {
            return false;
        }
        if self.close(facts) {
            if self.depth >= MAX_DEPTH {
                return false;
            }
            self.starts[masked(self.depth, MAX_DEPTH - 1)] = self.segment as u16;
            self.depth += 1;
            self.write(facts, b'/');
            self.segment = facts.path_length;
        }
        self.part = self.segment;
        true
    }

    /// Ends a segment; `false` if nothing is left of it.
    #[inline(always)]
    fn close(&mut self, facts: &mut Facts) -> bool {
        let size = facts.path_length - self.segment;
        let dots = is_dots(size, self.last);
        let up = dots && size == 2;
        let kept = size != 0 && !dots;
        if up && self.depth != 0 {
            self.depth -= 1;
            let start = self.starts[masked(self.depth, MAX_DEPTH - 1)];
            self.segment = u32::from(start);
        }
        if !kept {
            facts.path_length = self.segment;
        }
        kept
    }

    #[inline(always)]
    fn write(&mut self, facts: &mut Facts, byte: u8) {
        let length = facts.path_length;
        if length < MAX_PATH as u32 {
            facts.path[masked(length, MAX_PATH as u32 - 1)] = byte;
        }
        self.last = self.last << 8 | u32::from(byte);
        facts.path_length = length + 1;
    }
}
