//! From the plaintext of TLS connections to the requests in it. Pure: records in, requests out.
//!
//! Nothing is guessed: what cannot be followed from a point that is known for certain gives no request, and is counted.

mod answers;
mod body;
mod fields;
mod hellos;
mod http1;
mod http2;
mod judge;
mod record;
pub(crate) mod redact;
mod sockets;
mod streams;

/// Which headers of requests are given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// None.
    Dropped,
    /// All, the values of those that carry secrets hidden.
    Redacted,
    /// All, as they are.
    Shown,
}

pub use self::{
    body::{Body, Capture},
    hellos::Hellos,
    judge::{Judgement, Rules},
    record::{Record, RecordError},
    sockets::Sockets,
    streams::{Seen, Streams},
};

/// What the probes say about a write of process `pid`, for tests.
#[cfg(test)]
pub(crate) fn sample(pid: u32) -> ebfw_common::plaintext::Header {
    ebfw_common::plaintext::Header {
        pid,
        ..streams::samples::header(1, 0)
    }
}

/// A socket of a connection, for tests.
#[cfg(test)]
pub(crate) const SOCKET: ebfw_common::plaintext::Socket = ebfw_common::plaintext::Socket {
    cookie: 9,
    cgroup_id: 42,
    source: ebfw_common::abi::Address::mapped([10, 0, 0, 1]),
    destination: ebfw_common::abi::Address::mapped([192, 0, 2, 7]),
    source_port: 40_000,
    destination_port: 443,
    family: 4,
};

/// Bytes of a head, or of a block of headers, that are gathered at most.
const MAX_HEAD: usize = 32 * 1024;
/// Headers of a request that are kept at most, and bytes of one of their values.
const MAX_HEADERS: usize = 128;
const MAX_VALUE: usize = 4096;

/// A request as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Vec<u8>,
    /// Host or `:authority`, without a port; empty where there is none.
    pub host: Vec<u8>,
    /// The path with its query, whole: rules compare it.
    pub path: Vec<u8>,
    /// Header lines but those that are above, in their order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The beginning of its body, where it has one and bodies are captured.
    pub body: Option<Body>,
    /// Whether a server may read it in another way than it is read here.
    pub ambiguous: bool,
    /// The status of its answer: this is not the request but what became of it.
    pub status: Option<u16>,
}

impl Request {
    /// The value of a header.
    fn header(&self, name: &[u8]) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
}

/// What the reader of a protocol finds in what a client writes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<'a> {
    /// The head of a request.
    Head {
        /// Which of the connection's requests the parts of a body belong to.
        stream: u32,
        request: Request,
        /// Whether the request has no body.
        is_whole: bool,
    },
    /// The next bytes of a body.
    Data { stream: u32, bytes: &'a [u8] },
    /// Bytes of a body that were not seen.
    Gap { stream: u32 },
    /// A body is complete.
    End { stream: u32 },
    /// The client has given a request up.
    Cut { stream: u32 },
}

/// A connection's protocol reader has lost its place; it finds none again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost;

/// The name in an authority, without user and port.
fn name_of(authority: &[u8]) -> &[u8] {
    let host = authority
        .iter()
        .rposition(|byte| *byte == b'@')
        .map_or(authority, |at| &authority[at + 1..]);
    if host.first() == Some(&b'[') {
        let end = host.iter().position(|byte| *byte == b']');
        return end.map_or(host, |end| &host[..=end]);
    }
    match host.iter().position(|byte| *byte == b':') {
        // More than one colon: an address without brackets.
        Some(at) if !host[at + 1..].contains(&b':') => &host[..at],
        _ => host,
    }
}

/// The first `length` bytes, or all where there are fewer, and what is behind.
fn split_at(bytes: &[u8], length: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len())))
}

/// A value, cut to what is kept and shown.
pub(crate) fn kept(value: &[u8]) -> Vec<u8> {
    value[..value.len().min(MAX_VALUE)].to_vec()
}
