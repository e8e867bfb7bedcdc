//! All patterns in one net of places: a trie of their ends, in which several places can be held at a time.
//!
//! What patterns begin with (read backwards) they share. Most places have one way in and few out, so they are kept small.

use rustc_hash::FxHashMap;

use super::pieces::{Bytes, Piece, SOME};

/// No place, no set, no entry of a list.
const NONE: u32 = u32::MAX;
/// In [`Place::serves`]: several patterns.
const MANY: u32 = u32::MAX - 1;

/// A place between two bytes of a pattern.
#[derive(Debug)]
struct Place {
    /// The byte by which it is reached from its parent, which holds a list of its children.
    byte: u8,
    repeats: bool,
    first_child: u32,
    next_sibling: u32,
    /// Into `accepts`.
    accepts: u32,
    /// Into `rare`.
    rare: u32,
    /// The pattern that holds all that can be reached from here, or [`MANY`].
    serves: u32,
}

/// Ways out that few places have.
#[derive(Debug, Default)]
struct Rare {
    ones: Vec<(Bytes, u32)>,
    /// The place behind a [`Piece::Stretch`] that begins here.
    stretch: Option<u32>,
    /// Places that are reached without a byte and may have other ways in.
    joins: Vec<u32>,
}

/// The net. Patterns are ids.
#[derive(Debug)]
pub(super) struct Places {
    places: Vec<Place>,
    rare: Vec<Rare>,
    /// Lists: a pattern and the next entry.
    accepts: Vec<(u32, u32)>,
    /// The place of each pattern from which every name is accepted.
    everything: FxHashMap<u32, u32>,
}

/// The place at which every name begins.
pub(super) const START: u32 = 0;

