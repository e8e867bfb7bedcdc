//! Which connection a write belongs to, and what is spoken on it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
};

use ebfw_common::plaintext::{Header, Socket, kind, library};

use super::{Headers, Lost, Record, Request, http1, http1::Look, http2, redact::redact};

/// Connections that are followed at once; beyond, the one that was silent longest is given up.
const MAX_CONNECTIONS: usize = 4096;
/// Of those with HTTP/2, whose tables take most memory.
const MAX_HTTP2: usize = 1024;
/// Bytes of a connection's beginning that are gathered until it is clear what is spoken.
const MAX_BEGIN: usize = 8192;

/// Equal writes at the beginning of a connection are attempts at one for so long.
const HANDSHAKE_NS: u64 = 1_000_000_000;

/// A request, and who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the probes say about the write that completed the request.
    pub header: Header,
    /// The request.
    pub request: Request,
    /// The socket on which it goes out, where it is known.
    pub socket: Option<Socket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    pid: u32,
    object: u64,
}

struct Connection {
    /// Number of the next write.
    next: u32,
    /// When it was used last, in writes of all connections.
    used: u64,
    /// The first write, as long as nothing else came after it.
    first: Option<First>,
    spoken: Spoken,
}

/// A connection's first write. OpenSSL takes nothing before the handshake is done, and programs that do not wait for it (Node.js) try until
/// it does; the probes see each attempt.
#[derive(Clone, Copy, Debug)]
struct First {
    boot_ns: u64,
    total: u64,
    digest: u64,
}

impl First {
    fn of(record: &Record<'_>, hasher: &RandomState) -> Option<Self> {
        let Record { header, data } = record;
        (header.library == library::OPENSSL).then(|| Self {
            boot_ns: header.boot_ns,
            total: header.total,
            digest: hasher.hash_one(data),
        })
    }

    /// Whether `next` is the same write once more.
    fn is_tried_again_by(self, next: Self) -> bool {
        self.total == next.total
            && self.digest == next.digest
            && next.boot_ns.saturating_sub(self.boot_ns) < HANDSHAKE_NS
    }
}

enum Spoken {
    /// Not clear yet: what was written so far.
    Begin(Vec<u8>),
    Http1(http1::Reader),
    Http2(Box<http2::Reader>),
    /// Not known, and not guessed. A write that begins with a whole request line is one of HTTP/1.
    Unknown,
}

/// Follows all connections.
pub struct Streams {
    headers: Headers,
    hasher: RandomState,
    connections: HashMap<Key, Connection>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    http2: usize,
    unknown: u64,
}

impl Streams {
    /// Follows none yet.
    #[must_use]
    pub fn new(headers: Headers) -> Self {
        Self {
            headers,
            hasher: RandomState::new(),
            connections: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            http2: 0,
            unknown: 0,
        }
    }

    /// Takes a record; gives each request that it completes to `found`.
    pub fn take(&mut self, record: &Record<'_>, mut found: impl FnMut(Seen)) {
        let Record { header, data } = record;
        if header.kind == kind::SOCKET {
            return;
        }
        let key = Key {
            pid: header.pid,
            object: header.connection,
        };
        if header.kind == kind::CLOSE || header.sequence == 0 {
            self.forget(key);
        }
        if header.kind == kind::CLOSE {
            return;
        }
        let mut connection = match self.connections.remove(&key) {
            Some(connection) => {
                self.by_use.remove(&connection.used);
                connection
            }
            None => Connection {
                next: header.sequence,
                used: 0,
                first: None,
                spoken: if header.sequence == 0 {
                    Spoken::Begin(Vec::new())
                } else {
                    Spoken::Unknown
                },
            },
        };
        let this = First::of(record, &self.hasher);
        let again = match (connection.first, this) {
            (Some(first), Some(this)) => first.is_tried_again_by(this),
            _ => false,
        };
        if again && connection.next == header.sequence {
            connection.next = header.sequence.wrapping_add(1);
            self.http2 -= usize::from(connection.is_http2());
            return self.keep(key, connection);
        }
        connection.first = this.filter(|_| header.sequence == 0);
        self.http2 -= usize::from(connection.is_http2());
        let was_unknown = matches!(connection.spoken, Spoken::Unknown) && connection.used != 0;
        if connection.next != header.sequence {
            connection.lose();
        }
        connection.next = header.sequence.wrapping_add(1);
        let headers = self.headers;
        let missing = header.total - data.len() as u64;
        connection.take(data, missing, |mut request| {
            match headers {
                Headers::Dropped => request.headers.clear(),
                Headers::Shown => {}
                Headers::Redacted => {
                    for (name, value) in &mut request.headers {
                        *value = redact(name, std::mem::take(value));
                    }
                }
            }
            found(Seen {
                header: *header,
                request,
                socket: None,
            });
        });
        if matches!(connection.spoken, Spoken::Unknown) && !was_unknown {
            self.unknown += 1;
        }
        self.keep(key, connection);
    }

