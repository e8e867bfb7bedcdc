//! ebfw on a real cluster of one node: `cargo xtask test k8s`.
//!
//! The tests stand outside of the cluster: pods reach them at 10.99.0.1 and 10.99.0.3, and they reach pods, to which they give orders.

mod cluster;
mod enforcement;
mod etcd;
mod fleet;
mod identity;
mod ipv6;
mod node;
mod outage;
mod pod;
mod start;
mod static_pods;
mod status;
mod witness;
