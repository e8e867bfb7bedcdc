//! Reads mappings, lists and scalars of the tree, and says what stands there where something else is wanted.

use super::Check;
use crate::{
    diagnostics::Code,
    policy::AnyOf,
    yaml::{self, NodeId, Value},
};

/// Likeness (Jaro-Winkler, 0 to 1) from which a word is taken for a misspelling of another.
const SIMILAR: f64 = 0.75;

/// Letters from which the beginning of a word is taken for the word.
const ABBREVIATION: usize = 3;

/// The candidate that `text` was probably meant to be: the one that it is the beginning of, else the one with the fewest letters changed.
pub(crate) fn did_you_mean<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let text = shorten(text).to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let changes = strsim::osa_distance(&text, &lower);
            let is_start = text.len() >= ABBREVIATION && lower.starts_with(&text);
            (is_start || changes <= 1 || strsim::jaro_winkler(&text, &lower) >= SIMILAR)
                .then_some(((!is_start, changes), candidate))
        })
        .min_by_key(|(likeness, _)| *likeness)
        .map(|(_, candidate)| candidate)
}

fn unknown_field_hint(key: &str, allowed: &[&str]) -> String {
    match (key, did_you_mean(key, allowed.iter().copied())) {
        ("<<", _) => "merge keys are not read; repeat the fields or use an alias for a whole value"
            .to_owned(),
        ("scope", _) if allowed.contains(&"priority") => {
            "only a ClusterEgressPolicy has a scope".to_owned()
        }
        ("priority" | "scope", _) if allowed.contains(&"rules") => {
            "a policy file stands alone; an EgressPolicy or ClusterEgressPolicy has this field"
                .to_owned()
        }
        ("apiVersion" | "kind" | "metadata" | "spec", _) if allowed.contains(&"rules") => {
            "a policy file has the fields of `spec` at its top level".to_owned()
        }
        // `podSelector` is a selector of Kubernetes, `match.pod` names a pod's facts.
        ("matchLabels", _) if allowed.contains(&"labels") => "did you mean `labels`?".to_owned(),
        ("labels", _) if allowed.contains(&"matchLabels") => {
            "did you mean `matchLabels`?".to_owned()
        }
        (_, Some(meant)) => format!("did you mean `{meant}`?"),
        (_, None) => format!("the fields are {}", quoted_list(allowed.iter().copied())),
    }
}

