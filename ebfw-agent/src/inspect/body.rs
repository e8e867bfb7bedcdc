//! Beginnings of bodies: gathered behind their request's head, and made fit to be shown. A request waits until its body is complete, as long
//! as is captured, or does not come; it is given on exactly once. Its head is given on at once, to be judged.

use std::collections::BTreeMap;

use ebfw_common::plaintext::Header;

use super::{Part, Request, Seen, fields};

/// Requests of one connection whose bodies are gathered at once; those beyond are given on without.
const MAX_WAITING: usize = 64;
/// A body that has not come by then is given on as far as it has.
pub(super) const PATIENCE_NS: u64 = 2_000_000_000;

/// How bodies are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes of each at most.
    pub limit: usize,
    /// Whether fields that hold secrets are hidden, and with them what might hold some.
    pub redact: bool,
}

/// The beginning of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// What the client says it is; empty where it does not say.
    pub content_type: Vec<u8>,
    /// Its length in bytes, where that is known.
    pub size: Option<u64>,
    /// Bytes that were captured.
    pub captured: usize,
    /// The captured bytes, where they are text that may be shown.
    pub text: Option<Vec<u8>>,
    /// Whether there is more than was captured.
    pub truncated: bool,
    /// Whether something was left out because it is, or may be, a secret.
    pub redacted: bool,
}

/// The requests of one connection whose bodies are to come.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<u32, Gathered>);

/// A request and what there is of its body.
#[derive(Debug)]
struct Gathered {
    seen: Seen,
    bytes: Vec<u8>,
}

/// Whether a body has been seen to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

impl Waiting {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes what a reader found in the write that `header` tells of; gives requests that need not wait any longer to `found`. `room`:
    /// whether another request may wait.
    pub(super) fn take(
        &mut self,
        header: &Header,
        part: Part<'_>,
        capture: Option<Capture>,
        room: bool,
        found: &mut impl FnMut(Seen),
    ) {
        let Some(capture) = capture else {
            if let Part::Head { request, .. } = part {
                let header = *header;
                found(Seen::new(header, request));
            }
            return;
        };
        match part {
            Part::Head {
                stream,
                request,
                is_whole,
            } => {
                self.end(stream, End::Cut, capture, found);
                let seen = Seen::new(*header, request);
                if is_whole {
                    return found(seen);
                }
                let gathered = Gathered {
                    seen,
                    bytes: Vec::new(),
                };
                if room && self.0.len() < MAX_WAITING {
                    found(gathered.head());
                    self.0.insert(stream, gathered);
                } else {
                    found(gathered.seen(End::Cut, capture));
                }
            }
            Part::Data { stream, bytes } => {
                let Some(gathered) = self.0.get_mut(&stream) else {
                    return;
                };
                let room = capture.limit.saturating_sub(gathered.bytes.len());
                gathered.bytes.extend(&bytes[..bytes.len().min(room)]);
                if bytes.len() > room {
                    self.end(stream, End::Cut, capture, found);
                }
            }
            Part::Gap { stream } | Part::Cut { stream } => {
                self.end(stream, End::Cut, capture, found);
            }
            Part::End { stream } => self.end(stream, End::Whole, capture, found),
        }
    }

    /// Gives on all that wait: nothing more can be said about their bodies.
    pub(super) fn end_all(&mut self, capture: Option<Capture>, mut found: impl FnMut(Seen)) {
        self.end_older(u64::MAX, capture, &mut found);
    }

    /// Gives on those whose head was written before `boot_ns`.
    pub(super) fn end_older(
        &mut self,
        boot_ns: u64,
        capture: Option<Capture>,
        mut found: impl FnMut(Seen),
    ) {
        // Without bodies nothing waits.
        let Some(capture) = capture else { return };
        let older = self
            .0
            .extract_if(.., |_, gathered| gathered.seen.header.boot_ns < boot_ns);
        for (_, gathered) in older {
            found(gathered.seen(End::Cut, capture));
        }
    }

    fn end(&mut self, stream: u32, end: End, capture: Capture, found: &mut impl FnMut(Seen)) {
        if let Some(gathered) = self.0.remove(&stream) {
            found(gathered.seen(end, capture));
        }
    }
}

impl Gathered {
    /// The request without its body, before that is there.
    fn head(&self) -> Seen {
        Seen {
            is_head: true,
            ..self.seen.clone()
        }
    }

    fn seen(self, end: End, capture: Capture) -> Seen {
        let Self { mut seen, bytes } = self;
        let request = &mut seen.request;
        let captured = bytes.len();
        let size = match end {
            End::Whole => Some(captured as u64),
            End::Cut => length(request),
        };
        let content_type = request.header(b"content-type").unwrap_or_default();
        let is_coded = request
            .header(b"content-encoding")
            .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        let fields::Shown { text, redacted } = if is_coded || captured == 0 {
            fields::Shown::NOTHING
        } else {
            fields::show(content_type, bytes, capture.redact)
        };
        let content_type = content_type.to_vec();
        request.body = Some(Body {
            content_type,
            size,
            captured,
            text,
            truncated: end == End::Cut && size != Some(captured as u64),
            redacted,
        });
        seen
    }
}

