//! The policy language of ebfw, pure: spec, check, evaluate, explain, lint, compile.
//!
//! No files, no kernel, no clock: the agent, the command line and the tests feed it values.

pub mod policy;
