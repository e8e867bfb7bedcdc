//! Which names have to go.
//!
//! Pure. A flow keeps the names under which it was opened, so what has expired stays as long as there is room for it: it opens nothing any
//! more, but a new policy judges the flows that it opened. Room means that names that are good never lack any.

use std::{cmp::Reverse, collections::HashMap};

use ebfw_common::abi::{MAX_NAMES, MAX_WORKLOAD_NAMES, SlotRef};

/// Expired names that one workload may keep, and all may keep together.
const KEPT: Room = Room {
    workload: MAX_WORKLOAD_NAMES as usize / 4,
    all: MAX_NAMES as usize / 4,
};
/// Names that there may be, good ones included, for expired ones to stay.
const FILLED: Room = Room {
    workload: MAX_WORKLOAD_NAMES as usize / 2,
    all: MAX_NAMES as usize / 2,
};

/// How many names.
#[derive(Clone, Copy, Debug)]
struct Room {
    workload: usize,
    all: usize,
}

/// A name, as far as its fate depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) slot: SlotRef,
    pub(super) expires_ns: u64,
    /// Whether its workload is still there.
    pub(super) has_workload: bool,
}

/// What goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It counts no longer for its workload.
    Expired,
    /// Its workload went before and counts nothing any more.
    Orphaned,
}

/// The names that have to go at `now_ns`.
pub(super) fn doomed<K: Copy>(entries: &[Entry<K>], now_ns: u64) -> Vec<(K, Fate)> {
    let mut gone = Vec::new();
    let mut good: HashMap<u32, usize> = HashMap::new();
    let mut good_in_all = 0;
    let mut expired = Vec::new();
    for entry in entries {
        if !entry.has_workload {
            gone.push((entry.key, Fate::Orphaned));
        } else if entry.expires_ns < now_ns {
            expired.push(entry);
        } else {
            *good.entry(entry.slot.0).or_default() += 1;
            good_in_all += 1;
        }
    }
    // What expired last stays first.
    expired.sort_by_key(|entry| Reverse(entry.expires_ns));
    let mut kept: HashMap<u32, usize> = HashMap::new();
    let mut kept_in_all = 0;
    for entry in expired {
        let own = kept.entry(entry.slot.0).or_default();
        let good = good.get(&entry.slot.0).copied().unwrap_or(0);
        let fits = *own < KEPT.workload
            && kept_in_all < KEPT.all
            && good + *own < FILLED.workload
            && good_in_all + kept_in_all < FILLED.all;
        if fits {
            *own += 1;
            kept_in_all += 1;
        } else {
            gone.push((entry.key, Fate::Expired));
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn entry(key: u32, slot: u32, expires_ns: u64) -> Entry<u32> {
        Entry {
            key,
            slot: SlotRef::new(slot, 1),
            expires_ns,
            has_workload: true,
        }
    }

    /// `good` names that are good and `expired` ones, of which number `n` expired at `n`.
    fn workload(slot: u32, good: u32, expired: u32) -> Vec<Entry<u32>> {
        let good = (0..good).map(|n| entry(1_000_000 + n, slot, NOW));
        let expired = (0..expired).map(|n| entry(n, slot, n.into()));
        good.chain(expired).collect()
    }

    #[test]
    fn what_belongs_to_nobody_goes() {
        let mut orphans = workload(1, 1, 1);
        for orphan in &mut orphans {
            orphan.has_workload = false;
        }
        let gone = doomed(&orphans, NOW);
        assert_eq!(
            gone,
            [(1_000_000, Fate::Orphaned), (0, Fate::Orphaned)],
            "good or not"
        );
    }

    #[test]
    fn what_expired_first_goes_first_where_room_is_short() {
        let quarter = u32::try_from(KEPT.workload).unwrap();
        for (good, expired, gone, why) in [
            (0, 0, 0, "nothing known"),
            (2 * quarter, 0, 0, "what is good stays"),
            (4 * quarter, 0, 0, "to the last"),
            (0, quarter, 0, "room for all"),
            (0, quarter + 3, 3, "a quarter stays at most"),
            (quarter, quarter, 0, "half of it filled"),
            (quarter + 7, quarter, 7, "more than half"),
            (4 * quarter, 2, 2, "no room at all"),
        ] {
            let names = doomed(&workload(1, good, expired), NOW);
            let mut keys: Vec<_> = names.iter().map(|(key, _)| *key).collect();
            keys.sort_unstable();
            assert_eq!(keys, (0..gone).collect::<Vec<_>>(), "{why}");
            assert!(names.iter().all(|(_, fate)| *fate == Fate::Expired));
        }
    }

    #[test]
    fn no_workload_takes_the_room_of_others() {
        let quarter = u32::try_from(KEPT.workload).unwrap();
        let all: Vec<_> = (1..=6)
            .flat_map(|slot| workload(slot, 0, quarter))
            .collect();
        let gone = doomed(&all, NOW);
        assert_eq!(
            all.len() - gone.len(),
            KEPT.all,
            "together they keep a quarter"
        );
        let crowded: Vec<_> = (1..=2)
            .flat_map(|slot| workload(slot, 4 * quarter, 0))
            .chain(workload(3, 0, 1))
            .collect();
        assert_eq!(
            doomed(&crowded, NOW).len(),
            1,
            "half of the map is good names"
        );
    }

    #[test]
    fn a_name_is_good_to_the_last_moment() {
        let full = workload(1, u32::try_from(FILLED.workload).unwrap(), 0);
        for (expires, goes) in [(NOW, false), (NOW - 1, true), (u64::MAX, false)] {
            let entries = [full.clone(), vec![entry(7, 1, expires)]].concat();
            let gone = doomed(&entries, NOW);
            assert_eq!(gone.contains(&(7, Fate::Expired)), goes, "{expires}");
        }
    }
}
