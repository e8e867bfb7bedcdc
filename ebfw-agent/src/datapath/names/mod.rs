//! Names that workloads resolved, as the programs learned them: whose answers count, what is known, what has expired.
//!
//! The programs add; only the agent deletes. Where a name is renewed between the last look at it and its deletion (microseconds), it is
//! lost until the workload asks again: that closes, it never opens.

mod learner;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
    sync::atomic::Ordering,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use ebfw_common::{
    abi::{
        ABI_VERSION, ALL_NAMES, Address, LearnedName, MAX_RESOLVERS, MAX_SERVICES, NAME_COUNTS,
        NameKey, Question, SHARED, SlotRef, SlotWord, resolver, slot_flag,
    },
    dns::ANSWER_NS,
};

pub use self::learner::{Asker, Learner, Tally};
use self::sweep::{Entry, Fate};
use super::{ApplyError, LoadError, map_error, maps_directory, slot::Slots, syscall, update_error};
use crate::host::resolvers::Locality;

/// [`NameKey`] and [`LearnedName`] as aya takes them.
type Key = [u64; 4];
type Value = [u64; 36];
type NameMap = HashMap<MapData, Key, Value>;
/// [`ebfw_common::abi::QuestionKey`] and [`Question`].
type QuestionMap = HashMap<MapData, u64, [u64; 39]>;

/// Questions that were asked so long ago are forgotten: their answers count no more ([`ANSWER_NS`]), and the programs use their places again, if
/// at all, long before, so that none is forgotten that has just taken the place.
const UNANSWERED_NS: u64 = 12 * ANSWER_NS;

/// A name that a workload resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The workload.
    pub slot: SlotRef,
    /// What the name stands for.
    pub address: IpAddr,
    /// The name as it was asked for, in lower case. Whatever a workload asks for can stand here: escape it before it is shown.
    pub name: String,
    /// From then on (nanoseconds since boot) it opens no flow.
    pub expires_ns: u64,
    /// Its class under the patterns of the policy when a flow was last decided by it: names of one class are the same to every rule. 0: no
    /// pattern means it. `None`: no flow was decided by it yet.
    pub class: Option<u32>,
}

/// A name and the cgroup of its workload, as [`pinned_names`] finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The cgroup's id; `None`: the workload is gone.
    pub cgroup: Option<u64>,
    /// What was learned.
    pub learned: Learned,
}

/// The maps of names and resolvers.
pub(super) struct Names {
    resolvers: HashMap<MapData, [u32; 4], u32>,
    services: HashMap<MapData, u32, u32>,
    questions: QuestionMap,
    names: NameMap,
    counts: syscall::SharedWords,
    /// The programs name their maps by the number of this very descriptor until they are loaded.
    _counts: MapData,
    /// Whether there may be names of workloads that are gone.
    orphans: bool,
}

impl Names {
    pub(super) fn open(
        resolvers: Map,
        services: Map,
        questions: Map,
        names: Map,
        counts: Map,
    ) -> Result<Self, LoadError> {
        let Map::Array(map) = counts else {
            panic!("NAME_COUNTS is an array");
        };
        let counts = syscall::SharedWords::map(map.fd().as_fd(), NAME_COUNTS as usize).map_err(
            |source| LoadError::Io {
                what: "map the memory of NAME_COUNTS".into(),
                source,
            },
        )?;
        Ok(Self {
            resolvers: HashMap::try_from(resolvers).map_err(map_error("RESOLVERS"))?,
            services: HashMap::try_from(services).map_err(map_error("SERVICES"))?,
            questions: HashMap::try_from(questions).map_err(map_error("QUESTIONS"))?,
            names: HashMap::try_from(names).map_err(map_error("NAMES"))?,
            counts,
            _counts: map,
            // What an earlier agent left is not known.
            orphans: true,
        })
    }

