//! The net of places made deterministic: each state is a set of places that are held at the same time.
//!
//! Patterns with several `*` can make that explode, so the work is limited, not only the number of states.

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use super::{
    Limit,
    pieces::Bytes,
    places::{Places, START},
};

/// States before equal ones are merged.
const MAX_STATES: usize = 1 << 21;
/// Steps from one place over one byte that any patterns may take, and those that each place may add. Suffixes take a few each.
const MAX_STEPS: usize = 1 << 23;
const MAX_STEPS_EACH: usize = 64;
/// Places in all states, and patterns in all classes: 256 MiB.
const MAX_MEMBERS: usize = 1 << 26;
/// Classes of names.
const MAX_CLASSES: usize = ebfw_common::names::MAX_CLASSES as usize;

/// The state that holds no place.
pub(super) const DEAD: u32 = u32::MAX;

/// Sets of patterns; the first is empty.
type Sets = IndexSet<Box<[u32]>, FxBuildHasher>;

#[derive(Debug)]
struct State {
    /// Its first edge; the edges end where those of the next state begin.
    edges: usize,
    /// The state behind a byte without an edge.
    default: u32,
    class: u32,
}

/// A deterministic automaton that begins in state 0.
#[derive(Debug)]
pub(super) struct States {
    states: Vec<State>,
    edges: Vec<(u8, u32)>,
    classes: Sets,
}

/// Makes the automaton.
pub(super) fn determine(places: &Places) -> Result<States, Limit> {
    let mut builder = Builder::new(places);
    let mut start = Vec::new();
    places.hold(START, &mut start);
    builder.state(&mut start)?;
    while builder.done.states.len() < builder.held.len() {
        builder.leave()?;
    }
    Ok(builder.done)
}

impl States {
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn class(&self, state: u32) -> u32 {
        self.states[state as usize].class
    }

    pub(super) fn default(&self, state: u32) -> u32 {
        self.states[state as usize].default
    }

    /// In the order of the bytes; none leads where the default does.
    pub(super) fn edges(&self, state: u32) -> &[(u8, u32)] {
        let state = state as usize;
        let end = self
            .states
            .get(state + 1)
            .map_or(self.edges.len(), |next| next.edges);
        &self.edges[self.states[state].edges..end]
    }

    /// The patterns of each class.
    pub(super) fn into_classes(self) -> Box<[Box<[u32]>]> {
        self.classes.into_iter().collect()
    }
}

struct Builder<'a> {
    places: &'a Places,
    /// The places of each state. Those behind `done` still have to be left.
    held: IndexSet<Box<[u32]>, FxBuildHasher>,
    done: States,
    /// Steps that are left.
    steps: usize,
    members: usize,
}

impl<'a> Builder<'a> {
    fn new(places: &'a Places) -> Self {
        Self {
            places,
            held: IndexSet::default(),
            done: States {
                states: Vec::new(),
                edges: Vec::new(),
                classes: IndexSet::from_iter([Box::default()]),
            },
            steps: MAX_STEPS + MAX_STEPS_EACH * places.len(),
            members: 0,
        }
    }

    /// The state that holds `places`, which may be in any order.
    fn state(&mut self, places: &mut Vec<u32>) -> Result<u32, Limit> {
        places.sort_unstable();
        places.dedup();
        self.drop_decided(places);
        if places.is_empty() {
            return Ok(DEAD);
        }
        if let Some(known) = self.held.get_index_of(&places[..]) {
            return Ok(known as u32);
        }
        self.members += places.len();
        if self.held.len() == MAX_STATES || self.members > MAX_MEMBERS {
            return Err(Limit::States);
        }
        let (index, _) = self.held.insert_full(places.as_slice().into());
        Ok(index as u32)
    }

    /// Drops places that are held only for a pattern which matches anyway.
    fn drop_decided(&self, places: &mut Vec<u32>) {
        if places.len() == 1 {
            return;
        }
        let mut decided: Vec<u32> = places
            .iter()
            .filter_map(|&place| self.places.decides(place))
            .collect();
        if decided.is_empty() {
            return;
        }
        decided.sort_unstable();
        places.retain(|&place| {
            self.places.decides(place).is_some()
                || self
                    .places
                    .serves(place)
                    .is_none_or(|id| decided.binary_search(&id).is_err())
        });
    }

    fn class(&mut self, held: &[u32]) -> Result<u32, Limit> {
        let mut ids: Vec<u32> = held
            .iter()
            .flat_map(|&place| self.places.accepts(place))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        if let Some(known) = self.done.classes.get_index_of(&ids[..]) {
            return Ok(known as u32);
        }
        self.members += ids.len();
        if self.done.classes.len() == MAX_CLASSES {
            return Err(Limit::Classes);
        }
        let (index, _) = self.done.classes.insert_full(ids.into());
        Ok(index as u32)
    }

    fn step(&mut self, steps: usize) -> Result<(), Limit> {
        self.steps = self.steps.checked_sub(steps).ok_or(Limit::States)?;
        Ok(())
    }

    /// Follows every byte out of the first state that has not been left yet.
    fn leave(&mut self) -> Result<(), Limit> {
        let held = self.held[self.done.states.len()].clone();
        let class = self.class(&held)?;
        let ways = Ways::out_of(self.places, &held);
        let mut next = ways.kept.clone();
        for &(bytes, place) in &ways.ones {
            if bytes.is_open() {
                self.places.hold(place, &mut next);
            }
        }
        self.step(held.len())?;
        let default = self.state(&mut next)?;
        let edges = self.done.edges.len();
        let mut children = ways.children.as_slice();
        // Names are read in lower case.
        for byte in ways
            .mentioned
            .iter()
            .filter(|byte| !byte.is_ascii_uppercase())
        {
            let same = children.partition_point(|(key, _)| *key <= byte);
            let (here, later) = children.split_at(same);
            children = later;
            next.clear();
            next.extend(&ways.kept);
            for &(_, place) in here {
                self.places.hold(place, &mut next);
            }
            for &(bytes, place) in &ways.ones {
                if bytes.contains(byte) {
                    self.places.hold(place, &mut next);
                }
            }
            self.step(1 + next.len() + ways.ones.len())?;
            let target = self.state(&mut next)?;
            if target != default {
                self.done.edges.push((byte, target));
            }
        }
        self.done.states.push(State {
            edges,
            default,
            class,
        });
        Ok(())
    }
}

/// All ways out of a set of places.
struct Ways {
    /// Places that every byte leads back to, with all that is held with them.
    kept: Vec<u32>,
    ones: Vec<(Bytes, u32)>,
    /// In the order of their bytes.
    children: Vec<(u8, u32)>,
    /// The bytes that may lead elsewhere than the others.
    mentioned: Bytes,
}

impl Ways {
    fn out_of(places: &Places, held: &[u32]) -> Self {
        let mut ways = Self {
            kept: Vec::new(),
            ones: Vec::new(),
            children: Vec::new(),
            mentioned: Bytes::default(),
        };
        for &place in held {
            if places.repeats(place) {
                places.hold(place, &mut ways.kept);
            }
            ways.children.extend(places.children(place));
            for &(bytes, next) in places.ones(place) {
                ways.mentioned.union(bytes.mentioned());
                ways.ones.push((bytes, next));
            }
        }
        ways.children.sort_unstable();
        for (byte, _) in &ways.children {
            ways.mentioned.insert(*byte);
        }
        ways
    }
}
