//! The lab's network: the node in a network namespace of its own, and another one for everything outside of the cluster.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::place::{
    NODE_ADDRESS, NODE_ADDRESS6, NODE_NAMESPACE, OUTSIDE_ADDRESSES, OUTSIDE_ADDRESSES6,
    OUTSIDE_NAMESPACE, POD_NETWORK, POD_NETWORK6,
};
use crate::command;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// Makes both namespaces and the cable between them.
pub(super) fn create() -> Result<()> {
    let (node, outside) = (NODE_NAMESPACE, OUTSIDE_NAMESPACE);
    ip(&["netns", "add", node])?;
    ip(&["netns", "add", outside])?;
    ip(&[
        "link", "add", "eth0", "netns", node, "type", "veth", "peer", "name", "eth0", "netns",
        outside,
    ])?;
    let outside_addresses = OUTSIDE_ADDRESSES.map(|address| (outside, address));
    for (namespace, address) in [(node, NODE_ADDRESS)].into_iter().chain(outside_addresses) {
        let address = format!("{address}/24");
        ip(&["-n", namespace, "address", "add", &address, "dev", "eth0"])?;
    }
    let outside_addresses = OUTSIDE_ADDRESSES6.map(|address| (outside, address));
    for (namespace, address) in [(node, NODE_ADDRESS6)].into_iter().chain(outside_addresses) {
        let address = format!("{address}/64");
        ip(&[
            "-n", namespace, "address", "add", &address, "dev", "eth0", "nodad",
        ])?;
    }
    for namespace in [node, outside] {
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
    }
    for (gateway, network, through) in [
        (OUTSIDE_ADDRESSES[0], POD_NETWORK, NODE_ADDRESS),
        (OUTSIDE_ADDRESSES6[0], POD_NETWORK6, NODE_ADDRESS6),
    ] {
        ip(&["-n", node, "route", "add", "default", "via", gateway])?;
        ip(&["-n", outside, "route", "add", network, "via", through])?;
    }
    Ok(())
}

/// Takes away what is there of them.
pub(super) fn remove() -> Result<()> {
    for namespace in present() {
        ip(&["netns", "delete", namespace])?;
    }
    Ok(())
}

/// The lab's namespaces that exist.
pub(super) fn present() -> Vec<&'static str> {
    [NODE_NAMESPACE, OUTSIDE_NAMESPACE]
        .into_iter()
        .filter(|name| Path::new(NAMES).join(name).exists())
        .collect()
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::output(Command::new("ip").args(arguments)).map(drop)
}
