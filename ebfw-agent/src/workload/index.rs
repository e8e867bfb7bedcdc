//! Which rules have to be asked about a cgroup: one set of globs for the elements of all of them, instead of one glob after the other.
//!
//! Leaves out only rules that cannot match; what a rule selects is for the policy alone to say.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ebfw_policy::{
    cgroup::CgroupPath,
    policy::{Policy, Rule},
};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The globs of a policy, taken apart.
#[derive(Debug)]
pub(super) struct Index {
    /// The policy without rules.
    frame: Policy,
    rules: Vec<Arc<Rule>>,
    /// Rules that may select any cgroup: without a glob, or with one that means everything.
    anywhere: Vec<usize>,
    /// Rules that may select a cgroup however deep: with a `**`.
    deep: Vec<usize>,
    /// All elements of all globs.
    elements: GlobSet,
    /// For each of them the rules that have it.
    places: Vec<Places>,
    /// The names that were looked up since [`Index::forget`].
    names: HashMap<Box<str>, Arc<Places>>,
}

/// The rules that have an element in one of their globs.
#[derive(Clone, Debug, Default)]
struct Places {
    /// As the last element but `**`: a cgroup that the glob means has it in its path.
    last: Vec<usize>,
    /// Before the last element: a cgroup below which the glob means something has it as its name.
    inner: Vec<usize>,
}

impl Index {
    /// `None` where the globs are too many for one set: then each has to be asked.
    pub(super) fn new(policy: &Policy) -> Option<Self> {
        let mut index = Self {
            frame: Policy {
                rules: Vec::new(),
                ..policy.clone()
            },
            rules: policy.rules.clone(),
            anywhere: Vec::new(),
            deep: Vec::new(),
            elements: GlobSet::empty(),
            places: Vec::new(),
            names: HashMap::new(),
        };
        let mut set = ElementSet {
            numbers: HashMap::new(),
            globs: GlobSetBuilder::new(),
        };
        for (number, rule) in policy.rules.iter().enumerate() {
            match rule.matches.cgroups.entries() {
                None => index.anywhere.push(number),
                Some(globs) => {
                    for glob in globs {
                        index.add(number, glob.as_str(), &mut set)?;
                    }
                }
            }
        }
        index.elements = set.globs.build().ok()?;
        Some(index)
    }

    /// Notes which elements a rule has in one of its globs.
    fn add<'a>(&mut self, rule: usize, glob: &'a str, set: &mut ElementSet<'a>) -> Option<()> {
        let elements: Vec<&str> = glob.split('/').filter(|text| !text.is_empty()).collect();
        if elements.contains(&"**") {
            self.deep.push(rule);
        }
        let Some(last) = elements.iter().rposition(|text| *text != "**") else {
            self.anywhere.push(rule);
            return Some(());
        };
        for (place, text) in elements.into_iter().enumerate() {
            if text == "**" {
                continue;
            }
            let element = set.number(text)?;
            self.places.resize_with(set.numbers.len(), Places::default);
            let places = &mut self.places[element];
            if place == last {
                places.last.push(rule);
            } else {
                places.inner.push(rule);
            }
        }
        Some(())
    }

    /// A policy that says the same about `path` as the whole one.
    pub(super) fn about(&mut self, path: &CgroupPath) -> Policy {
        let mut asked: BTreeSet<usize> = self.anywhere.iter().copied().collect();
        for name in names(path) {
            asked.extend(&self.places_of(name).last);
        }
        self.policy(asked)
    }

    /// A policy that says the same about what lies below `path` as the whole one.
    pub(super) fn below(&mut self, path: &CgroupPath) -> Policy {
        match names(path).last() {
            None => self.policy(0..self.rules.len()),
            Some(name) => {
                let places = self.places_of(name);
                let asked = self.deep.iter().chain(&places.inner).copied();
                // In the order of the rules, since the first that may differ is enough.
                self.policy(asked.collect::<BTreeSet<_>>())
            }
        }
    }

    /// Forgets the names that were looked up.
    pub(super) fn forget(&mut self) {
        self.names.clear();
    }

    fn policy(&self, rules: impl IntoIterator<Item = usize>) -> Policy {
        let rules = rules.into_iter().map(|rule| Arc::clone(&self.rules[rule]));
        Policy {
            rules: rules.collect(),
            ..self.frame.clone()
        }
    }

    fn places_of(&mut self, name: &str) -> Arc<Places> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let mut places = Places::default();
        for element in self.elements.matches(name) {
            places.last.extend(&self.places[element].last);
            places.inner.extend(&self.places[element].inner);
        }
        let places = Arc::new(places);
        self.names.insert(name.into(), Arc::clone(&places));
        places
    }
}

/// Elements on their way into one set, each of them once.
struct ElementSet<'a> {
    numbers: HashMap<&'a str, usize>,
    globs: GlobSetBuilder,
}

impl<'a> ElementSet<'a> {
    fn number(&mut self, text: &'a str) -> Option<usize> {
        if let Some(&known) = self.numbers.get(text) {
            return Some(known);
        }
        // Names have no slash, so that `*` may match one: such globs are faster.
        let glob = GlobBuilder::new(text).backslash_escape(true).build();
        self.globs.add(glob.ok()?);
        self.numbers.insert(text, self.numbers.len());
        Some(self.numbers.len() - 1)
    }
}

fn names(path: &CgroupPath) -> impl Iterator<Item = &str> {
    path.as_str().split('/').filter(|name| !name.is_empty())
}
