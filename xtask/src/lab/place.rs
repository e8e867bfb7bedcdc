//! Where the lab lives and what its parts are called. There is one lab a machine: its names are the machine's.

use std::path::{Path, PathBuf};

/// Everything that the lab writes to disk, but for what it may keep in the cache.
pub(super) const STATE: &str = "/var/lib/ebfw-lab";
/// The node's network namespace.
pub(super) const NODE_NAMESPACE: &str = "ebfw-lab";
/// The network namespace of everything outside of the cluster.
pub(super) const OUTSIDE_NAMESPACE: &str = "ebfw-lab-outside";
/// The root of the node's cgroups, in each hierarchy of the machine.
pub(super) const CGROUP: &str = "ebfw-lab";
/// The node's name in the cluster.
pub(super) const NODE: &str = "lab-node";
/// The node's address.
pub(super) const NODE_ADDRESS: &str = "10.99.0.2";
/// The addresses of the outside: the node's gateway and resolver, and another host.
pub(super) const OUTSIDE_ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.3"];
/// The same over IPv6.
pub(super) const NODE_ADDRESS6: &str = "fd00:99::2";
/// The same over IPv6.
pub(super) const OUTSIDE_ADDRESSES6: [&str; 2] = ["fd00:99::1", "fd00:99::3"];
/// The pods' addresses.
pub(super) const POD_NETWORK: &str = "10.88.0.0/16";
/// The same over IPv6.
pub(super) const POD_NETWORK6: &str = "fd00:88::/56";
/// The services' addresses.
pub(super) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The same over IPv6.
pub(super) const SERVICE_NETWORK6: &str = "fd00:96::/112";
/// The API server's own service.
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// The cluster DNS's service, as in `coredns.yaml`.
pub(super) const DNS_SERVICE: &str = "10.96.0.10";
/// The suffix of service names.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";
/// The API server, as everyone in the lab calls it.
pub(super) const API: &str = "https://10.99.0.2:6443";
/// Where kubelet looks for static pods, below one of the node's own folders.
pub(super) const STATIC_PODS: &str = "/etc/kubernetes/manifests";
/// Image of a sandbox, as containerd is told.
pub(super) const PAUSE_IMAGE: &str = "lab.ebfw/pod:latest";
/// Image of the cluster DNS.
pub(super) const DNS_IMAGE: &str = "lab.ebfw/coredns:latest";

/// The lab's folder.
pub(super) fn state() -> &'static Path {
    Path::new(STATE)
}

/// Something in the lab's folder.
pub(super) fn in_state(name: &str) -> PathBuf {
    state().join(name)
}

/// Certificates and client configurations.
pub(super) fn pki() -> PathBuf {
    in_state("pki")
}

/// The programs of Kubernetes.
pub(super) fn bin() -> PathBuf {
    in_state("bin")
}
