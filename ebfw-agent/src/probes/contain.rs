//! What is done about requests inside TLS: each is judged as soon as its head and its socket are known, and a denied one costs it its socket.
//!
//! The request is on its way by then. What the socket has not sent yet stays, and the next requests on the connection are never made.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::AddAssign,
    sync::{Arc, OnceLock},
};

use aya::maps::MapError;
use ebfw_common::plaintext::{Header, MAX_REFUSED, Socket};
use ebfw_policy::evaluate::{Decision, Reason};

use super::refused::Barrier;
use crate::{
    enforcer::Judge,
    events::event::Mode,
    inspect::{Judgement, Request, Seen},
    metrics::{Metrics, RequestInTls},
};

/// The request for which the kernel refused a socket may come to the agent so much later than the packet that was dropped.
const PATIENCE_NS: u64 = 500_000_000;
/// Cgroups whose requests are counted.
const MAX_COUNTED: usize = 16_384;

/// Requests inside TLS that one cgroup has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All that were seen.
    pub seen: u64,
    /// Those that could not be judged, since their sockets are not known.
    pub opaque: u64,
    /// Those that were denied, whether or not that was carried out.
    pub denied: u64,
    /// Those of them that had left when they were denied.
    pub late: u64,
    /// TLS connections in which no request can be seen.
    pub unseen: u64,
    /// Whether requests are judged before they leave, too.
    pub early: bool,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self {
            seen,
            opaque,
            denied,
            late,
            unseen,
            early,
        } = other;
        self.seen += seen;
        self.opaque += opaque;
        self.denied += denied;
        self.late += late;
        self.unseen += unseen;
        self.early |= early;
    }
}

/// Judges, and carries out.
pub(super) struct Containment {
    judge: Arc<Judge>,
    barrier: Barrier,
    early: bool,
    tallies: HashMap<u64, Tally>,
    told: Told,
    /// Packets that were dropped, on sockets of which nothing was told yet.
    dropped: Vec<(Header, Socket)>,
    metrics: Arc<Metrics>,
}

/// Cookies of sockets of which a denied request was told; the oldest are forgotten.
#[derive(Default)]
struct Told {
    cookies: HashSet<u64>,
    by_age: VecDeque<u64>,
}

impl Told {
    fn insert(&mut self, cookie: u64) {
        if self.cookies.insert(cookie) {
            self.by_age.push_back(cookie);
        }
        if self.by_age.len() > MAX_REFUSED
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.cookies.remove(&oldest);
        }
    }
}

