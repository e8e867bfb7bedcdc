//! Looks inside TLS: probes on the functions by which processes hand plaintext to their TLS libraries.
//!
//! A process can copy a library, or take a probe out of its own memory: because of what was seen here a request may be denied, and nothing is
//! ever allowed. What the bytes mean is the business of `crate::inspect`.

mod changes;
mod contain;
mod discovery;
mod elf;
mod file;
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

use ebfw_common::plaintext::{COUNTERS, Counter, Header, Socket, kind};
use tokio::time::{Instant, timeout_at};
use zerocopy::FromBytes as _;

use self::{
    contain::Containment,
    discovery::{Discovery, Scope},
    kernel::{CounterMap, Loaded},
    refused::Barrier,
};
pub use self::{contain::Tally, kernel::LoadError};
use crate::{
    datapath::{REST, Ring, RulesetMaps},
    enforcer::Judge,
    events,
    host::{
        cgroup::{CgroupPath, Hierarchy},
        sockets::Destroyer,
    },
    inspect::{Capture, Headers, Hellos, Record, Seen, Sockets, Streams},
    metrics::{Lost, Metrics, Unread},
};

/// How often requests are looked at that wait for their bodies.
const LOOK_AT_WAITING: Duration = Duration::from_millis(500);

/// What is done about denied requests.
pub struct Controls {
    /// Says which are.
    pub judge: Arc<Judge>,
    /// Destroys their sockets.
    pub destroyer: Arc<Destroyer>,
    /// What the kernel judges them by before they leave.
    pub rulesets: Arc<RulesetMaps>,
    /// Told of connections of which something is seen, and whether it can be read.
    pub hellos: Arc<Hellos>,
}

/// The running probes. They end with the value.
pub struct Probes {
    ring: Ring,
    streams: Streams,
    sockets: Sockets,
    containment: Containment,
    /// When requests that wait for their bodies are looked at next.
    look: Instant,
    counters: CounterMap,
    counted: [u64; COUNTERS],
    metrics: Arc<Metrics>,
    hellos: Arc<Hellos>,
    way: &'static str,
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
        controls: Controls,
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
            &controls.rulesets,
        )?;
        let way = kernel.way();
        let sockets = Sockets::new(kernel.finds_sockets());
        let early = kernel.judges();
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
            containment: Containment::new(
                controls.judge,
                Barrier::new(refused, controls.destroyer),
                early,
                Arc::clone(&metrics),
            ),
            look: Instant::now(),
            counters,
            counted: [0; COUNTERS],
            metrics,
            hellos: controls.hellos,
            way,
            discovery,
        })
    }

    /// Waits for plaintext; judges each request that it completes, and gives it to `found`.
    ///
    /// # Errors
    ///
    /// Where the ring cannot be polled.
    pub async fn drain(&mut self, mut found: impl FnMut(Seen)) -> io::Result<()> {
        let Self {
            ring,
            streams,
            sockets,
            containment,
            look,
            metrics,
            hellos,
            ..
        } = self;
        let deadlines = [sockets.deadline(), containment.deadline()];
        let for_others = deadlines.into_iter().flatten().min().map(|deadline| {
            Instant::now() + Duration::from_nanos(deadline.saturating_sub(boot_ns()))
        });
        let for_bodies = streams.is_waiting().then_some(*look);
        let until = for_others.into_iter().chain(for_bodies).min();
        let own = (&**metrics, &**hellos);
        ring.set_rest(if containment.is_urgent() {
            Duration::ZERO
        } else {
            REST
        });
        let drained =
            ring.drain(|bytes| take(streams, sockets, containment, own, bytes, &mut found));
        if let Some(until) = until {
            // By a moment, not by a time from now on: who waits for other things too begins to wait anew after each of them.
            if let Ok(drained) = timeout_at(until, drained).await {
                drained?;
            }
        } else {
            drained.await?;
        }
        let mut judged = |seen| judge(containment, seen, &mut found);
        if streams.is_waiting() && Instant::now() >= *look {
            *look = Instant::now() + LOOK_AT_WAITING;
            streams.give_up(Some(boot_ns()), |seen| sockets.place(seen, &mut judged));
        }
        sockets.give_up(Some(boot_ns()), &mut judged);
        containment
            .unseen(boot_ns())
            .into_iter()
            .for_each(&mut found);
        metrics.unread(Unread::Unknown, streams.take_unknown());
        Ok(())
    }

    /// Gives the requests that lie in the ring to `found`, and those that wait for their bodies or sockets, without waiting.
    pub fn take(&mut self, mut found: impl FnMut(Seen)) {
        let Self {
            ring,
            streams,
            sockets,
            containment,
            metrics,
            hellos,
            ..
        } = self;
        let own = (&**metrics, &**hellos);
        ring.take(|bytes| take(streams, sockets, containment, own, bytes, &mut found));
        let mut judged = |seen| judge(containment, seen, &mut found);
        streams.give_up(None, |seen| sockets.place(seen, &mut judged));
        sockets.give_up(None, judged);
        containment.unseen(u64::MAX).into_iter().for_each(found);
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

    /// The requests that were seen, by the id of the cgroup of the thread that wrote them.
    #[must_use]
    pub fn requests(&self) -> HashMap<u64, Tally> {
        let mut tallies = self.containment.tallies().clone();
        for (cgroup, unseen) in self.hellos.unseen() {
            tallies.entry(cgroup).or_default().unseen = unseen;
        }
        tallies
    }

    /// Adds what the programs lost to the metrics, and lets go of refused sockets that are gone.
    pub fn count(&mut self) {
        self.containment.tidy(boot_ns());
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

/// The time by which waiting ends; 0, by which nothing is given up, where there is no such clock.
fn boot_ns() -> u64 {
    events::boot_ns().unwrap_or(0)
}

fn judge(containment: &mut Containment, seen: Seen, mut found: impl FnMut(Seen)) {
    if let Some(seen) = containment.take(seen, boot_ns()) {
        found(seen);
    }
}

fn take(
    streams: &mut Streams,
    sockets: &mut Sockets,
    containment: &mut Containment,
    (metrics, hellos): (&Metrics, &Hellos),
    bytes: &[u8],
    mut found: impl FnMut(Seen),
) {
    match Record::read(bytes) {
        Ok(record) if record.header.kind == kind::REFUSED => {
            if let Ok(socket) = Socket::read_from_bytes(record.data) {
                let pid = sockets.process(socket.cookie).unwrap_or(0);
                containment.destroy(
                    Header {
                        pid,
                        ..record.header
                    },
                    socket,
                );
            }
        }
        Ok(record) => {
            if record.header.kind == kind::SOCKET {
                hellos.known(record.header.socket);
            }
            let ends = record.header.kind == kind::CLOSE;
            let mut found = |seen| judge(containment, seen, &mut found);
            if !ends {
                sockets.note(&record, &mut found);
            }
            streams.take(&record, |seen| sockets.place(seen, &mut found));
            if record.header.socket != 0 && streams.is_unread(&record.header) {
                hellos.unread(record.header.socket);
            }
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
