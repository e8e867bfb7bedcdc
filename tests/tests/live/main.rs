//! What programs send and what arrives: real sockets in cgroups and network namespaces of their own, with the wire as the judge.
//! Needs root. One target, so that it runs as one static program on other kernels.

mod agent;
mod cgroups;
mod changes;
mod claims;
mod events;
mod http;
mod http2;
mod inside_tls;
mod lost;
mod modes;
mod mptcp;
mod names;
mod openssl;
mod openssl_server;
mod paths;
mod quic;
mod remembered;
mod repair;
mod rules;
mod said;
mod servers;
mod uploads;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

use ebfw_agent::host::privileges::Kernel;
use ebfw_tests::lab::PORT;

/// All is allowed but the peers with number 3.
const ALL_BUT_3: &str = "
defaultAction: Allow
rules:
- name: forbidden
  action: Deny
  match: {cidrs: [10.99.0.3/32, 'fd99::3/128']}
";

/// Only the peers with number 2 are allowed.
const ONLY_2: &str = "
defaultAction: Deny
rules:
- name: allowed
  action: Allow
  match: {cidrs: [10.99.0.2/32, 'fd99::2/128']}
";

/// Governed, and everything is allowed.
const ALL: &str = "defaultAction: Allow\nrules: []\n";

/// Nothing is allowed.
const NOTHING: &str = "defaultAction: Deny\nrules: []\n";

/// Number of the peers that both policies allow.
const GOOD: u8 = 2;
/// Number of the peers that both policies deny.
const BAD: u8 = 3;

/// Where a peer serves.
fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, PORT)
}

/// The error number of a result.
fn code<T>(result: &io::Result<T>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}

/// Whether there is such a program.
fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The running kernel.
fn kernel() -> Kernel {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    Kernel::parse(&release).expect("a release is a number")
}

/// Whether `cgroup_skb/egress` runs on what a listener answers. Not on 5.10, where the packet belongs to the request and not to the listener
/// (include/linux/bpf-cgroup.h); on 6.18 it does. In between nobody has looked: only the newer ones have to show it.
fn hook_sees_answers_of_listeners() -> bool {
    kernel()
        >= Kernel {
            major: 6,
            minor: 18,
        }
}
