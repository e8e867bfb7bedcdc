//! A domain pattern as a sequence of pieces, from its last byte to its first.
//!
//! Globs come as the regular expression that globset made of them, so that both read a glob the same way.

use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use crate::domain::{DomainPattern, Form};

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0
    }

    /// Whether it holds the bytes that no pattern mentions: those beyond ASCII.
    pub(super) fn is_open(&self) -> bool {
        self.contains(u8::MAX)
    }

    /// The bytes in which the set differs from what it does with unmentioned ones.
    pub(super) fn mentioned(&self) -> Self {
        if self.is_open() {
            Self(self.0.map(|word| !word))
        } else {
            *self
        }
    }

    pub(super) fn union(&mut self, other: Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        (0..4u8).flat_map(move |at| {
            let mut word = self.0[usize::from(at)];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as u8)?;
                word &= word - 1;
                Some(at * 64 + bit)
            })
        })
    }
}

/// What stands in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Byte(u8),
    /// One byte of a set.
    One(Bytes),
    /// Any bytes, also none.
    Stretch,
    Choice(Vec<Vec<Piece>>),
}

/// The pieces of `pattern`, last one first, without what [`DomainPattern::is_suffix`] adds.
pub(super) fn backwards(pattern: &DomainPattern) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut below = |text: &str| pieces.extend(text.bytes().rev().map(Piece::Byte));
    match pattern.form() {
        Form::Any => pieces.extend(SOME),
        Form::Exact(text) => below(text),
        Form::Below(text) => {
            below(text);
            pieces.extend(SOME);
        }
        Form::Regex(regex) => push(&parse(&regex), &mut pieces),
    }
    pieces
}

/// One byte or more.
pub(super) const SOME: [Piece; 2] = [Piece::One(Bytes::ALL), Piece::Stretch];

/// With the settings under which globset compiles it.
fn parse(regex: &str) -> Hir {
    ParserBuilder::new()
        .utf8(false)
        .dot_matches_new_line(true)
        .build()
        .parse(regex)
        .expect("globset has parsed the expression that it wrote")
}

fn push(hir: &Hir, pieces: &mut Vec<Piece>) {
    match hir.kind() {
        // A glob is anchored at both ends and nowhere else.
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => {
            pieces.extend(literal.0.iter().rev().map(|byte| Piece::Byte(*byte)));
        }
        HirKind::Class(class) => push_one(bytes(class), pieces),
        HirKind::Repetition(repetition) => {
            assert!(
                repetition.min == 0 && repetition.max.is_none(),
                "globset repeats only in `.*`, not as in {hir}"
            );
            if pieces.last() != Some(&Piece::Stretch) {
                pieces.push(Piece::Stretch);
            }
        }
        HirKind::Capture(capture) => push(&capture.sub, pieces),
        HirKind::Concat(parts) => parts.iter().rev().for_each(|part| push(part, pieces)),
        HirKind::Alternation(branches) => {
            let branch = |hir| {
                let mut pieces = Vec::new();
                push(hir, &mut pieces);
                pieces
            };
            pieces.push(Piece::Choice(branches.iter().map(branch).collect()));
        }
    }
}

/// Behind a stretch, a byte that may be any is counted before it: fewer places to be in at a time.
fn push_one(bytes: Bytes, pieces: &mut Vec<Piece>) {
    let at = if bytes == Bytes::ALL && pieces.last() == Some(&Piece::Stretch) {
        pieces.len() - 1
    } else {
        pieces.len()
    };
    pieces.insert(at, Piece::One(bytes));
}

fn bytes(class: &Class) -> Bytes {
    let mut bytes = Bytes::default();
    match class {
        Class::Bytes(class) => {
            for range in class.ranges() {
                (range.start()..=range.end()).for_each(|byte| bytes.insert(byte));
            }
        }
        // What a choice of single characters becomes.
        Class::Unicode(class) => {
            for c in class.iter().flat_map(|range| range.start()..=range.end()) {
                bytes.insert(u8::try_from(c).expect("a pattern is ASCII"));
            }
        }
    }
    bytes
}
