//! Which rules a payload satisfies by the name that it claims and by its request, each a dimension of its own: the table of SEMANTICS 4
//! and the three states of a request, as `crate::evaluate` has them.

use std::sync::Arc;

use super::bitmap::Bitmap;
use crate::policy::{Action, Rule};

/// The rules that match whatever the names of a flow are. Which rules mean a name, `super::name_index` says.
pub(super) struct NameSets {
    /// While nothing was said: these may match, and Allow rules do that mean any of the names.
    pub(super) pending: Bitmap,
    /// Of those that may, these do; a Deny does if it means all of the names.
    pub(super) pending_yes: Bitmap,
    /// Once the client has spoken.
    pub(super) said: Bitmap,
}

/// The rules that match without a look at method and path.
pub(super) struct RequestSets {
    /// While no request was made, when all may match.
    pub(super) pending_yes: Bitmap,
    /// Where no request can be read.
    pub(super) opaque: Bitmap,
}

/// `None` if no rule looks at names.
pub(super) fn names(rules: &[Arc<Rule>], words: usize) -> Option<NameSets> {
    let reads = |rule: &Rule| rule.matches.domains.entries().is_some();
    rules.iter().any(|rule| reads(rule)).then(|| NameSets {
        // A claim can only take an Allow away, but it can always bring a Deny about.
        pending: those(rules, words, |rule| {
            !reads(rule) || rule.action == Action::Deny
        }),
        // Where any name must be meant, it is by the time that this is asked.
        pending_yes: those(rules, words, |rule| !reads(rule) || rule.action.permits()),
        said: those(rules, words, |rule| !reads(rule)),
    })
}

/// `None` if no rule looks at methods or paths.
pub(super) fn requests(rules: &[Arc<Rule>], words: usize) -> Option<RequestSets> {
    let reads = |rule: &Rule| rule.matches.reads_requests();
    let strict = |rule: &Rule| rule.strict_l7 && rule.action == Action::Deny;
    rules.iter().any(|rule| reads(rule)).then(|| RequestSets {
        pending_yes: those(rules, words, |rule| !reads(rule)),
        opaque: those(rules, words, |rule| !reads(rule) || strict(rule)),
    })
}

fn those(rules: &[Arc<Rule>], words: usize, wanted: impl Fn(&Rule) -> bool) -> Bitmap {
    let wanted = rules.iter().enumerate().filter(|(_, rule)| wanted(rule));
    Bitmap::of(words, wanted.map(|(index, _)| index))
}
