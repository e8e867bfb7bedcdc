//! Which status each request got: what a client reads, beside what it wrote.

use std::collections::VecDeque;

use super::{Lost, Part, Request, http1, http2};

/// Requests whose answers are waited for; more on one connection, and it is given up.
const MAX_ASKED: usize = 256;
/// What an answer of HTTP/1 begins with.
const STATUS_LINE: &[u8] = b"HTTP/1.";

/// The server's side of one connection.
#[derive(Default)]
pub(super) struct Answers {
    /// Number of the next read; `None` before the first.
    next: Option<u32>,
    state: State,
    /// Requests without an answer, by stream; of HTTP/1 only as long as there is no reader.
    asked: VecDeque<(u32, Request)>,
}

#[derive(Default)]
enum State {
    /// Where an answer begins is not known.
    #[default]
    Unknown,
    Http1(http1::Reader),
    Http2(Box<http2::Reader>),
    /// A part is missing, and who misses one cannot go on.
    Over,
}

impl Answers {
    /// A request was written.
    pub(super) fn asked(&mut self, stream: u32, request: &Request) {
        let request = Request {
            headers: Vec::new(),
            ..request.clone()
        };
        match &mut self.state {
            State::Over => {}
            State::Http1(reader) => {
                if reader.asked(request).is_err() {
                    self.state = State::Over;
                }
            }
            State::Unknown | State::Http2(_) if self.asked.len() < MAX_ASKED => {
                self.asked.push_back((stream, request));
            }
            State::Unknown | State::Http2(_) => self.state = State::Over,
        }
    }

    /// Takes what was read next, in read number `sequence`: `bytes`, and behind them `missing` bytes that were not seen. Each request that
    /// is answered goes to `found`, with its status.
    pub(super) fn take(
        &mut self,
        sequence: u32,
        bytes: &[u8],
        missing: u64,
        is_http2: bool,
        mut found: impl FnMut(Request),
    ) {
        if self.next.is_some_and(|next| next != sequence) {
            self.lose();
        }
        self.next = Some(sequence.wrapping_add(1));
        if let State::Unknown = self.state {
            self.begin(sequence, bytes, is_http2);
        }
        if self.read(bytes, missing, &mut found).is_err() {
            self.lose();
        }
    }

    fn begin(&mut self, sequence: u32, bytes: &[u8], is_http2: bool) {
        if is_http2 {
            self.state = match sequence {
                0 => State::Http2(Box::new(http2::Reader::of_answers())),
                _ => State::Over,
            };
        } else if bytes.starts_with(STATUS_LINE)
            // With several it is not known whose it is.
            && self.asked.len() == 1
            && let Some((_, request)) = self.asked.pop_front()
        {
            self.state = State::Http1(http1::Reader::of_answers(request));
        }
    }

    fn read(
        &mut self,
        bytes: &[u8],
        missing: u64,
        found: &mut impl FnMut(Request),
    ) -> Result<(), Lost> {
        match &mut self.state {
            State::Unknown | State::Over => Ok(()),
            State::Http1(reader) => reader.take(bytes, missing, |part| {
                if let Part::Head { request, .. } = part {
                    found(request);
                }
            }),
            State::Http2(reader) => {
                let asked = &mut self.asked;
                reader.take(bytes, missing, |part| {
                    let Part::Head {
                        stream, request, ..
                    } = part
                    else {
                        return;
                    };
                    let Some(status) = request.status.filter(|status| *status >= 200) else {
                        return;
                    };
                    let at = asked.iter().position(|(own, _)| *own == stream);
                    if let Some((_, mut request)) = at.and_then(|at| asked.remove(at)) {
                        request.status = Some(status);
                        found(request);
                    }
                })
            }
        }
    }

    fn lose(&mut self) {
        self.asked.clear();
        self.state = match self.state {
            State::Unknown | State::Http1(_) => State::Unknown,
            State::Http2(_) | State::Over => State::Over,
        };
    }
}

#[cfg(test)]
mod tests {
    use loona_hpack::Encoder;

    use super::*;

    fn request(method: &str, path: &str) -> Request {
        Request {
            method: method.into(),
            path: path.into(),
            ..Request::default()
        }
    }

