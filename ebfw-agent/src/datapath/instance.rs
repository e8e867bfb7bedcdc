//! Instances: compiled rulesets in maps of their own, immutable once a slot points to them.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use ebfw_common::{
    abi::{Address, MAX_INSTANCES},
    layout::Block,
};
use ebfw_policy::{
    compile::{CompileError, Tables, compile},
    ruleset::Ruleset,
};

use super::{LoadError, map_error, slot::Slots, syscall, take};

/// `BPF_F_INNER_MAP`: an inner array may have any number of entries (kernel 5.10).
const F_INNER_MAP: u32 = 1 << 12;
/// `BPF_F_NO_PREALLOC`: what the kernel demands of tries.
const F_NO_PREALLOC: u32 = 1;

/// Why a ruleset cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There are too many different rulesets.
    #[error("more than {MAX_INSTANCES} different rulesets are loaded")]
    Full,
    /// The kernel refused a map or an entry.
    #[error("the kernel refused a table of the ruleset")]
    Map(#[from] Box<MapError>),
}

impl From<MapError> for InstanceError {
    fn from(error: MapError) -> Self {
        Self::Map(Box::new(error))
    }
}

/// A loaded ruleset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instance {
    /// Its index in the outer maps.
    pub(super) number: u32,
    /// Its serial.
    pub(super) serial: u32,
}

type Blocks = Array<MapData, Block>;
type Trie4 = LpmTrie<MapData, [u8; 4], u32>;
type Trie6 = LpmTrie<MapData, [u32; 4], u32>;

/// The outer maps and what this agent put into them.
pub(super) struct Instances {
    blocks: ArrayOfMaps<MapData, Blocks>,
    prefixes4: ArrayOfMaps<MapData, Trie4>,
    prefixes6: ArrayOfMaps<MapData, Trie6>,
    /// The same three, for what aya does not offer.
    outer: [OwnedFd; 3],
    loaded: HashMap<Arc<Ruleset>, Instance>,
    /// Numbers in use, those of an earlier agent included.
    occupied: HashSet<u32>,
}

impl Instances {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let (blocks, first) = outer(ebpf, "INSTANCES")?;
        let (prefixes4, second) = outer(ebpf, "PREFIXES4")?;
        let (prefixes6, third) = outer(ebpf, "PREFIXES6")?;
        let outer = [first, second, third];
        let occupied = (0..MAX_INSTANCES)
            .filter(|&number| {
                outer
                    .iter()
                    .any(|map| syscall::has_entry(map.as_fd(), number))
            })
            .collect();
        Ok(Self {
            blocks: ArrayOfMaps::try_from(blocks).map_err(map_error("INSTANCES"))?,
            prefixes4: ArrayOfMaps::try_from(prefixes4).map_err(map_error("PREFIXES4"))?,
            prefixes6: ArrayOfMaps::try_from(prefixes6).map_err(map_error("PREFIXES6"))?,
            outer,
            loaded: HashMap::new(),
            occupied,
        })
    }

    /// The instance of a ruleset, written if it is not loaded yet (then the second value is true).
    pub(super) fn load(
        &mut self,
        ruleset: &Arc<Ruleset>,
        slots: &Slots,
    ) -> Result<(Instance, bool), InstanceError> {
        if let Some(instance) = self.loaded.get(ruleset) {
            return Ok((*instance, false));
        }
        let tables = compile(ruleset)?;
        let number = (0..MAX_INSTANCES)
            .find(|number| !self.occupied.contains(number))
            .ok_or(InstanceError::Full)?;
        self.write(number, &tables)?;
        let instance = Instance {
            number,
            serial: slots.next_serial(),
        };
        self.occupied.insert(number);
        self.loaded.insert(Arc::clone(ruleset), instance);
        Ok((instance, true))
    }

    /// Fills maps of their own, then shows them in the outer ones.
    fn write(&mut self, number: u32, tables: &Tables) -> Result<(), MapError> {
        let mut blocks = Blocks::create(entries(tables.blocks.len()), F_INNER_MAP)?;
        for (index, block) in (0..).zip(&tables.blocks) {
            blocks.set(index, block, 0)?;
        }
        if !tables.v4.is_empty() {
            let mut trie = Trie4::create(entries(tables.v4.len()), F_NO_PREALLOC)?;
            for (prefix, class) in &tables.v4 {
                trie.insert(
                    &Key::new(u32::from(prefix.prefix_len()), prefix.network().octets()),
                    class,
                    0,
                )?;
            }
            self.prefixes4.set(number, &trie, 0)?;
        }
        if !tables.v6.is_empty() {
            let mut trie = Trie6::create(entries(tables.v6.len()), F_NO_PREALLOC)?;
            for (prefix, class) in &tables.v6 {
                let Address(words) = IpAddr::V6(prefix.network()).into();
                trie.insert(&Key::new(u32::from(prefix.prefix_len()), words), class, 0)?;
            }
            self.prefixes6.set(number, &trie, 0)?;
        }
        self.blocks.set(number, &blocks, 0)
    }

    /// Deletes all instances but these. The caller has waited until no program can still read them.
    pub(super) fn retain(&mut self, used: &HashSet<u32>) -> Result<(), MapError> {
        self.loaded
            .retain(|_, instance| used.contains(&instance.number));
        let unused: Vec<u32> = self.occupied.difference(used).copied().collect();
        for number in unused {
            for map in &self.outer {
                syscall::delete_entry(map.as_fd(), number).map_err(MapError::IoError)?;
            }
            self.occupied.remove(&number);
        }
        Ok(())
    }

    /// Kernel memory of all instances.
    pub(super) fn memory(&self) -> io::Result<u64> {
        let mut sum = 0;
        for map in &self.outer {
            for &number in &self.occupied {
                sum += syscall::memory_of_inner(map.as_fd(), number)?;
            }
        }
        Ok(sum)
    }
}

fn outer(ebpf: &mut Ebpf, name: &'static str) -> Result<(Map, OwnedFd), LoadError> {
    let map = take(ebpf, name);
    let Map::ArrayOfMaps(data) = &map else {
        panic!("{name} is an array of maps");
    };
    let fd = data
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| LoadError::Io {
            what: format!("open the map {name}"),
            source,
        })?;
    Ok((map, fd))
}

fn entries(count: usize) -> u32 {
    u32::try_from(count).expect("tables are far smaller than 4 Gi entries")
}
