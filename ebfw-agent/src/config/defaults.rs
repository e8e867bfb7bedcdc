//! Defaults of the configuration, each with its reason.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::value::ListenAddr;

/// Port of `/metrics` on every address of the node: the port that existing scrape configurations use.
pub const METRICS_ADDR: ListenAddr = ListenAddr::Every(9090);

/// Filter of the agent's own log: what an operator acts on, nothing per packet.
pub const LOG: &str = "info";

/// Directory of the pins: below the place where bpffs is mounted by systemd and by Kubernetes.
pub const PIN_DIR: &str = "/sys/fs/bpf/ebfw";

/// Whether there are events about TLS and HTTP: the names of both are what operators look for, and reading the beginning of a connection
/// costs it microseconds.
pub const INSPECT: bool = true;

/// Whether secrets in headers are left out: who asks for headers rarely wants passwords in a log.
pub const REDACT: bool = true;

/// Whether events carry request paths: policies match on them, so operators want to see them.
pub const INSPECT_PATHS: bool = true;

/// Whether events carry request headers: they hold credentials, so only on demand.
pub const INSPECT_HEADERS: bool = false;

/// Whether events carry bodies: they hold personal data, so only on demand.
pub const INSPECT_BODY: bool = false;

/// Bytes of a body that are captured: most forms and calls of an API fit, and a busy node's log does not drown.
pub const BODY_LIMIT: usize = 4096;

/// Destinations without events: the private ranges of RFC 1918 and loopback, which in a cluster are
/// traffic that never leaves it.
pub const EXCLUDE_CIDRS: [IpNet; 4] = [
    v4(Ipv4Addr::new(10, 0, 0, 0), 8),
    v4(Ipv4Addr::new(172, 16, 0, 0), 12),
    v4(Ipv4Addr::new(192, 168, 0, 0), 16),
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
];

/// Services that programs of the host ask instead of the network: by glibc's nss-resolve and nscd, by `nameserver 127.0.0.1`, and in
/// Docker's containers, whose 127.0.0.11 is the Docker daemon.
pub const LOCAL_RESOLVERS: [&str; 9] = [
    "/system.slice/systemd-resolved.service",
    "/system.slice/nscd.service",
    "/system.slice/unscd.service",
    "/system.slice/dnsmasq.service",
    "/system.slice/NetworkManager.service",
    "/system.slice/unbound.service",
    "/system.slice/named.service",
    "/system.slice/bind9.service",
    "/system.slice/docker.service",
];

/// Names without events: the cluster's own zones and reverse look-ups.
pub const EXCLUDE_DOMAIN_SUFFIXES: [&str; 3] = ["cluster.local", "svc", "in-addr.arpa"];

const fn v4(address: Ipv4Addr, bits: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, bits))
}
