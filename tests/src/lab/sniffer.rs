//! The judge: what really arrived at the far end of the wire (packet(7)). Reads packets for itself, not with the parser under test.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use ebfw_agent::host::netns::Netns;
use nix::{
    net::if_::if_nametoindex,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::{
    eventually,
    net::{FAR_DEVICE, v4},
};

/// Bytes of a packet that are kept.
const KEPT: usize = 256;
/// The port to which the end of a stretch of traffic is marked.
const MARKER_PORT: u16 = 9;
/// ICMPv6 types of neighbour discovery, which the kernel itself sends.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// Where the kernel reports which multicast groups it is in (RFC 3810).
const MULTICAST_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// A packet that came in at the far end.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where its IP header says that it goes.
    pub destination: IpAddr,
    /// Protocol number, or next header, of its IP header.
    pub protocol: u8,
    /// Its first bytes, from the IP header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (destination, protocol) = match bytes.first()? >> 4 {
            4 => {
                let address: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
                (Ipv4Addr::from(address).into(), bytes[9])
            }
            6 => {
                let address: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
                (Ipv6Addr::from(address).into(), bytes[6])
            }
            _ => return None,
        };
        let discovers = protocol == 58 && NEIGHBOUR_DISCOVERY.contains(bytes.get(40)?);
        let is_report = destination == IpAddr::V6(MULTICAST_ROUTERS);
        (!discovers && !is_report).then(|| Self {
            destination,
            protocol,
            bytes: bytes.to_vec(),
        })
    }

    /// Whether `text` is somewhere in the packet.
    #[must_use]
    pub fn carries(&self, text: &[u8]) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text)
    }

    /// The destination port, if TCP or UDP follows an IP header without options.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let start = if self.destination.is_ipv4() { 20 } else { 40 };
        let port = self.bytes.get(start + 2..start + 4)?;
        matches!(self.protocol, 6 | 17).then(|| u16::from_be_bytes([port[0], port[1]]))
    }
}

/// Watches the far end of the wire until it is dropped.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Sends markers from the near end, outside of the workload's cgroup.
    marker: UdpSocket,
    markers: std::cell::Cell<u32>,
}

impl Sniffer {
    /// Starts to watch.
    ///
    /// # Errors
    ///
    /// Where the kernel has no packet sockets.
    pub fn start(near: &Netns, far: &Netns) -> io::Result<Self> {
        let socket = far.enter(open)??;
        let marker = near.enter(|| UdpSocket::bind((v4(1), 0)))??;
        let frames = Arc::<Mutex<Vec<Frame>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (sink, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("sniffer".to_owned())
            .spawn(move || watch(&socket, &sink, &stopped))?;
        Ok(Self {
            frames,
            stop,
            thread: Some(thread),
            marker,
            markers: std::cell::Cell::new(0),
        })
    }

    /// All that has arrived, once everything that was sent before this call has.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        let number = self.markers.get();
        self.markers.set(number + 1);
        let text = format!("end of stretch {number};").into_bytes();
        self.marker
            .send_to(&text, (v4(2), MARKER_PORT))
            .expect("nothing governs the test itself");
        eventually("the sniffer sees its marker", || {
            let frames = locked(&self.frames);
            frames.iter().any(|frame| frame.carries(&text))
        });
        let frames = locked(&self.frames);
        frames
            .iter()
            .filter(|frame| !frame.carries(b"end of stretch "))
            .cloned()
            .collect()
    }

    /// What has arrived for `address`.
    #[must_use]
    pub fn to(&self, address: IpAddr) -> Vec<Frame> {
        let address = address.to_canonical();
        let mut frames = self.frames();
        frames.retain(|frame| frame.destination == address);
        frames
    }

    /// Forgets what has arrived.
    pub fn clear(&self) {
        let _ = self.frames();
        locked(&self.frames).clear();
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked(frames: &Mutex<Vec<Frame>>) -> MutexGuard<'_, Vec<Frame>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet socket on the far device of the calling thread's namespace; packets begin with their IP header.
fn open() -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: the call takes numbers only.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            i32::from(all),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
    // SAFETY: all bit patterns are a `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(if_nametoindex(FAR_DEVICE)?).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole `sockaddr_ll` and lives through the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn watch(socket: &OwnedFd, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) {
    let mut buffer = [0; KEPT];
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: all bit patterns are a `sockaddr_ll`.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut from_length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the buffers are as long as the lengths say and live through the call.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut from_length,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            continue;
        };
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            continue;
        }
        if let Some(frame) = Frame::read(&buffer[..length]) {
            locked(frames).push(frame);
        }
    }
}
