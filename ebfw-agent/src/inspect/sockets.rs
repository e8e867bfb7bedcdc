//! On which socket a request goes out. The kernel finds it when the first record leaves, which is just after the plaintext was seen: until
//! then a request waits.

use std::collections::{HashMap, VecDeque};

use ebfw_common::plaintext::{Header, Socket, kind};
use zerocopy::FromBytes as _;

use super::{Record, Seen};

/// Sockets that are remembered; beyond, the one that was found first is forgotten.
const MAX_SOCKETS: usize = 16384;
/// Requests that wait at once; beyond, the first is given on without its socket.
const MAX_WAITING: usize = 1024;
/// A request waits so long for its socket.
const PATIENCE_NS: u64 = 250_000_000;

/// Knows the sockets of connections.
pub struct Sockets {
    /// Whether the kernel finds any.
    are_found: bool,
    known: HashMap<u64, Socket>,
    by_age: VecDeque<u64>,
    /// Cookie by process and connection: a request may come later than its head, with its body.
    now: HashMap<(u32, u64), u64>,
    waiting: VecDeque<Seen>,
}

fn is_same(one: &Header, other: &Header) -> bool {
    (one.pid, one.connection) == (other.pid, other.connection)
}

impl Sockets {
    /// Knows none. `are_found`: whether the kernel finds any, so that it is worth to wait for them.
    #[must_use]
    pub fn new(are_found: bool) -> Self {
        Self {
            are_found,
            known: HashMap::new(),
            by_age: VecDeque::new(),
            now: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Takes note of a record; gives each request that waited for what it says to `found`. To be called for every record, in their order; at
    /// the end of a connection after its requests are placed, else before.
    pub fn note(&mut self, record: &Record<'_>, found: impl FnMut(Seen)) {
        let Record { header, data } = record;
        let socket = match header.kind {
            kind::SOCKET => match Socket::read_from_bytes(data) {
                Ok(socket) => Some(socket),
                Err(_) => return,
            },
            kind::CLOSE => None,
            _ => return,
        };
        let connection = (header.pid, header.connection);
        match socket {
            Some(socket) => {
                if self.now.len() >= MAX_SOCKETS {
                    self.now.clear();
                }
                self.now.insert(connection, socket.cookie);
            }
            None => {
                self.now.remove(&connection);
            }
        }
        if let Some(socket) = socket
            && self.known.insert(socket.cookie, socket).is_none()
        {
            self.by_age.push_back(socket.cookie);
            if self.by_age.len() > MAX_SOCKETS
                && let Some(oldest) = self.by_age.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        self.release(|seen| is_same(&seen.header, header), socket, found);
    }

    /// Gives a request to `found`, with its socket where that is known, or keeps it until it is.
    pub fn place(&mut self, mut seen: Seen, mut found: impl FnMut(Seen)) {
        let cookie = match seen.header.socket {
            0 => self.now.get(&(seen.header.pid, seen.header.connection)),
            _ => Some(&seen.header.socket),
        };
        if cookie.is_some() || !self.are_found {
            seen.socket = cookie.and_then(|cookie| self.known.get(cookie)).copied();
            return found(seen);
        }
        self.waiting.push_back(seen);
        if self.waiting.len() > MAX_WAITING
            && let Some(first) = self.waiting.pop_front()
        {
            found(first);
        }
    }

    /// The process that has the connection of a socket.
    #[must_use]
    pub fn process(&self, cookie: u64) -> Option<u32> {
        let mut connections = self.now.iter();
        let found = connections.find(|(_, own)| **own == cookie);
        found.map(|((pid, _), _)| *pid)
    }

    /// When [`Sockets::give_up`] has something to do, in nanoseconds since boot.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let first = self.waiting.front()?;
        Some(first.header.boot_ns.saturating_add(PATIENCE_NS))
    }

    /// Gives the requests to `found` that have waited too long at `boot_ns`; all of them where that is `None`.
    pub fn give_up(&mut self, boot_ns: Option<u64>, found: impl FnMut(Seen)) {
        let limit = boot_ns.map_or(u64::MAX, |now| now.saturating_sub(PATIENCE_NS));
        self.release(|seen| seen.header.boot_ns <= limit, None, found);
    }

    fn release(
        &mut self,
        is_meant: impl Fn(&Seen) -> bool,
        socket: Option<Socket>,
        mut found: impl FnMut(Seen),
    ) {
        if !self.waiting.iter().any(&is_meant) {
            return;
        }
        for mut seen in std::mem::take(&mut self.waiting) {
            if is_meant(&seen) {
                seen.socket = socket;
                found(seen);
            } else {
                self.waiting.push_back(seen);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::inspect::{Request, SOCKET, streams::samples::header};

    /// A request on connection `object`, whose socket was `cookie` when it was written.
    fn seen(object: u64, cookie: u64) -> Seen {
        Seen {
            header: Header {
                socket: cookie,
                ..header(object, 0)
            },
            ..Seen::new(header(object, 0), Request::default())
        }
    }

    /// What a record about connection `object` lets go, by connection and cookie.
    fn note(sockets: &mut Sockets, object: u64, kind: u8) -> Vec<(u64, Option<u64>)> {
        let mut released = Vec::new();
        let header = Header {
            kind,
            ..header(object, 0)
        };
        let record = Record {
            header,
            data: SOCKET.as_bytes(),
        };
        sockets.note(&record, |seen| released.push(named(&seen)));
        released
    }

    fn named(seen: &Seen) -> (u64, Option<u64>) {
        let cookie = seen.socket.map(|socket| socket.cookie);
        (seen.header.connection, cookie)
    }

    fn place(sockets: &mut Sockets, seen: Seen) -> Vec<(u64, Option<u64>)> {
        let mut released = Vec::new();
        sockets.place(seen, |seen| released.push(named(&seen)));
        released
    }

    #[test]
    fn a_request_waits_for_its_socket() {
        let mut sockets = Sockets::new(true);
        assert_eq!(place(&mut sockets, seen(1, 0)), []);
        assert_eq!(place(&mut sockets, seen(2, 0)), []);
        assert_eq!(note(&mut sockets, 1, kind::WRITE), []);
        assert_eq!(note(&mut sockets, 1, kind::SOCKET), [(1, Some(9))]);
        assert_eq!(place(&mut sockets, seen(1, 9)), [(1, Some(9))], "known");
        assert_eq!(place(&mut sockets, seen(3, 8)), [(3, None)], "forgotten");
        assert_eq!(
            place(&mut sockets, seen(1, 0)),
            [(1, Some(9))],
            "with a body"
        );
        assert_eq!(sockets.process(9), Some(header(1, 0).pid));
        assert_eq!(note(&mut sockets, 1, kind::CLOSE), []);
        assert_eq!(sockets.process(9), None, "closed");
        assert_eq!(note(&mut sockets, 2, kind::CLOSE), [(2, None)], "closed");
        assert_eq!(sockets.deadline(), None);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut sockets = Sockets::new(true);
        assert_eq!(place(&mut sockets, seen(1, 0)), []);
        let until = sockets.deadline().expect("it waits");
        let mut give_up = |at| {
            let mut released = Vec::new();
            sockets.give_up(at, |seen| released.push(named(&seen)));
            released
        };
        assert_eq!(give_up(Some(until - 1)), []);
        assert_eq!(give_up(Some(until)), [(1, None)]);
        assert_eq!(give_up(None), []);
        let mut nobody = Sockets::new(false);
        assert_eq!(place(&mut nobody, seen(1, 0)), [(1, None)], "none is found");
    }

    #[test]
    fn memory_is_bounded() {
        let mut sockets = Sockets::new(true);
        let mut released = 0;
        for object in 1..=MAX_WAITING as u64 + 5 {
            released += place(&mut sockets, seen(object, 0)).len();
        }
        assert_eq!(released, 5);
        for cookie in 1..=MAX_SOCKETS as u64 + 5 {
            let socket = Socket { cookie, ..SOCKET };
            let record = Record {
                header: Header {
                    kind: kind::SOCKET,
                    ..header(1, 0)
                },
                data: socket.as_bytes(),
            };
            sockets.note(&record, |_| {});
        }
        assert_eq!(sockets.known.len(), MAX_SOCKETS);
        assert_eq!(place(&mut sockets, seen(1, 5)), [(1, None)]);
        assert_eq!(place(&mut sockets, seen(1, 6)), [(1, Some(6))]);
    }
}
