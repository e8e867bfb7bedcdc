//! Instances: compiled rulesets in maps of their own, immutable once a slot points to them.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, ArrayOfMaps, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use ebfw_common::{
    abi::{Address, MAX_AUTOMATA, MAX_INSTANCES},
    layout::Block,
    names::{CHUNK_CELLS, SYMBOLS},
};
use ebfw_policy::{
    compile::{CompileError, Names, Tables, compile},
    ruleset::Ruleset,
};
use ipnet::{Ipv4Net, Ipv6Net};
use zerocopy::{Immutable, IntoBytes};

use super::{
    LoadError, map_error,
    reclaim::{Outer, Reclaimer, Unused},
    slot::Slots,
    syscall, take,
};

/// `BPF_F_INNER_MAP`: an inner array may have any number of entries (kernel 5.10).
const F_INNER_MAP: u32 = 1 << 12;
/// `BPF_F_MMAPABLE`: an array whose memory user space can write.
const F_MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: what the kernel demands of tries.
const F_NO_PREALLOC: u32 = 1;

/// Changes of policy whose old tables may wait to be deleted. More would only fill memory.
const MOST_PENDING: usize = 8;

/// Why a ruleset cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There are too many different rulesets.
    #[error("more than {MAX_INSTANCES} different rulesets are loaded")]
    Full,
    /// The automata of earlier policies are not deleted yet.
    #[error("more than {MAX_AUTOMATA} automata of domain patterns are loaded")]
    ManyAutomata,
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

/// A loaded automaton of domain patterns.
struct Automaton {
    names: Arc<Names>,
    number: u32,
    serial: u32,
}

type Blocks = Array<MapData, Block>;
type Cells = Array<MapData, [u32; CHUNK_CELLS]>;
type Trie4 = LpmTrie<MapData, [u8; 4], u32>;
type Trie6 = LpmTrie<MapData, [u32; 4], u32>;

/// The outer maps and what this agent put into them.
pub(super) struct Instances {
    blocks: ArrayOfMaps<MapData, Blocks>,
    prefixes4: ArrayOfMaps<MapData, Trie4>,
    prefixes6: ArrayOfMaps<MapData, Trie6>,
    /// The same three in that order, for what aya does not offer.
    outer: [OwnedFd; 3],
    loaded: HashMap<Arc<Ruleset>, Instance>,
    automata: ArrayOfMaps<MapData, Cells>,
    automata_fd: OwnedFd,
    /// The one whose classes the loaded instances know.
    automaton: Option<Automaton>,
    /// Numbers of automata in use, those of an earlier agent included.
    walked: HashSet<u32>,
    /// Numbers in use, those of an earlier agent included.
    occupied: HashSet<u32>,
    reclaimer: Reclaimer,
    /// Of the numbers in use those that the reclaimer has: of instances and of automata.
    given: [HashSet<u32>; 2],
}

impl Instances {
    pub(super) fn open(ebpf: &mut Ebpf, slots: &Slots, adopted: bool) -> Result<Self, LoadError> {
        let (blocks, first) = outer(ebpf, "INSTANCES")?;
        let (prefixes4, second) = outer(ebpf, "PREFIXES4")?;
        let (prefixes6, third) = outer(ebpf, "PREFIXES6")?;
        let (automata, automata_fd) = outer(ebpf, "AUTOMATA")?;
        let outer = [first, second, third];
        let walked = (0..MAX_AUTOMATA)
            .filter(|&number| adopted && syscall::has_entry(automata_fd.as_fd(), number))
            .collect();
        // Not all that could be: kernel 6.1 waits for a grace period with every look-up.
        let occupied = (0..slots.instances_end())
            .filter(|&number| syscall::has_entry(outer[0].as_fd(), number))
            .collect();
        let clone = |fd: &OwnedFd| fd.try_clone();
        let start = || {
            Reclaimer::start(Outer {
                blocks: clone(&outer[0])?,
                prefixes: [clone(&outer[1])?, clone(&outer[2])?],
                automata: clone(&automata_fd)?,
            })
        };
        let reclaimer = start().map_err(|source| LoadError::Io {
            what: "start the thread that deletes old tables".into(),
            source,
        })?;
        Ok(Self {
            blocks: ArrayOfMaps::try_from(blocks).map_err(map_error("INSTANCES"))?,
            prefixes4: ArrayOfMaps::try_from(prefixes4).map_err(map_error("PREFIXES4"))?,
            prefixes6: ArrayOfMaps::try_from(prefixes6).map_err(map_error("PREFIXES6"))?,
            outer,
            loaded: HashMap::new(),
            occupied,
            automata: ArrayOfMaps::try_from(automata).map_err(map_error("AUTOMATA"))?,
            automata_fd,
            automaton: None,
            walked,
            reclaimer,
            given: Default::default(),
        })
    }

