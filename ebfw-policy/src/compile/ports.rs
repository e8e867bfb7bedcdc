//! Which rules a destination port satisfies: from port ranges to the two-step index port / 256 -> page -> class.

use indexmap::IndexSet;

use super::bitmap::{Bitmap, Classes};
use crate::policy::PortRange;

/// 256 values, indexed by one byte.
pub(super) type ByteIndex = [u16; 256];

/// Numbers that the tables hold in 16 bits ran out.
pub(super) struct Overflow;

/// The distinct pages of all port indexes of a ruleset.
pub(super) struct Pages(IndexSet<ByteIndex>);

impl Pages {
    pub(super) fn new() -> Self {
        Self(IndexSet::new())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ByteIndex> {
        self.0.iter()
    }

    /// At most 256 pages for each of three protocols, so the number always fits.
    fn number(&mut self, page: &ByteIndex) -> u16 {
        u16::try_from(self.0.insert_full(*page).0).expect("three protocols have at most 768 pages")
    }
}

/// The ports of one rule as toggles: at each border the rule starts or stops to match.
struct Border {
    /// First port of the new state; 65536 never comes.
    port: u32,
    rule: usize,
}

/// Builds the index of one protocol. `base` are the rules that match whatever the port is, `ranges` the
/// ports of each other rule that admits the protocol.
pub(super) fn compile<'a>(
    base: &Bitmap,
    ranges: impl IntoIterator<Item = (usize, &'a [PortRange])>,
    classes: &mut Classes,
    pages: &mut Pages,
) -> Result<ByteIndex, Overflow> {
    let mut borders = Vec::new();
    for (rule, ports) in ranges {
        push_borders(rule, ports, &mut borders);
    }
    borders.sort_unstable_by_key(|border| border.port);

    let mut index = IndexBuilder::new(pages);
    let mut set = base.clone();
    for same in borders.chunk_by(|a, b| a.port == b.port) {
        index.fill_to(same[0].port, class_number(&set, classes)?);
        for border in same {
            set.toggle(border.rule);
        }
    }
    index.fill_to(1 << 16, class_number(&set, classes)?);
    Ok(index.page_of)
}

pub(super) fn class_number(set: &Bitmap, classes: &mut Classes) -> Result<u16, Overflow> {
    u16::try_from(classes.number(set)).map_err(|_| Overflow)
}

/// Merges the ranges of a rule first: a toggle must not meet another of the same rule inside a range.
fn push_borders(rule: usize, ports: &[PortRange], borders: &mut Vec<Border>) {
    let mut sorted: Vec<(u32, u32)> = ports
        .iter()
        .map(|range| (u32::from(range.first()), u32::from(range.last()) + 1))
        .collect();
    sorted.sort_unstable();
    let mut merged: Option<(u32, u32)> = None;
    for (first, end) in sorted {
        match &mut merged {
            Some((_, last_end)) if first <= *last_end => *last_end = end.max(*last_end),
            _ => push_range(rule, merged.replace((first, end)), borders),
        }
    }
    push_range(rule, merged, borders);
}

fn push_range(rule: usize, range: Option<(u32, u32)>, borders: &mut Vec<Border>) {
    if let Some((first, end)) = range {
        borders.extend(
            [first, end]
                .into_iter()
                .filter(|port| *port < 1 << 16)
                .map(|port| Border { port, rule }),
        );
    }
}

/// Fills the ports from 0 on, a page at a time.
struct IndexBuilder<'a> {
    pages: &'a mut Pages,
    page_of: ByteIndex,
    page: ByteIndex,
    next: u32,
}

impl<'a> IndexBuilder<'a> {
    fn new(pages: &'a mut Pages) -> Self {
        Self {
            pages,
            page_of: [0; 256],
            page: [0; 256],
            next: 0,
        }
    }

    /// Gives all ports from the last end up to `end` the class.
    fn fill_to(&mut self, end: u32, class: u16) {
        while self.next < end {
            let (page, within) = ((self.next >> 8) as usize, (self.next & 255) as usize);
            if within == 0 && end - self.next >= 256 {
                let whole = ((end - self.next) >> 8) as usize;
                self.page_of[page..page + whole].fill(self.pages.number(&[class; 256]));
                self.next += (whole as u32) << 8;
                continue;
            }
            let stop = (within + (end - self.next) as usize).min(256);
            self.page[within..stop].fill(class);
            self.next += (stop - within) as u32;
            if stop == 256 {
                self.page_of[page] = self.pages.number(&self.page);
            }
        }
    }
}