/// The length that a head declares.
fn length(request: &Request) -> Option<u64> {
    // Chunks end where they end, whatever else the head says (RFC 9112, 6.3).
    if request.header(b"transfer-encoding").is_some() {
        return None;
    }
    let value = std::str::from_utf8(request.header(b"content-length")?).ok()?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Judgement, http1, streams::samples::header},
        *,
    };

    const CAPTURE: Capture = Capture {
        limit: 8,
        redact: true,
    };

    /// The bodies of the requests in `writes`, in the order in which they are given on.
    fn bodies(writes: &[(&[u8], u64)]) -> Vec<Option<Body>> {
        let mut reader = http1::Reader::new();
        let mut waiting = Waiting::default();
        let mut found = Vec::new();
        for (bytes, missing) in writes {
            let take = reader.take(bytes, *missing, |part| {
                waiting.take(&header(1, 0), part, Some(CAPTURE), true, &mut |seen| {
                    if !seen.is_head {
                        found.push(seen.request.body);
                    }
                });
            });
            if take.is_err() {
                break;
            }
        }
        waiting.end_all(Some(CAPTURE), |seen| found.push(seen.request.body));
        assert_eq!(waiting.len(), 0);
        found
    }

    fn text(captured: &str, size: Option<u64>, truncated: bool) -> Body {
        Body {
            content_type: b"text/plain".to_vec(),
            size,
            captured: captured.len(),
            text: (!captured.is_empty()).then(|| captured.into()),
            truncated,
            redacted: false,
        }
    }

    #[test]
    fn bodies_however_they_are_sent() {
        let head = |more: &str| {
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n{more}\r\n\r\n")
        };
        let chunked = head("Transfer-Encoding: chunked");
        for (stream, expected, why) in [
            (
                head("Content-Length: 5") + "hello",
                vec![Some(text("hello", Some(5), false))],
                "short",
            ),
            (
                head("Content-Length: 8") + "12345678",
                vec![Some(text("12345678", Some(8), false))],
                "as long as is captured",
            ),
            (
                head("Content-Length: 9") + "123456789",
                vec![Some(text("12345678", Some(9), true))],
                "longer by one",
            ),
            (
                head("Content-Length: 9") + "1234",
                vec![Some(text("1234", Some(9), true))],
                "the rest does not come",
            ),
            (
                head("Content-Length: 9"),
                vec![Some(text("", Some(9), true))],
                "nothing comes",
            ),
            (
                chunked.clone() + "3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
                vec![Some(text("abcde", Some(5), false))],
                "in chunks",
            ),
            (
                chunked.clone() + "7\r\nabcdefg\r\n2\r\nhi\r\n0\r\n\r\n",
                vec![Some(text("abcdefgh", None, true))],
                "in chunks that are longer: nobody knows how long",
            ),
            (
                chunked + "0\r\n\r\n",
                vec![Some(text("", Some(0), false))],
                "none in chunks",
            ),
            (
                head("Content-Length: 0") + "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                vec![None, None],
                "requests without a body",
            ),
            (
                head("Content-Length: 2") + "ab" + &head("Content-Length: 2") + "cd",
                vec![
                    Some(text("ab", Some(2), false)),
                    Some(text("cd", Some(2), false)),
                ],
                "one after the other",
            ),
        ] {
            for size in [1, 3, 7, stream.len()] {
                let writes: Vec<_> = stream.as_bytes().chunks(size).map(|w| (w, 0)).collect();
                assert_eq!(bodies(&writes), expected, "{why}, {size} bytes a write");
            }
        }
        let long = head("Content-Length: 7");
        assert_eq!(
            bodies(&[(long.as_bytes(), 0), (b"ab", 3), (b"fg", 0)]),
            [Some(text("ab", Some(7), true))],
            "what is behind a gap is not its continuation"
        );
    }

    #[test]
    fn a_head_is_given_on_before_its_body_is_there() {
        let mut waiting = Waiting::default();
        let mut reader = http1::Reader::new();
        let mut found = Vec::new();
        for bytes in [&b"PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nx"[..], b"y"] {
            reader
                .take(bytes, 0, |part| {
                    waiting.take(&header(1, 0), part, Some(CAPTURE), true, &mut |seen| {
                        found.push(seen);
                    });
                })
                .unwrap();
        }
        let [head, whole] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(head.is_head && head.request.body.is_none());
        assert!(!whole.is_head && whole.request.body.is_some());
        head.judged.set(Judgement::Opaque).unwrap();
        assert_eq!(whole.judged.get(), Some(&Judgement::Opaque), "one request");
    }

    #[test]
    fn what_is_coded_is_not_shown() {
        let stream = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab";
        let body = bodies(&[(stream, 0)]).remove(0).unwrap();
        assert_eq!((body.text, body.captured, body.size), (None, 2, Some(2)));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut waiting = Waiting::default();
        let mut found = 0;
        for stream in 0..2 * MAX_WAITING as u32 {
            let part = Part::Head {
                stream,
                request: Request::default(),
                is_whole: false,
            };
            let room = stream != 1;
            waiting.take(&header(1, 0), part, Some(CAPTURE), room, &mut |seen| {
                found += usize::from(!seen.is_head);
            });
        }
        assert_eq!(waiting.len(), MAX_WAITING);
        assert_eq!(found, MAX_WAITING);
        waiting.end_older(1, Some(CAPTURE), |_| found += 1);
        assert_eq!(found, MAX_WAITING, "none is older");
        waiting.end_older(2, Some(CAPTURE), |_| found += 1);
        assert_eq!((found, waiting.len()), (2 * MAX_WAITING, 0));
    }
}
