//! Which rules a payload satisfies, as long as the kernel knows no names and reads no payload.
//!
//! Two situations: *pending* (nothing was sent, so a claim or a request may still come) and *opaque* (what was sent
//! carries neither). The same table as `crate::evaluate` applies to facts of these two kinds.

use std::sync::Arc;

use super::bitmap::Bitmap;
use crate::policy::{Action, Rule};

/// The content dimension.
pub(super) struct Sets {
    /// Whether any rule looks at names, method or path.
    pub(super) looked_at: bool,
    /// Pending: rules that match, or may once a fact is known.
    pub(super) pending_maybe: Bitmap,
    /// Pending: rules that match.
    pub(super) pending_yes: Bitmap,
    /// Opaque: rules that match.
    pub(super) opaque: Bitmap,
}

pub(super) fn sets(rules: &[Arc<Rule>], words: usize) -> Sets {
    let mut sets = Sets {
        looked_at: false,
        pending_maybe: Bitmap::empty(words),
        pending_yes: Bitmap::empty(words),
        opaque: Bitmap::empty(words),
    };
    for (index, rule) in rules.iter().enumerate() {
        let (names, request) = looks_at(rule);
        sets.looked_at |= names || request;
        if !names && !request {
            sets.pending_yes.insert(index);
        }
        // Nothing is resolved: an Allow needs a name now, a Deny still waits for the claim.
        if !names || rule.action == Action::Deny {
            sets.pending_maybe.insert(index);
        }
        let strict = rule.strict_l7 && rule.action == Action::Deny;
        if !names && (!request || strict) {
            sets.opaque.insert(index);
        }
    }
    sets
}

/// Whether the rule looks at names, and whether at the request.
fn looks_at(rule: &Rule) -> (bool, bool) {
    let matches = &rule.matches;
    (
        matches.domains.entries().is_some(),
        matches.methods.entries().is_some() || matches.path_prefix.is_some(),
    )
}
