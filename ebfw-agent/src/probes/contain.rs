//! What is done about requests inside TLS: each is judged as soon as its head and its socket are known, and a denied one costs it its socket.
//!
//! The request is on its way by then. What the socket has not sent yet stays, and the next requests on the connection are never made.

use std::{collections::HashMap, ops::AddAssign, sync::Arc};

use aya::maps::MapError;
use ebfw_common::plaintext::Socket;
use ebfw_policy::evaluate::{Decision, Reason};

use super::refused::Barrier;
use crate::{
    enforcer::Judge,
    inspect::{Judgement, Seen},
    metrics::{Metrics, RequestInTls},
};

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
            early,
        } = other;
        self.seen += seen;
        self.opaque += opaque;
        self.denied += denied;
        self.late += late;
        self.early |= early;
    }
}

/// Judges, and carries out.
pub(super) struct Containment {
    judge: Arc<Judge>,
    barrier: Barrier,
    early: bool,
    tallies: HashMap<u64, Tally>,
    metrics: Arc<Metrics>,
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

    /// Has a socket destroyed of which a packet had to be dropped.
    pub(super) fn destroy(&self, socket: &Socket) {
        self.barrier.destroy(socket);
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
    fn contain(&self, socket: &Socket, now_ns: u64) -> bool {
        if !self.judge.enforces() {
            return false;
        }
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
            Some(Judgement::Ruled(..)) if denied => RequestInTls::Deny,
            Some(Judgement::Ruled(..)) => RequestInTls::Allow,
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
    matches!(judgement, Judgement::Ruled(verdict, _) if verdict.decision == Decision::Deny)
}
