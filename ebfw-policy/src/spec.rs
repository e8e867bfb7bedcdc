//! The policy in its author's words: the shape of the file, and of `spec` in a policy object.
//!
//! Only the shape: what a value may be is checked by [`crate::parse_policy`]. The comments here become the JSON Schema that editors show.

pub mod pattern;
mod schema;

pub use self::schema::schema;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An ordered list of rules for outgoing traffic. The first rule that matches a flow decides; where none does, `defaultAction` decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// What happens to a flow that no rule matches. Allow when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<DefaultAction>,
    /// Narrows the whole policy to pods with these labels; `{}` means every pod. What is in no known pod is then not governed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// The rules, tried from top to bottom.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
    /// How `domains` are read. Glob when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_match: Option<DomainMatchSpec>,
    /// Whether a Deny rule matches when the only fact it misses can no longer become known, such as the method of a request that nobody can read. false when absent.
    #[serde(rename = "strictL7", skip_serializing_if = "Option::is_none")]
    pub strict_l7: Option<bool>,
    /// How QUIC is treated. decide when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicSpec>,
    /// Whether destinations on the workload's own loopback (127.0.0.0/8, ::1) are judged. false when absent: they are let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub govern_loopback: Option<bool>,
}

/// What happens to a flow that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum DefaultAction {
    /// It may leave: the rules list what is refused.
    Allow,
    /// It may not: the rules list what is allowed.
    Deny,
}

/// How `domains` are read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum DomainMatchSpec {
    /// `example.com` is that name alone, `*.example.com` every name below it.
    Glob,
    /// Both mean the name and everything below it.
    Suffix,
}

/// How QUIC is treated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum QuicSpec {
    /// As any other flow: by the rules, with the names that were resolved.
    Decide,
    /// UDP to port 443 is refused before any rule, so that clients fall back to TCP.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// The name that events and reports show. `rule-N` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// What happens to a flow that the rule matches.
    pub action: ActionSpec,
    /// What the rule matches. Every field that is given must match; a field that is absent matches anything.
    #[serde(default, rename = "match")]
    pub matches: MatchSpec,
    /// What a Modify rule changes, in order. Only for Modify, which needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutations: Vec<MutationSpec>,
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum ActionSpec {
    /// It may leave.
    Allow,
    /// It may not leave.
    Deny,
    /// It may leave; the mutations are carried for a proxy and not executed by ebfw itself.
    Modify,
}

/// What a rule matches: all of the fields given, any entry of each list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchSpec {
    /// The source pod. Never matches a flow that comes from no known pod; `{}` means any pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSpec>,
    /// Globs over the cgroup path of the workload, from the cgroup v2 root: `/system.slice/nginx.service`. `*` and `?` stop at `/`, `**` between slashes does not. A glob also means every cgroup below what it matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub cgroups: Option<Vec<String>>,
    /// Names: `github.com`, `*.github.com`. `*` is one or more characters, dots included, `?` is one character; `[...]` and `{a,b}` are understood. Case does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub domains: Option<Vec<String>>,
    /// Prefixes of the destination address, IPv4 or IPv6: `203.0.113.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub cidrs: Option<Vec<String>>,
    /// Destination ports of TCP, UDP and SCTP: 443, or a range "8000-8999".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ports: Option<Vec<PortSpec>>,
    /// TCP, UDP, SCTP, ICMP (which is that of IPv4 and IPv6), or an IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub protocols: Option<Vec<ProtocolSpec>>,
    /// Methods of HTTP requests: GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub methods: Option<Vec<String>>,
    /// Whole elements from the start of the request's path: `/api` matches `/api` and `/api/x`, not `/apiv2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^/[^?#]*$"))]
    pub path_prefix: Option<String>,
}

/// A port or a range of ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortSpec {
    /// One port.
    Number(#[schemars(range(min = 1))] u16),
    /// One port, or a range "8000-8999".
    Text(String),
}

/// A protocol by name or number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ProtocolSpec {
    /// An IP protocol number.
    Number(u8),
    /// TCP, UDP, SCTP, ICMP in any case, or a number.
    Text(String),
}

/// Which pods; every field given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// The pod's namespace, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's name, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pod's uid, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Labels that the pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further requirements on its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub match_expressions: Option<Vec<RequirementSpec>>,
}

/// Which pods by their labels, as Kubernetes writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that the pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements on its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub match_expressions: Option<Vec<RequirementSpec>>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequirementSpec {
    /// Key of the label.
    pub key: String,
    /// What is asked of it. NotIn and DoesNotExist also hold for a pod without the label.
    pub operator: OperatorSpec,
    /// Values, for In and NotIn only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub values: Option<Vec<String>>,
}

/// What is asked of a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum OperatorSpec {
    /// It has one of the values.
    In,
    /// It is missing or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is missing.
    DoesNotExist,
}

/// One change of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutationSpec {
    /// What is changed.
    #[serde(rename = "type")]
    pub kind: MutationKind,
    /// Name of the header; for SetHeader, AddHeader and RemoveHeader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Value of the header; for SetHeader and AddHeader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The new path; for RewritePath.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_replace: Option<String>,
}

/// What a mutation changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum MutationKind {
    /// Replaces a header, or adds it where it is missing.
    SetHeader,
    /// Adds a header beside others of its name.
    AddHeader,
    /// Removes every header of a name.
    RemoveHeader,
    /// Replaces the path.
    RewritePath,
}