/// `a`, `b`, `c`.
pub(super) fn quoted_list<'c>(words: impl Iterator<Item = &'c str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl<'t> Check<'t, '_> {
    /// The values of a mapping's fields in the order of `allowed`; reports fields that are not allowed and fields without a value.
    pub(super) fn fields<const N: usize>(
        &mut self,
        node: NodeId,
        what: &str,
        allowed: [&str; N],
    ) -> Option<[Option<NodeId>; N]> {
        let pairs = self.pairs(node, what)?;
        let mut found = [None; N];
        for (key, value) in pairs {
            let Value::Scalar { text, .. } = self.tree.value(*key) else {
                self.report(Code::WrongType, *key, "a field name is wanted", None);
                continue;
            };
            match allowed.iter().position(|field| *field == &**text) {
                None => {
                    let hint = unknown_field_hint(text, &allowed);
                    self.report(
                        Code::UnknownField,
                        *key,
                        format!("unknown field `{}`", shorten(text)),
                        Some(hint),
                    );
                }
                Some(_) if self.is_null(*value) => {
                    let hint = "leave the field out if it is not needed".to_owned();
                    self.report(
                        Code::Null,
                        *key,
                        format!("`{text}` has no value"),
                        Some(hint),
                    );
                }
                Some(at) => found[at] = Some(*value),
            }
        }
        Some(found)
    }

    /// The pairs of a mapping.
    pub(super) fn pairs(&mut self, node: NodeId, what: &str) -> Option<&'t [(NodeId, NodeId)]> {
        match self.tree.value(node) {
            Value::Map(pairs) => Some(pairs),
            Value::Scalar { .. } | Value::List(_) => {
                self.wrong_type(node, &format!("{what} (a mapping)"), None);
                None
            }
        }
    }

    /// The items of a list, which may be empty.
    pub(super) fn items(&mut self, node: NodeId, what: &str) -> Option<&'t [NodeId]> {
        match self.tree.value(node) {
            Value::List(items) => Some(items),
            Value::Scalar { text, .. } => {
                let hint = format!("write `[{}]`", shorten(text));
                let helps = !text.is_empty() && !self.is_null(node);
                self.wrong_type(node, what, Some(hint).filter(|_| helps));
                None
            }
            Value::Map(_) => {
                let hint = "begin each entry with `- `".to_owned();
                self.wrong_type(node, what, Some(hint));
                None
            }
        }
    }

    /// A dimension: a list with at least one entry, each read by `entry`.
    pub(super) fn any_of<T>(
        &mut self,
        node: Option<NodeId>,
        what: &str,
        mut entry: impl FnMut(&mut Self, NodeId, &mut Vec<T>),
    ) -> AnyOf<T> {
        let Some(node) = node else {
            return AnyOf::Anything;
        };
        let Some(items) = self.items(node, what) else {
            return AnyOf::Entries(Vec::new());
        };
        if items.is_empty() {
            let hint = "leave the field out to match anything".to_owned();
            self.report(
                Code::EmptyList,
                node,
                "an empty list matches nothing",
                Some(hint),
            );
        }
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            entry(self, *item, &mut entries);
        }
        AnyOf::Entries(entries)
    }

    /// A text; a number or a truth value must be quoted to be one.
    pub(super) fn text(&mut self, node: NodeId, what: &str) -> Option<&'t str> {
        match self.tree.value(node) {
            Value::Scalar { text, plain } if !plain || is_text(text) => Some(text),
            Value::Scalar { text, .. } if !text.is_empty() && !self.is_null(node) => {
                let hint = format!("write it in quotes: \"{}\"", shorten(text));
                self.wrong_type(node, what, Some(hint));
                None
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what, None);
                None
            }
        }
    }

    /// A scalar as it stands there, number or text.
    pub(super) fn scalar(&mut self, node: NodeId, what: &str) -> Option<&'t str> {
        match self.tree.value(node) {
            Value::Scalar { text, .. } if !self.is_null(node) => Some(text),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what, None);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, node: NodeId) -> Option<bool> {
        let found = match self.tree.value(node) {
            Value::Scalar { text, plain: true } => yaml::truth(text),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
        };
        if found.is_none() {
            let hint = truth_hint(self.tree.value(node));
            self.wrong_type(node, "`true` or `false`", hint);
        }
        found
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, node: NodeId, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        if let Value::Scalar { text, .. } = self.tree.value(node)
            && let Some((_, value)) = choices.iter().find(|(word, _)| word == text)
        {
            return Some(*value);
        }
        let text = self.scalar(node, &format!("one of {}", quoted_list(words())))?;
        let hint = match did_you_mean(text, words()) {
            Some(meant) => format!(
                "did you mean `{meant}`? Allowed are {}",
                quoted_list(words())
            ),
            None => format!("allowed are {}", quoted_list(words())),
        };
        self.report(
            Code::BadValue,
            node,
            format!("`{}` is not allowed here", shorten(text)),
            Some(hint),
        );
        None
    }

    /// Reports that `wanted` is wanted and something else stands there.
    pub(super) fn wrong_type(&mut self, node: NodeId, wanted: &str, hint: Option<String>) {
        let found = match self.tree.value(node) {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { .. } if self.is_null(node) => {
                self.report(
                    Code::Null,
                    node,
                    format!("{wanted} is wanted, nothing stands here"),
                    hint,
                );
                return;
            }
            Value::Scalar { text, plain: true } if !is_text(text) => format!("`{}`", shorten(text)),
            Value::Scalar { text, .. } => format!("the text `{}`", shorten(text)),
        };
        self.report(
            Code::WrongType,
            node,
            format!("{wanted} is wanted, found {found}"),
            hint,
        );
    }
}

/// What was meant by a text that YAML 1.1 took for a truth value, or by one in quotes.
fn truth_hint(value: &Value<'_>) -> Option<String> {
    let Value::Scalar { text, .. } = value else {
        return None;
    };
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some("write `true`, without quotes".to_owned()),
        "false" | "no" | "off" | "n" | "0" => Some("write `false`, without quotes".to_owned()),
        _ => None,
    }
}

/// Whether YAML reads a plain scalar as text, not as a number, a truth value or nothing.
fn is_text(text: &str) -> bool {
    !yaml::is_null(text) && yaml::truth(text).is_none() && !yaml::is_number(text)
}

/// As much of a user's text as a message should repeat.
pub(super) fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}
