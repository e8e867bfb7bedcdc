//! What the API server refuses beyond types: limits and CEL rules, each with its place. Everything here is shown in `docs/crds.md`.
//!
//! The limits bound what the rules can cost: the API server refuses a definition whose rules could become too expensive.

use ebfw_policy::{
    object::{Kind, MAX_PRIORITY},
    spec::pattern::{DOMAIN, LABEL, LABEL_KEY, MAX_METHOD, OBJECT_NAME, PORTS, PROTOCOL, TOKEN},
};
use serde_json::{Map, Value};

/// Rules of one object at most.
pub const MAX_RULES: u32 = 256;
/// Entries of a list of a rule at most.
pub const MAX_ENTRIES: u32 = 256;
/// Entries of `cidrs` at most.
pub const MAX_CIDRS: u32 = 512;

/// A keyword of the schema at a place.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Where: `spec.rules[].match.cidrs[]` are the entries of `cidrs`, `{}` the values of a map.
    pub at: &'static str,
    /// The keyword.
    pub key: &'static str,
    /// Its value.
    pub value: LimitValue,
}

/// The value of a keyword.
#[derive(Clone, Copy, Debug)]
pub enum LimitValue {
    /// A number.
    Number(u32),
    /// A regular expression.
    Pattern(&'static str),
}

impl LimitValue {
    pub(super) fn to_json(self) -> Value {
        match self {
            Self::Number(number) => number.into(),
            Self::Pattern(text) => text.into(),
        }
    }
}

const fn number(at: &'static str, key: &'static str, value: u32) -> Limit {
    Limit {
        at,
        key,
        value: LimitValue::Number(value),
    }
}

const fn pattern(at: &'static str, value: &'static str) -> Limit {
    Limit {
        at,
        key: "pattern",
        value: LimitValue::Pattern(value),
    }
}

/// Every limit.
pub const LIMITS: &[Limit] = &[
    number("spec.priority", "minimum", 0),
    number("spec.priority", "maximum", MAX_PRIORITY),
    number("spec.podSelector.matchLabels", "maxProperties", 64),
    pattern("spec.podSelector.matchLabels{}", LABEL),
    number("spec.podSelector.matchExpressions", "maxItems", 64),
    number("spec.podSelector.matchExpressions[].key", "minLength", 1),
    number("spec.podSelector.matchExpressions[].key", "maxLength", 317),
    pattern("spec.podSelector.matchExpressions[].key", LABEL_KEY),
    number(
        "spec.podSelector.matchExpressions[].values",
        "maxItems",
        256,
    ),
    number(
        "spec.podSelector.matchExpressions[].values[]",
        "maxLength",
        63,
    ),
    pattern("spec.podSelector.matchExpressions[].values[]", LABEL),
    number("spec.rules", "maxItems", MAX_RULES),
    pattern("spec.rules[].name", r"^\P{Cc}*[^\p{Z}\p{Cc}]\P{Cc}*$"),
    number("spec.rules[].match.pod.namespace", "maxLength", 253),
    pattern("spec.rules[].match.pod.namespace", OBJECT_NAME),
    number("spec.rules[].match.pod.name", "maxLength", 253),
    pattern("spec.rules[].match.pod.name", OBJECT_NAME),
    number("spec.rules[].match.pod.uid", "maxLength", 253),
    pattern("spec.rules[].match.pod.uid", OBJECT_NAME),
    number("spec.rules[].match.pod.labels", "maxProperties", 64),
    pattern("spec.rules[].match.pod.labels{}", LABEL),
    number("spec.rules[].match.pod.matchExpressions", "maxItems", 64),
    number(
        "spec.rules[].match.pod.matchExpressions[].key",
        "minLength",
        1,
    ),
    number(
        "spec.rules[].match.pod.matchExpressions[].key",
        "maxLength",
        317,
    ),
    pattern("spec.rules[].match.pod.matchExpressions[].key", LABEL_KEY),
    number(
        "spec.rules[].match.pod.matchExpressions[].values",
        "maxItems",
        256,
    ),
    number(
        "spec.rules[].match.pod.matchExpressions[].values[]",
        "maxLength",
        63,
    ),
    pattern("spec.rules[].match.pod.matchExpressions[].values[]", LABEL),
    number("spec.rules[].match.domains", "maxItems", MAX_ENTRIES),
    number("spec.rules[].match.domains[]", "minLength", 1),
    number("spec.rules[].match.domains[]", "maxLength", 254),
    pattern("spec.rules[].match.domains[]", DOMAIN),
    number("spec.rules[].match.cidrs", "maxItems", MAX_CIDRS),
    number("spec.rules[].match.cidrs[]", "maxLength", 49),
    number("spec.rules[].match.ports", "maxItems", MAX_ENTRIES),
    number("spec.rules[].match.ports[]", "minimum", 1),
    number("spec.rules[].match.ports[]", "maximum", 65535),
    number("spec.rules[].match.ports[]", "maxLength", 17),
    pattern("spec.rules[].match.ports[]", PORTS),
    number("spec.rules[].match.protocols", "maxItems", MAX_ENTRIES),
    number("spec.rules[].match.protocols[]", "minimum", 0),
    number("spec.rules[].match.protocols[]", "maximum", 255),
    number("spec.rules[].match.protocols[]", "maxLength", 4),
    pattern("spec.rules[].match.protocols[]", PROTOCOL),
    number("spec.rules[].match.methods", "maxItems", 64),
    number("spec.rules[].match.methods[]", "maxLength", MAX_METHOD),
    pattern("spec.rules[].match.methods[]", TOKEN),
    number("spec.rules[].match.pathPrefix", "maxLength", 2048),
    number("spec.rules[].mutations", "minItems", 1),
    number("spec.rules[].mutations", "maxItems", 64),
    number("spec.rules[].mutations[].header", "maxLength", 256),
    pattern("spec.rules[].mutations[].header", TOKEN),
    number("spec.rules[].mutations[].value", "maxLength", 8192),
    pattern("spec.rules[].mutations[].value", r"^[\t\P{Cc}]*$"),
    number("spec.rules[].mutations[].pathReplace", "maxLength", 2048),
    pattern("spec.rules[].mutations[].pathReplace", r"^/[^ \p{Cc}]*$"),
];

/// A CEL rule at a place: what must hold of `self` there.
#[derive(Clone, Copy, Debug)]
pub struct CelRule {
    /// Where, as in [`Limit::at`].
    pub at: &'static str,
    /// The expression.
    pub rule: &'static str,
    /// What the API server answers when it does not hold.
    pub message: &'static str,
    /// The only kind that has it.
    pub only: Option<Kind>,
}

impl CelRule {
    pub(super) fn is_for(&self, kind: Kind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }

