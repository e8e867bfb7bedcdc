//! Which rules payload and names satisfy, as long as the kernel reads no payload.
//!
//! Two situations: *pending* (nothing was sent, so a claim or a request may still come) and *opaque* (what was sent
//! carries neither). The same table as `crate::evaluate` applies to facts of these two kinds, in terms of the rules that any of the
//! flow's names satisfies, and those that all of them do.

use std::sync::Arc;

use super::bitmap::Bitmap;
use crate::policy::{Action, Rule};

/// The rules that match whatever the names are, if any name is meant, if all are; a rule is in one of them at most.
pub(super) struct ByNames {
    /// Whatever the names are.
    pub(super) always: Bitmap,
    /// If the rule means any of them.
    pub(super) any: Bitmap,
    /// If the rule means all of them, and there is one.
    pub(super) all: Bitmap,
}

impl ByNames {
    fn empty(words: usize) -> Self {
        Self {
            always: Bitmap::empty(words),
            any: Bitmap::empty(words),
            all: Bitmap::empty(words),
        }
    }

    fn insert(&mut self, rule: usize, when: When) {
        match when {
            When::Always => self.always.insert(rule),
            When::Any => self.any.insert(rule),
            When::All => self.all.insert(rule),
            When::Never => {}
        }
    }
}

/// What the names must be for a rule to match.
#[derive(Clone, Copy)]
enum When {
    Always,
    Any,
    All,
    Never,
}

/// The content dimension.
pub(super) struct Sets {
    /// Whether any rule looks at names.
    pub(super) reads_names: bool,
    /// Whether any rule looks at method or path.
    pub(super) reads_requests: bool,
    /// Pending: rules that match, or may once a fact is known.
    pub(super) pending_maybe: ByNames,
    /// Pending: rules that match, of those that may.
    pub(super) pending_yes: ByNames,
    /// Opaque: rules that match.
    pub(super) opaque: ByNames,
}

pub(super) fn sets(rules: &[Arc<Rule>], words: usize) -> Sets {
    let mut sets = Sets {
        reads_names: false,
        reads_requests: false,
        pending_maybe: ByNames::empty(words),
        pending_yes: ByNames::empty(words),
        opaque: ByNames::empty(words),
    };
    for (index, rule) in rules.iter().enumerate() {
        let names = rule.matches.domains.entries().is_some();
        let request = rule.matches.reads_requests();
        sets.reads_names |= names;
        sets.reads_requests |= request;
        // A claim can only take an Allow away, but it can always bring a Deny about.
        let (maybe, yes) = match (names, rule.action) {
            (false, _) => (When::Always, When::Always),
            // Where any name must be meant, it is by the time that this is asked.
            (true, Action::Allow | Action::Modify) => (When::Any, When::Always),
            (true, Action::Deny) => (When::Always, When::All),
        };
        sets.pending_maybe.insert(index, maybe);
        sets.pending_yes
            .insert(index, if request { When::Never } else { yes });
        let strict = rule.strict_l7 && rule.action == Action::Deny;
        let opaque = match (request && !strict, names) {
            (true, _) => When::Never,
            (false, true) => When::Any,
            (false, false) => When::Always,
        };
        sets.opaque.insert(index, opaque);
    }
    sets
}
