//! The status of a policy object, and the words in it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the agents made of the policy. Written by them, never by people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The generation of `spec` that `Accepted` and `ruleCount` speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many rules the policy has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_count: Option<i32>,
    /// Nodes that enforce this generation, of all nodes that run an agent: 12/12.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// Where `spec` is not valid: the version that stays in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_valid: Option<LastValid>,
    /// Accepted: whether the policy is valid and so in force. Programmed: whether every node with an agent enforces it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The last version of a policy that was valid. Whoever may write it says what is in force, as whoever may write `spec` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastValid {
    /// Its generation.
    pub generation: i64,
    /// Its `spec`, as JSON in a string, so that a patch replaces it whole.
    pub spec: String,
}

/// Types of conditions.
pub mod condition {
    /// Whether the policy is valid. False: it is left out, or its last valid version stays in force.
    pub const ACCEPTED: &str = "Accepted";
    /// Whether every node with an agent enforces the generation.
    pub const PROGRAMMED: &str = "Programmed";
}

/// Reasons of conditions, and of the Events beside them.
pub mod reason {
    /// Accepted is True.
    pub const VALIDATED: &str = "Validated";
    /// Accepted is False; the message says what is wrong and where.
    pub const VALIDATION_FAILED: &str = "ValidationFailed";
    /// Programmed is True.
    pub const PROGRAMMED: &str = "Programmed";
    /// Programmed is False: some nodes are on their way.
    pub const PENDING: &str = "Pending";
}
