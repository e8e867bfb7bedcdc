//! Which nodes enforce which versions, from one short word that each node reports.
//!
//! A node does not list what it enforces: it reports a digest of the versions of all objects. Who knows the objects knows the digest of every set
//! that was there lately, and so what each node has. That makes a report as small for a thousand policies as for one, and a node writes only
//! when its set changes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::policy_objects::Version;

/// Sets that are remembered: a node that lags further behind counts as having nothing until it catches up.
const REMEMBERED: usize = 256;
/// So long a node that reports a set that nobody else has seen counts as having what it had before: of changes that follow each other closely, each
/// agent sees others together, and what they do not touch stays in force.
const IN_BETWEEN: Duration = Duration::from_secs(10);

/// Of a set of versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Of these versions, whatever their order.
    #[must_use]
    pub fn of(versions: &[Version]) -> Self {
        let sorted: BTreeSet<_> = versions.iter().collect();
        let mut all = Sha256::new();
        for Version { uid, generation } in sorted {
            all.update(format!("{uid} {generation}\n"));
        }
        let bytes = all.finalize();
        Self(
            bytes[..16]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    /// As a node reported it.
    #[must_use]
    pub fn reported(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it is reported.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Of how many nodes how many enforce something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that do.
    pub done: usize,
    /// All that have an agent.
    pub total: usize,
}

impl Tally {
    /// Whether there are nodes and all of them do.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.total > 0 && self.done == self.total
    }

    /// Reads what its display wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (done, total) = text.split_once('/')?;
        Some(Self {
            done: done.parse().ok()?,
            total: total.parse().ok()?,
        })
    }
}

/// `11/12`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.done, self.total)
    }
}

/// What the nodes reported, and the sets that their reports may mean.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<String, Node>,
    /// The last sets, the newest at the end.
    sets: VecDeque<(Digest, BTreeSet<Version>)>,
}

/// What a node reported.
#[derive(Debug)]
struct Node {
    last: Digest,
    /// What it reported before, the last that was understood, and when it reported something else.
    before: Option<(Digest, Instant)>,
}

impl Fleet {
    /// These are the objects now.
    pub fn objects(&mut self, versions: &[Version]) {
        let digest = Digest::of(versions);
        self.sets.retain(|(known, _)| *known != digest);
        if self.sets.len() == REMEMBERED {
            self.sets.pop_front();
        }
        self.sets
            .push_back((digest, versions.iter().cloned().collect()));
    }

    /// A node reported, `now`.
    pub fn reported(&mut self, node: &str, digest: Digest, now: Instant) {
        let before = match self.nodes.remove(node) {
            Some(node) if node.last == digest => node.before,
            Some(node) if self.knows(&node.last) => Some((node.last, now)),
            Some(node) => node.before,
            None => None,
        };
        let last = digest;
        self.nodes.insert(node.to_owned(), Node { last, before });
    }

    fn knows(&self, digest: &Digest) -> bool {
        self.sets.iter().any(|(known, _)| known == digest)
    }

