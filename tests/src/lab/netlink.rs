//! Makes a pair of connected network devices and gives them addresses (rtnetlink(7)); asks families of generic netlink. A guest machine need
//! not have `ip`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use ebfw_agent::host::netns::Netns;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address works at once.
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Connects the namespace of the calling thread with `far` by a veth pair.
pub(super) fn connect(near_name: &str, far: &impl AsFd, far_name: &str) -> io::Result<()> {
    let peer = [
        link(0, 0),
        attribute(IFLA_IFNAME, far_name.as_bytes()),
        attribute(
            IFLA_NET_NS_FD,
            &far.as_fd().as_raw_fd().unsigned_abs().to_ne_bytes(),
        ),
    ];
    let info = [
        attribute(IFLA_INFO_KIND, b"veth"),
        attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer.concat())),
    ];
    let message = [
        link(0, 0),
        attribute(IFLA_IFNAME, near_name.as_bytes()),
        attribute(IFLA_LINKINFO, &info.concat()),
    ];
    ask(RTM_NEWLINK, NLM_F_CREATE, &message.concat())
}

/// Switches a device of `place` on and gives it addresses.
pub(super) fn bring_up(place: &Netns, name: &str, addresses: &[(IpAddr, u8)]) -> io::Result<()> {
    place.enter(|| {
        let index = if_nametoindex(name)?;
        ask(RTM_NEWLINK, 0, &link(index, IFF_UP))?;
        for (address, prefix) in addresses {
            let (family, bytes) = match address {
                IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
                IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
            };
            let family = u8::try_from(family).expect("address families are small");
            let mut message = vec![family, *prefix, IFA_F_NODAD, 0];
            message.extend(index.to_ne_bytes());
            message.extend(attribute(IFA_LOCAL, &bytes));
            message.extend(attribute(IFA_ADDRESS, &bytes));
            ask(RTM_NEWADDR, NLM_F_CREATE, &message)?;
        }
        Ok(())
    })?
}

/// Has `place` send what goes to the /24 of `to` by way of `gateway`.
pub(super) fn route(place: &Netns, to: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    let family = u8::try_from(libc::AF_INET).expect("address families are small");
    // `struct rtmsg`.
    let mut message = vec![
        family,
        24,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        0,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let [a, b, c, _] = to.octets();
    message.extend(attribute(RTA_DST, &[a, b, c, 0]));
    message.extend(attribute(RTA_GATEWAY, &gateway.octets()));
    place.enter(|| ask(RTM_NEWROUTE, NLM_F_CREATE, &message))?
}

/// A family of generic netlink (include/uapi/linux/genetlink.h), in the namespace of the calling thread.
pub(super) struct Family(u16);

impl Family {
    /// # Errors
    ///
    /// `NotFound` where the kernel has none of this name.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        const CONTROL: Family = Family(0x10);
        const GET_FAMILY: u8 = 3;
        const FAMILY_ID: u16 = 1;
        const FAMILY_NAME: u16 = 2;
        let asked = attribute(FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let answer = CONTROL.exchange(GET_FAMILY, &asked)?;
        if answer.get(4..6) != Some(&CONTROL.0.to_ne_bytes()) {
            outcome(&answer)?;
        }
        let mut rest = answer.get(HEADER + 4..).unwrap_or_default();
        while let [low, high, kind @ ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*low, *high])).max(4);
            if let ([a, b, c, d, ..], true) = (kind, length == 6)
                && u16::from_ne_bytes([*a, *b]) == FAMILY_ID
            {
                return Ok(Self(u16::from_ne_bytes([*c, *d])));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn ask(&self, command: u8, body: &[u8]) -> io::Result<()> {
        outcome(&self.exchange(command, body)?)
    }

    fn exchange(&self, command: u8, body: &[u8]) -> io::Result<Vec<u8>> {
        // `struct genlmsghdr`: all families have version 1.
        let message = [&[command, 1, 0, 0], body].concat();
        exchange(SockProtocol::NetlinkGeneric, self.0, 0, &message)
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].map(u32::to_ne_bytes).concat()
}

/// `struct nlattr` with its value, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("attributes here are short");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    outcome(&exchange(SockProtocol::NetlinkRoute, kind, flags, body)?)
}

/// Asks the kernel, in the namespace of the calling thread; its first answer.
fn exchange(protocol: SockProtocol, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    let length = u32::try_from(HEADER + body.len()).expect("messages here are short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(
        socket.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = vec![0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// The error number in an NLMSG_ERROR; 0 is success.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|kind| [kind[0], kind[1]]);
    let code = answer
        .get(HEADER..HEADER + 4)
        .map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
    match (kind.map(u16::from_ne_bytes), code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
