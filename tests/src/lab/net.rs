//! Two network namespaces joined by a wire: the near one for the workload, the far one for those it talks to.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use ebfw_agent::host::netns::Netns;

use super::netlink;

/// The device at the far end of the wire.
pub(super) const FAR_DEVICE: &str = "far0";
/// The device at the near end.
pub const NEAR_DEVICE: &str = "near0";
/// Last numbers of the addresses at the far end.
const FAR: std::ops::RangeInclusive<u8> = 2..=9;

/// What tests need and a namespace does not have from the start.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ping_group_range", "0 2147483647"),
    // Client and server, and neither asks for a cookie: the first SYN carries data.
    ("ipv4/tcp_fastopen", "519"),
    ("ipv4/conf/all/accept_source_route", "1"),
    ("ipv4/conf/default/accept_source_route", "1"),
    ("ipv6/conf/all/seg6_enabled", "1"),
];

/// `10.99.0.last`.
#[must_use]
pub fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, last).into()
}

/// `fd99::last`.
#[must_use]
pub fn v6(last: u8) -> IpAddr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last.into()).into()
}

/// `::ffff:10.99.0.last`.
#[must_use]
pub fn mapped(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, last).to_ipv6_mapped().into()
}

/// The namespaces.
#[derive(Debug)]
pub struct Net {
    /// Where the workload runs, at 10.99.0.1 and fd99::1.
    pub near: Netns,
    /// Where its peers are, at 10.99.0.2..=9 and fd99::2..=9.
    pub far: Netns,
}

impl Net {
    /// Makes them.
    ///
    /// # Errors
    ///
    /// What the kernel says, which should be nothing for root.
    pub fn new() -> io::Result<Self> {
        let (near, far) = (Netns::fresh()?, Netns::fresh()?);
        let far_end = far.enter(|| fs::File::open("/proc/thread-self/ns/net"))??;
        near.enter(|| netlink::connect(NEAR_DEVICE, &far_end, FAR_DEVICE))??;
        for place in [&near, &far] {
            place.enter(configure)?;
            netlink::bring_up(place, "lo", &[])?;
        }
        let far_addresses: Vec<_> = FAR
            .flat_map(|last| [(v4(last), 24), (v6(last), 64)])
            .collect();
        netlink::bring_up(&near, NEAR_DEVICE, &[(v4(1), 24), (v6(1), 64)])?;
        netlink::bring_up(&far, FAR_DEVICE, &far_addresses)?;
        Ok(Self { near, far })
    }

    /// Makes all addresses of an IPv4 prefix those of the far end. Needs `ip`.
    ///
    /// # Errors
    ///
    /// Where it cannot be started, or fails.
    pub fn widen(&self, prefix: &str) -> io::Result<()> {
        let ip = |arguments: &str| {
            let status = Command::new("ip").args(arguments.split(' ')).status()?;
            let failed = || io::Error::other(format!("ip {arguments} failed"));
            status.success().then_some(()).ok_or_else(failed)
        };
        self.far
            .enter(|| ip(&format!("route add local {prefix} dev lo")))??;
        self.near
            .enter(|| ip(&format!("route add {prefix} via 10.99.0.2")))?
    }
}

/// A setting that this kernel lacks belongs to a feature that it lacks: the test of that feature says so.
fn configure() {
    for (name, value) in SETTINGS {
        let _ = fs::write(format!("/proc/sys/net/{name}"), value);
    }
}