impl Places {
    pub(super) fn new() -> Self {
        let mut places = Self {
            places: Vec::new(),
            rare: Vec::new(),
            accepts: Vec::new(),
            everything: FxHashMap::default(),
        };
        places.add(0);
        places
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a pattern to those of `id`; with `suffix` also the names below.
    pub(super) fn insert(&mut self, id: u32, pieces: &[Piece], suffix: bool) {
        self.serve(START, id);
        let end = self.accept(id, START, pieces);
        // What begins with a stretch means the names below already.
        if suffix && pieces.last() != Some(&Piece::Stretch) {
            let dot = self.behind(id, end, &Piece::Byte(b'.'));
            self.accept(id, dot, &SOME);
        }
    }

    /// The places to hold instead of `place` alone, appended to `held`; those that lead nowhere are left out.
    pub(super) fn hold(&self, place: u32, held: &mut Vec<u32>) {
        let at = self.at(place);
        let mut leads = at.repeats || at.first_child != NONE || at.accepts != NONE;
        if let Some(rare) = self.rare(place) {
            leads |= !rare.ones.is_empty();
            for &next in rare.stretch.iter().chain(&rare.joins) {
                self.hold(next, held);
            }
        }
        if leads {
            held.push(place);
        }
    }

    /// Whether every byte leads back to the place.
    pub(super) fn repeats(&self, place: u32) -> bool {
        self.at(place).repeats
    }

    /// Ways out over one byte.
    pub(super) fn children(&self, place: u32) -> impl Iterator<Item = (u8, u32)> {
        let mut next = self.at(place).first_child;
        std::iter::from_fn(move || {
            let child = self.places.get(next as usize)?;
            let found = (child.byte, next);
            next = child.next_sibling;
            Some(found)
        })
    }

    /// Ways out over a set of bytes.
    pub(super) fn ones(&self, place: u32) -> &[(Bytes, u32)] {
        self.rare(place).map_or(&[], |rare| &rare.ones)
    }

    /// Patterns that match a name which ends here.
    pub(super) fn accepts(&self, place: u32) -> impl Iterator<Item = u32> {
        let mut next = self.at(place).accepts;
        std::iter::from_fn(move || {
            let &(id, following) = self.accepts.get(next as usize)?;
            next = following;
            Some(id)
        })
    }

    /// The pattern that every name matches from here on, if that is all there is to the place.
    pub(super) fn decides(&self, place: u32) -> Option<u32> {
        let at = self.at(place);
        (at.repeats && self.everything.get(&at.serves) == Some(&place)).then_some(at.serves)
    }

    /// The one pattern for which the place is there.
    pub(super) fn serves(&self, place: u32) -> Option<u32> {
        Some(self.at(place).serves).filter(|&id| id != MANY)
    }

    fn at(&self, place: u32) -> &Place {
        &self.places[place as usize]
    }

    fn rare(&self, place: u32) -> Option<&Rare> {
        self.rare.get(self.at(place).rare as usize)
    }

    fn rare_mut(&mut self, place: u32) -> &mut Rare {
        let next = self.rare.len() as u32;
        let index = &mut self.places[place as usize].rare;
        if *index == NONE {
            *index = next;
            self.rare.push(Rare::default());
        }
        &mut self.rare[*index as usize]
    }

    fn add(&mut self, byte: u8) -> u32 {
        self.places.push(Place {
            byte,
            repeats: false,
            first_child: NONE,
            next_sibling: NONE,
            accepts: NONE,
            rare: NONE,
            serves: NONE,
        });
        self.places.len() as u32 - 1
    }

    fn serve(&mut self, place: u32, id: u32) {
        let serves = &mut self.places[place as usize].serves;
        if *serves == NONE {
            *serves = id;
        } else if *serves != id {
            *serves = MANY;
        }
    }

    /// Accepts behind `pieces`, and says where that is.
    fn accept(&mut self, id: u32, mut place: u32, pieces: &[Piece]) -> u32 {
        if let [before @ .., Piece::Stretch] = pieces {
            for piece in before {
                place = self.behind(id, place, piece);
            }
            let everything = self.everything(id);
            let joins = &mut self.rare_mut(place).joins;
            if !joins.contains(&everything) {
                joins.push(everything);
            }
            return everything;
        }
        for piece in pieces {
            place = self.behind(id, place, piece);
        }
        self.mark(place, id);
        place
    }

    fn mark(&mut self, place: u32, id: u32) {
        if !self.accepts(place).any(|accepted| accepted == id) {
            let entry = self.accepts.len() as u32;
            let head = &mut self.places[place as usize].accepts;
            self.accepts.push((id, *head));
            *head = entry;
        }
    }

    fn everything(&mut self, id: u32) -> u32 {
        if let Some(&place) = self.everything.get(&id) {
            return place;
        }
        let place = self.add(0);
        self.places[place as usize].repeats = true;
        self.serve(place, id);
        self.mark(place, id);
        self.everything.insert(id, place);
        place
    }

    /// The place behind `piece`, which begins at `place`.
    fn behind(&mut self, id: u32, place: u32, piece: &Piece) -> u32 {
        let next = match piece {
            Piece::Byte(byte) => self.child(place, *byte),
            Piece::One(bytes) => self.one(place, *bytes),
            Piece::Stretch => self.stretch(place),
            Piece::Choice(branches) => self.choice(id, place, branches),
        };
        self.serve(next, id);
        next
    }

    fn child(&mut self, place: u32, byte: u8) -> u32 {
        let known = self.children(place).find(|(key, _)| *key == byte);
        if let Some((_, child)) = known {
            return child;
        }
        let child = self.add(byte);
        self.places[child as usize].next_sibling = self.at(place).first_child;
        self.places[place as usize].first_child = child;
        child
    }

    fn one(&mut self, place: u32, bytes: Bytes) -> u32 {
        let known = self.ones(place).iter().find(|(key, _)| *key == bytes);
        if let Some(&(_, next)) = known {
            return next;
        }
        let next = self.add(0);
        self.rare_mut(place).ones.push((bytes, next));
        next
    }

    fn stretch(&mut self, place: u32) -> u32 {
        if let Some(next) = self.rare(place).and_then(|rare| rare.stretch) {
            return next;
        }
        let next = self.add(0);
        self.places[next as usize].repeats = true;
        self.rare_mut(place).stretch = Some(next);
        next
    }

    /// A new place, to which all branches lead.
    fn choice(&mut self, id: u32, place: u32, branches: &[Vec<Piece>]) -> u32 {
        let join = self.add(0);
        for branch in branches {
            let mut end = place;
            for piece in branch {
                end = self.behind(id, end, piece);
            }
            self.rare_mut(end).joins.push(join);
        }
        join
    }
}
