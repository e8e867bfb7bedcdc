//! The custom resources of ebfw: `EgressPolicy` and `ClusterEgressPolicy` of `ebfw.dvrkn.com/v1`.
//!
//! The fields of `spec` are the types of the policy file (`ebfw_policy::spec`); what a policy means is decided there alone. This crate adds what only
//! Kubernetes knows: metadata, status, the structural schema with its limits and CEL rules. It talks to no API server.

pub mod object;
pub mod schema;
pub mod status;
pub mod types;

pub use status::{LastValid, PolicyStatus, condition, reason};
pub use types::{
    ClusterEgressPolicy, ClusterEgressPolicySpec, EgressPolicy, EgressPolicySpec, Scope,
};

/// API group of both kinds.
pub const GROUP: &str = "ebfw.dvrkn.com";
/// Version of both kinds.
pub const VERSION: &str = "v1";
