//! The policy language of ebfw, pure: spec, check, evaluate, explain, lint, compile.
//!
//! No files, no kernel, no clock: the agent, the command line and the tests feed it values.

pub mod cgroup;
mod check;
pub mod compile;
pub mod diagnostics;
pub mod document;
pub mod domain;
pub mod evaluate;
pub mod explain;
pub mod facts;
pub mod flow;
mod format;
pub mod http;
pub mod lint;
pub mod object;
pub mod policy;
pub mod policy_set;
pub mod ruleset;
pub mod selector;
pub mod spec;
#[cfg(feature = "testgen")]
pub mod testgen;
pub mod workload;
mod yaml;

pub use check::{Manifests, Violation, is_manifest, parse_manifests, parse_policy};
pub use format::{format_manifests, format_policy};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_NODES};
