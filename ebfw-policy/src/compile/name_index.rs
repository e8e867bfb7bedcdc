//! Which rules a name means: from the class of a name under all patterns to the rules of one ruleset.
//!
//! The classes are those of the whole node, so that a name is classified once for all workloads; each ruleset has an index of its
//! own over them, number / 256 -> page -> bitmap, in which the many classes that mean none of its rules share pages.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexSet;

use super::{
    bitmap::{Bitmap, Classes},
    ports::ByteIndex,
};
use crate::{domain::DomainPattern, policy::Rule};

/// Names as classes: two names of one class are meant by the same patterns.
pub trait NameClasses {
    /// The numbers of the patterns that mean the names of each class, sorted. Class 0 are the names that no pattern means.
    fn classes(&self) -> &[Box<[u32]>];
    /// The number of a pattern; `None` where no class has it.
    fn pattern(&self, pattern: &DomainPattern) -> Option<u32>;
}

/// No name is known but by class 0.
#[derive(Clone, Copy, Debug)]
pub struct NoNames;

impl NameClasses for NoNames {
    fn classes(&self) -> &[Box<[u32]>] {
        &[]
    }

    fn pattern(&self, _: &DomainPattern) -> Option<u32> {
        None
    }
}

/// Numbers that the tables hold in 16 bits ran out.
pub(super) struct TooMany;

/// The index of one ruleset.
pub(super) struct Index {
    /// Number of classes.
    pub(super) classes: u32,
    /// Pages of classes, 256 pages an entry.
    pub(super) top: Vec<ByteIndex>,
    /// The distinct pages.
    pub(super) pages: IndexSet<ByteIndex>,
    /// The distinct sets of rules, the first one empty.
    pub(super) bitmaps: Classes,
}

pub(super) fn compile(
    rules: &[Arc<Rule>],
    words: usize,
    names: &impl NameClasses,
) -> Result<Index, TooMany> {
    let classes = names.classes();
    let rules_of = rules_by_pattern(rules, names);
    let mut bitmaps = Classes::new();
    let empty = bitmaps.number(&Bitmap::empty(words));
    let mut builder = IndexBuilder::default();
    builder.push(number(empty)?)?;
    for patterns in classes.iter().skip(1) {
        let mut meant = patterns
            .iter()
            .filter_map(|pattern| rules_of.get(pattern))
            .flatten()
            .copied()
            .peekable();
        // Most classes are of other rulesets: no bitmap is made for them.
        let bitmap = match meant.peek() {
            None => empty,
            Some(_) => bitmaps.number(&Bitmap::of(words, meant)),
        };
        builder.push(number(bitmap)?)?;
    }
    let (top, pages) = builder.finish()?;
    Ok(Index {
        classes: u32::try_from(classes.len().max(1)).map_err(|_| TooMany)?,
        top,
        pages,
        bitmaps,
    })
}

fn rules_by_pattern(rules: &[Arc<Rule>], names: &impl NameClasses) -> HashMap<u32, Vec<usize>> {
    let mut rules_of: HashMap<u32, Vec<usize>> = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        let patterns = rule.matches.domains.entries().unwrap_or_default();
        for pattern in patterns.iter().filter_map(|entry| names.pattern(entry)) {
            rules_of.entry(pattern).or_default().push(index);
        }
    }
    rules_of
}

fn number(index: usize) -> Result<u16, TooMany> {
    u16::try_from(index).map_err(|_| TooMany)
}

/// Fills the classes from 0 on.
#[derive(Default)]
struct IndexBuilder {
    /// The page of each 256 classes.
    page_of: Vec<u16>,
    pages: IndexSet<ByteIndex>,
    page: Vec<u16>,
}

impl IndexBuilder {
    fn push(&mut self, bitmap: u16) -> Result<(), TooMany> {
        self.page.push(bitmap);
        if self.page.len() == 256 {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), TooMany> {
        let page = self.pages.insert_full(filled(&self.page)).0;
        self.page_of.push(number(page)?);
        self.page.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<ByteIndex>, IndexSet<ByteIndex>), TooMany> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        Ok((self.page_of.chunks(256).map(filled).collect(), self.pages))
    }
}

/// At most 256 values, and zeroes behind them.
fn filled(values: &[u16]) -> ByteIndex {
    let mut index = [0; 256];
    index[..values.len()].copy_from_slice(values);
    index
}