    /// What is found in reads of `size` bytes.
    fn statuses(
        asked: &[(u32, &str, &str)],
        answer: &[u8],
        size: usize,
        http2: bool,
    ) -> Vec<String> {
        let mut answers = Answers::default();
        let mut found = Vec::new();
        let mut asked = asked.iter();
        let mut ask = |answers: &mut Answers| {
            if let Some((stream, method, path)) = asked.next() {
                answers.asked(*stream, &request(method, path));
            }
        };
        // Streams are opened at once; HTTP/1 is asked again when something was answered.
        for _ in 0..if http2 { 2 } else { 1 } {
            ask(&mut answers);
        }
        for (sequence, bytes) in (0..).zip(answer.chunks(size)) {
            answers.take(sequence, bytes, 0, http2, |request| {
                let path = String::from_utf8(request.path).unwrap();
                found.push(format!("{path} {}", request.status.unwrap()));
            });
            ask(&mut answers);
        }
        found
    }

    #[test]
    fn answers_of_http1_however_they_are_cut() {
        for (asked, answer, expected, why) in [
            (
                &[(0, "GET", "/a"), (0, "GET", "/b")][..],
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
                &["/a 200", "/b 404"][..],
                "one after the other",
            ),
            (
                &[(0, "HEAD", "/a"), (0, "GET", "/b")],
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n",
                &["/a 200", "/b 304"],
                "answers without the body that they speak of",
            ),
            (
                &[(0, "POST", "/a"), (0, "GET", "/b")],
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.0 500 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                &["/a 201", "/b 500"],
                "only the last word counts; a body to the end",
            ),
        ] {
            // Long enough for the beginning of the status line to come in one read: it is what tells where an answer begins.
            for size in [7, 8, 20, answer.len()] {
                let found = statuses(asked, answer.as_bytes(), size, false);
                // All in one read: the second request comes too late.
                let expected = &expected[..if size == answer.len() { 1 } else { 2 }];
                assert_eq!(found, expected, "{why}, {size} bytes a read");
            }
        }
    }

    #[test]
    fn answers_of_http2_by_their_streams() {
        let mut encoder = Encoder::new();
        let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
        };
        let mut block =
            |status: &[u8]| encoder.encode([(&b":status"[..], status), (b"x", b"a-value")]);
        let stream = [
            frame(4, 0, 0, &[]),
            frame(1, 4, 3, &block(b"103")),
            frame(1, 4, 3, &block(b"404")),
            frame(0, 0, 3, b"text"),
            frame(1, 4, 1, &block(b"200")),
            frame(1, 4, 9, &block(b"200")),
        ]
        .concat();
        for size in [1, 10, 50] {
            let asked = [(1, "GET", "/a"), (3, "GET", "/b")];
            let found = statuses(&asked, &stream, size, true);
            assert_eq!(found, ["/b 404", "/a 200"], "{size} bytes a read");
        }
        let pushed = [frame(5, 4, 1, &[0, 0, 0, 2]), stream].concat();
        assert!(statuses(&[(1, "GET", "/a")], &pushed, 50, true).is_empty());
    }

    #[test]
    fn nothing_is_guessed() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 ";
        for (asked, sequence, bytes, http2, expected, why) in [
            (1, 0, &answer[..], false, 1, "the first read"),
            (1, 5, answer, false, 1, "joined where an answer begins"),
            (1, 0, &answer[1..], false, 0, "within an answer"),
            (2, 0, answer, false, 0, "whose it is is not known"),
            (0, 0, answer, false, 0, "nobody asked"),
            (1, 5, answer, true, 0, "HTTP/2 that was joined late"),
        ] {
            let mut answers = Answers::default();
            for _ in 0..asked {
                answers.asked(0, &request("GET", "/"));
            }
            let mut found = 0;
            answers.take(sequence, bytes, 0, http2, |_| found += 1);
            assert_eq!(found, expected, "{why}");
            // What is missing ends the reading until an answer begins whose request is known.
            answers.take(sequence + 2, b"HTTP/1.1 200 OK\r\n\r\n", 0, http2, |_| {
                found += 1
            });
            assert_eq!(found, expected, "{why}: a gap");
        }
    }
}
