//! HTTP/1.x as a client writes it: heads, and where bodies lie between them.

use std::collections::VecDeque;

use ebfw_common::stream::{Step, Stream};

use super::{Lost, MAX_HEAD, MAX_HEADERS, MAX_VALUE, Part, Request, kept, name_of, split_at};

/// Longest line of a chunk's size that is followed.
const MAX_CHUNK_LINE: usize = 256;
/// Requests without an answer that are kept.
const MAX_ASKED: usize = 64;
/// Bytes of the line end behind a chunk.
const CHUNK_END: u64 = 2;
/// One request after the other: all belong to one stream.
const STREAM: u32 = 0;

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Within a head, or before one.
    Head(Vec<u8>),
    /// So many bytes of a body are to come.
    Body(u64),
    /// In the line with a chunk's size.
    ChunkSize(Vec<u8>),
    /// So many bytes of a chunk are to come, its line end among them.
    Chunk(u64),
    /// In the lines behind the last chunk.
    Trailer(Vec<u8>),
    /// Another protocol, for good.
    Tunnel,
}

/// Follows one connection.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    state: State,
    side: Side,
}

/// Whose side of a connection is read.
#[derive(Clone, Debug)]
enum Side {
    Client,
    /// With the requests that are not answered yet.
    Server(VecDeque<Request>),
}

/// What the first bytes of a connection, or of a write, can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A request line.
    Request,
    /// Too short to say.
    Unclear,
    /// None.
    Other,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head(Vec::new()),
            side: Side::Client,
        }
    }

    /// Follows the answers to `request` and to those that come behind it.
    pub(super) fn of_answers(request: Request) -> Self {
        Self {
            state: State::Head(Vec::new()),
            side: Side::Server(VecDeque::from([request])),
        }
    }

    /// Another request was written, whose answer comes behind those to the ones before.
    pub(super) fn asked(&mut self, request: Request) -> Result<(), Lost> {
        match &mut self.side {
            Side::Server(asked) if asked.len() < MAX_ASKED => {
                asked.push_back(request);
                Ok(())
            }
            Side::Server(_) | Side::Client => Err(Lost),
        }
    }

    /// Takes what was written next: `bytes`, and behind them `missing` bytes that were not seen.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        missing: u64,
        mut found: impl FnMut(Part<'_>),
    ) -> Result<(), Lost> {
        while !bytes.is_empty() {
            bytes = self.step(bytes, &mut found)?;
        }
        if missing > 0 {
            match &mut self.state {
                State::Tunnel => {}
                State::Body(rest) | State::Chunk(rest) if *rest >= missing => {
                    *rest -= missing;
                    found(Part::Gap { stream: STREAM });
                    self.settle(&mut found);
                }
                _ => return Err(Lost),
            }
        }
        Ok(())
    }

    /// Takes some of `bytes`; returns the rest.
    fn step<'a>(
        &mut self,
        bytes: &'a [u8],
        found: &mut impl FnMut(Part<'_>),
    ) -> Result<&'a [u8], Lost> {
        match &mut self.state {
            State::Head(head) => {
                let (more, rest) = through(bytes, b'\n');
                if head.is_empty() && matches!(more, b"\r\n" | b"\n") {
                    // An empty line before a request line is allowed (RFC 9112, 2.2).
                    return Ok(rest);
                }
                gather(head, more, MAX_HEAD)?;
                if !(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
                    return Ok(rest);
                }
                let (request, next) = match &mut self.side {
                    Side::Client => read(head)?,
                    Side::Server(asked) => match answer(head, asked)? {
                        Some(answer) => answer,
                        // One of those that only say that the answer is to come.
                        None => {
                            head.clear();
                            return Ok(rest);
                        }
                    },
                };
                self.state = next;
                found(Part::Head {
                    stream: STREAM,
                    request,
                    is_whole: matches!(self.state, State::Head(_) | State::Tunnel),
                });
                Ok(rest)
            }
            State::Body(left) => {
                let rest = content(bytes, left, 0, found);
                self.settle(found);
                Ok(rest)
            }
            State::Chunk(left) => {
                let rest = content(bytes, left, CHUNK_END, found);
                self.settle(found);
                Ok(rest)
            }
            State::Tunnel => Ok(&[]),
            State::ChunkSize(line) => {
                let (more, rest) = through(bytes, b'\n');
                gather(line, more, MAX_CHUNK_LINE)?;
                if line.ends_with(b"\n") {
                    self.state = match chunk_size(line)? {
                        0 => {
                            found(Part::End { stream: STREAM });
                            State::Trailer(Vec::new())
                        }
                        size => State::Chunk(size.checked_add(CHUNK_END).ok_or(Lost)?),
                    };
                }
                Ok(rest)
            }
            State::Trailer(line) => {
                let (more, rest) = through(bytes, b'\n');
                gather(line, more, MAX_HEAD)?;
                if matches!(line[..], [b'\r', b'\n'] | [b'\n']) {
                    self.state = State::Head(Vec::new());
                } else if line.ends_with(b"\n") {
                    line.clear();
                }
                Ok(rest)
            }
        }
    }

    /// Goes on where a part has come to its end.
    fn settle(&mut self, found: &mut impl FnMut(Part<'_>)) {
        match self.state {
            State::Body(0) => {
                self.state = State::Head(Vec::new());
                found(Part::End { stream: STREAM });
            }
            State::Chunk(0) => self.state = State::ChunkSize(Vec::new()),
            _ => {}
        }
    }
}