    /// A node has no agent any more.
    pub fn gone(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Only these nodes have one.
    pub fn only(&mut self, nodes: &BTreeSet<String>) {
        self.nodes.retain(|node, _| nodes.contains(node));
    }

    /// For each set that nodes have, how many.
    fn counts(&self, now: Instant) -> BTreeMap<&Digest, usize> {
        let known: BTreeSet<_> = self.sets.iter().map(|(digest, _)| digest).collect();
        let mut counts = BTreeMap::new();
        for Node { last, before } in self.nodes.values() {
            let has = match before {
                Some((before, since))
                    if !known.contains(last) && now.duration_since(*since) < IN_BETWEEN =>
                {
                    before
                }
                _ => last,
            };
            *counts.entry(has).or_default() += 1;
        }
        counts
    }

    /// How many nodes enforce each of these versions.
    #[must_use]
    pub fn tally<'v>(
        &self,
        versions: impl IntoIterator<Item = &'v Version>,
        now: Instant,
    ) -> Vec<Tally> {
        let counts = self.counts(now);
        let known: Vec<_> = self
            .sets
            .iter()
            .filter_map(|(digest, set)| Some((set, *counts.get(digest)?)))
            .collect();
        let total = self.nodes.len();
        let tally = |version| Tally {
            done: known
                .iter()
                .filter(|(set, _)| set.contains(version))
                .map(|(_, count)| count)
                .sum(),
            total,
        };
        versions.into_iter().map(tally).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(uid: &str, generation: i64) -> Version {
        Version {
            uid: uid.to_owned(),
            generation,
        }
    }

    fn tally(fleet: &Fleet, version: &Version) -> String {
        tally_at(fleet, version, Instant::now())
    }

    fn tally_at(fleet: &Fleet, version: &Version, now: Instant) -> String {
        fleet.tally([version], now)[0].to_string()
    }

    #[test]
    fn what_changes_do_not_touch_counts_while_a_node_is_between_them() {
        let (a, b) = (version("a", 1), |generation| version("b", generation));
        let set = |generation| [a.clone(), b(generation)];
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut fleet = Fleet::default();
        fleet.objects(&set(1));
        fleet.reported("one", Digest::of(&set(1)), at(0));
        fleet.objects(&set(5));
        for generation in 2..5 {
            // This one saw each change by itself; who counts saw the last alone.
            let digest = Digest::of(&set(generation));
            let now = at(generation.unsigned_abs());
            fleet.reported("one", digest, now);
            assert_eq!(tally_at(&fleet, &a, now), "1/1", "is in force all the time");
            assert_eq!(tally_at(&fleet, &b(5), now), "0/1", "is not there yet");
        }
        fleet.reported("one", Digest::of(&set(5)), at(5));
        assert_eq!(tally_at(&fleet, &b(5), at(5)), "1/1");
        fleet.reported("one", Digest::reported("never seen"), at(6));
        fleet.reported("one", Digest::reported("nor this"), at(14));
        assert_eq!(tally_at(&fleet, &a, at(15)), "1/1");
        assert_eq!(tally_at(&fleet, &a, at(16)), "0/1", "it stays strange");
    }

    #[test]
    fn a_digest_means_a_set_and_nothing_else() {
        let (a, b) = (version("a", 1), version("b", 1));
        let of = |versions: &[&Version]| {
            Digest::of(
                &versions
                    .iter()
                    .map(|version| (*version).clone())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[&a, &b]), of(&[&b, &a]), "the order says nothing");
        assert_ne!(of(&[&a]), of(&[&a, &b]));
        assert_ne!(of(&[&a]), of(&[&version("a", 2)]));
        assert_ne!(of(&[&version("a", 11)]), of(&[&version("a1", 1)]));
        assert_eq!(of(&[]).as_str().len(), 32);
    }

    #[test]
    fn nodes_that_lag_behind_still_have_what_did_not_change() {
        let (a, b, b2) = (version("a", 1), version("b", 1), version("b", 2));
        let now = Instant::now();
        let mut fleet = Fleet::default();
        assert_eq!(tally(&fleet, &a), "0/0", "nobody");
        let old = [a.clone(), b.clone()];
        let new = [a.clone(), b2.clone()];
        fleet.objects(&old);
        fleet.reported("one", Digest::of(&old), now);
        fleet.reported("two", Digest::of(&old), now);
        assert_eq!(tally(&fleet, &b), "2/2");
        fleet.objects(&new);
        assert_eq!(tally(&fleet, &a), "2/2", "did not change");
        assert_eq!(tally(&fleet, &b2), "0/2", "is on its way");
        fleet.reported("one", Digest::of(&new), now);
        assert_eq!(tally(&fleet, &b2), "1/2");
        fleet.reported("two", Digest::reported("never seen"), now);
        assert_eq!(
            tally_at(&fleet, &a, now + IN_BETWEEN),
            "1/2",
            "what is not understood is nothing"
        );
        fleet.gone("two");
        assert_eq!(tally(&fleet, &b2), "1/1");
        fleet.only(&BTreeSet::new());
        assert_eq!(tally(&fleet, &b2), "0/0");
    }

    #[test]
    fn only_so_many_sets_are_remembered() {
        let mut fleet = Fleet::default();
        let set = |generation| [version("a", generation)];
        fleet.objects(&set(0));
        fleet.reported("slow", Digest::of(&set(0)), Instant::now());
        for generation in 1..i64::try_from(REMEMBERED).unwrap() {
            fleet.objects(&set(generation));
        }
        assert_eq!(tally(&fleet, &version("a", 0)), "1/1");
        fleet.objects(&set(1000));
        assert_eq!(tally(&fleet, &version("a", 0)), "0/1");
    }

    #[test]
    fn a_tally_is_read_as_it_is_written() {
        let tally = Tally { done: 3, total: 12 };
        assert_eq!(Tally::parse(&tally.to_string()), Some(tally));
        for text in ["", "3", "a/b", "3/", "-1/2"] {
            assert_eq!(Tally::parse(text), None, "{text}");
        }
    }
}
