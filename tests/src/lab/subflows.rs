//! Further subflows of Multipath TCP connections, configured as `ip mptcp` does (include/uapi/linux/mptcp_pm.h).

use std::{io, net::Ipv4Addr};

use super::{
    net::{NEAR_DEVICE, Net},
    netlink::{Family, attribute, bring_up},
};

const ADD_ADDRESS: u8 = 1;
const SET_LIMITS: u8 = 5;
const ADDRESS: u16 = 1;
const ACCEPTED_ADDRESSES: u16 = 2;
const SUBFLOWS: u16 = 3;
const ADDRESS_FAMILY: u16 = 1;
const ADDRESS_V4: u16 = 3;
const ADDRESS_FLAGS: u16 = 6;
const ADDRESS_INTERFACE: u16 = 7;
/// Opens a subflow from this address.
const OPENS: u32 = 2;
/// Subflows and addresses at most.
const LIMIT: u32 = 2;

/// Has clients of the lab open a second subflow, from an address of its own.
///
/// # Errors
///
/// What the kernel says: `NotFound` where it does not know Multipath TCP.
pub fn second_way(net: &Net) -> io::Result<()> {
    const SECOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 21);
    bring_up(&net.near, NEAR_DEVICE, &[(SECOND.into(), 24)])?;
    net.near.enter(|| {
        let index = nix::net::if_::if_nametoindex(NEAR_DEVICE)?;
        let manager = set_limits()?;
        let family = u16::try_from(libc::AF_INET).expect("address families are small");
        let endpoint = [
            attribute(ADDRESS_FAMILY, &family.to_ne_bytes()),
            attribute(ADDRESS_V4, &SECOND.octets()),
            attribute(ADDRESS_FLAGS, &OPENS.to_ne_bytes()),
            attribute(ADDRESS_INTERFACE, &index.to_ne_bytes()),
        ];
        manager.ask(ADD_ADDRESS, &nested(ADDRESS, &endpoint.concat()))
    })??;
    net.far.enter(|| set_limits().map(drop))?
}

fn set_limits() -> io::Result<Family> {
    let manager = Family::find("mptcp_pm")?;
    let limits = [ACCEPTED_ADDRESSES, SUBFLOWS].map(|kind| attribute(kind, &LIMIT.to_ne_bytes()));
    manager.ask(SET_LIMITS, &limits.concat())?;
    Ok(manager)
}

/// An attribute of attributes (NLA_F_NESTED).
fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    const NESTED: u16 = 1 << 15;
    attribute(kind | NESTED, attributes)
}
