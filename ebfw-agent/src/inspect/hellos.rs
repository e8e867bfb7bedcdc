//! TLS connections in which no request can be seen: of whose handshakes the firewall has heard and the probes have not, or whose plaintext nobody can
//! read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use ebfw_common::abi::{ClaimEvent, claim_kind, mode, verdict};
use zerocopy::FromBytes as _;

/// Connections that are remembered; beyond, the oldest is forgotten, and stays counted.
const MAX_CONNECTIONS: usize = 16_384;
/// Cgroups for which they are counted.
const MAX_COUNTED: usize = 16_384;

/// Counts them.
#[derive(Debug, Default)]
pub struct Hellos(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    by_cookie: HashMap<u64, Connection>,
    by_age: VecDeque<u64>,
    unseen: HashMap<u64, u64>,
}

/// What is known of a connection. Each comes by a way of its own, in any order.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// The cgroup in which its handshake began.
    cgroup: Option<u64>,
    /// Whether the probes know whose it is.
    is_known: bool,
    /// Whether they have seen what nobody can read.
    is_unread: bool,
}

impl Connection {
    /// Where it counts.
    fn counts(self) -> Option<u64> {
        self.cgroup.filter(|_| !self.is_known || self.is_unread)
    }
}

impl Hellos {
    /// Takes note of what a client says in clear; anything but the beginning of a handshake that goes its way is passed over.
    pub fn claimed(&self, bytes: &[u8]) {
        let Ok((event, _)) = ClaimEvent::read_from_prefix(bytes) else {
            return;
        };
        let flow = event.flow;
        let is_refused = flow.verdict == verdict::DENY && flow.mode == mode::ENFORCE;
        if event.kind == claim_kind::TLS && flow.cookie != 0 && !is_refused {
            self.with(|connections| connections.opened(flow.cookie, flow.cgroup_id));
        }
    }

    /// Takes note that the probes know whose the socket is.
    pub fn known(&self, cookie: u64) {
        self.with(|connections| {
            connections.change(cookie, |connection| connection.is_known = true)
        });
    }

    /// Takes note that what is written to the socket cannot be read.
    pub fn unread(&self, cookie: u64) {
        self.with(|connections| {
            connections.change(cookie, |connection| connection.is_unread = true)
        });
    }

    /// How many there were in which no request can be seen, by the id of the cgroup.
    #[must_use]
    pub fn unseen(&self) -> HashMap<u64, u64> {
        self.with(|connections| connections.unseen.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connections) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connections {
    fn opened(&mut self, cookie: u64, cgroup: u64) {
        let has_room = self.unseen.len() < MAX_COUNTED || self.unseen.contains_key(&cgroup);
        if has_room {
            // The other side may ask for another hello.
            self.change(cookie, |connection| {
                connection.cgroup.get_or_insert(cgroup);
            });
        }
    }

    fn change(&mut self, cookie: u64, change: impl FnOnce(&mut Connection)) {
        let connection = self.by_cookie.entry(cookie).or_insert_with(|| {
            self.by_age.push_back(cookie);
            Connection::default()
        });
        let before = connection.counts();
        change(connection);
        match (before, connection.counts()) {
            (None, Some(cgroup)) => *self.unseen.entry(cgroup).or_default() += 1,
            (Some(cgroup), None) => {
                if let Some(count) = self.unseen.get_mut(&cgroup) {
                    *count -= 1;
                }
            }
            _ => {}
        }
        if self.by_age.len() > MAX_CONNECTIONS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.by_cookie.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    fn claim(hellos: &Hellos, cookie: u64, change: impl FnOnce(&mut ClaimEvent)) {
        let mut event = ClaimEvent::new_zeroed();
        event.kind = claim_kind::TLS;
        event.flow.cookie = cookie;
        event.flow.cgroup_id = 42;
        event.flow.verdict = verdict::ALLOW;
        event.flow.mode = mode::ENFORCE;
        change(&mut event);
        hellos.claimed(event.as_bytes());
    }

    #[test]
    fn what_the_probes_do_not_know_is_counted_once() {
        let hellos = Hellos::default();
        let unseen = || hellos.unseen().get(&42).copied();
        claim(&hellos, 1, |event| event.kind = claim_kind::HTTP);
        claim(&hellos, 2, |event| event.flow.verdict = verdict::DENY);
        hellos.claimed(b"short");
        assert_eq!(unseen(), None, "no handshake that goes its way");
        claim(&hellos, 3, |event| {
            event.flow.verdict = verdict::DENY;
            event.flow.mode = mode::LOG;
        });
        claim(&hellos, 4, |_| {});
        claim(&hellos, 4, |_| {});
        assert_eq!(unseen(), Some(2));
        hellos.known(4);
        hellos.known(4);
        hellos.known(5);
        claim(&hellos, 5, |_| {});
        claim(&hellos, 4, |_| {});
        assert_eq!(unseen(), Some(1), "known, whichever came first");
        for cookie in [3, 4, 4, 5] {
            hellos.unread(cookie);
        }
        assert_eq!(unseen(), Some(3), "known and not read, or neither");
        hellos.known(4);
        hellos.unread(6);
        hellos.known(6);
        assert_eq!(unseen(), Some(3), "its handshake began elsewhere");
        claim(&hellos, 6, |_| {});
        assert_eq!(unseen(), Some(4), "it was heard of late");
        for cookie in 10..10 + MAX_CONNECTIONS as u64 {
            hellos.known(cookie);
        }
        assert_eq!(unseen(), Some(4), "it stays counted");
        assert_eq!(hellos.with(|all| all.by_cookie.len()), MAX_CONNECTIONS);
    }
}
