//! What clients say, as the kernel programs tell it: bytes of their ring buffer to values. The bytes are not trusted.

use ebfw_common::abi::{ClaimEvent, FlowEvent, MAX_HEAD, claim_kind};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    BootClock, Printable,
    decode::{self, Connect, DecodeError, flag},
    event::{Header, Request, Subject},
};
use crate::inspect::redact;

/// Headers of a head that are shown at most.
const MAX_HEADERS: usize = 64;

/// What of a request is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Its path.
    pub paths: bool,
    /// Its headers.
    pub headers: bool,
    /// Not the values of headers that hold secrets.
    pub redact: bool,
}

impl Inspection {
    /// Nothing that a client has not to say to be told apart.
    pub const NOTHING: Self = Self {
        paths: false,
        headers: false,
        redact: true,
    };
}

/// What a client said, and what was decided with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    /// The decision.
    pub(super) connect: Connect,
    /// What was said.
    pub(super) said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A ClientHello.
    Hello { sni: Option<Printable>, ech: bool },
    /// A request.
    Request(Request),
}

impl Spoken {
    /// As what it is reported.
    pub(super) fn subject(&self) -> Subject {
        let flow = self.connect.flow;
        match self.said.clone() {
            Said::Hello { sni, ech } => Subject::Tls { flow, sni, ech },
            Said::Request(request) => Subject::Http { flow, request },
        }
    }
}

/// Turns the bytes of one entry of the ring buffer into a value.
///
/// # Errors
/// Where the bytes are not exactly one [`ClaimEvent`], with or without a head, with known tags.
pub(super) fn decode(
    bytes: &[u8],
    clock: &BootClock,
    inspection: Inspection,
) -> Result<Spoken, DecodeError> {
    let length = || DecodeError::Length {
        found: bytes.len(),
        expected: size_of::<ClaimEvent>(),
    };
    let (event, head) = ClaimEvent::read_from_prefix(bytes).map_err(|_| length())?;
    if !matches!(head.len(), 0 | MAX_HEAD) {
        return Err(length());
    }
    // Destructured whole: a new field must be thought about here.
    let ClaimEvent {
        flow,
        kind,
        ech,
        name_length,
        method_length,
        path_length,
        head_length,
        _pad: _,
        name,
        method,
        path,
    } = event;
    let name = part("name_length", &name, name_length.into())?;
    let said = match kind {
        claim_kind::TLS => Said::Hello {
            sni: (!name.is_empty()).then(|| Printable::from_bytes(name)),
            ech: flag("ech", ech)?,
        },
        claim_kind::HTTP => {
            let head = part("head_length", head, head_length)?;
            let short = Short {
                method: part("method_length", &method, method_length.into())?,
                host: name,
                path: part("path_length", &path, path_length.into())?,
            };
            Said::Request(request(&short, head, inspection))
        }
        value => {
            return Err(DecodeError::Value {
                field: "kind",
                value: value.into(),
            });
        }
    };
    let connect = decode::decode(FlowEvent::as_bytes(&flow), clock)?;
    Ok(Spoken { connect, said })
}

fn part<'a>(field: &'static str, bytes: &'a [u8], length: u32) -> Result<&'a [u8], DecodeError> {
    let value = length;
    bytes
        .get(..length as usize)
        .ok_or(DecodeError::Value { field, value })
}

/// What the kernel made of a request.
struct Short<'a> {
    method: &'a [u8],
    host: &'a [u8],
    path: &'a [u8],
}

/// The request as its head has it, where there is one, else as the kernel has read it.
fn request(short: &Short<'_>, head: &[u8], inspection: Inspection) -> Request {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut space);
    // A head that is cut off is read as far as it goes; the kernel has judged it, so what is wrong with it is no concern here.
    let _ = parsed.parse(head);
    let mut host = short.host;
    let mut path = short.path;
    if let Some(target) = parsed.path {
        let named = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("host"));
        if let Some(named) = named {
            host = named.value;
        }
        (host, path) = split(host, target);
    }
    let headers = if inspection.headers {
        shown(parsed.headers, inspection.redact)
    } else {
        Vec::new()
    };
    Request {
        method: Printable::from_bytes(match parsed.method {
            Some(method) => method.as_bytes(),
            None => short.method,
        }),
        host: Printable::from_bytes(host),
        path: inspection.paths.then(|| Printable::from_bytes(path)),
        headers,
    }
}

/// Host and path of a request's target (RFC 9112, 3.2), `host` being that of the header.
fn split<'a>(host: &'a [u8], target: &'a str) -> (&'a [u8], &'a [u8]) {
    if target.starts_with('/') || target == "*" {
        return (host, target.as_bytes());
    }
    match target.split_once("://") {
        Some((_, rest)) => match rest.find(['/', '?']) {
            Some(end) => rest.as_bytes().split_at(end),
            None => (rest.as_bytes(), b"/"),
        },
        None => (target.as_bytes(), b""),
    }
}

