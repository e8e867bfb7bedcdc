//! The node agent of ebfw: command line, configuration, datapath, workloads, events, metrics.

pub mod answers;
pub mod cli;
pub mod cluster;
mod columns;
pub mod config;
pub mod datapath;
pub mod detach;
pub mod enforcer;
pub mod events;
pub mod exec;
pub mod exit;
pub mod host;
pub mod input;
pub mod inspect;
pub mod metrics;
pub mod names;
pub mod pods;
pub mod policy_file;
pub mod policy_objects;
pub mod probes;
pub mod report;
pub mod run;
pub mod source;
pub mod state;
pub mod status;
pub mod telemetry;
pub mod workload;