    pub(super) fn to_json(self) -> Value {
        let mut json = Map::new();
        json.insert("rule".to_owned(), self.rule.into());
        json.insert("message".to_owned(), self.message.into());
        Value::Object(json)
    }
}

const fn rule(at: &'static str, rule: &'static str, message: &'static str) -> CelRule {
    CelRule {
        at,
        rule,
        message,
        only: None,
    }
}

const VALUES_WANTED: &str = "!(self.operator in ['In', 'NotIn']) || has(self.values)";
const VALUES_REFUSED: &str = "self.operator in ['In', 'NotIn'] || !has(self.values)";

/// Every rule.
pub const RULES: &[CelRule] = &[
    CelRule {
        only: Some(Kind::ClusterEgressPolicy),
        ..rule(
            "spec",
            "!has(self.scope) || self.scope != 'Node' || (!has(self.podSelector.matchLabels) || size(self.podSelector.matchLabels) == 0) && !has(self.podSelector.matchExpressions)",
            "scope Node governs every process, so podSelector must be {}",
        )
    },
    rule(
        "spec.podSelector.matchExpressions[]",
        VALUES_WANTED,
        "In and NotIn need values",
    ),
    rule(
        "spec.podSelector.matchExpressions[]",
        VALUES_REFUSED,
        "Exists and DoesNotExist take no values",
    ),
    rule(
        "spec.rules[]",
        "self.action != 'Modify' || has(self.mutations)",
        "Modify needs mutations",
    ),
    rule(
        "spec.rules[]",
        "self.action == 'Modify' || !has(self.mutations)",
        "only Modify takes mutations",
    ),
    rule(
        "spec.rules[].match.pod.matchExpressions[]",
        VALUES_WANTED,
        "In and NotIn need values",
    ),
    rule(
        "spec.rules[].match.pod.matchExpressions[]",
        VALUES_REFUSED,
        "Exists and DoesNotExist take no values",
    ),
    rule(
        "spec.rules[].match.domains[]",
        "!isIP(self)",
        "an address is no name; put it into cidrs",
    ),
    rule(
        "spec.rules[].match.domains[]",
        "!self.startsWith('.') && !self.contains('..') && self != '*.'",
        "a name has no empty label",
    ),
    rule(
        "spec.rules[].match.domains[]",
        "!self.contains('**')",
        "one star goes across dots already, two have no meaning",
    ),
    rule(
        "spec.rules[].match.cidrs[]",
        "isCIDR(self)",
        "a prefix is an IPv4 or IPv6 address, / and a length, such as 203.0.113.0/24",
    ),
    rule(
        "spec.rules[].match.cidrs[]",
        "!isCIDR(self) || cidr(self) == cidr(self).masked()",
        "host bits are set after the prefix",
    ),
    rule(
        "spec.rules[].match.ports[]",
        "!string(self).contains('-') || int(string(self).split('-')[0]) <= int(string(self).split('-')[1])",
        "the range is reversed",
    ),
    rule(
        "spec.rules[].mutations[]",
        "(self.type != 'RewritePath') == has(self.header)",
        "SetHeader, AddHeader and RemoveHeader need a header, RewritePath takes none",
    ),
    rule(
        "spec.rules[].mutations[]",
        "(self.type in ['SetHeader', 'AddHeader']) == has(self.value)",
        "SetHeader and AddHeader need a value, the others take none",
    ),
    rule(
        "spec.rules[].mutations[]",
        "(self.type == 'RewritePath') == has(self.pathReplace)",
        "RewritePath needs pathReplace, the others take none",
    ),
];
