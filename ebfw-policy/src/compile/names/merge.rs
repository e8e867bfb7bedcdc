//! Merges states that mean the same, from the last ones to the first: two states are one if their classes and edges are.
//!
//! States on a circle of several states are left as they are; only inner globs have such, and few.

use std::hash::{BuildHasher, Hash, Hasher};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::states::{DEAD, States};

/// What is behind an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::compile) enum Next {
    /// A state, by its index.
    State(u32),
    /// Names that all have this class.
    Decided(u32),
}

const NOTHING: Next = Next::Decided(0);

/// A state of the merged automaton.
#[derive(Debug)]
pub(in crate::compile) struct Merged {
    pub(in crate::compile) class: u32,
    pub(in crate::compile) default: Next,
    /// In the order of the bytes; none leads where the default does.
    pub(in crate::compile) edges: Box<[(u8, Next)]>,
}

/// The states that remain, and the first of them or the class of all names.
pub(super) fn merge(states: &States) -> (Vec<Merged>, Next) {
    if states.len() == 0 {
        return (Vec::new(), NOTHING);
    }
    let mut merger = Merger::new(states);
    merger.run();
    let first = merger.resolved(0);
    (merger.finish(), first)
}

/// What has become of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unseen,
    /// Its edges are being followed.
    Open,
    Done(Next),
}

/// Where an edge leads, as far as two states can be compared by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Seen {
    Itself,
    Next(Next),
    /// A circle.
    Open,
}

struct Merger<'a> {
    states: &'a States,
    fates: Vec<Fate>,
    /// The states that remain, by their index in `states`.
    kept: Vec<u32>,
    /// By hash. A state whose hash another one has is not found again: harmless.
    known: FxHashMap<u64, u32>,
}

impl<'a> Merger<'a> {
    fn new(states: &'a States) -> Self {
        Self {
            states,
            fates: vec![Fate::Unseen; states.len()],
            kept: Vec::new(),
            known: FxHashMap::default(),
        }
    }

    /// Ends with each state after all those that it leads to, but for circles.
    fn run(&mut self) {
        self.fates[0] = Fate::Open;
        let mut path = vec![(0, 0)];
        while let Some((state, followed)) = path.last_mut() {
            let state = *state;
            let edges = self.states.edges(state);
            let next = match edges.get(*followed) {
                Some(&(_, next)) => next,
                None if *followed == edges.len() => self.states.default(state),
                None => {
                    path.pop();
                    self.fates[state as usize] = Fate::Done(self.decide(state));
                    continue;
                }
            };
            *followed += 1;
            if next != DEAD && self.fates[next as usize] == Fate::Unseen {
                self.fates[next as usize] = Fate::Open;
                path.push((next, 0));
            }
        }
    }

    /// What stands for the state.
    fn decide(&mut self, state: u32) -> Next {
        let class = self.states.class(state);
        let default = self.seen(state, self.states.default(state));
        let decided = Seen::Next(Next::Decided(class));
        let settled = |seen| seen == Seen::Itself || seen == decided;
        if settled(default) && self.edges(state).all(|(_, seen)| settled(seen)) {
            return Next::Decided(class);
        }
        let fresh = self.kept.len() as u32;
        if default == Seen::Open || self.edges(state).any(|(_, seen)| seen == Seen::Open) {
            self.kept.push(state);
            return Next::State(fresh);
        }
        let hash = self.hash(state);
        if let Some(&known) = self.known.get(&hash)
            && self.same(state, self.kept[known as usize])
        {
            return Next::State(known);
        }
        self.known.insert(hash, fresh);
        self.kept.push(state);
        Next::State(fresh)
    }

    fn seen(&self, from: u32, to: u32) -> Seen {
        if to == DEAD {
            return Seen::Next(NOTHING);
        }
        match self.fates[to as usize] {
            _ if to == from => Seen::Itself,
            Fate::Done(next) => Seen::Next(next),
            Fate::Unseen | Fate::Open => Seen::Open,
        }
    }

    /// The edges that lead elsewhere than the default.
    fn edges(&self, state: u32) -> impl Iterator<Item = (u8, Seen)> {
        let default = self.seen(state, self.states.default(state));
        let edges = self.states.edges(state).iter();
        edges
            .map(move |&(byte, next)| (byte, self.seen(state, next)))
            .filter(move |(_, seen)| *seen == Seen::Open || *seen != default)
    }

    fn hash(&self, state: u32) -> u64 {
        let mut hasher = FxBuildHasher.build_hasher();
        self.states.class(state).hash(&mut hasher);
        self.seen(state, self.states.default(state))
            .hash(&mut hasher);
        self.edges(state).for_each(|edge| edge.hash(&mut hasher));
        hasher.finish()
    }

    fn same(&self, one: u32, other: u32) -> bool {
        let default = |state| self.seen(state, self.states.default(state));
        self.states.class(one) == self.states.class(other)
            && default(one) == default(other)
            && self.edges(one).eq(self.edges(other))
    }

    fn resolved(&self, state: u32) -> Next {
        if state == DEAD {
            return NOTHING;
        }
        match self.fates[state as usize] {
            Fate::Done(next) => next,
            Fate::Unseen | Fate::Open => unreachable!("every state was reached and left"),
        }
    }

    fn finish(self) -> Vec<Merged> {
        let merged = |&state: &u32| {
            let default = self.resolved(self.states.default(state));
            let edges = self.states.edges(state).iter();
            Merged {
                class: self.states.class(state),
                default,
                edges: edges
                    .map(|&(byte, next)| (byte, self.resolved(next)))
                    .filter(|(_, next)| *next != default)
                    .collect(),
            }
        };
        self.kept.iter().map(merged).collect()
    }
}