    /// The instance of a ruleset, written if it is not loaded yet (then the second value is true). `names` are all patterns of the policy.
    pub(super) fn load(
        &mut self,
        ruleset: &Arc<Ruleset>,
        names: &Arc<Names>,
        slots: &Slots,
    ) -> Result<(Instance, bool), InstanceError> {
        let by_name = ruleset.reads_names();
        if by_name {
            self.walk(names, slots)?;
        }
        if let Some(instance) = self.loaded.get(ruleset) {
            return Ok((*instance, false));
        }
        let mut tables = compile(ruleset, &**names)?;
        if by_name && let Some(automaton) = &self.automaton {
            let header = tables.header_mut();
            header.automaton = automaton.number;
            header.automaton_serial = automaton.serial;
            header.automaton_root = automaton.names.root();
        }
        let number = loop {
            if let Some(number) = (0..MAX_INSTANCES).find(|number| !self.occupied.contains(number))
            {
                break number;
            }
            if !self.wait_for_room()? {
                return Err(InstanceError::Full);
            }
        };
        let instance = Instance {
            number,
            serial: slots.next_serial(number),
        };
        self.write(number, &tables)?;
        self.occupied.insert(number);
        self.loaded.insert(Arc::clone(ruleset), instance);
        Ok((instance, true))
    }

    /// Loads the automaton of `names`, unless it is the one that is loaded. Instances that know the classes of another are written anew
    /// when they are wanted next.
    fn walk(&mut self, names: &Arc<Names>, slots: &Slots) -> Result<(), InstanceError> {
        if let Some(automaton) = &self.automaton
            && (Arc::ptr_eq(&automaton.names, names) || *automaton.names == **names)
        {
            return Ok(());
        }
        let number = loop {
            if let Some(number) = (0..MAX_AUTOMATA).find(|number| !self.walked.contains(number)) {
                break number;
            }
            if !self.wait_for_room()? {
                return Err(InstanceError::ManyAutomata);
            }
        };
        let cells = names.cells();
        // The kernel asks for any symbol of any state: room for all of them behind the last cell.
        let chunks = (cells.len() + SYMBOLS as usize).div_ceil(CHUNK_CELLS);
        let map = Cells::create(entries(chunks), F_INNER_MAP | F_MMAPABLE)?;
        let memory = syscall::SharedWords::map(map.map().fd().as_fd(), chunks * CHUNK_CELLS / 2)
            .map_err(MapError::IoError)?;
        for (word, pair) in memory.words().iter().zip(cells.chunks(2)) {
            let pair = [pair[0], pair.get(1).copied().unwrap_or(0)];
            word.store(zerocopy::transmute!(pair), Ordering::Relaxed);
        }
        self.automata.set(number, &map, 0)?;
        self.walked.insert(number);
        self.automaton = Some(Automaton {
            names: Arc::clone(names),
            number,
            serial: slots.next_serial(0),
        });
        self.loaded.retain(|ruleset, _| !ruleset.reads_names());
        Ok(())
    }

    /// Fills maps of their own, then shows them in the outer ones: the blocks first, by which the next agent knows that the number is taken.
    fn write(&mut self, number: u32, tables: &Tables) -> Result<(), MapError> {
        let mut blocks = Blocks::create(entries(tables.blocks.len()), F_INNER_MAP)?;
        for (index, block) in (0..).zip(&tables.blocks) {
            blocks.set(index, block, 0)?;
        }
        self.blocks.set(number, &blocks, 0)?;
        if !tables.v4.is_empty() {
            let (keys, classes): (Vec<_>, Vec<_>) = tables.v4.iter().map(entry4).unzip();
            let trie = filled(&keys, &classes)?;
            self.prefixes4.set(number, &trie, 0)?;
        }
        if !tables.v6.is_empty() {
            let (keys, classes): (Vec<_>, Vec<_>) = tables.v6.iter().map(entry6).unzip();
            let trie = filled(&keys, &classes)?;
            self.prefixes6.set(number, &trie, 0)?;
        }
        Ok(())
    }

    /// Has all instances but these deleted, in the background, after a grace period: no slot leads to them any more.
    ///
    /// # Errors
    ///
    /// Where something that an earlier call was about could not be deleted. It is tried again with the next call.
    pub(super) fn retain(&mut self, used: &HashSet<u32>) -> io::Result<()> {
        self.loaded
            .retain(|_, instance| used.contains(&instance.number));
        let current = self.automaton.as_ref().map(|automaton| automaton.number);
        let [instances, automata] = &mut self.given;
        let unused = Unused {
            instances: (self.occupied.iter().copied())
                .filter(|number| !used.contains(number) && instances.insert(*number))
                .collect(),
            automata: (self.walked.iter().copied())
                .filter(|number| Some(*number) != current && automata.insert(*number))
                .collect(),
        };
        if !(unused.instances.is_empty() && unused.automata.is_empty()) {
            self.reclaimer.give(unused);
        }
        self.settle(MOST_PENDING)
    }

    /// Takes note of what was deleted. Waits while more than `most` changes are pending.
    fn settle(&mut self, most: usize) -> io::Result<()> {
        let mut result = Ok(());
        while let Some(answer) = self.reclaimer.answer(most) {
            let Unused {
                instances,
                automata,
            } = &answer.unused;
            let [first, second] = &mut self.given;
            let numbers = [
                (instances, first, &mut self.occupied),
                (automata, second, &mut self.walked),
            ];
            for (numbers, given, taken) in numbers {
                for number in numbers {
                    given.remove(number);
                    if answer.result.is_ok() {
                        taken.remove(number);
                    }
                }
            }
            result = result.and(answer.result);
        }
        result
    }

