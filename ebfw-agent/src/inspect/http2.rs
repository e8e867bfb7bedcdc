//! HTTP/2 as a client writes it: frames, the blocks of headers and the data among them. The rest is skipped.
//!
//! A block can only be read by who has read all blocks before it (RFC 7541): one that is missed ends the reading for good.

use loona_hpack::Decoder;

use super::{Lost, MAX_HEAD, MAX_HEADERS, Part, Request, kept, name_of, split_at};

/// What a client's side of a connection begins with (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
const FRAME_HEADER: usize = 9;
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
/// Flags of DATA, HEADERS and CONTINUATION.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest table of headers that a client may be asked to keep; servers ask for 4 KiB, some for 64.
const MAX_TABLE: usize = 64 * 1024;

/// What the next bytes are.
#[derive(Debug)]
enum State {
    Preface(usize),
    FrameHeader(Vec<u8>),
    /// The payload of a frame that is read, and how long it will be.
    Payload(Frame, Vec<u8>),
    /// So many bytes of one that is not.
    Skip(u64),
    Data(Data),
}

/// A frame of data.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    /// Bytes to come, padding among them.
    left: u64,
    /// How many of them are padding; `None` as long as the byte that says so is to come.
    padding: Option<u64>,
    /// Whether it is the stream's last.
    is_last: bool,
}