    /// Makes `wanted` the resolvers whose answers count: what is new comes before what is gone goes.
    pub(super) fn trust(&mut self, wanted: &BTreeMap<IpAddr, Locality>) -> Result<(), ApplyError> {
        let wanted = resolver_entries(wanted)?;
        // Room first where both together do not fit.
        let known: Result<Vec<_>, _> = self.resolvers.keys().collect();
        let known = known.map_err(update_error("RESOLVERS"))?;
        let gone: Vec<_> = known
            .iter()
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        let fits = wanted.len() + gone.len() <= MAX_RESOLVERS as usize;
        if !fits {
            self.distrust(&gone)?;
        }
        for (key, flags) in &wanted {
            self.resolvers
                .insert(key, flags, 0)
                .map_err(update_error("RESOLVERS"))?;
        }
        if fits { self.distrust(&gone) } else { Ok(()) }
    }

    fn distrust(&mut self, gone: &[[u32; 4]]) -> Result<(), ApplyError> {
        gone.iter()
            .try_for_each(|key| remove(&mut self.resolvers, key))
            .map_err(update_error("RESOLVERS"))
    }

    /// Makes `wanted` the services that resolve for others.
    pub(super) fn serve(&mut self, wanted: &BTreeSet<u32>) -> Result<(), ApplyError> {
        if wanted.len() > MAX_SERVICES as usize {
            return Err(ApplyError::ServicesFull(wanted.len()));
        }
        let error = || update_error("SERVICES");
        let known: Result<Vec<_>, _> = self.services.keys().collect();
        for gone in known.map_err(error())?.iter() {
            if !wanted.contains(gone) {
                remove(&mut self.services, gone).map_err(error())?;
            }
        }
        wanted
            .iter()
            .try_for_each(|slot| self.services.insert(slot, 1, 0))
            .map_err(error())
    }

    /// A slot comes into use or goes out of it: it has no names.
    pub(super) fn reset(&mut self, slot: SlotRef) {
        let count = &self.counts.words()[slot.index() as usize];
        self.orphans |= count.swap(0, Ordering::AcqRel) != 0;
    }

    /// Whether there is anything to look at.
    fn is_empty(&self) -> bool {
        !self.orphans
            && self.counts.words()[..ALL_NAMES as usize]
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// Writes an entry, for tests.
    pub(super) fn put(&mut self, key: NameKey, name: LearnedName) -> Result<(), MapError> {
        let (key, name): (Key, Value) = (zerocopy::transmute!(key), zerocopy::transmute!(name));
        self.orphans = true;
        self.names.insert(key, name, 0)
    }

    pub(super) fn learned(&self) -> Result<Vec<Learned>, MapError> {
        learned(&self.names)
    }

    /// Makes all names expire at `expires_ns`.
    pub(super) fn outdate(&mut self, expires_ns: u64) -> Result<(), MapError> {
        let keys: Result<Vec<_>, _> = self.names.keys().collect();
        for key in keys? {
            let value = LearnedName {
                expires_ns,
                ..entry(self.names.get(&key, 0)?)
            };
            let value: Value = zerocopy::transmute!(value);
            self.names.insert(key, value, 0)?;
        }
        Ok(())
    }

    /// Deletes what belongs to no workload, and what has expired and has no room to stay; says how many.
    pub(super) fn forget_expired(
        &mut self,
        now_ns: u64,
        slots: &Slots,
    ) -> Result<usize, ApplyError> {
        self.forget_unanswered(now_ns)
            .map_err(update_error("QUESTIONS"))?;
        if self.is_empty() {
            self.counts.words()[ALL_NAMES as usize].store(0, Ordering::Release);
            return Ok(0);
        }
        self.sweep(now_ns, slots).map_err(update_error("NAMES"))
    }

    /// Deletes questions that nobody answered. The programs use a place again where its workload asks again, but who asked may be gone: the map
    /// would fill up with what is left of such workloads, until nobody's questions fit.
    fn forget_unanswered(&mut self, now_ns: u64) -> Result<(), MapError> {
        let mut unanswered = Vec::new();
        for entry in self.questions.iter() {
            let (key, words) = entry?;
            let question: Question = zerocopy::transmute!(words);
            // 0: a program is writing it.
            if question.asked_ns != 0 && now_ns.saturating_sub(question.asked_ns) > UNANSWERED_NS {
                unanswered.push(key);
            }
        }
        unanswered
            .iter()
            .try_for_each(|key| remove(&mut self.questions, key))
    }

    fn sweep(&mut self, now_ns: u64, slots: &Slots) -> Result<usize, MapError> {
        let mut entries = Vec::new();
        for entry in self.names.iter() {
            let (key, value) = entry?;
            entries.push(entry_of(key, value, slots));
        }
        let mut forgotten = 0;
        for (key, fate) in sweep::doomed(&entries, now_ns) {
            // Looked at again: it may have been renewed since.
            let value = match self.names.get(&key, 0) {
                Ok(value) => value,
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error),
            };
            if fate == Fate::Expired && entry(value).expires_ns >= now_ns {
                continue;
            }
            remove(&mut self.names, &key)?;
            forgotten += 1;
            if fate == Fate::Expired {
                self.discount(parts(key).slot);
            }
        }
        self.orphans = false;
        // Counted and not subtracted, so that no mistake lasts. Those that were learned meanwhile are missed until the next time: the map's own
        // limit holds all the same.
        let all = entries.len().saturating_sub(forgotten) as u64;
        self.counts.words()[ALL_NAMES as usize].store(all, Ordering::Release);
        Ok(forgotten)
    }

