//! Sockets on which a denied request was written: nothing more leaves on them, and they are destroyed.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use ebfw_common::{
    abi::{Request, request},
    plaintext::{Refusal, Socket},
};

use crate::host::sockets::{Destroyer, Outcome};

/// [`Refusal`]s by cookie, as aya takes them.
pub(super) type RefusedMap = HashMap<MapData, u64, [u64; 2]>;

/// A socket is let go that was silent for so long, though nobody could destroy it: what lies in its queue TCP tries again every two minutes
/// at least (TCP_RTO_MAX), and each attempt is noted.
const SILENT_NS: u64 = 600_000_000_000;
/// How often those are looked for.
const TIDY_EVERY_NS: u64 = 30_000_000_000;

/// Refuses sockets, for good.
#[derive(Debug)]
pub(super) struct Barrier {
    refused: Arc<Mutex<RefusedMap>>,
    destroyer: Arc<Destroyer>,
    tidied_ns: u64,
}

impl Barrier {
    pub(super) fn new(refused: RefusedMap, destroyer: Arc<Destroyer>) -> Self {
        Self {
            refused: Arc::new(Mutex::new(refused)),
            destroyer,
            tidied_ns: 0,
        }
    }

    /// From now on nothing leaves on `socket`, and it is destroyed as soon as may be. Whether it was refused before: by the program that judges
    /// requests before they leave, then.
    ///
    /// # Errors
    ///
    /// Where the kernel has no room for it: then it is only destroyed.
    pub(super) fn refuse(&self, socket: &Socket, now_ns: u64) -> Result<bool, MapError> {
        let refusal = Refusal {
            last_ns: now_ns,
            told_ns: now_ns,
        };
        let value: [u64; 2] = zerocopy::transmute!(refusal);
        let result = locked(&self.refused, |map| {
            let was_refused = map.get(&socket.cookie, 0).is_ok();
            map.insert(socket.cookie, value, 0).map(|()| was_refused)
        });
        self.destroy(socket);
        result
    }

    /// Has `socket` destroyed. Then nothing can leave on it any more, and it need not be refused.
    pub(super) fn destroy(&self, socket: &Socket) {
        let cookie = socket.cookie;
        let refused = Arc::clone(&self.refused);
        self.destroyer
            .request_then(request_for(socket), move |outcome| {
                // Only then: one that was not found may be in a network namespace that the agent cannot enter.
                if matches!(outcome, Outcome::Destroyed) {
                    forget(&refused, cookie);
                }
            });
    }

    /// Lets go of those that must have ended.
    pub(super) fn tidy(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.tidied_ns) < TIDY_EVERY_NS {
            return;
        }
        self.tidied_ns = now_ns;
        let silent = locked(&self.refused, |map| {
            let is_silent = |value: [u64; 2]| {
                let refusal: Refusal = zerocopy::transmute!(value);
                now_ns.saturating_sub(refusal.last_ns) > SILENT_NS
            };
            map.iter()
                .filter_map(Result::ok)
                .filter_map(|(cookie, value)| is_silent(value).then_some(cookie))
                .collect::<Vec<_>>()
        });
        for cookie in silent {
            forget(&self.refused, cookie);
        }
    }
}

fn forget(refused: &Mutex<RefusedMap>, cookie: u64) {
    // An error: somebody else has let go of it.
    let _ = locked(refused, |map| map.remove(&cookie));
}

fn locked<T>(refused: &Mutex<RefusedMap>, use_it: impl FnOnce(&mut RefusedMap) -> T) -> T {
    use_it(&mut refused.lock().unwrap_or_else(PoisonError::into_inner))
}

fn request_for(socket: &Socket) -> Request {
    let Socket {
        cookie,
        cgroup_id,
        source,
        destination,
        source_port,
        destination_port,
        family,
    } = *socket;
    Request {
        kind: request::DESTROY,
        protocol: libc::IPPROTO_TCP as u32,
        cgroup_id,
        cookie,
        source,
        destination,
        source_port,
        destination_port,
        family,
    }
}
