//! What a test tells the program `ebfw_trial` of a flow, since no test run can carry it: names, claim and request. Map `TRIAL`, one entry.
//!
//! The agent itself never writes it, and no program that is attached reads it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{abi::NAMES_PER_ADDRESS, request::MAX_PATH};

/// Names of the flow and the claimed one, which is the last.
pub const NAMES: usize = NAMES_PER_ADDRESS as usize + 1;

/// The entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Trial {
    /// Verdict, reason and rule as they must come out: bits 0..8, 8..16, 16..32, and bit 33 if they are settled.
    pub expected: u64,
    /// Cookie of the network namespace whose learned names are those of the flow; 0: `names` are.
    pub netns: u64,
    /// [`crate::classify::claim`].
    pub claim: u32,
    /// [`crate::classify::request`].
    pub request: u32,
    /// Bytes of each name.
    pub name_lengths: [u32; NAMES],
    /// Bytes of the method.
    pub method_length: u32,
    /// Bytes of the path.
    pub path_length: u32,
    /// Number of the instance over whose automaton `ebfw_walk` walks.
    pub instance: u32,
    /// The names in lower case, the claimed one last.
    pub names: [[u8; 256]; NAMES],
    /// The method.
    pub method: [u8; 32],
    /// The path in its normal form.
    pub path: [u8; MAX_PATH],
}

/// What the program returns where all came out as it must; else the verdict.
pub const AS_EXPECTED: u32 = 3;