    /// Connections that could not be followed since the last call.
    pub fn take_unknown(&mut self) -> u64 {
        std::mem::take(&mut self.unknown)
    }

    fn keep(&mut self, key: Key, mut connection: Connection) {
        if connection.is_http2() && self.http2 >= MAX_HTTP2 {
            connection.spoken = Spoken::Unknown;
            self.unknown += 1;
        }
        self.clock += 1;
        connection.used = self.clock;
        self.http2 += usize::from(connection.is_http2());
        self.by_use.insert(self.clock, key);
        self.connections.insert(key, connection);
        while self.connections.len() > MAX_CONNECTIONS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            self.by_use.remove(&connection.used);
            self.http2 -= usize::from(connection.is_http2());
        }
    }
}

impl Connection {
    fn is_http2(&self) -> bool {
        matches!(self.spoken, Spoken::Http2(_))
    }

    fn lose(&mut self) {
        self.spoken = Spoken::Unknown;
    }

    fn take(&mut self, bytes: &[u8], missing: u64, mut found: impl FnMut(Request)) {
        if let Spoken::Unknown = self.spoken
            && http1::look(bytes, true) == Look::Request
        {
            self.spoken = Spoken::Http1(http1::Reader::new());
        }
        if self.read(bytes, missing, &mut found).is_err() {
            self.lose();
        }
    }

    fn read(
        &mut self,
        bytes: &[u8],
        missing: u64,
        found: &mut impl FnMut(Request),
    ) -> Result<(), Lost> {
        match &mut self.spoken {
            Spoken::Unknown => Ok(()),
            Spoken::Http1(reader) => reader.take(bytes, missing, found),
            Spoken::Http2(reader) => reader.take(bytes, missing, found),
            Spoken::Begin(begin) => {
                begin.extend(bytes);
                let bytes = std::mem::take(begin);
                self.spoken = begin_of(&bytes)?;
                match &mut self.spoken {
                    Spoken::Begin(begin) if missing == 0 && bytes.len() <= MAX_BEGIN => {
                        *begin = bytes;
                        Ok(())
                    }
                    Spoken::Begin(_) => Err(Lost),
                    _ => self.read(&bytes, missing, found),
                }
            }
        }
    }
}

/// What a connection that begins with `bytes` speaks; [`Spoken::Begin`] as long as that is not clear.
fn begin_of(bytes: &[u8]) -> Result<Spoken, Lost> {
    let length = bytes.len().min(http2::PREFACE.len());
    if bytes[..length] == http2::PREFACE[..length] && length > 3 {
        return Ok(Spoken::Http2(Box::new(http2::Reader::new())));
    }
    match http1::look(bytes, false) {
        Look::Request => Ok(Spoken::Http1(http1::Reader::new())),
        Look::Unclear => Ok(Spoken::Begin(Vec::new())),
        Look::Other => Err(Lost),
    }
}

#[cfg(test)]
pub(super) mod samples {
    use ebfw_common::plaintext::{Header, kind, library};

    /// The header of write number `sequence` on connection `object`.
    pub(crate) fn header(object: u64, sequence: u32) -> Header {
        Header {
            boot_ns: 1,
            cgroup_id: 42,
            connection: object,
            total: 0,
            socket: 0,
            pid: 7,
            thread: 7,
            sequence,
            length: 0,
            library: library::OPENSSL,
            kind: kind::WRITE,
            comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }
}

#[cfg(test)]
mod tests;
