//! Looks inside TLS: probes on the functions by which processes hand plaintext to their TLS libraries.
//!
//! A process can copy a library, or take a probe out of its own memory: because of what was seen here a request may be denied, and nothing is
//! ever allowed. What the bytes mean is the business of `crate::inspect`.

mod discovery;
mod elf;
mod golang;
mod kernel;
mod mapping;
mod object;
mod prologue;
mod refused;
mod syscall;
mod target;
pub mod trial;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use aya::maps::MapError;
use ebfw_common::plaintext::{COUNTERS, Counter, Socket, kind};
use tokio::time::{Instant, timeout_at};
use zerocopy::FromBytes as _;

pub use self::kernel::LoadError;
use self::{
    discovery::{Discovery, Scope},
    kernel::{CounterMap, Loaded},
    refused::Barrier,
};
use crate::{
    datapath::{Ring, RulesetMaps},
    events,
    host::{
        cgroup::{CgroupPath, Hierarchy},
        sockets::Destroyer,
    },
    inspect::{Capture, Headers, Record, Seen, Sockets, Streams},
    metrics::{Lost, Metrics, Unread},
};

/// How often requests are looked at that wait for their bodies.
const LOOK_AT_WAITING: Duration = Duration::from_millis(500);

/// Cgroups whose requests are counted.
const MAX_COUNTED: usize = 16_384;

/// What of the firewall the probes use.
#[derive(Debug)]
pub struct Firewall {
    /// Destroys the sockets of denied requests.
    pub destroyer: Arc<Destroyer>,
    /// What requests are judged by before they leave.
    pub rulesets: Arc<RulesetMaps>,
}

/// The running probes. They end with the value.
pub struct Probes {
    ring: Ring,
    streams: Streams,
    sockets: Sockets,
    barrier: Barrier,
    /// When requests that wait for their bodies are looked at next.
    look: Instant,
    counters: CounterMap,
    counted: [u64; COUNTERS],
    metrics: Arc<Metrics>,
    way: &'static str,
    /// Requests by the cgroup of the thread that wrote them.
    requests: HashMap<u64, u64>,
    discovery: Discovery,
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
        bodies: Option<Capture>,
        responses: bool,
        firewall: Firewall,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let Loaded {
            kernel,
            ring,
            counters,
            refused,
        } = kernel::load(
            &hierarchy.directory(root),
            bodies.map_or(0, |capture| capture.limit),
            &firewall.rulesets,
        )?;
        let way = kernel.way();
        let sockets = Sockets::new(kernel.finds_sockets());
        let scope = Scope::new(hierarchy.clone(), root.clone());
        let discovery =
            Discovery::start(kernel, scope, responses, Arc::clone(&metrics)).map_err(|source| {
                LoadError::Io {
                    what: "start to look for programs with TLS",
                    source,
                }
            })?;
        Ok(Self {
            ring,
            streams: Streams::new(headers, bodies).with_responses(responses),
            sockets,
            barrier: Barrier::new(refused, firewall.destroyer),
            look: Instant::now(),
            counters,
            counted: [0; COUNTERS],
            metrics,
            way,
            requests: HashMap::new(),
            discovery,
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
            barrier,
            look,
            metrics,
            requests,
            ..
        } = self;
        let mut found = |seen: Seen| {
            note(requests, &seen);
            found(seen);
        };
        let for_sockets = sockets.deadline().map(|deadline| {
            Instant::now() + Duration::from_nanos(deadline.saturating_sub(boot_ns()))
        });
        let for_bodies = streams.is_waiting().then_some(*look);
        let until = for_sockets.into_iter().chain(for_bodies).min();
        let drained =
            ring.drain(|bytes| take(streams, sockets, barrier, metrics, bytes, &mut found));
        if let Some(until) = until {
            // By a moment, not by a time from now on: who waits for other things too begins to wait anew after each of them.
            if let Ok(drained) = timeout_at(until, drained).await {
                drained?;
            }
        } else {
            drained.await?;
        }
        if streams.is_waiting() && Instant::now() >= *look {
            *look = Instant::now() + LOOK_AT_WAITING;
            streams.give_up(Some(boot_ns()), |seen| sockets.place(seen, &mut found));
        }
        sockets.give_up(Some(boot_ns()), &mut found);
        metrics.unread(Unread::Unknown, streams.take_unknown());
        Ok(())
    }

    /// Gives the requests that lie in the ring to `found`, and those that wait for their bodies or sockets, without waiting.
    pub fn take(&mut self, mut found: impl FnMut(Seen)) {
        let Self {
            ring,
            streams,
            sockets,
            barrier,
            metrics,
            ..
        } = self;
        ring.take(|bytes| take(streams, sockets, barrier, metrics, bytes, &mut found));
        streams.give_up(None, |seen| sockets.place(seen, &mut found));
        sockets.give_up(None, found);
    }

    /// Lets nothing more leave on `socket`, and has it destroyed.
    ///
    /// # Errors
    ///
    /// Where the kernel has no room to refuse one more: then it is only destroyed.
    pub fn refuse(&self, socket: &Socket) -> Result<(), MapError> {
        self.barrier.refuse(socket, boot_ns())
    }

    /// How they are attached, in words.
    #[must_use]
    pub fn way(&self) -> &'static str {
        self.way
    }

    /// Files with probes by kind of library.
    #[must_use]
    pub fn files(&self) -> BTreeMap<&'static str, usize> {
        self.discovery.census()
    }

    /// How many requests were seen, by the id of the cgroup of the thread that wrote them.
    #[must_use]
    pub fn requests(&self) -> &HashMap<u64, u64> {
        &self.requests
    }

    /// Adds what the programs lost to the metrics, and lets go of refused sockets that are gone.
    pub fn count(&mut self) {
        self.barrier.tidy(boot_ns());
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

/// Counts a request. Cgroups that come and go must not take memory: beyond the limit, new ones are not counted.
fn note(requests: &mut HashMap<u64, u64>, seen: &Seen) {
    if seen.request.status.is_some() {
        return;
    }
    let cgroup = seen.header.cgroup_id;
    if requests.len() < MAX_COUNTED || requests.contains_key(&cgroup) {
        *requests.entry(cgroup).or_default() += 1;
    }
}

/// The time by which waiting ends; 0, by which nothing is given up, where there is no such clock.
fn boot_ns() -> u64 {
    events::boot_ns().unwrap_or(0)
}

fn take(
    streams: &mut Streams,
    sockets: &mut Sockets,
    barrier: &Barrier,
    metrics: &Metrics,
    bytes: &[u8],
    mut found: impl FnMut(Seen),
) {
    match Record::read(bytes) {
        Ok(record) if record.header.kind == kind::REFUSED => {
            if let Ok(socket) = Socket::read_from_bytes(record.data) {
                barrier.destroy(&socket);
            }
        }
        Ok(record) => {
            let ends = record.header.kind == kind::CLOSE;
            if !ends {
                sockets.note(&record, &mut found);
            }
            streams.take(&record, |seen| sockets.place(seen, &mut found));
            if ends {
                sockets.note(&record, &mut found);
            }
        }
        Err(error) => {
            metrics.lost(Lost::Decode, 1);
            tracing::debug!(%error, "a record of the probes makes no sense");
        }
    }
}
