//! All domain patterns as one automaton, which `ebfw_common::names` walks (SEMANTICS 3, `domains`).
//!
//! Patterns become a net of places, the net becomes states, equal states are merged, and the rest is laid into cells. Lists of patterns
//! go in, because a name need only be told from another where some list tells them apart: that keeps the automaton small.

mod array;
mod merge;
mod pieces;
mod places;
mod states;
#[cfg(test)]
mod tests;

use ebfw_common::names;
use indexmap::{IndexMap, IndexSet};
use rustc_hash::{FxBuildHasher, FxHashMap};

pub(super) use self::{
    array::cells_of,
    merge::{Merged, Next},
};
use self::{
    pieces::{Piece, backwards},
    places::Places,
};
use super::NameClasses;
use crate::domain::{DomainPattern, Name};

/// Which patterns match a name, for every name at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cells: Vec<u32>,
    root: u32,
    classes: Box<[Box<[u32]>]>,
    ids: FxHashMap<DomainPattern, u32>,
}

/// Why patterns have no automaton.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{patterns} domain patterns together {limit}; {advice}")]
pub struct NamesError {
    /// How many patterns there are.
    pub patterns: usize,
    /// What they need too much of.
    pub limit: Limit,
    /// What to change.
    pub advice: Advice,
}

/// What an automaton must not have too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Steps on the way to the automaton.
    #[error("match in too many ways at the same time")]
    States,
    /// Sets of patterns that match one name.
    #[error("sort names into too many classes")]
    Classes,
    /// Memory in the kernel.
    #[error("need more than {} MiB of kernel memory", MAX_BYTES >> 20)]
    Cells,
}

/// Bytes of an automaton at most.
pub(super) const MAX_BYTES: usize = names::MAX_CELLS as usize * size_of::<u32>();

/// What makes an automaton smaller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Advice {
    /// The patterns that cost most.
    #[error(
        "write those with `*` inside as suffixes such as `*.example.com`, or gather them in one rule: {}",
        list(.0)
    )]
    Simplify(Vec<DomainPattern>),
    /// All are simple.
    #[error("use fewer, for example `*.example.com` for many names below it")]
    Fewer,
}

fn list(patterns: &[DomainPattern]) -> String {
    let quoted: Vec<String> = patterns.iter().map(|text| format!("`{text}`")).collect();
    quoted.join(", ")
}

impl Names {
    /// No pattern matches any name.
    #[must_use]
    pub fn none() -> Self {
        Self {
            cells: Vec::new(),
            root: 1,
            classes: [Box::default()].into(),
            ids: FxHashMap::default(),
        }
    }

    /// Each pattern told from all others. [`Names::compile_lists`] is smaller, and all that rules need.
    ///
    /// # Errors
    ///
    /// [`NamesError`] where it would become too large.
    pub fn compile<'a>(
        patterns: impl IntoIterator<Item = &'a DomainPattern>,
    ) -> Result<Self, NamesError> {
        Self::compile_lists(patterns.into_iter().map(std::slice::from_ref))
    }

    /// Lists of patterns, each the `domains` of a rule. Patterns that are in the same lists have the same id.
    ///
    /// # Errors
    ///
    /// [`NamesError`] where it would become too large.
    pub fn compile_lists<'a>(
        lists: impl IntoIterator<Item = &'a [DomainPattern]>,
    ) -> Result<Self, NamesError> {
        let ids = identify(lists);
        let mut places = Places::new();
        for (pattern, id) in &ids {
            places.insert(*id, &backwards(pattern), pattern.is_suffix());
        }
        let error = |limit| NamesError {
            patterns: ids.len(),
            limit,
            advice: advice(ids.keys().copied()),
        };
        let states = states::determine(&places).map_err(error)?;
        drop(places);
        let (merged, first) = merge::merge(&states);
        let (cells, root) = array::lay_out(&merged, first).map_err(error)?;
        Ok(Self {
            cells,
            root,
            classes: states.into_classes(),
            ids: ids
                .into_iter()
                .map(|(pattern, id)| (pattern.clone(), id))
                .collect(),
        })
    }

    /// The automaton, for `ebfw_common::names::class_of`.
    #[must_use]
    pub fn cells(&self) -> &[u32] {
        &self.cells
    }

    /// The state in which the walk begins.
    #[must_use]
    pub fn root(&self) -> u32 {
        self.root
    }

    /// The class of a name, as the kernel finds it.
    #[must_use]
    pub fn class_of(&self, name: &Name) -> u32 {
        let text = name.as_str().as_bytes();
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        names::class_of(&mut self.cells.as_slice(), self.root, text, length)
    }

    /// Whether a compiled pattern matches every name of `class`.
    #[must_use]
    pub fn matches(&self, class: u32, pattern: &DomainPattern) -> bool {
        let Some(ids) = self.classes.get(class as usize) else {
            return false;
        };
        self.pattern(pattern)
            .is_some_and(|id| ids.binary_search(&id).is_ok())
    }
}

impl NameClasses for Names {
    fn classes(&self) -> &[Box<[u32]>] {
        &self.classes
    }

    fn pattern(&self, pattern: &DomainPattern) -> Option<u32> {
        self.ids.get(pattern).copied()
    }
}

/// Every pattern with its id: the number of the set of lists in which it is.
fn identify<'a>(
    lists: impl IntoIterator<Item = &'a [DomainPattern]>,
) -> IndexMap<&'a DomainPattern, u32, FxBuildHasher> {
    let mut places: IndexMap<&DomainPattern, Vec<u32>, FxBuildHasher> = IndexMap::default();
    for (list, number) in lists.into_iter().zip(0..) {
        for pattern in list {
            let lists = places.entry(pattern).or_default();
            if lists.last() != Some(&number) {
                lists.push(number);
            }
        }
    }
    let mut sets: IndexSet<Vec<u32>, FxBuildHasher> = IndexSet::default();
    places
        .into_iter()
        .map(|(pattern, lists)| (pattern, sets.insert_full(lists).0 as u32))
        .collect()
}

/// Patterns that an error names.
const SHOWN: usize = 3;

/// Names the patterns that open most ways at a time.
fn advice<'a>(patterns: impl Iterator<Item = &'a DomainPattern>) -> Advice {
    let mut costs: Vec<(usize, &DomainPattern)> = patterns
        .map(|pattern| (stretches(&backwards(pattern)), pattern))
        .filter(|(cost, _)| *cost > 0)
        .collect();
    if costs.is_empty() {
        return Advice::Fewer;
    }
    costs.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
    costs.truncate(SHOWN);
    Advice::Simplify(
        costs
            .into_iter()
            .map(|(_, pattern)| pattern.clone())
            .collect(),
    )
}

/// Stretches but for one at the beginning of the pattern.
fn stretches(pieces: &[Piece]) -> usize {
    let inner = match pieces {
        [before @ .., Piece::Stretch] => before,
        all => all,
    };
    let stretches_in = |piece: &Piece| match piece {
        Piece::Byte(_) | Piece::One(_) => 0,
        Piece::Stretch => 1,
        Piece::Choice(branches) => branches.iter().map(|branch| stretches(branch)).sum(),
    };
    inner.iter().map(stretches_in).sum()
}
