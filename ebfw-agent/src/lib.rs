//! The node agent of ebfw: command line, configuration, datapath, workloads, events, metrics.

pub mod cli;
pub mod config;
pub mod datapath;
pub mod events;
pub mod exit;
pub mod host;
pub mod input;
pub mod metrics;
pub mod policy_file;
pub mod report;
pub mod telemetry;
pub mod workload;
