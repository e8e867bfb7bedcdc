//! What one head claims: a name, a method, a path.

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::{Address, MAX_NAME};

/// Bytes of a method at most; a longer one is malformed.
pub const MAX_METHOD: usize = 24;
/// Bytes of a path that are kept; of a longer one the start is known ([`flag::CUT`]).
pub const MAX_PATH: usize = 512;
/// Bytes of a rule's path prefix at most, in its normal form: what follows the prefix must be known too.
pub const MAX_PREFIX: usize = MAX_PATH - 1;

/// Flags of [`Facts::flags`].
pub mod flag {
    /// A name is claimed: [`super::Facts::name`].
    pub const NAME: u32 = 1;
    /// An address is claimed instead of a name: [`super::Facts::address`].
    pub const LITERAL: u32 = 2;
    /// There is a request: [`super::Facts::method`] and [`super::Facts::path`].
    pub const REQUEST: u32 = 4;
    /// The hello has an encrypted one in it; the name is that of the outer.
    pub const ECH: u32 = 8;
    /// The path is longer than what is kept of it.
    pub const CUT: u32 = 16;
}

/// What a head claims. Neither [`flag::NAME`] nor [`flag::LITERAL`]: it claims no name.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Facts {
    /// [`flag`]s.
    pub flags: u32,
    /// Bytes of `name`.
    pub name_length: u32,
    /// Bytes of `method`.
    pub method_length: u32,
    /// Bytes of `path`, as long as the whole path may be: at most [`MAX_PATH`] of them are kept.
    pub path_length: u32,
    /// Bytes of the query with its question mark that are kept, behind the path: as many as there is room for.
    pub query_length: u32,
    /// Zero.
    pub _pad: u32,
    /// The address that is claimed.
    pub address: Address,
    /// The name in lower case, without a dot at its end, as [`crate::names`] reads it.
    pub name: [u8; 256],
    /// The method as it was sent.
    pub method: [u8; 32],
    /// The path in its normal form, and behind it the query as it was sent.
    pub path: [u8; MAX_PATH],
}

const _: () = assert!(MAX_NAME < 256 && MAX_METHOD < 32);

impl Facts {
    /// Whether all of these [`flag`]s are set.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// The name that is claimed.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        let length = self.name_length as usize;
        self.has(flag::NAME).then(|| self.name.get(..length))?
    }

    /// The address that is claimed instead of a name.
    #[must_use]
    pub fn literal(&self) -> Option<Address> {
        self.has(flag::LITERAL).then_some(self.address)
    }

    /// The method and the path, or what is kept of it.
    #[must_use]
    pub fn request(&self) -> Option<(&[u8], &[u8])> {
        let path = (self.path_length as usize).min(MAX_PATH);
        let method = self.method.get(..self.method_length as usize)?;
        self.has(flag::REQUEST)
            .then_some((method, self.path.get(..path)?))
    }

    /// The path, or what is kept of it, and behind it what is kept of the query.
    #[must_use]
    pub fn path_and_query(&self) -> &[u8] {
        let length = (self.path_length as usize).saturating_add(self.query_length as usize);
        &self.path[..length.min(MAX_PATH)]
    }

    /// Forgets the head before.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.flags = 0;
        self.name_length = 0;
        self.method_length = 0;
        self.path_length = 0;
        self.query_length = 0;
    }

    /// Keeps a byte of the query, behind a path that is finished.
    #[inline(always)]
    pub(super) fn push_query(&mut self, byte: u8) {
        let at = self.path_length + self.query_length;
        if at < MAX_PATH as u32 {
            self.path[masked(at, MAX_PATH as u32 - 1)] = byte;
            self.query_length += 1;
        }
    }
}

/// `index & mask`, which the compiler does not leave out where it knows better: the verifier does not.
#[inline(always)]
pub(super) fn masked(index: u32, mask: u32) -> usize {
    (black_box(index) & mask) as usize
}