    fn discount(&self, slot: SlotRef) {
        let count = &self.counts.words()[slot.index() as usize];
        // Never below nothing: a count that was set to zero meanwhile would become endless and keep all new names out.
        let _ = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            count.checked_sub(1)
        });
    }
}

/// What was learned, read from what is pinned below `pin`; changes nothing, and needs no agent. `None`: nothing of this version is pinned there.
///
/// # Errors
///
/// Where a map cannot be read.
pub fn pinned_names(pin: &Path) -> Result<Option<Vec<Owned>>, LoadError> {
    let directory = maps_directory(pin, ABI_VERSION);
    let exists = directory.try_exists().map_err(|source| LoadError::Io {
        what: format!("look at {}", directory.display()),
        source,
    })?;
    if !exists {
        return Ok(None);
    }
    let open = |name: &'static str| {
        MapData::from_pin(directory.join(name))
            .and_then(Map::from_map_data)
            .map_err(map_error(name))
    };
    let names: NameMap = HashMap::try_from(open("NAMES")?).map_err(map_error("NAMES"))?;
    let slots: Array<_, u64> = Array::try_from(open("SLOTS")?).map_err(map_error("SLOTS"))?;
    let cgroups: HashMap<_, u64, u32> =
        HashMap::try_from(open("CGROUPS")?).map_err(map_error("CGROUPS"))?;
    let mut owners = BTreeMap::new();
    for entry in cgroups.iter() {
        let (cgroup, slot) = entry.map_err(map_error("CGROUPS"))?;
        owners.insert(slot, cgroup);
    }
    let mut found = Vec::new();
    for learned in learned(&names).map_err(map_error("NAMES"))? {
        let word = slots
            .get(&learned.slot.index(), 0)
            .map_err(map_error("SLOTS"))?;
        let cgroup = holds(SlotWord(word), learned.slot)
            .then(|| owners.get(&learned.slot.0).copied())
            .flatten();
        found.push(Owned { cgroup, learned });
    }
    Ok(Some(found))
}

fn learned(names: &NameMap) -> Result<Vec<Learned>, MapError> {
    names
        .iter()
        .map(|entry| entry.map(|(key, value)| read(key, value)))
        .collect()
}

/// Whether the word is that of the very workload that `slot` names.
pub(super) fn holds(word: SlotWord, slot: SlotRef) -> bool {
    word.has(slot_flag::LIVE) && word.generation() == slot.generation()
}

fn entry_of(key: Key, value: Value, slots: &Slots) -> Entry<Key> {
    let slot = parts(key).slot;
    Entry {
        key,
        slot,
        expires_ns: entry(value).expires_ns,
        has_workload: slot == SHARED || slots.hold(slot),
    }
}

fn parts(key: Key) -> NameKey {
    zerocopy::transmute!(key)
}

fn entry(value: Value) -> LearnedName {
    zerocopy::transmute!(value)
}

