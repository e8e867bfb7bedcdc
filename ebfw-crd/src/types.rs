//! The two kinds. Their comments are what `kubectl explain` prints.

#![expect(
    clippy::duplicated_attributes,
    reason = "each column of the table has a type of its own, which clippy takes for one said twice"
)]

use ebfw_policy::spec::{DefaultAction, DomainMatchSpec, LabelSelector, QuicSpec, RuleSpec};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::PolicyStatus;

/// Outgoing traffic of pods in the policy's namespace: an ordered list of rules, of which the first that matches a flow decides. Policies of several
/// objects over one pod are joined: cluster policies first, then those of the namespace, each by `priority` and name.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ebfw.dvrkn.com",
    version = "v1",
    kind = "EgressPolicy",
    plural = "egresspolicies",
    shortname = "egp",
    category = "ebfw",
    namespaced,
    derive = "PartialEq",
    doc = "Which outgoing traffic of pods of one namespace may leave. It cannot reach pods of other namespaces.",
    status = "PolicyStatus",
    printcolumn(name = "Default", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(name = "Rules", type_ = "integer", json_path = ".status.ruleCount"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.nodes",
        priority = 1
    ),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicySpec {
    /// Which pods of the namespace are governed: `{}` means all of them. Required, so that nobody governs all pods by leaving something out.
    pub pod_selector: LabelSelector,
    /// Place among the policies of this kind over one pod: lower numbers come first, equal ones in the order of their names.
    #[serde(default = "default_priority")]
    pub priority: i32,
    /// What happens to a flow that no rule of any policy over the pod matches: Deny if any of these policies says Deny.
    #[serde(default = "default_action")]
    pub default_action: DefaultAction,
    /// The rules, tried from top to bottom.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
    /// How `domains` are read. Glob when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_match: Option<DomainMatchSpec>,
    /// Whether a Deny rule of this policy matches when the only fact it misses can no longer become known, such as the method of a request that nobody can read. false when absent.
    #[serde(rename = "strictL7", skip_serializing_if = "Option::is_none")]
    pub strict_l7: Option<bool>,
    /// How QUIC is treated. decide when absent; deny refuses UDP to port 443 before the rules of this policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicSpec>,
    /// Whether destinations on the pod's own loopback (127.0.0.0/8, ::1) are judged. Judged if any policy over the pod says true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub govern_loopback: Option<bool>,
}

/// Outgoing traffic of pods of all namespaces, and, with `scope: Node`, of every process of the nodes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ebfw.dvrkn.com",
    version = "v1",
    kind = "ClusterEgressPolicy",
    plural = "clusteregresspolicies",
    shortname = "cegp",
    category = "ebfw",
    derive = "PartialEq",
    doc = "Which outgoing traffic of pods of all namespaces may leave; with `scope: Node` that of every process of the nodes. Its rules come before those of every EgressPolicy.",
    status = "PolicyStatus",
    printcolumn(name = "Default", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(name = "Rules", type_ = "integer", json_path = ".status.ruleCount"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.nodes",
        priority = 1
    ),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        priority = 1
    ),
    printcolumn(
        name = "Scope",
        type_ = "string",
        json_path = ".spec.scope",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEgressPolicySpec {
    /// Which pods are governed, of all namespaces: `{}` means all of them. Required, so that nobody governs all pods by leaving something out.
    pub pod_selector: LabelSelector,
    /// Pods: only pods are governed. Node: every process of the node as well, kubelet and host services among them; then `podSelector` must be `{}`.
    #[serde(default)]
    pub scope: Scope,
    /// Place among the policies of this kind over one pod: lower numbers come first, equal ones in the order of their names.
    #[serde(default = "default_priority")]
    pub priority: i32,
    /// What happens to a flow that no rule of any policy over the pod matches: Deny if any of these policies says Deny.
    #[serde(default = "default_action")]
    pub default_action: DefaultAction,
    /// The rules, tried from top to bottom.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
    /// How `domains` are read. Glob when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_match: Option<DomainMatchSpec>,
    /// Whether a Deny rule of this policy matches when the only fact it misses can no longer become known, such as the method of a request that nobody can read. false when absent.
    #[serde(rename = "strictL7", skip_serializing_if = "Option::is_none")]
    pub strict_l7: Option<bool>,
    /// How QUIC is treated. decide when absent; deny refuses UDP to port 443 before the rules of this policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicSpec>,
    /// Whether destinations on the workload's own loopback (127.0.0.0/8, ::1) are judged. Judged if any policy over the workload says true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub govern_loopback: Option<bool>,
}

/// What a cluster policy governs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// Pods.
    #[default]
    Pods,
    /// Pods and every other process of the node.
    Node,
}

fn default_priority() -> i32 {
    i32::try_from(ebfw_policy::object::DEFAULT_PRIORITY).expect("the default is small")
}

fn default_action() -> DefaultAction {
    DefaultAction::Allow
}
