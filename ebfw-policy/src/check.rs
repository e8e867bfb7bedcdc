//! From a YAML tree to a checked [`Policy`], with every error of the file.
//!
//! The walk never stops at an error: what is wrong is reported and left out, and the policy is handed over only if nothing was.

mod field;
mod manifest;
mod object;
mod pod;
mod rule;
mod value;

pub use self::manifest::{Manifests, Violation, is_manifest, parse_manifests};
pub(crate) use self::{
    field::did_you_mean,
    manifest::{is_object, to_json},
    object::parse_object,
    value::{address_and_length, protocols},
};

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    diagnostics::{Code, Diagnostic, Diagnostics, Found},
    domain::DomainMatch,
    object::ObjectId,
    policy::{Action, AnyOf, MAX_RULES, Match, Policy, Quic, Rule},
    yaml::{self, Documents, NodeId, Tree, Value},
};

/// Fields of a policy file.
pub(crate) const POLICY_FIELDS: [&str; 7] = [
    "defaultAction",
    "podSelector",
    "rules",
    "domainMatch",
    "strictL7",
    "quic",
    "governLoopback",
];

/// Reads a policy file.
///
/// # Errors
/// Every error of the file, in the order of their places.
pub fn parse_policy(source: &str) -> Result<Policy, Diagnostics> {
    let mut problems = Found::default();
    let tree = match yaml::read(source, Documents::One, &mut problems) {
        Ok(tree) => tree,
        Err(error) => return Err(problems.ended_by(error)),
    };
    let mut check = Check::new(&tree, problems);
    let policy = check.policy(tree.root());
    match policy {
        Some(policy) if check.problems.is_empty() => Ok(policy),
        _ => Err(check.into_diagnostics()),
    }
}

/// The walk: the tree, what was found wrong so far, and what the policy says for all its rules.
struct Check<'t, 'a> {
    tree: &'t Tree<'a>,
    problems: Found,
    /// Of each problem the node that it is about.
    about: Vec<Option<NodeId>>,
    domain_match: DomainMatch,
    strict_l7: bool,
    /// The object that is read, if it is none of a policy file.
    object: Option<ObjectId>,
}

/// The values of [`POLICY_FIELDS`].
type PolicyFields = [Option<NodeId>; POLICY_FIELDS.len()];

impl<'t, 'a> Check<'t, 'a> {
    fn new(tree: &'t Tree<'a>, problems: Found) -> Self {
        Self {
            tree,
            about: vec![None; problems.kept.len()],
            problems,
            domain_match: DomainMatch::Glob,
            strict_l7: false,
            object: None,
        }
    }
}

impl Check<'_, '_> {
    fn policy(&mut self, root: NodeId) -> Option<Policy> {
        let fields = self.fields(root, "a policy", POLICY_FIELDS)?;
        Some(self.policy_of(fields))
    }

    fn policy_of(&mut self, fields: PolicyFields) -> Policy {
        let [
            default_action,
            pod_selector,
            rules,
            domain_match,
            strict_l7,
            quic,
            govern_loopback,
        ] = fields;
        self.domain_match = domain_match
            .and_then(|node| {
                self.choice(
                    node,
                    &[("Glob", DomainMatch::Glob), ("Suffix", DomainMatch::Suffix)],
                )
            })
            .unwrap_or_default();
        self.strict_l7 = strict_l7.and_then(|node| self.flag(node)).unwrap_or(false);
        let default_action = default_action
            .and_then(|node| self.choice(node, &[("Allow", Action::Allow), ("Deny", Action::Deny)]))
            .unwrap_or(Action::Allow);
        let quic = quic
            .and_then(|node| self.choice(node, &[("decide", Quic::Decide), ("deny", Quic::Deny)]))
            .unwrap_or_default();
        let govern_loopback = govern_loopback
            .and_then(|node| self.flag(node))
            .unwrap_or(false);
        let pod_selector = pod_selector.map(|node| self.pod_selector(node));
        let rules = rules.map_or_else(Vec::new, |node| self.rules(node, quic));
        Policy {
            default_action,
            pod_selector,
            rules,
            quic,
            govern_loopback,
        }
    }

    fn rules(&mut self, list: NodeId, quic: Quic) -> Vec<Arc<Rule>> {
        let Some(items) = self.items(list, "a list of rules") else {
            return Vec::new();
        };
        let rules: Vec<_> = items
            .iter()
            .enumerate()
            .filter_map(|(at, node)| self.rule(*node, at))
            .map(Arc::new)
            .collect();
        self.count(list, &rules, quic);
        rules
    }

    /// Refuses what no workload could have: rules for all of them, and those that one selector narrows beside them. Rules of
    /// different selectors may meet in one workload as well; that is known when there is one.
    fn count(&mut self, list: NodeId, rules: &[Arc<Rule>], quic: Quic) {
        if rules.len() < MAX_RULES {
            return;
        }
        let mut groups: HashMap<_, usize> = HashMap::new();
        for rule in rules {
            let Match { pod, cgroups, .. } = &rule.matches;
            *groups.entry((pod.as_ref(), cgroups)).or_default() += 1;
        }
        let everywhere =
            groups.remove(&(None, &AnyOf::Anything)).unwrap_or(0) + usize::from(quic == Quic::Deny);
        let narrowed = groups.into_values().max().unwrap_or(0);
        let (count, whom, hint) = if everywhere > MAX_RULES {
            (
                everywhere,
                "every workload",
                "join rules that differ in one list only, or narrow them with `match.pod` or `match.cgroups`",
            )
        } else {
            (
                everywhere + narrowed,
                "the workloads of one `match.pod` and `match.cgroups`",
                "join rules that differ in one list only, or narrow them further",
            )
        };
        if count > MAX_RULES {
            let message =
                format!("{count} rules apply to {whom}, {MAX_RULES} at most are possible");
            self.report(Code::TooManyRules, list, message, Some(hint.to_owned()));
        }
    }

    /// Records an error at `node`; once a multiple of what is shown has been found, only counts.
    fn report(
        &mut self,
        code: Code,
        node: NodeId,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let place = self.tree.place(node);
        let kept = self.problems.push(|| {
            let problem = Diagnostic::error(code, message, place);
            match hint {
                Some(hint) => problem.with_hint(hint),
                None => problem,
            }
        });
        if kept {
            self.about.push(Some(node));
        }
    }

    /// Gives each problem from `first` on the way to it from `root`, which itself is called `name`.
    fn name_fields(&mut self, first: usize, root: NodeId, name: &str) {
        let wanted: HashSet<NodeId> = self.about[first..].iter().flatten().copied().collect();
        if wanted.is_empty() {
            return;
        }
        let paths: HashMap<NodeId, String> = self.tree.paths(root, &wanted);
        for (problem, about) in self.problems.kept.iter_mut().zip(&self.about).skip(first) {
            let Some(path) = about.and_then(|node| paths.get(&node)) else {
                continue;
            };
            problem.field = Some(match path.as_str() {
                "" => name.to_owned(),
                path => format!("{name}.{path}"),
            });
        }
    }

    fn into_diagnostics(self) -> Diagnostics {
        self.problems.into()
    }

    fn is_null(&self, node: NodeId) -> bool {
        match self.tree.value(node) {
            Value::Scalar { text, plain } => *plain && yaml::is_null(text),
            Value::List(_) | Value::Map(_) => false,
        }
    }
}
