//! Slots: one 64-bit word a workload, in memory that is shared with the kernel, so that a policy is switched by one store.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Map, MapData};
use ebfw_common::abi::{MAX_SLOTS, SlotRef, SlotWord, slot_flag};

use super::{LoadError, names, syscall};

/// The slots. Slot 0 is never given: a zeroed reference means none.
pub(super) struct Slots {
    memory: syscall::SharedWords,
    /// The programs name their maps by the number of this very descriptor until they are loaded.
    _map: MapData,
    /// Free slots, the longest unused at the end: each next use has another generation.
    free: VecDeque<u32>,
}

impl Slots {
    pub(super) fn map(map: Map) -> Result<Self, LoadError> {
        let Map::Array(map) = map else {
            panic!("SLOTS is an array");
        };
        let memory =
            syscall::SharedWords::map(map.fd().as_fd(), MAX_SLOTS as usize).map_err(|source| {
                LoadError::Io {
                    what: "map the memory of SLOTS".into(),
                    source,
                }
            })?;
        let is_free = |index: &u32| {
            !SlotWord(memory.words()[*index as usize].load(Ordering::Acquire)).has(slot_flag::LIVE)
        };
        let free = (1..MAX_SLOTS).filter(is_free).collect();
        Ok(Self {
            memory,
            _map: map,
            free,
        })
    }

    fn word(&self, index: u32) -> &AtomicU64 {
        &self.memory.words()[index as usize]
    }

    /// A serial that no instance ever had, for instance `number`. The last one lies in slot 0, so that it survives the agent: a socket could
    /// still hold a verdict of an instance that is long gone. Beside it lies the end of the numbers that were ever used.
    pub(super) fn next_serial(&self, number: u32) -> u32 {
        let last = SlotWord(self.word(0).load(Ordering::Acquire));
        let next = last.serial().wrapping_add(1).max(1);
        let end = self.instances_end().max(number + 1);
        let end = u16::try_from(end).expect("there are at most MAX_INSTANCES, which fits");
        // Without the flag `LIVE`: the word must never look like a workload's.
        self.store(0, SlotWord::new(end, 0, 0, next));
        next
    }

    /// All instances that may be loaded have numbers below this.
    pub(super) fn instances_end(&self) -> u32 {
        SlotWord(self.word(0).load(Ordering::Acquire)).instance()
    }

    /// Whether the workload that `slot` names is still there.
    pub(super) fn hold(&self, slot: SlotRef) -> bool {
        slot.index() < MAX_SLOTS && names::holds(self.read(slot), slot)
    }

    /// What the slot holds now.
    pub(super) fn read(&self, slot: SlotRef) -> SlotWord {
        SlotWord(self.word(slot.index()).load(Ordering::Acquire))
    }

    /// A free slot in a generation that no reference has.
    pub(super) fn take(&mut self) -> Option<SlotRef> {
        let index = self.free.pop_front()?;
        let generation = SlotWord(self.word(index).load(Ordering::Acquire))
            .generation()
            .wrapping_add(1);
        Some(SlotRef::new(index, generation))
    }

    pub(super) fn store(&self, index: u32, word: SlotWord) {
        self.word(index).store(word.0, Ordering::Release);
    }

    /// Takes a slot out of use; its generation stays behind for the next use.
    pub(super) fn free(&mut self, slot: SlotRef) {
        self.store(slot.index(), SlotWord::new(0, 0, slot.generation(), 0));
        self.free.push_back(slot.index());
    }
}