    /// Waits until something more was deleted; false where nothing is being deleted.
    fn wait_for_room(&mut self) -> Result<bool, MapError> {
        let Some(less) = self.reclaimer.pending().checked_sub(1) else {
            return Ok(false);
        };
        self.settle(less).map_err(MapError::IoError)?;
        Ok(true)
    }

    /// Kernel memory of all instances, after the deletion of those that are not used.
    pub(super) fn memory(&mut self) -> io::Result<u64> {
        self.settle(0)?;
        let mut sum = 0;
        for map in &self.outer {
            for &number in &self.occupied {
                sum += syscall::memory_of_inner(map.as_fd(), number)?;
            }
        }
        for &number in &self.walked {
            sum += syscall::memory_of_inner(self.automata_fd.as_fd(), number)?;
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

fn entry4((prefix, class): &(Ipv4Net, u32)) -> (Prefix<[u8; 4]>, u32) {
    let prefix = Prefix {
        length: prefix.prefix_len().into(),
        network: prefix.network().octets(),
    };
    (prefix, *class)
}

fn entry6((prefix, class): &(Ipv6Net, u32)) -> (Prefix<[u32; 4]>, u32) {
    let Address(network) = IpAddr::V6(prefix.network()).into();
    let prefix = Prefix {
        length: prefix.prefix_len().into(),
        network,
    };
    (prefix, *class)
}

/// A key of a trie, as the kernel has it (`struct bpf_lpm_trie_key_u8`).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct Prefix<N> {
    length: u32,
    network: N,
}

/// A trie of exactly these prefixes: in one call where the kernel takes them all at once, which takes half the time, else one by one.
fn filled<N>(prefixes: &[Prefix<N>], classes: &[u32]) -> Result<LpmTrie<MapData, N, u32>, MapError>
where
    N: Pod,
    Prefix<N>: IntoBytes + Immutable,
{
    let mut trie = LpmTrie::create(entries(prefixes.len()), F_NO_PREALLOC)?;
    let at_once = syscall::update_batch(trie.map().fd().as_fd(), prefixes, classes);
    if !at_once.map_err(MapError::IoError)? {
        one_by_one(&mut trie, prefixes, classes)?;
    }
    Ok(trie)
}

fn one_by_one<N: Pod>(
    trie: &mut LpmTrie<MapData, N, u32>,
    prefixes: &[Prefix<N>],
    classes: &[u32],
) -> Result<(), MapError> {
    for (prefix, class) in prefixes.iter().zip(classes) {
        trie.insert(&Key::new(prefix.length, prefix.network), class, 0)?;
    }
    Ok(())
}

fn entries(count: usize) -> u32 {
    u32::try_from(count).expect("tables are far smaller than 4 Gi entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefixes of two lengths.
    fn prefixes(count: u32) -> (Vec<Prefix<[u8; 4]>>, Vec<u32>) {
        (0..count)
            .map(|index| {
                let length = if index % 3 == 0 { 24 } else { 32 };
                let network = (0x0a00_0000 | index << 8).to_be_bytes();
                (Prefix { length, network }, index % 7)
            })
            .unzip()
    }

    #[test]
    fn prefixes_are_the_same_whether_they_go_at_once_or_one_by_one() {
        if !ebfw_test_need::root() {
            return;
        }
        for count in [1, 2, 1000, 20_000] {
            let (prefixes, classes) = prefixes(count);
            let at_once = filled(&prefixes, &classes).unwrap();
            let mut slow: Trie4 = LpmTrie::create(count, F_NO_PREALLOC).unwrap();
            one_by_one(&mut slow, &prefixes, &classes).unwrap();
            for (prefix, class) in prefixes.iter().zip(&classes) {
                let key = Key::new(32, prefix.network);
                assert_eq!(
                    at_once.get(&key, 0).unwrap(),
                    *class,
                    "{count}: {:?}",
                    key.data()
                );
                assert_eq!(
                    slow.get(&key, 0).unwrap(),
                    *class,
                    "{count}: {:?}",
                    key.data()
                );
            }
            let elsewhere = Key::new(32, [11, 0, 0, 0]);
            assert!(at_once.get(&elsewhere, 0).is_err(), "{count}: another net");
        }
    }

    #[test]
    fn prefixes_that_do_not_fit_are_an_error() {
        if !ebfw_test_need::root() {
            return;
        }
        let (prefixes, classes) = prefixes(3);
        let trie: Trie4 = LpmTrie::create(2, F_NO_PREALLOC).unwrap();
        let result = syscall::update_batch(trie.map().fd().as_fd(), &prefixes, &classes);
        assert!(!matches!(result, Ok(true)), "{result:?}");
        let mut too_long = prefixes;
        too_long[1].length = 33;
        assert!(filled(&too_long, &classes).is_err());
    }
}