impl Containment {
    /// `early`: whether the kernel judges requests before they leave.
    pub(super) fn new(
        judge: Arc<Judge>,
        barrier: Barrier,
        early: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            judge,
            barrier,
            early,
            tallies: HashMap::new(),
            told: Told::default(),
            dropped: Vec::new(),
            metrics,
        }
    }

    /// Takes a request, or the head of one; gives it back where it is to be told.
    pub(super) fn take(&mut self, seen: Seen, now_ns: u64) -> Option<Seen> {
        if seen.request.status.is_some() {
            return Some(seen);
        }
        // Without its socket nothing can be said of it yet: that may be found by the time its body is there.
        let may_wait = seen.is_head && seen.socket.is_none();
        if seen.judged.get().is_none() && !may_wait {
            let judgement = self.judge.judge(&seen);
            if let (true, Some(socket)) = (is_denied(&judgement), &seen.socket) {
                let late = self.contain(socket, now_ns);
                self.tally(seen.header.cgroup_id, |tally| tally.late += u64::from(late));
            }
            let _ = seen.judged.set(judgement);
        }
        if seen.is_head {
            return None;
        }
        self.count(&seen);
        Some(seen)
    }

    /// Whether it matters how soon a request is judged.
    pub(super) fn is_urgent(&self) -> bool {
        self.judge.is_urgent()
    }

    /// Has a socket destroyed of which a packet had to be dropped: what the probes say of that.
    pub(super) fn destroy(&mut self, header: Header, socket: Socket) {
        self.barrier.destroy(&socket);
        let is_known = |(_, own): &(Header, Socket)| own.cookie == socket.cookie;
        if self.dropped.len() < MAX_REFUSED && !self.dropped.iter().any(is_known) {
            self.dropped.push((header, socket));
        }
    }

    /// When [`Containment::unseen`] has something to tell, in nanoseconds since boot.
    pub(super) fn deadline(&self) -> Option<u64> {
        let (first, _) = self.dropped.first()?;
        Some(first.boot_ns.saturating_add(PATIENCE_NS))
    }

    /// What the kernel has denied and nobody has told by `now_ns`: it was over a limit, longer than what is copied, or read by the kernel alone.
    pub(super) fn unseen(&mut self, now_ns: u64) -> Vec<Seen> {
        let is_due = |header: &Header| header.boot_ns.saturating_add(PATIENCE_NS) <= now_ns;
        let due: Vec<_> = self
            .dropped
            .extract_if(.., |(header, _)| is_due(header))
            .filter(|(_, socket)| !self.told.cookies.contains(&socket.cookie))
            .collect();
        due.into_iter()
            .map(|(header, socket)| {
                self.told.insert(socket.cookie);
                let seen = Seen {
                    socket: Some(socket),
                    judged: Arc::new(OnceLock::from(Judgement::Unseen(Mode::Enforce))),
                    ..Seen::new(header, Request::default())
                };
                self.count(&seen);
                seen
            })
            .collect()
    }

    /// Lets go of refused sockets that are gone.
    pub(super) fn tidy(&mut self, now_ns: u64) {
        self.barrier.tidy(now_ns);
    }

    /// By the id of the cgroup of the thread that wrote them.
    pub(super) fn tallies(&self) -> &HashMap<u64, Tally> {
        &self.tallies
    }

    /// Whether this comes too late: nobody has refused the socket before.
    fn contain(&mut self, socket: &Socket, now_ns: u64) -> bool {
        if !self.judge.enforces() {
            return false;
        }
        self.told.insert(socket.cookie);
        match self.barrier.refuse(socket, now_ns) {
            Ok(was_refused) => !was_refused,
            Err(error) => {
                self.metrics.refusal_failed();
                let error: MapError = error;
                tracing::debug!(%error, "a socket could not be refused, it is only destroyed");
                true
            }
        }
    }

    /// Counts something about a cgroup. Cgroups that come and go must not take memory: beyond the limit, new ones are not counted.
    fn tally(&mut self, cgroup: u64, count: impl FnOnce(&mut Tally)) {
        if self.tallies.len() < MAX_COUNTED || self.tallies.contains_key(&cgroup) {
            let tally = self.tallies.entry(cgroup).or_default();
            tally.early = self.early;
            count(tally);
        }
    }

    /// Counts a request.
    fn count(&mut self, seen: &Seen) {
        let judgement = seen.judged.get();
        let denied = judgement.is_some_and(is_denied);
        let result = match judgement {
            None | Some(Judgement::Ungoverned) => RequestInTls::Ungoverned,
            Some(Judgement::Opaque) => RequestInTls::Opaque,
            Some(Judgement::Ruled(verdict, _)) if verdict.reason == Reason::Loopback => {
                RequestInTls::Ungoverned
            }
            Some(Judgement::Ruled(..) | Judgement::Unseen(_)) if denied => RequestInTls::Deny,
            Some(Judgement::Ruled(..) | Judgement::Unseen(_)) => RequestInTls::Allow,
        };
        self.metrics.request_in_tls(result);
        self.tally(seen.header.cgroup_id, |tally| {
            tally.seen += 1;
            tally.opaque += u64::from(seen.socket.is_none());
            tally.denied += u64::from(denied);
        });
    }
}

fn is_denied(judgement: &Judgement) -> bool {
    match judgement {
        Judgement::Ungoverned | Judgement::Opaque => false,
        Judgement::Ruled(verdict, _) => verdict.decision == Decision::Deny,
        Judgement::Unseen(_) => true,
    }
}
