//! Ring buffers as asynchronous streams of bytes, and the counts that the rate limit still holds.

use std::io;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use ebfw_common::abi::{Address, Request};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use super::{LoadError, map_error};

/// A ring buffer that the kernel writes and one task reads.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    pub(crate) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor and keeps it open until it is dropped, after the registration.
        Ok(Self(unsafe { AsyncFd::register(ring) }?))
    }

    /// Waits for entries and gives each to `consume`. Returns after the ring was found empty once.
    ///
    /// # Errors
    ///
    /// Where the descriptor cannot be polled.
    pub async fn drain(&mut self, mut consume: impl FnMut(&[u8])) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        while let Some(entry) = ready.get_inner_mut().next() {
            consume(&entry);
        }
        ready.clear_ready();
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
        while let Some(entry) = self.0.get_mut().next() {
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
