//! The name in a server name, a Host or an authority: lower case, no dot at its end, addresses told apart.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::facts::{Facts, flag, masked};
use crate::{
    abi::{Address, MAX_NAME},
    dns::lower,
};

/// A name as it is read. Zeros are the start.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Reader {
    /// The four numbers of an IPv4 address, as far as they were read; the last one apart.
    quad: u32,
    octet: u32,
    /// Digits of `octet`; `NOT_A_NUMBER` or more: this is no IPv4 address.
    digits: u32,
    /// Dots.
    dots: u32,
    /// Whether the last byte was a dot.
    dot: u32,
    /// Not 0: this is another name than the one that the facts had before.
    differs: u32,
}

const NOT_A_NUMBER: u32 = 4;

/// Whether a byte may stand in a name.
#[inline(always)]
const fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.'
}

impl Reader {
    #[inline(always)]
    pub(super) fn begin(&mut self, facts: &mut Facts) {
        self.quad = 0;
        self.octet = 0;
        self.digits = 0;
        self.dots = 0;
        self.dot = 1;
        self.differs = 0;
        facts.name_length = 0;
    }

    /// Whether the name is another one than the facts had before, of `length` bytes or an address; asked once it is finished.
    #[inline(always)]
    pub(super) fn differs(&self, facts: &Facts, length: u32) -> bool {
        self.differs != 0 || facts.name_length != length
    }

    /// Ends with an address instead of a name.
    #[inline(always)]
    pub(super) fn literal(&mut self, facts: &mut Facts, address: Address) {
        self.differs |= u32::from(facts.address != address);
        facts.address = address;
        facts.flags |= flag::LITERAL;
    }

    /// Takes a byte; `false` where no name has it there.
    #[inline(always)]
    pub(super) fn push(&mut self, facts: &mut Facts, byte: u8) -> bool {
        let length = facts.name_length;
        let byte = lower(byte);
        // One more than fits, for the dot at the end.
        if !is_in_names(byte) || length > MAX_NAME as u32 {
            return false;
        }
        let place = &mut facts.name[masked(length, 0xff)];
        self.differs |= u32::from(*place ^ byte);
        *place = byte;
        facts.name_length = length + 1;
        if byte == b'.' {
            if self.dot != 0 {
                return false;
            }
            self.dot = 1;
            self.quad = self.quad << 8 | self.octet;
            self.dots += 1;
            self.octet = 0;
            self.digits &= NOT_A_NUMBER;
            return true;
        }
        self.dot = 0;
        // A zero before other digits makes a number that some read as octal.
        let zero_first = self.digits == 1 && self.octet == 0;
        if !byte.is_ascii_digit() || zero_first || self.digits >= NOT_A_NUMBER {
            self.digits = NOT_A_NUMBER;
            return true;
        }
        self.octet = self.octet * 10 + u32::from(byte - b'0');
        self.digits += 1;
        if self.octet > 255 {
            self.digits = NOT_A_NUMBER;
        }
        true
    }

    /// Ends the name; `false` if it is none.
    #[inline(always)]
    pub(super) fn finish(&mut self, facts: &mut Facts) -> bool {
        if self.dots == 3 && self.digits < NOT_A_NUMBER && self.dot == 0 {
            let address = self.quad << 8 | self.octet;
            self.literal(facts, Address::mapped(address.to_be_bytes()));
            return true;
        }
        facts.name_length -= self.dot;
        facts.flags |= flag::NAME;
        facts.name_length != 0 && facts.name_length <= MAX_NAME as u32
    }
}
