//! Looks inside TLS: probes on the functions by which processes hand plaintext to their TLS libraries.
//!
//! Observation alone: a process can copy a library, or take a probe out of its own memory, so nothing is ever allowed because of what was
//! seen here. What the bytes mean is the business of `crate::inspect`.

mod discovery;
mod elf;
mod golang;
mod kernel;
mod mapping;
mod object;
mod prologue;
mod syscall;
mod target;
pub mod trial;

use std::{io, sync::Arc, time::Duration};

use ebfw_common::plaintext::{COUNTERS, Counter};
use nix::time::{ClockId, clock_gettime};
use tokio::time::timeout;

pub use self::kernel::LoadError;
use self::{
    discovery::{Discovery, Scope},
    kernel::{CounterMap, Loaded},
};
use crate::{
    datapath::Ring,
    host::cgroup::{CgroupPath, Hierarchy},
    inspect::{Headers, Record, Seen, Sockets, Streams},
    metrics::{Lost, Metrics, Unread},
};

/// The running probes. They end with the value.
pub struct Probes {
    ring: Ring,
    streams: Streams,
    sockets: Sockets,
    counters: CounterMap,
    counted: [u64; COUNTERS],
    metrics: Arc<Metrics>,
    _discovery: Discovery,
}

impl Probes {
    /// Loads the programs, and begins to put probes into what runs in the cgroup `root` or below, and into what will run there.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, with what is missing.
    pub fn start(
        hierarchy: &Hierarchy,
        root: &CgroupPath,
        headers: Headers,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let Loaded {
            kernel,
            ring,
            counters,
        } = kernel::load(&hierarchy.directory(root))?;
        let sockets = Sockets::new(kernel.finds_sockets());
        let scope = Scope::new(hierarchy.clone(), root.clone());
        let discovery =
            Discovery::start(kernel, scope, Arc::clone(&metrics)).map_err(|source| {
                LoadError::Io {
                    what: "start to look for programs with TLS",
                    source,
                }
            })?;
        Ok(Self {
            ring,
            streams: Streams::new(headers),
            sockets,
            counters,
            counted: [0; COUNTERS],
            metrics,
            _discovery: discovery,
        })
    }

    /// Waits for plaintext; gives each request that it completes to `found`.
    ///
    /// # Errors
    ///
    /// Where the ring cannot be polled.
    pub async fn drain(&mut self, mut found: impl FnMut(Seen)) -> io::Result<()> {
        let Self {
            ring,
            streams,
            sockets,
            metrics,
            ..
        } = self;
        let deadline = sockets.deadline();
        let drained = ring.drain(|bytes| take(streams, sockets, metrics, bytes, &mut found));
        match deadline {
            Some(deadline) => {
                let patience = Duration::from_nanos(deadline.saturating_sub(boot_ns()));
                if let Ok(drained) = timeout(patience, drained).await {
                    drained?;
                }
            }
            None => drained.await?,
        }
        sockets.give_up(Some(boot_ns()), &mut found);
        metrics.unread(Unread::Unknown, streams.take_unknown());
        Ok(())
    }

    /// Gives the requests that lie in the ring to `found`, and those that wait for their sockets, without waiting.
    pub fn take(&mut self, mut found: impl FnMut(Seen)) {
        let Self {
            ring,
            streams,
            sockets,
            metrics,
            ..
        } = self;
        ring.take(|bytes| take(streams, sockets, metrics, bytes, &mut found));
        sockets.give_up(None, found);
    }

    /// Adds what the programs lost to the metrics.
    pub fn count(&mut self) {
        let Ok(now) = self.counters.read() else {
            return;
        };
        for (counter, reason) in [
            (Counter::Limited, Unread::Limited),
            (Counter::RingFull, Unread::Ring),
            (Counter::Unreadable, Unread::Memory),
        ] {
            let index = counter as usize;
            self.metrics
                .unread(reason, now[index].saturating_sub(self.counted[index]));
        }
        self.counted = now;
    }
}

/// Nanoseconds since boot, suspend included, as records have them; 0, by which nothing is given up, where there is no such clock.
fn boot_ns() -> u64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn take(
    streams: &mut Streams,
    sockets: &mut Sockets,
    metrics: &Metrics,
    bytes: &[u8],
    mut found: impl FnMut(Seen),
) {
    match Record::read(bytes) {
        Ok(record) => {
            sockets.note(&record, &mut found);
            streams.take(&record, |seen| sockets.place(seen, &mut found));
        }
        Err(error) => {
            metrics.lost(Lost::Decode, 1);
            tracing::debug!(%error, "a record of the probes makes no sense");
        }
    }
}