/// Takes some of a body of which `left` bytes are to come, the last `behind` of them no content; returns what is behind.
fn content<'a>(
    bytes: &'a [u8],
    left: &mut u64,
    behind: u64,
    found: &mut impl FnMut(Part<'_>),
) -> &'a [u8] {
    let (content, _) = split_at(bytes, left.saturating_sub(behind));
    if !content.is_empty() {
        found(Part::Data {
            stream: STREAM,
            bytes: content,
        });
    }
    let (taken, rest) = split_at(bytes, *left);
    *left -= taken.len() as u64;
    rest
}

/// Up to and with the first `end`, and what is behind.
fn through(bytes: &[u8], end: u8) -> (&[u8], &[u8]) {
    let length = bytes
        .iter()
        .position(|byte| *byte == end)
        .map_or(bytes.len(), |at| at + 1);
    bytes.split_at(length)
}

fn gather(buffer: &mut Vec<u8>, more: &[u8], limit: usize) -> Result<(), Lost> {
    if buffer.len() + more.len() > limit {
        return Err(Lost);
    }
    buffer.extend(more);
    Ok(())
}

fn chunk_size(line: &[u8]) -> Result<u64, Lost> {
    let text = std::str::from_utf8(line).map_err(|_| Lost)?;
    let size = text.split(';').next().unwrap_or_default().trim();
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Lost);
    }
    u64::from_str_radix(size, 16).map_err(|_| Lost)
}

/// Whether the reader of requests in clear text finds a whole head to be malformed: then a server may read another one in it.
fn is_ambiguous(head: &[u8]) -> bool {
    let mut stream = Stream::default();
    let mut bytes = head.iter().skip_while(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(first) = bytes.clone().next() else {
        return false;
    };
    stream.begin(*first);
    let step = bytes.find_map(|byte| {
        let step = stream.step(*byte);
        (step != Step::More).then_some(step)
    });
    step == Some(Step::Malformed)
}

/// Reads a whole head; what follows it.
fn read(head: &[u8]) -> Result<(Request, State), Lost> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Lost),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(Lost);
    };
    let value = |name: &str| {
        parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let (authority, path) = split(method, target);
    let host = authority.or_else(|| value("host")).unwrap_or_default();
    let request = Request {
        method: method.as_bytes().to_vec(),
        host: kept(name_of(host)),
        path: path.to_vec(),
        headers: parsed
            .headers
            .iter()
            .filter(|header| !header.name.eq_ignore_ascii_case("host"))
            .map(|header| (header.name.as_bytes().to_vec(), kept(header.value)))
            .collect(),
        body: None,
        ambiguous: is_ambiguous(head),
        status: None,
    };
    // What follows these may be another protocol, and who does not know must not guess.
    if method == "CONNECT" || value("upgrade").is_some_and(|to| !to.eq_ignore_ascii_case(b"h2c")) {
        return Ok((request, State::Tunnel));
    }
    let chunked = value("transfer-encoding")
        .is_some_and(|coding| coding.to_ascii_lowercase().ends_with(b"chunked"));
    let next = if chunked {
        State::ChunkSize(Vec::new())
    } else {
        match value("content-length") {
            None => State::Head(Vec::new()),
            Some(value) => match length(value)? {
                0 => State::Head(Vec::new()),
                length => State::Body(length),
            },
        }
    };
    Ok((request, next))
}

