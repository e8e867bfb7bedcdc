//! Sets of rules as bit vectors, and the numbering of equal sets as classes.

use indexmap::IndexSet;

/// A set of rule indexes; the width is that of the ruleset's tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bitmap(Box<[u64]>);

impl Bitmap {
    /// The empty set, `words` words wide.
    pub(super) fn empty(words: usize) -> Self {
        Self(vec![0; words].into_boxed_slice())
    }

    /// The set of `rules`.
    pub(super) fn of(words: usize, rules: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::empty(words);
        for rule in rules {
            set.insert(rule);
        }
        set
    }

    pub(super) fn insert(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    /// Adds the rule if it is absent, else takes it out.
    pub(super) fn toggle(&mut self, rule: usize) {
        self.0[rule / 64] ^= 1 << (rule % 64);
    }

    /// The set with `rules` added.
    pub(super) fn with(&self, rules: impl IntoIterator<Item = usize>) -> Self {
        let mut set = self.clone();
        for rule in rules {
            set.insert(rule);
        }
        set
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }
}

/// The classes of a ruleset: each distinct set of rules once, numbered in the order of its first use.
pub(super) struct Classes(IndexSet<Bitmap>);

impl Classes {
    pub(super) fn new() -> Self {
        Self(IndexSet::new())
    }

    /// The class of `set`, a new one if no equal set was seen before.
    pub(super) fn number(&mut self, set: &Bitmap) -> usize {
        match self.0.get_index_of(set) {
            Some(class) => class,
            None => self.0.insert_full(set.clone()).0,
        }
    }

    /// The set of a class that was numbered.
    pub(super) fn set(&self, class: usize) -> &Bitmap {
        &self.0[class]
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.0.len()).expect("fewer than 2^32 sets fit into memory")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u64]> {
        self.0.iter().map(Bitmap::words)
    }
}