/// A block of headers that CONTINUATION frames have to complete.
struct Block {
    stream: u32,
    fragments: Vec<u8>,
    /// Whether nothing comes behind it on its stream.
    is_last: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Follows one connection from its first byte.
pub(super) struct Reader {
    state: State,
    block: Option<Block>,
    decoder: Decoder<'static>,
}

/// Frames that open streams the client did not ask for: their blocks go through the table too, and nobody reads them.
const PUSH_PROMISE: u8 = 5;

impl Reader {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE);
        Self {
            state: State::Preface(0),
            block: None,
            decoder,
        }
    }

    /// Follows the server's side from its first byte.
    pub(super) fn of_answers() -> Self {
        Self {
            state: State::FrameHeader(Vec::new()),
            ..Self::new()
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
                State::Skip(rest) if *rest >= missing => {
                    *rest -= missing;
                    self.settle(&mut found);
                }
                State::Data(data) if data.left >= missing => {
                    data.left -= missing;
                    found(Part::Gap {
                        stream: data.stream,
                    });
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
            State::Preface(seen) => {
                let expected = &PREFACE[*seen..];
                let length = expected.len().min(bytes.len());
                if bytes[..length] != expected[..length] {
                    return Err(Lost);
                }
                *seen += length;
                if *seen == PREFACE.len() {
                    self.state = State::FrameHeader(Vec::new());
                }
                Ok(&bytes[length..])
            }
            State::FrameHeader(header) => {
                let length = (FRAME_HEADER - header.len()).min(bytes.len());
                header.extend(&bytes[..length]);
                if header.len() == FRAME_HEADER {
                    let frame = Frame::read(header);
                    self.state = self.begin(frame)?;
                    if frame.kind == RST_STREAM {
                        found(Part::Cut {
                            stream: frame.stream,
                        });
                    }
                    self.finish(found)?;
                    self.settle(found);
                }
                Ok(&bytes[length..])
            }
            State::Payload(frame, payload) => {
                let length = (frame.length - payload.len()).min(bytes.len());
                payload.extend(&bytes[..length]);
                self.finish(found)?;
                Ok(&bytes[length..])
            }
            State::Skip(rest) => {
                let taken = (*rest).min(bytes.len() as u64);
                *rest -= taken;
                self.settle(found);
                Ok(&bytes[usize::try_from(taken).map_err(|_| Lost)?..])
            }
            State::Data(data) => {
                let rest = data.take(bytes, found)?;
                self.settle(found);
                Ok(rest)
            }
        }
    }

    /// What to do with a frame whose header has been read.
    fn begin(&self, frame: Frame) -> Result<State, Lost> {
        let awaited = self.block.as_ref().map(|block| block.stream);
        let is_block = match (frame.kind, awaited) {
            (HEADERS, None) => true,
            (CONTINUATION, Some(stream)) if stream == frame.stream => true,
            // Nothing may stand between the parts of a block (RFC 9113, 6.10).
            (_, Some(_)) | (CONTINUATION | PUSH_PROMISE, None) => return Err(Lost),
            (_, None) => false,
        };
        if !is_block {
            let left = frame.length as u64;
            return Ok(match frame.kind {
                DATA => State::Data(Data {
                    stream: frame.stream,
                    left,
                    padding: (frame.flags & PADDED == 0).then_some(0),
                    is_last: frame.flags & END_STREAM != 0,
                }),
                _ => State::Skip(left),
            });
        }
        if frame.length > MAX_HEAD {
            return Err(Lost);
        }
        Ok(State::Payload(frame, Vec::new()))
    }

    /// Reads a frame whose payload is complete.
    fn finish(&mut self, found: &mut impl FnMut(Part<'_>)) -> Result<(), Lost> {
        let State::Payload(frame, payload) = &mut self.state else {
            return Ok(());
        };
        if payload.len() < frame.length {
            return Ok(());
        }
        let (frame, payload) = (*frame, std::mem::take(payload));
        self.state = State::FrameHeader(Vec::new());
        let fragment = frame.fragment(&payload)?;
        let block = self.block.get_or_insert_with(|| Block {
            stream: frame.stream,
            fragments: Vec::new(),
            is_last: frame.flags & END_STREAM != 0,
        });
        if block.fragments.len() + fragment.len() > MAX_HEAD {
            return Err(Lost);
        }
        block.fragments.extend(fragment);
        if frame.flags & END_HEADERS == 0 {
            return Ok(());
        }
        let Some(Block {
            stream,
            fragments,
            is_last,
        }) = self.block.take()
        else {
            return Ok(());
        };
        match self.decode(&fragments)? {
            Some(request) => found(Part::Head {
                stream,
                request,
                is_whole: is_last,
            }),
            // Trailers have no method, and are no request.
            None if is_last => found(Part::End { stream }),
            None => {}
        }
        Ok(())
    }

    fn decode(&mut self, block: &[u8]) -> Result<Option<Request>, Lost> {
        let mut request = Request::default();
        let mut host = None;
        let mut is_too_long = false;
        self.decoder
            .decode_with_cb(block, |name, value| match &name[..] {
                b":method" => request.method = kept(&value),
                // A path that is cut could mean another one.
                b":path" if value.len() > MAX_HEAD => is_too_long = true,
                b":path" => request.path = value.to_vec(),
                b":status" => {
                    request.status = std::str::from_utf8(&value)
                        .ok()
                        .and_then(|status| status.parse().ok());
                }
                b":authority" => request.host = kept(name_of(&value)),
                b"host" => host = Some(kept(name_of(&value))),
                _ if name.first() == Some(&b':') => {}
                _ if request.headers.len() < MAX_HEADERS => {
                    request.headers.push((kept(&name), kept(&value)));
                }
                _ => {}
            })
            .map_err(|_| Lost)?;
        if is_too_long {
            return Err(Lost);
        }
        match host {
            Some(host) if request.host.is_empty() => request.host = host,
            Some(host) => request.ambiguous = !host.eq_ignore_ascii_case(&request.host),
            None => {}
        }
        let is_head = !request.method.is_empty() || request.status.is_some();
        Ok(is_head.then_some(request))
    }

    /// Goes on where a frame has come to its end.
    fn settle(&mut self, found: &mut impl FnMut(Part<'_>)) {
        let end = match self.state {
            State::Skip(0) => None,
            State::Data(data) if data.left == 0 => data.is_last.then_some(data.stream),
            _ => return,
        };
        self.state = State::FrameHeader(Vec::new());
        if let Some(stream) = end {
            found(Part::End { stream });
        }
    }
}

impl Data {
    /// Takes some of `bytes`; returns the rest.
    fn take<'a>(
        &mut self,
        bytes: &'a [u8],
        found: &mut impl FnMut(Part<'_>),
    ) -> Result<&'a [u8], Lost> {
        let Some(padding) = self.padding else {
            let (length, rest) = bytes.split_first().ok_or(Lost)?;
            self.left = self.left.checked_sub(1).ok_or(Lost)?;
            self.padding = Some(u64::from(*length));
            return Ok(rest);
        };
        let (content, _) = split_at(bytes, self.left.saturating_sub(padding));
        if !content.is_empty() {
            let stream = self.stream;
            found(Part::Data {
                stream,
                bytes: content,
            });
        }
        let (taken, rest) = split_at(bytes, self.left);
        self.left -= taken.len() as u64;
        Ok(rest)
    }
}

impl Frame {
    /// `header`: nine bytes.
    fn read(header: &[u8]) -> Self {
        let at = |index: usize| header.get(index).copied().unwrap_or_default();
        Self {
            length: u32::from_be_bytes([0, at(0), at(1), at(2)]) as usize,
            kind: at(3),
            flags: at(4),
            stream: u32::from_be_bytes([at(5) & 0x7f, at(6), at(7), at(8)]),
        }
    }

    /// The part of a block in the payload: without padding and priority.
    fn fragment<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], Lost> {
        if self.kind == CONTINUATION {
            return Ok(payload);
        }
        let (padding, rest) = if self.flags & PADDED != 0 {
            let (length, rest) = payload.split_first().ok_or(Lost)?;
            (usize::from(*length), rest)
        } else {
            (0, payload)
        };
        let skip = if self.flags & PRIORITY != 0 { 5 } else { 0 };
        let end = rest.len().checked_sub(padding).ok_or(Lost)?;
        rest.get(skip..end).ok_or(Lost)
    }
}

#[cfg(test)]
mod tests;
