//! The tables of one instance, as the classifier reads them from the maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use ebfw_common::{
    abi::Address,
    classify::{TableError, Tables},
    layout::Block,
};

use crate::maps::{Blocks, INSTANCES, PREFIXES4, PREFIXES6};

/// An instance whose blocks were found; they cannot change or go while the program runs.
pub struct Instance {
    number: u32,
    blocks: &'static Blocks,
}

impl Instance {
    /// The instance with this number, if it is loaded.
    #[inline(always)]
    pub fn get(number: u32) -> Option<Self> {
        Some(Self {
            number,
            blocks: INSTANCES.get(number)?,
        })
    }
}

impl Tables for Instance {
    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index)
    }

    #[inline(always)]
    fn class_v4(&self, address: [u8; 4]) -> Result<Option<u32>, TableError> {
        let prefixes = PREFIXES4.get(self.number).ok_or(TableError)?;
        Ok(prefixes.get(&Key::new(32, address)).copied())
    }

    #[inline(always)]
    fn class_v6(&self, address: Address) -> Result<Option<u32>, TableError> {
        let prefixes = PREFIXES6.get(self.number).ok_or(TableError)?;
        Ok(prefixes.get(&Key::new(128, address)).copied())
    }
}