fn shown(headers: &[httparse::Header<'_>], hide: bool) -> Vec<Header> {
    headers
        .iter()
        .map(|header| Header {
            name: Printable::from(header.name),
            value: if hide && redact::is_secret(header.name.as_bytes()) {
                redact::HIDDEN.into()
            } else {
                Printable::from_bytes(header.value)
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::samples::{claim_event, clock};

    const ALL: Inspection = Inspection {
        paths: true,
        headers: true,
        redact: true,
    };

    fn with_head(mut event: ClaimEvent, head: &[u8]) -> Vec<u8> {
        let mut space = [0; MAX_HEAD];
        space[..head.len()].copy_from_slice(head);
        event.head_length = u32::try_from(head.len()).unwrap();
        [event.as_bytes(), &space].concat()
    }

    fn requested(head: &[u8], inspection: Inspection) -> Request {
        let bytes = with_head(claim_event(claim_kind::HTTP), head);
        match decode(&bytes, &clock(), inspection).unwrap().said {
            Said::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_that_are_no_event_are_refused() {
        let event = claim_event(claim_kind::TLS);
        let bytes = event.as_bytes();
        for (bytes, why) in [
            (vec![], "empty"),
            (bytes[..bytes.len() - 1].to_vec(), "one short"),
            ([bytes, &[0]].concat(), "one long"),
            ([bytes, &[0; MAX_HEAD + 1]].concat(), "a head too long"),
        ] {
            let result = decode(&bytes, &clock(), ALL);
            assert!(matches!(result, Err(DecodeError::Length { .. })), "{why}");
        }
        type Change = fn(&mut ClaimEvent);
        for (change, field) in [
            ((|e| e.kind = 0) as Change, "kind"),
            (|e| e.kind = 3, "kind"),
            (|e| e.ech = 2, "ech"),
            (|e| e.name_length = 257, "name_length"),
            (|e| e.flow.verdict = 9, "verdict"),
            (
                |e| (e.kind, e.method_length) = (claim_kind::HTTP, 33),
                "method_length",
            ),
            (
                |e| (e.kind, e.path_length) = (claim_kind::HTTP, 513),
                "path_length",
            ),
            (
                |e| (e.kind, e.head_length) = (claim_kind::HTTP, 1),
                "head_length",
            ),
        ] {
            let mut event = claim_event(claim_kind::TLS);
            change(&mut event);
            match decode(event.as_bytes(), &clock(), ALL) {
                Err(DecodeError::Value { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_hello_has_a_name_or_none() {
        for (length, sni) in [(11, Some("example.com")), (0, None)] {
            let mut event = claim_event(claim_kind::TLS);
            event.name_length = length;
            event.ech = 1;
            let spoken = decode(event.as_bytes(), &clock(), ALL).unwrap();
            let expected = Said::Hello {
                sni: sni.map(Into::into),
                ech: true,
            };
            assert_eq!(spoken.said, expected);
        }
    }

    #[test]
    fn a_request_is_shown_as_it_was_sent() {
        for (head, host, path, why) in [
            (
                "GET /a/../b?q=1 HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n",
                "Example.com:8080",
                "/a/../b?q=1",
                "with its query",
            ),
            (
                "GET http://example.com/x HTTP/1.1\r\nHost: example.com\r\n\r\n",
                "example.com",
                "/x",
                "absolute form",
            ),
            (
                "GET http://example.com?x HTTP/1.1\r\n\r\n",
                "example.com",
                "?x",
                "absolute form without a path",
            ),
            (
                "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
                "example.com:443",
                "",
                "authority form",
            ),
            (
                "OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
                "example.com",
                "*",
                "asterisk form",
            ),
            (
                "GET /cut HTTP/1.1\r\nHost: example.com\r\nX-Cu",
                "example.com",
                "/cut",
                "cut off in a header",
            ),
            ("", "example.com", "/short", "as the kernel read it"),
            ("\x16\x03", "example.com", "/short", "no head at all"),
        ] {
            let request = requested(head.as_bytes(), ALL);
            assert_eq!(request.host.as_str(), host, "{why}");
            assert_eq!(request.path, Some(path.into()), "{why}");
        }
    }

    #[test]
    fn secrets_are_not_shown_unless_asked_for() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nAUTHORIZATION: Basic c2VjcmV0\r\nCookie: secret\r\nX-Vault-Token: secret\r\nAccept: */*\r\n\r\n";
        let values = |inspection| {
            let headers = requested(head, inspection).headers;
            let values: Vec<_> = headers
                .iter()
                .map(|h| h.value.as_str().to_owned())
                .collect();
            values.join(" ")
        };
        assert_eq!(values(ALL), "h (redacted) (redacted) (redacted) */*");
        let bare = Inspection {
            redact: false,
            ..ALL
        };
        assert_eq!(values(bare), "h Basic c2VjcmV0 secret secret */*");
        let none = Inspection {
            headers: false,
            ..ALL
        };
        assert_eq!(values(none), "");
        let pathless = Inspection {
            paths: false,
            ..ALL
        };
        assert_eq!(requested(head, pathless).path, None);
    }

    #[test]
    fn no_bytes_break_the_reader() {
        let mut bytes = with_head(
            claim_event(claim_kind::HTTP),
            b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        );
        for at in 0..bytes.len() {
            let before = bytes[at];
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                bytes[at] = value;
                let _ = decode(&bytes, &clock(), ALL);
            }
            bytes[at] = before;
        }
    }
}
