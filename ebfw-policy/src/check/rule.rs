//! Reads one rule: its name, action, match and mutations.

use std::sync::Arc;

use super::{Check, field::shorten};
use crate::{
    diagnostics::Code,
    policy::{Action, Match, Mutation, Position, Rule},
    yaml::{NodeId, Value},
};

/// Fields of a rule.
pub(crate) const RULE_FIELDS: [&str; 4] = ["name", "action", "match", "mutations"];
/// Fields of `match`.
pub(crate) const MATCH_FIELDS: [&str; 8] = [
    "pod",
    "cgroups",
    "domains",
    "cidrs",
    "ports",
    "protocols",
    "methods",
    "pathPrefix",
];
/// Fields of an entry of `mutations`.
pub(crate) const MUTATION_FIELDS: [&str; 4] = ["type", "header", "value", "pathReplace"];

/// Characters of a rule's name at most: it appears in every event.
const MAX_NAME: usize = 253;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Set,
    Add,
    Remove,
    Rewrite,
}

impl Check<'_, '_> {
    pub(super) fn rule(&mut self, node: NodeId, at: usize) -> Option<Rule> {
        let [name, action, matches, mutations] = self.fields(node, "a rule", RULE_FIELDS)?;
        let actions = [
            ("Allow", Action::Allow),
            ("Deny", Action::Deny),
            ("Modify", Action::Modify),
        ];
        let name = match name {
            Some(name) => self.rule_name(name),
            None => Some(format!("rule-{}", at + 1).into()),
        };
        // What decides is told among the rules of other objects.
        let name = match &self.object {
            Some(object) => name.map(|name| format!("{object}/{name}").into()),
            None => name,
        };
        let action = self
            .required(node, action, "action")
            .and_then(|action| self.choice(action, &actions));
        let matches = matches.map_or(Some(Match::ANYTHING), |node| self.matches(node));
        let mutations = self.mutations(node, mutations, action);
        let place = self.tree.place(node);
        Some(Rule {
            name: name?,
            action: action?,
            matches: matches?,
            mutations,
            strict_l7: self.strict_l7,
            position: Position {
                line: place.line,
                column: place.column,
            },
        })
    }

