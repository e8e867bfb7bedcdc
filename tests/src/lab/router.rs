//! A second way from the near namespace to the far one, over a router: where packets can really get lost, for want of hops.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
};

use ebfw_agent::host::netns::Netns;

use super::{net::Net, netlink};

/// The workload, as the router's other side sees it.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 98, 1, 1);
/// A peer behind the router.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 98, 2, 2);
/// The router's two sides.
const SIDES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 1, 254), Ipv4Addr::new(10, 98, 2, 254)];

/// The router: a network namespace that forwards.
#[derive(Debug)]
pub struct Router {
    _place: Netns,
}

impl Router {
    /// Puts one between the namespaces.
    ///
    /// # Errors
    ///
    /// What the kernel says, which should be nothing for root.
    pub fn between(net: &Net) -> io::Result<Self> {
        let place = Netns::fresh()?;
        let inside = place.enter(|| fs::File::open("/proc/thread-self/ns/net"))??;
        place.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let ends = [
            (&net.near, "near1", NEAR, "router1", SIDES[0]),
            (&net.far, "far1", FAR, "router2", SIDES[1]),
        ];
        for (end, device, address, own_device, own_address) in ends {
            end.enter(|| netlink::connect(device, &inside, own_device))??;
            netlink::bring_up(&place, own_device, &[(IpAddr::V4(own_address), 24)])?;
            netlink::bring_up(end, device, &[(IpAddr::V4(address), 24)])?;
        }
        netlink::route(&net.near, FAR, SIDES[0])?;
        netlink::route(&net.far, NEAR, SIDES[1])?;
        Ok(Self { _place: place })
    }
}
