//! What a Host, an authority or an absolute target names (RFC 3986, 3.2): a name or an address, then perhaps a port.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{facts::Facts, name::Reader};
use crate::abi::Address;

/// An authority as it is read.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Authority {
    /// Groups of an IPv6 address before `::`, from the left, and those behind it, from the right.
    front: [u64; 2],
    back: [u64; 2],
    /// [`part`].
    part: u32,
    /// The group that is read, and its digits.
    group: u32,
    digits: u32,
    /// [`colon`].
    colon: u32,
    /// Groups that were read; whether there was `::`.
    groups: u32,
    gap: u32,
    /// Digits of the port.
    port: u32,
    _pad: u32,
}

mod part {
    pub(super) const START: u32 = 0;
    pub(super) const NAME: u32 = 1;
    pub(super) const ADDRESS: u32 = 2;
    pub(super) const BEHIND_ADDRESS: u32 = 3;
    pub(super) const PORT: u32 = 4;
}

/// What stands before the present place of an IPv6 address.
mod colon {
    /// A digit, or nothing.
    pub(super) const NONE: u32 = 0;
    /// One behind a group.
    pub(super) const ONE: u32 = 1;
    /// Two.
    pub(super) const TWO: u32 = 2;
    /// One at the start.
    pub(super) const FIRST: u32 = 3;
}

/// The number of a hexadecimal digit; 16 or more: it is none.
#[inline(always)]
pub(super) const fn hex(byte: u8) -> u32 {
    match byte {
        b'0'..=b'9' => (byte - b'0') as u32,
        b'a'..=b'f' | b'A'..=b'F' => ((byte | 0x20) - b'a') as u32 + 10,
        _ => 16,
    }
}

impl Authority {
    #[inline(always)]
    pub(super) fn begin(&mut self, name: &mut Reader, facts: &mut Facts) {
        self.front = [0; 2];
        self.back = [0; 2];
        self.part = part::START;
        self.group = 0;
        self.digits = 0;
        self.colon = colon::NONE;
        self.groups = 0;
        self.gap = 0;
        self.port = 0;
        name.begin(facts);
    }

    /// Whether there was no byte.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.part == part::START
    }

    /// Takes a byte; `false` where no authority has it there, among them users: whom some servers take for the host.
    #[inline(always)]
    pub(super) fn push(&mut self, name: &mut Reader, facts: &mut Facts, byte: u8) -> bool {
        match self.part {
            part::START if byte == b'[' => self.part = part::ADDRESS,
            part::NAME | part::BEHIND_ADDRESS if byte == b':' => self.part = part::PORT,
            part::START | part::NAME => {
                self.part = part::NAME;
                return name.push(facts, byte);
            }
            part::ADDRESS => return self.address(name, facts, byte),
            part::PORT => {
                self.port += 1;
                return byte.is_ascii_digit() && self.port <= 5;
            }
            _ => return false,
        }
        true
    }

    /// Ends it; `false` if it is none.
    #[inline(always)]
    pub(super) fn finish(&mut self, name: &mut Reader, facts: &mut Facts) -> bool {
        match self.part {
            part::START | part::ADDRESS => false,
            // An address between brackets has been taken at its end.
            _ if self.groups != 0 || self.gap != 0 => true,
            _ => name.finish(facts),
        }
    }

    /// Takes a byte between brackets.
    #[inline(always)]
    fn address(&mut self, name: &mut Reader, facts: &mut Facts, byte: u8) -> bool {
        let digit = hex(byte);
        if digit < 16 {
            self.group = self.group << 4 | digit;
            self.digits += 1;
            let fits = self.digits <= 4 && self.colon != colon::FIRST;
            self.colon = colon::NONE;
            return fits;
        }
        let before = self.colon;
        if self.digits != 0 && !self.take_group() {
            return false;
        }
        if byte == b']' {
            self.part = part::BEHIND_ADDRESS;
            let halves = [
                (self.front[0] | self.back[0]).to_be(),
                (self.front[1] | self.back[1]).to_be(),
            ];
            let address = Address::from_halves(halves);
            name.literal(facts, address);
            let whole = if self.gap != 0 {
                self.groups < 8
            } else {
                self.groups == 8
            };
            return whole && (before == colon::NONE || before == colon::TWO);
        }
        let empty = self.groups == 0 && self.gap == 0;
        self.colon = match before {
            colon::NONE if empty => colon::FIRST,
            colon::NONE => colon::ONE,
            colon::ONE | colon::FIRST if self.gap == 0 => {
                self.gap = 1;
                colon::TWO
            }
            _ => return false,
        };
        byte == b':'
    }

    /// Ends a group.
    #[inline(always)]
    fn take_group(&mut self) -> bool {
        let group = u64::from(self.group);
        let place = 48 - 16 * (self.groups & 3);
        if self.gap != 0 {
            self.back[0] = self.back[0] << 16 | self.back[1] >> 48;
            self.back[1] = self.back[1] << 16 | group;
        } else if self.groups < 4 {
            self.front[0] |= group << place;
        } else {
            self.front[1] |= group << place;
        }
        self.group = 0;
        self.digits = 0;
        self.groups += 1;
        self.groups <= 8
    }
}