    fn rule_name(&mut self, node: NodeId) -> Option<Arc<str>> {
        let text = self.text(node, "a name")?;
        if text.trim().is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
            let hint = format!("a name has 1 to {MAX_NAME} bytes and no control characters");
            self.report(
                Code::BadValue,
                node,
                "this cannot be the name of a rule",
                Some(hint),
            );
            return None;
        }
        // In a cluster the name stands behind that of its object, so nothing is mistaken there.
        if self.object.is_none() && text.starts_with('(') && text.ends_with(')') {
            let hint = "what is decided without a rule has such a name in events: leave the parentheses out";
            self.report(
                Code::BadValue,
                node,
                format!("`{}` could be taken for no rule", shorten(text)),
                Some(hint.to_owned()),
            );
            return None;
        }
        Some(text.into())
    }

    fn matches(&mut self, node: NodeId) -> Option<Match> {
        let [
            pod,
            cgroups,
            domains,
            cidrs,
            ports,
            protocols,
            methods,
            path_prefix,
        ] = self.fields(node, "a match", MATCH_FIELDS)?;
        if let (Some(cgroups), true) = (cgroups, self.object.is_some()) {
            let hint = "only a policy file selects cgroups; an object selects pods".to_owned();
            self.report(
                Code::UnknownField,
                cgroups,
                "an object has no `cgroups`",
                Some(hint),
            );
        }
        Some(Match {
            pod: pod.map(|pod| self.pod_match(pod)),
            cgroups: self.any_of(cgroups, "a list of cgroup globs", Self::cgroup),
            domains: self.any_of(domains, "a list of domains", Self::domain),
            cidrs: self.any_of(cidrs, "a list of prefixes", Self::cidr),
            ports: self.any_of(ports, "a list of ports", Self::port),
            protocols: self.any_of(protocols, "a list of protocols", Self::protocol),
            methods: self.any_of(methods, "a list of methods", Self::method),
            path_prefix: path_prefix.and_then(|node| self.path_prefix(node)),
        })
    }

    fn mutations(
        &mut self,
        rule: NodeId,
        node: Option<NodeId>,
        action: Option<Action>,
    ) -> Vec<Mutation> {
        match (action, node) {
            (Some(Action::Modify), None) if !self.has_key(rule, "mutations") => {
                let hint = "add `mutations`, or write `action: Allow`".to_owned();
                self.report(
                    Code::Mutations,
                    rule,
                    "Modify needs `mutations`",
                    Some(hint),
                );
            }
            (Some(Action::Allow | Action::Deny), Some(node)) => {
                let hint = "write `action: Modify`, or leave `mutations` out".to_owned();
                self.report(
                    Code::Mutations,
                    node,
                    "only Modify takes `mutations`",
                    Some(hint),
                );
            }
            _ => {}
        }
        let Some(items) = node.and_then(|node| self.items(node, "a list of mutations")) else {
            return Vec::new();
        };
        if let (true, Some(node)) = (items.is_empty(), node) {
            self.report(Code::EmptyList, node, "an empty list changes nothing", None);
        }
        items
            .iter()
            .filter_map(|item| self.mutation(*item))
            .collect()
    }

    fn mutation(&mut self, node: NodeId) -> Option<Mutation> {
        let [kind, header, value, path] = self.fields(node, "a mutation", MUTATION_FIELDS)?;
        let kinds = [
            ("SetHeader", Kind::Set),
            ("AddHeader", Kind::Add),
            ("RemoveHeader", Kind::Remove),
            ("RewritePath", Kind::Rewrite),
        ];
        let kind = self
            .required(node, kind, "type")
            .and_then(|kind| self.choice(kind, &kinds))?;
        let (wants_header, wants_value) =
            (kind != Kind::Rewrite, matches!(kind, Kind::Set | Kind::Add));
        let header = self.mutation_field(node, header, "header", wants_header);
        let value = self.mutation_field(node, value, "value", wants_value);
        let path = self.mutation_field(node, path, "pathReplace", kind == Kind::Rewrite);
        let header = header.and_then(|header| self.header_name(header));
        let value = value.and_then(|value| self.header_value(value));
        Some(match kind {
            Kind::Set => Mutation::SetHeader {
                header: header?,
                value: value?,
            },
            Kind::Add => Mutation::AddHeader {
                header: header?,
                value: value?,
            },
            Kind::Remove => Mutation::RemoveHeader { header: header? },
            Kind::Rewrite => Mutation::RewritePath {
                path: self.new_path(path?)?,
            },
        })
    }

    /// A field that this type of mutation either needs or does not take.
    fn mutation_field(
        &mut self,
        mutation: NodeId,
        field: Option<NodeId>,
        name: &str,
        wanted: bool,
    ) -> Option<NodeId> {
        match (field, wanted) {
            (field, true) => self.required(mutation, field, name),
            (Some(node), false) => {
                self.report(
                    Code::Mutations,
                    node,
                    format!("this type of mutation takes no `{name}`"),
                    None,
                );
                None
            }
            (None, false) => None,
        }
    }

    fn header_name(&mut self, node: NodeId) -> Option<Box<str>> {
        let text = self.text(node, "the name of a header")?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || !text.bytes().all(token) {
            self.report(
                Code::Mutations,
                node,
                format!("`{}` is no name of a header", shorten(text)),
                None,
            );
            return None;
        }
        Some(text.into())
    }

    fn header_value(&mut self, node: NodeId) -> Option<Box<str>> {
        let text = self.text(node, "the value of a header")?;
        if text.chars().any(|c| c.is_control() && c != '\t') {
            let hint = "a header is one line".to_owned();
            self.report(
                Code::Mutations,
                node,
                "the value of a header has no control characters",
                Some(hint),
            );
            return None;
        }
        Some(text.into())
    }

    fn new_path(&mut self, node: NodeId) -> Option<Box<str>> {
        let text = self.text(node, "a path")?;
        if !text.starts_with('/') || text.chars().any(|c| c.is_control() || c == ' ') {
            let hint =
                "it begins with `/` and has neither spaces nor control characters".to_owned();
            self.report(
                Code::Mutations,
                node,
                format!("`{}` is no path", shorten(text)),
                Some(hint),
            );
            return None;
        }
        Some(text.into())
    }

    /// Whether the mapping has the key, with a value or without: what has no value was reported already.
    pub(super) fn has_key(&self, node: NodeId, name: &str) -> bool {
        let named = |key: NodeId| matches!(self.tree.value(key), Value::Scalar { text, .. } if &**text == name);
        match self.tree.value(node) {
            Value::Map(pairs) => pairs.iter().any(|(key, _)| named(*key)),
            Value::Scalar { .. } | Value::List(_) => false,
        }
    }
}
