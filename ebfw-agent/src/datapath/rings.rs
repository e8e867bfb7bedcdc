//! Ring buffers as asynchronous streams of bytes, and the counts that the rate limit still holds.

use std::{io, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use ebfw_common::abi::{Address, Request};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};
use zerocopy::FromBytes;

use super::{LoadError, map_error};

/// How long nobody waits for a ring of events after it was read. The kernel wakes who waits at the next entry, in the call of the workload
/// whose packet it tells of: 30 µs on a small virtual machine, as much as its whole connect. While entries lie there it wakes nobody, so a
/// busy ring costs some hundred wakings a second and not one an event. What comes in this time must fit: 1,100 requests, 10,000 connections.
pub(crate) const REST: Duration = Duration::from_millis(2);

/// A ring buffer that the kernel writes and one task reads.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    rest: Duration,
    next: Instant,
}

impl Ring {
    /// A ring whose entries are read at once, but not again for the time `rest`.
    pub(crate) fn new(ring: RingBuf<MapData>, rest: Duration) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor and keeps it open until it is dropped, after the registration.
        let ring = unsafe { AsyncFd::register(ring) }?;
        let next = Instant::now();
        Ok(Self { ring, rest, next })
    }

    /// From the next time on, it is not read again for the time `rest`.
    pub(crate) fn set_rest(&mut self, rest: Duration) {
        self.rest = rest;
    }

    /// Waits for entries and gives each to `consume`. Returns after the ring was found empty once.
    ///
    /// # Errors
    ///
    /// Where the descriptor cannot be polled.
    pub async fn drain(&mut self, mut consume: impl FnMut(&[u8])) -> io::Result<()> {
        if !self.rest.is_zero() {
            sleep_until(self.next).await;
        }
        let mut ready = self.ring.readable_mut().await?;
        while let Some(entry) = ready.get_inner_mut().next() {
            consume(&entry);
        }
        ready.clear_ready();
        self.next = Instant::now() + self.rest;
        Ok(())
    }

    /// Waits for requests of the programs. What is none is left out: only another version could have written it.
    ///
    /// # Errors
    ///
    /// As [`Ring::drain`].
    pub async fn requests(&mut self) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        self.drain(|bytes| requests.extend(Request::read_from_bytes(bytes).ok()))
            .await?;
        Ok(requests)
    }

    /// Gives what lies in the ring to `consume`, without waiting.
    pub fn take(&mut self, mut consume: impl FnMut(&[u8])) {
        while let Some(entry) = self.ring.get_mut().next() {
            consume(&entry);
        }
    }
}

/// Key of the kernel's rate limit: which events were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Slot of the workload.
    pub slot: u32,
    /// Destination port; 0 where there is none.
    pub port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// `ebfw_common::abi::verdict`.
    pub verdict: u8,
    /// Destination.
    pub destination: Address,
}

/// Reads what `RATES` still holds (`RateKey` and `Window` of the kernel programs).
pub(super) fn left_out(ebpf: &Ebpf) -> Result<Vec<(LeftOut, u64)>, LoadError> {
    const WHOLE_WORKLOAD: u8 = u8::MAX;
    let map = ebpf.map("RATES").expect("the object has the map RATES");
    let rates: HashMap<_, [u32; 6], [u64; 3]> =
        HashMap::try_from(map).map_err(map_error("RATES"))?;
    let mut left = Vec::new();
    for entry in rates.iter() {
        let (key, [_, _, suppressed]) = entry.map_err(map_error("RATES"))?;
        let [low, high, protocol, verdict] = key[1].to_ne_bytes();
        if suppressed > 0 && verdict != WHOLE_WORKLOAD {
            let destination = Address([key[2], key[3], key[4], key[5]]);
            left.push((
                LeftOut {
                    slot: key[0],
                    port: u16::from_ne_bytes([low, high]),
                    protocol,
                    verdict,
                    destination,
                },
                suppressed,
            ));
        }
    }
    Ok(left)
}