/// Reads the whole head of an answer to the first of `asked`; what follows it. `None`: the answer proper is to come.
fn answer(head: &[u8], asked: &mut VecDeque<Request>) -> Result<Option<(Request, State)>, Lost> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Lost),
    }
    let status = parsed.code.ok_or(Lost)?;
    if matches!(status, 100 | 102..=199) {
        return Ok(None);
    }
    let mut request = asked.pop_front().ok_or(Lost)?;
    request.status = Some(status);
    let value = |name: &str| {
        let mut headers = parsed.headers.iter();
        headers
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    // RFC 9112, 6.3.
    let next = if request.method == b"HEAD" || matches!(status, 204 | 304) {
        State::Head(Vec::new())
    } else if status == 101 || (request.method == b"CONNECT" && status < 300) {
        State::Tunnel
    } else if value("transfer-encoding")
        .is_some_and(|coding| coding.to_ascii_lowercase().ends_with(b"chunked"))
    {
        State::ChunkSize(Vec::new())
    } else {
        match value("content-length").map(length) {
            Some(Ok(0)) => State::Head(Vec::new()),
            Some(length) => State::Body(length?),
            // To the end of the connection.
            None => State::Tunnel,
        }
    };
    Ok(Some((request, next)))
}

fn length(value: &[u8]) -> Result<u64, Lost> {
    let text = std::str::from_utf8(value).map_err(|_| Lost)?;
    text.trim().parse().map_err(|_| Lost)
}

/// Authority, where the target has one, and path of a request's target (RFC 9112, 3.2).
fn split<'a>(method: &str, target: &'a str) -> (Option<&'a [u8]>, &'a [u8]) {
    if method == "CONNECT" {
        return (Some(target.as_bytes()), b"");
    }
    let absolute = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    match absolute {
        None => (None, target.as_bytes()),
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let path = if path.is_empty() { "/" } else { path };
            (Some(authority.as_bytes()), path.as_bytes())
        }
    }
}

/// What `bytes` begin with. `whole`: the whole line has to be there, as where a connection is joined in its middle.
pub(super) fn look(bytes: &[u8], whole: bool) -> Look {
    const MAX_METHOD: usize = 24;
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let Some(blank) = line.iter().position(|byte| *byte == b' ') else {
        let method = line.iter().all(u8::is_ascii_uppercase) && line.len() <= MAX_METHOD;
        return if method && line_end.is_none() && !whole {
            Look::Unclear
        } else {
            Look::Other
        };
    };
    let method = &line[..blank];
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-' || *byte == b'_';
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(is_method) {
        return Look::Other;
    }
    let target = &line[blank + 1..];
    if target.first().is_some_and(|byte| !byte.is_ascii_graphic()) {
        return Look::Other;
    }
    match line_end {
        None if whole || line.len() > MAX_VALUE * 2 => Look::Other,
        None => Look::Unclear,
        Some(_) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") {
                Look::Request
            } else {
                Look::Other
            }
        }
    }
}

#[cfg(test)]
mod tests;
