//! Which connection a write belongs to, and what is spoken on it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, OnceLock},
};

use ebfw_common::plaintext::{Header, Socket, kind, library};

use super::{
    Capture, Headers, Judgement, Lost, Part, Record, Request,
    answers::Answers,
    body::{PATIENCE_NS, Waiting},
    http1,
    http1::Look,
    http2,
    redact::redact,
};

/// Connections that are followed at once; beyond, the one that was silent longest is given up.
const MAX_CONNECTIONS: usize = 4096;
/// Of those with HTTP/2, whose tables take most memory.
const MAX_HTTP2: usize = 1024;
/// Requests that wait for their bodies at once; those beyond are given on without.
const MAX_WAITING: usize = 512;
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
    /// Whether this is the head of a request whose body is still gathered: to be judged, not told.
    pub is_head: bool,
    /// What the policy says about it, once that is known: of a head and of what it is the head of.
    pub judged: Arc<OnceLock<Judgement>>,
}

impl Seen {
    /// A request whose socket is not known yet.
    pub(crate) fn new(header: Header, request: Request) -> Self {
        Self {
            header,
            request,
            socket: None,
            is_head: false,
            judged: Arc::default(),
        }
    }
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
    /// Whether the last write was one of these attempts: then further parts of it are nothing new.
    is_repeated: bool,
    spoken: Spoken,
    /// Whether it was clear once what is spoken.
    was_clear: bool,
    waiting: Waiting,
    /// What is read, where that is looked at.
    answers: Answers,
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
    bodies: Option<Capture>,
    responses: bool,
    hasher: RandomState,
    connections: HashMap<Key, Connection>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    http2: usize,
    /// Requests that wait for their bodies.
    waiting: usize,
    unknown: u64,
}

impl Streams {
    /// Follows none yet. `bodies`: how they are captured, if they are.
    #[must_use]
    pub fn new(headers: Headers, bodies: Option<Capture>) -> Self {
        Self {
            headers,
            bodies,
            responses: false,
            hasher: RandomState::new(),
            connections: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            http2: 0,
            waiting: 0,
            unknown: 0,
        }
    }

    /// The same, with the answers to requests.
    #[must_use]
    pub fn with_responses(self, responses: bool) -> Self {
        Self { responses, ..self }
    }

    /// Takes a record; gives each request that it completes to `found`, and the head of each whose body is still to come.
    pub fn take(&mut self, record: &Record<'_>, mut found: impl FnMut(Seen)) {
        let headers = self.headers;
        self.follow(record, &mut |seen| found(shown(seen, headers)));
    }

    /// Whether requests wait for their bodies: then [`Streams::give_up`] has to be called now and then.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Gives requests to `found` whose bodies have not come for too long at `boot_ns`; all of them where that is `None`.
    pub fn give_up(&mut self, boot_ns: Option<u64>, mut found: impl FnMut(Seen)) {
        if self.waiting == 0 {
            return;
        }
        let limit = boot_ns.map_or(u64::MAX, |now| now.saturating_sub(PATIENCE_NS));
        let (headers, bodies) = (self.headers, self.bodies);
        for connection in self.connections.values_mut() {
            self.waiting -= connection.waiting.len();
            let found = |seen| found(shown(seen, headers));
            connection.waiting.end_older(limit, bodies, found);
            self.waiting += connection.waiting.len();
        }
    }

    /// Takes what was read from a connection.
    fn answer(&mut self, key: Key, record: &Record<'_>, found: &mut impl FnMut(Seen)) {
        let Record { header, data } = record;
        // Nothing was written on it yet: there is no request that this could answer.
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let missing = header.total - data.len() as u64;
        let is_http2 = connection.is_http2();
        let answers = &mut connection.answers;
        answers.take(header.sequence, data, missing, is_http2, |request| {
            let header = *header;
            found(Seen::new(header, request));
        });
    }

