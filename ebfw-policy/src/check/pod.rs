//! Reads selectors of pods: `podSelector` of the policy and `match.pod` of a rule.

use super::{
    Check,
    field::{quoted_list, shorten},
};
use crate::{
    diagnostics::Code,
    selector::{LabelTest, PodMatch, Requirement, Selector},
    yaml::NodeId,
};

/// Fields of `podSelector`.
pub(crate) const SELECTOR_FIELDS: [&str; 2] = ["matchLabels", "matchExpressions"];
/// Fields of `match.pod`.
pub(crate) const POD_FIELDS: [&str; 5] = ["namespace", "name", "uid", "labels", "matchExpressions"];
/// Fields of an entry of `matchExpressions`.
pub(crate) const EXPRESSION_FIELDS: [&str; 3] = ["key", "operator", "values"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Check<'_, '_> {
    pub(super) fn pod_selector(&mut self, node: NodeId) -> Selector {
        let Some([labels, expressions]) = self.fields(node, "a label selector", SELECTOR_FIELDS)
        else {
            return Selector::default();
        };
        self.selector(labels, expressions)
    }

    pub(super) fn pod_match(&mut self, node: NodeId) -> PodMatch {
        let Some([namespace, name, uid, labels, expressions]) =
            self.fields(node, "a selector of pods", POD_FIELDS)
        else {
            return PodMatch::default();
        };
        PodMatch {
            namespace: namespace.and_then(|node| self.object_name(node, "a namespace")),
            name: name.and_then(|node| self.object_name(node, "the name of a pod")),
            uid: uid.and_then(|node| self.object_name(node, "the uid of a pod")),
            selector: self.selector(labels, expressions),
        }
    }

    fn selector(&mut self, labels: Option<NodeId>, expressions: Option<NodeId>) -> Selector {
        let labels = labels.map_or_else(Vec::new, |node| self.labels(node));
        let expressions = self.any_of(
            expressions,
            "a list of requirements",
            |check, node, entries| {
                entries.extend(check.requirement(node));
            },
        );
        let expressions = expressions
            .entries()
            .map(<[Requirement]>::to_vec)
            .unwrap_or_default();
        Selector {
            labels,
            expressions,
        }
    }

    /// A name that Kubernetes gives to objects: it is compared exactly, so a glob would never match.
    pub(super) fn object_name(&mut self, node: NodeId, what: &str) -> Option<Box<str>> {
        let text = self.text(node, what)?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if text.is_empty() || text.len() > 253 || !text.bytes().all(allowed) {
            let hint = "it is compared exactly: lower-case letters, digits, `-` and `.`, no globs"
                .to_owned();
            self.report(
                Code::BadValue,
                node,
                format!("`{}` is not {what}", shorten(text)),
                Some(hint),
            );
            return None;
        }
        Some(text.into())
    }

    fn labels(&mut self, node: NodeId) -> Vec<(Box<str>, Box<str>)> {
        let Some(pairs) = self.pairs(node, "labels") else {
            return Vec::new();
        };
        let mut labels = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let key = self.label_key(*key);
            let value = self.label_value(*value);
            labels.extend(key.zip(value));
        }
        labels
    }

    fn label_key(&mut self, node: NodeId) -> Option<Box<str>> {
        self.key(node, "a label")
    }

    /// The key of a label or an annotation.
    pub(super) fn key(&mut self, node: NodeId, of: &str) -> Option<Box<str>> {
        let text = self.text(node, &format!("the key of {of}"))?;
        let (prefix, name) = text
            .split_once('/')
            .map_or((None, text), |(prefix, name)| (Some(prefix), name));
        let good = !name.is_empty()
            && is_label_text(name)
            && prefix.is_none_or(|prefix| !prefix.is_empty() && prefix.len() <= 253);
        if !good {
            self.report(
                Code::BadValue,
                node,
                format!("`{}` is no key of {of}", shorten(text)),
                None,
            );
        }
        good.then(|| text.into())
    }

    pub(super) fn label_value(&mut self, node: NodeId) -> Option<Box<str>> {
        let text = self.text(node, "the value of a label")?;
        if !is_label_text(text) {
            let hint =
                "it is compared exactly: at most 63 letters, digits, `-`, `_` and `.`, no globs"
                    .to_owned();
            self.report(
                Code::BadValue,
                node,
                format!("`{}` is no value of a label", shorten(text)),
                Some(hint),
            );
            return None;
        }
        Some(text.into())
    }

    fn label_values(&mut self, node: NodeId) -> Vec<Box<str>> {
        let Some(values) = self.items(node, "a list of values") else {
            return Vec::new();
        };
        if values.is_empty() {
            let hint = "name one at least; `Exists` is any value".to_owned();
            self.report(Code::EmptyList, node, "no value is listed", Some(hint));
        }
        let values = values.iter();
        values
            .filter_map(|value| self.label_value(*value))
            .collect()
    }

    fn requirement(&mut self, node: NodeId) -> Option<Requirement> {
        let [key, operator, values] = self.fields(node, "a requirement", EXPRESSION_FIELDS)?;
        let key = self
            .required(node, key, "key")
            .and_then(|key| self.label_key(key));
        let operators = [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ];
        let operator = self
            .required(node, operator, "operator")
            .and_then(|operator| self.choice(operator, &operators));
        let listed = match (operator, values) {
            (Some(Operator::Exists | Operator::DoesNotExist), _) | (_, None) => Vec::new(),
            (Some(Operator::In | Operator::NotIn) | None, Some(values)) => {
                self.label_values(values)
            }
        };
        let test = match (operator?, values) {
            (Operator::In, Some(_)) => LabelTest::In(listed),
            (Operator::NotIn, Some(_)) => LabelTest::NotIn(listed),
            (Operator::Exists, None) => LabelTest::Exists,
            (Operator::DoesNotExist, None) => LabelTest::DoesNotExist,
            (Operator::In | Operator::NotIn, None) => {
                self.report(
                    Code::MissingField,
                    node,
                    "`values` is missing",
                    Some("`In` and `NotIn` need values".to_owned()),
                );
                return None;
            }
            (Operator::Exists | Operator::DoesNotExist, Some(values)) => {
                let hint = format!(
                    "leave `values` out, or use {}",
                    quoted_list(["In", "NotIn"].into_iter())
                );
                self.report(
                    Code::BadValue,
                    values,
                    "this operator takes no values",
                    Some(hint),
                );
                return None;
            }
        };
        Some(Requirement { key: key?, test })
    }

    /// Reports a field that is missing from the mapping `node`.
    pub(super) fn required(
        &mut self,
        node: NodeId,
        field: Option<NodeId>,
        name: &str,
    ) -> Option<NodeId> {
        if field.is_none() && !self.has_key(node, name) {
            self.report(
                Code::MissingField,
                node,
                format!("`{name}` is missing"),
                None,
            );
        }
        field
    }
}

fn is_label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outer = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= 63
            && text.bytes().all(inner)
            && text.starts_with(outer)
            && text.ends_with(outer)
}
