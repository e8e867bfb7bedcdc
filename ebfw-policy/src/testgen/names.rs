//! Random names for a ruleset, made of the pieces of its own patterns, and their classes by plain enumeration.

use std::collections::HashMap;

use ebfw_common::abi::NAMES_PER_ADDRESS;
use fastrand::Rng;

use crate::{
    compile::NameClasses,
    domain::{DomainPattern, Name},
    ruleset::Ruleset,
};

/// Classes of [`Flow::names`](ebfw_common::classify::Flow::names).
type ClassesOfFlow = [u32; NAMES_PER_ADDRESS as usize];

/// Names and their classes under the patterns of a ruleset.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    names: Vec<(Name, u32)>,
    patterns: Vec<DomainPattern>,
    classes: Vec<Box<[u32]>>,
}

impl NameTable {
    /// The classes of `names` under all patterns of `rulesets`.
    #[must_use]
    pub fn of<'a>(
        rulesets: impl IntoIterator<Item = &'a Ruleset>,
        names: impl IntoIterator<Item = Name>,
    ) -> Self {
        let mut patterns: Vec<DomainPattern> = Vec::new();
        for pattern in rulesets.into_iter().flat_map(patterns_of) {
            if !patterns.contains(pattern) {
                patterns.push(pattern.clone());
            }
        }
        let mut class_of = HashMap::from([(Box::default(), 0)]);
        let mut classes = vec![Box::default()];
        let mut numbered = Vec::new();
        for name in names {
            let meant: Box<[u32]> = (0..)
                .zip(&patterns)
                .filter(|(_, pattern)| pattern.matches(&name))
                .map(|(number, _)| number)
                .collect();
            let class = *class_of.entry(meant).or_insert_with_key(|meant| {
                classes.push(meant.clone());
                classes.len() as u32 - 1
            });
            numbered.push((name, class));
        }
        Self {
            names: numbered,
            patterns,
            classes,
        }
    }

    /// Names that the ruleset's patterns mean, nearly mean and do not mean.
    #[must_use]
    pub fn random(rng: &mut Rng, ruleset: &Ruleset) -> Self {
        let patterns: Vec<_> = patterns_of(ruleset).collect();
        let names: Vec<Name> = (0..rng.usize(4..24))
            .map(|_| match rng.choice(&patterns) {
                Some(pattern) => near(rng, pattern),
                None => Name::new(pick(rng, &PIECES)),
            })
            .collect();
        Self::of([ruleset], names)
    }

    /// Up to four names, which may be the same, and their classes as a flow has them.
    #[must_use]
    pub fn resolved(&self, rng: &mut Rng) -> (Vec<Name>, ClassesOfFlow) {
        let number = rng.usize(0..=NAMES_PER_ADDRESS as usize);
        let resolved: Vec<&(Name, u32)> = (0..number.min(self.names.len()))
            .map(|_| &self.names[rng.usize(..self.names.len())])
            .collect();
        let names = resolved.iter().map(|(name, _)| name.clone()).collect();
        let classes: Vec<u32> = resolved.iter().map(|(_, class)| *class).collect();
        (names, classes_of_flow(&classes))
    }

    /// One of the names, if there is one.
    #[must_use]
    pub fn any(&self, rng: &mut Rng) -> Option<(&Name, u32)> {
        let (name, class) = rng.choice(&self.names)?;
        Some((name, *class))
    }
}

impl NameClasses for NameTable {
    fn classes(&self) -> &[Box<[u32]>] {
        &self.classes
    }

    fn pattern(&self, pattern: &DomainPattern) -> Option<u32> {
        let place = self.patterns.iter().position(|known| known == pattern)?;
        u32::try_from(place).ok()
    }
}

fn classes_of_flow(classes: &[u32]) -> ClassesOfFlow {
    let first = classes.first().copied().unwrap_or(0);
    std::array::from_fn(|place| classes.get(place).copied().unwrap_or(first))
}

fn patterns_of(ruleset: &Ruleset) -> impl Iterator<Item = &DomainPattern> {
    ruleset
        .rules
        .iter()
        .flat_map(|rule| rule.matches.domains.entries().unwrap_or_default())
}

/// What stands for `*`, and what a name gets before or behind it.
const PIECES: [&str; 5] = ["www", "a", "b.www", "test", "xn--bcher-kva"];

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// A name that the pattern means, or one with a label more or less.
fn near(rng: &mut Rng, pattern: &DomainPattern) -> Name {
    let name = instance(rng, &pattern.to_string());
    let piece = pick(rng, &PIECES);
    Name::new(&match rng.u8(..8) {
        0..4 => name,
        4 | 5 => format!("{piece}.{name}"),
        6 => name.split_once('.').map_or("a", |(_, rest)| rest).into(),
        _ => format!("{name}.{piece}"),
    })
}

/// The pattern with something in place of whatever is no plain character.
fn instance(rng: &mut Rng, pattern: &str) -> String {
    let mut name = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let (piece, length) = match first {
            '*' => (pick(rng, &PIECES), 1),
            '?' => (pick(rng, &["a", "b", "z"]), 1),
            '[' => (pick(rng, &["a", "b", "z"]), until(rest, ']')),
            '{' => {
                let length = until(rest, '}');
                let choices: Vec<&str> = rest[1..length - 1].split(',').collect();
                (pick(rng, &choices), length)
            }
            _ => (&rest[..1], 1),
        };
        name.push_str(piece);
        rest = &rest[length..];
    }
    name
}

fn until(text: &str, end: char) -> usize {
    text.find(end).map_or(text.len(), |at| at + 1)
}