fn read(key: Key, value: Value) -> Learned {
    let NameKey {
        slot,
        place: _,
        address,
        netns: _,
    } = parts(key);
    let LearnedName {
        expires_ns,
        class,
        hash: _,
        length,
        _pad: _,
        text,
    } = entry(value);
    let length = usize::try_from(length).map_or(text.len(), |length| length.min(text.len()));
    Learned {
        slot,
        address: Ipv6Addr::from(address).to_canonical(),
        name: String::from_utf8_lossy(&text[..length]).into_owned(),
        expires_ns,
        // The automaton's number above it; 0: none.
        class: (class >> 32 != 0).then_some(class as u32),
    }
}

/// The entries of `RESOLVERS`.
fn resolver_entries(
    wanted: &BTreeMap<IpAddr, Locality>,
) -> Result<BTreeMap<[u32; 4], u32>, ApplyError> {
    let entries: BTreeMap<_, _> = wanted
        .iter()
        .map(|(address, locality)| {
            let flags = match locality {
                Locality::Local => resolver::LOCAL,
                Locality::Remote => 0,
            };
            (Address::from(*address).0, flags)
        })
        .collect();
    if entries.len() > MAX_RESOLVERS as usize {
        return Err(ApplyError::ResolversFull(entries.len()));
    }
    Ok(entries)
}

/// Removes an entry; there need not be one.
fn remove<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: &K,
) -> Result<(), MapError> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_used_again_is_another_workload() {
        let slot = SlotRef::new(5, 3);
        for (flags, generation, expected, why) in [
            (slot_flag::LIVE, 3, true, "the same"),
            (
                slot_flag::LIVE | slot_flag::GOVERNED,
                3,
                true,
                "whatever governs it",
            ),
            (slot_flag::LIVE, 4, false, "used again"),
            (0, 3, false, "out of use"),
        ] {
            let word = SlotWord::new(1, flags, generation, 9);
            assert_eq!(holds(word, slot), expected, "{why}");
        }
    }

    #[test]
    fn resolvers_are_told_apart_by_where_they_answer() {
        let wanted = BTreeMap::from([
            ("127.0.0.53".parse().unwrap(), Locality::Local),
            ("2001:db8::53".parse().unwrap(), Locality::Remote),
        ]);
        let entries = resolver_entries(&wanted).unwrap();
        let local = Address::mapped([127, 0, 0, 53]).0;
        assert_eq!(entries[&local], resolver::LOCAL);
        assert_eq!(entries.values().sum::<u32>(), resolver::LOCAL);
    }

    #[test]
    fn one_resolver_too_many_is_refused() {
        let many = |count: u32| -> BTreeMap<IpAddr, Locality> {
            let address = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
            (0..count).map(|n| (address(n), Locality::Remote)).collect()
        };
        assert!(resolver_entries(&many(MAX_RESOLVERS)).is_ok());
        let error = resolver_entries(&many(MAX_RESOLVERS + 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "257 resolvers: at most 256 can be trusted"
        );
    }

    #[test]
    fn an_entry_is_read_as_the_programs_wrote_it() {
        let key = NameKey {
            slot: SlotRef::new(7, 1),
            place: 2,
            address: Address::mapped([192, 0, 2, 1]),
            netns: 4,
        };
        let mut text = [0; 256];
        text[..11].copy_from_slice(b"example.com");
        let value = LearnedName {
            expires_ns: 5,
            class: 7 << 32 | 3,
            hash: 1,
            length: 11,
            _pad: 0,
            text,
        };
        let expected = Learned {
            slot: key.slot,
            address: "192.0.2.1".parse().unwrap(),
            name: "example.com".into(),
            expires_ns: 5,
            class: Some(3),
        };
        let raw = zerocopy::transmute!(key);
        assert_eq!(read(raw, zerocopy::transmute!(value)), expected);
        let long = LearnedName {
            length: u32::MAX,
            ..value
        };
        let fresh = LearnedName { class: 0, ..value };
        assert_eq!(read(raw, zerocopy::transmute!(fresh)).class, None);
        let name = read(raw, zerocopy::transmute!(long)).name;
        assert_eq!(name.len(), 256, "a length that lies stays inside");
    }
}
