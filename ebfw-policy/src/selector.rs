//! Which pods a policy or a rule means: label selectors with Kubernetes' meaning.

use std::collections::BTreeMap;

use crate::workload::PodFacts;

/// A label selector: all labels and all expressions must hold. An empty one means every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Labels that the pod must have with these values.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Further requirements.
    pub expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Key of the label.
    pub key: Box<str>,
    /// What is asked of it.
    pub test: LabelTest,
}

/// What a requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelTest {
    /// The label has one of these values.
    In(Vec<Box<str>>),
    /// The label is missing or has none of these values.
    NotIn(Vec<Box<str>>),
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl Selector {
    /// Whether a pod with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |(key, value): &(Box<str>, Box<str>)| {
            labels.get(&**key).is_some_and(|found| **found == **value)
        };
        self.labels.iter().all(has)
            && self
                .expressions
                .iter()
                .all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&*self.key);
        let among = |values: &[Box<str>]| {
            found.is_some_and(|found| values.iter().any(|value| **value == **found))
        };
        match &self.test {
            LabelTest::In(values) => among(values),
            LabelTest::NotIn(values) => !among(values),
            LabelTest::Exists => found.is_some(),
            LabelTest::DoesNotExist => found.is_none(),
        }
    }
}

/// `match.pod` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodMatch {
    /// The pod's namespace.
    pub namespace: Option<Box<str>>,
    /// The pod's name.
    pub name: Option<Box<str>>,
    /// The pod's uid.
    pub uid: Option<Box<str>>,
    /// Its labels.
    pub selector: Selector,
}

impl PodMatch {
    /// Whether `pod` is meant.
    #[must_use]
    pub fn matches(&self, pod: &PodFacts) -> bool {
        let Self {
            namespace,
            name,
            uid,
            selector,
        } = self;
        let same =
            |want: &Option<Box<str>>, have: &str| want.as_ref().is_none_or(|want| **want == *have);
        same(namespace, &pod.namespace)
            && same(name, &pod.name)
            && same(uid, &pod.uid)
            && selector.matches(&pod.labels)
    }
}