    fn follow(&mut self, record: &Record<'_>, found: &mut impl FnMut(Seen)) {
        let Record { header, data } = record;
        if matches!(header.kind, kind::SOCKET | kind::REFUSED) {
            return;
        }
        let key = Key {
            pid: header.pid,
            object: header.connection,
        };
        if header.kind == kind::READ {
            return self.answer(key, record, found);
        }
        if header.kind == kind::CLOSE || header.sequence == 0 {
            self.forget(key, found);
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
                is_repeated: false,
                spoken: if header.sequence == 0 {
                    Spoken::Begin(Vec::new())
                } else {
                    Spoken::Unknown
                },
                was_clear: false,
                waiting: Waiting::default(),
                answers: Answers::default(),
            },
        };
        self.http2 -= usize::from(connection.is_http2());
        self.waiting -= connection.waiting.len();
        let begins = header.kind == kind::WRITE;
        if begins {
            let this = First::of(record, &self.hasher);
            connection.is_repeated = match (connection.first, this) {
                (Some(first), Some(this)) => first.is_tried_again_by(this),
                _ => false,
            };
            if !connection.is_repeated {
                connection.first = this.filter(|_| header.sequence == 0);
            }
        }
        if connection.is_repeated && connection.next == header.sequence {
            connection.next = header.sequence.wrapping_add(1);
            return self.keep(key, connection, found);
        }
        let was_unknown = matches!(connection.spoken, Spoken::Unknown) && connection.used != 0;
        if connection.next != header.sequence {
            connection.lose();
        }
        connection.next = header.sequence.wrapping_add(1);
        let missing = header.total - data.len() as u64;
        let room = MAX_WAITING.saturating_sub(self.waiting);
        let Connection {
            spoken,
            waiting,
            answers,
            ..
        } = &mut connection;
        spoken.take(data, missing, begins, |part| {
            if let Part::Head {
                stream, request, ..
            } = &part
                && self.responses
            {
                answers.asked(*stream, request);
            }
            let room = waiting.len() < room;
            waiting.take(header, part, self.bodies, room, found);
        });
        if let Spoken::Unknown = spoken {
            waiting.end_all(self.bodies, &mut *found);
        }
        // A head that is longer than what is copied is read by the kernel alone.
        connection.was_clear = connection.was_clear
            || matches!(connection.spoken, Spoken::Http1(_) | Spoken::Http2(_))
            || begins && missing != 0 && speaks_http(data);
        if matches!(connection.spoken, Spoken::Unknown) && !was_unknown {
            self.unknown += 1;
        }
        self.keep(key, connection, found);
    }

    /// Whether of a record's connection nothing could be read so far, nor can its next write but where that begins with a request.
    #[must_use]
    pub fn is_unread(&self, header: &Header) -> bool {
        let key = Key {
            pid: header.pid,
            object: header.connection,
        };
        self.connections.get(&key).is_some_and(|connection| {
            !connection.was_clear && matches!(connection.spoken, Spoken::Unknown)
        })
    }

    /// Connections that could not be followed since the last call.
    pub fn take_unknown(&mut self) -> u64 {
        std::mem::take(&mut self.unknown)
    }

    fn keep(&mut self, key: Key, mut connection: Connection, found: &mut impl FnMut(Seen)) {
        if connection.is_http2() && self.http2 >= MAX_HTTP2 {
            connection.spoken = Spoken::Unknown;
            connection.waiting.end_all(self.bodies, &mut *found);
            self.unknown += 1;
        }
        self.clock += 1;
        connection.used = self.clock;
        self.http2 += usize::from(connection.is_http2());
        self.waiting += connection.waiting.len();
        self.by_use.insert(self.clock, key);
        self.connections.insert(key, connection);
        while self.connections.len() > MAX_CONNECTIONS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.forget(oldest, found);
        }
    }

    fn forget(&mut self, key: Key, found: &mut impl FnMut(Seen)) {
        if let Some(mut connection) = self.connections.remove(&key) {
            self.by_use.remove(&connection.used);
            self.http2 -= usize::from(connection.is_http2());
            self.waiting -= connection.waiting.len();
            connection.waiting.end_all(self.bodies, found);
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
}

impl Spoken {
    /// `begins`: whether `bytes` are what a write begins with.
    fn take(&mut self, bytes: &[u8], missing: u64, begins: bool, mut found: impl FnMut(Part<'_>)) {
        if let Self::Unknown = self
            && begins
            && http1::look(bytes, true) == Look::Request
        {
            *self = Self::Http1(http1::Reader::new());
        }
        if self.read(bytes, missing, &mut found).is_err() {
            *self = Self::Unknown;
        }
    }

    fn read(
        &mut self,
        bytes: &[u8],
        missing: u64,
        found: &mut impl FnMut(Part<'_>),
    ) -> Result<(), Lost> {
        match self {
            Self::Unknown => Ok(()),
            Self::Http1(reader) => reader.take(bytes, missing, found),
            Self::Http2(reader) => reader.take(bytes, missing, found),
            Self::Begin(begin) => {
                begin.extend(bytes);
                let bytes = std::mem::take(begin);
                *self = begin_of(&bytes)?;
                match self {
                    Self::Begin(begin) if missing == 0 && bytes.len() <= MAX_BEGIN => {
                        *begin = bytes;
                        Ok(())
                    }
                    Self::Begin(_) => Err(Lost),
                    _ => self.read(&bytes, missing, found),
                }
            }
        }
    }
}

/// A request with the headers that are given on.
fn shown(mut seen: Seen, headers: Headers) -> Seen {
    match headers {
        Headers::Dropped => seen.request.headers.clear(),
        Headers::Shown => {}
        Headers::Redacted => {
            for (name, value) in &mut seen.request.headers {
                *value = redact(name, std::mem::take(value));
            }
        }
    }
    seen
}

/// Whether a write is the beginning of a request, or of a connection with HTTP/2.
fn speaks_http(bytes: &[u8]) -> bool {
    bytes.starts_with(http2::PREFACE) || http1::look(bytes, true) == Look::Request
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
