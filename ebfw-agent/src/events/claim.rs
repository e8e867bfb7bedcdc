//! What clients say, as the kernel programs tell it: bytes of their ring buffer to values. The bytes are not trusted.

use std::net::{IpAddr, Ipv6Addr};

use ebfw_common::abi::{Address, ClaimEvent, FlowEvent, MAX_HEAD, claim_kind};
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
        is_address,
        address,
        name,
        method,
        path,
    } = event;
    let name = part("name_length", &name, name_length.into())?;
    let name = match is_address {
        0 => Printable::from_bytes(name),
        1 => literal(address),
        value => {
            return Err(DecodeError::Value {
                field: "is_address",
                value,
            });
        }
    };
    let said = match kind {
        claim_kind::TLS => Said::Hello {
            sni: (!name.as_str().is_empty()).then_some(name),
            ech: flag("ech", ech)?,
        },
        claim_kind::HTTP => {
            let head = part("head_length", head, head_length)?;
            let path = part("path_length", &path, path_length.into())?;
            Said::Request(Request {
                method: Printable::from_bytes(part(
                    "method_length",
                    &method,
                    method_length.into(),
                )?),
                host: name,
                path: shown_path(path, inspection),
                headers: headers(head, inspection),
                // The kernel gives the head alone.
                body: None,
            })
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

/// An address, as a URL has it.
fn literal(address: Address) -> Printable {
    let text = match Ipv6Addr::from(address).to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Printable::from_bytes(text.as_bytes())
}

/// The path, where it is inspected and there is one: not in CONNECT.
fn shown_path(path: &[u8], inspection: Inspection) -> Option<Printable> {
    let is_path = path.starts_with(b"/") || path == b"*";
    (is_path && inspection.paths).then(|| Printable::from_bytes(path))
}

/// The headers of a head. One that is cut off is read as far as it goes; the kernel has judged it, so what is wrong with it is no concern here.
fn headers(head: &[u8], inspection: Inspection) -> Vec<Header> {
    if !inspection.headers {
        return Vec::new();
    }
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut space);
    let _ = parsed.parse(head);
    shown(parsed.headers, inspection.redact)
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
            (|e| e.is_address = 2, "is_address"),
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

    fn asked_for(path: &[u8], inspection: Inspection) -> Request {
        let mut event = claim_event(claim_kind::HTTP);
        event.path[..path.len()].copy_from_slice(path);
        event.path_length = u16::try_from(path.len()).unwrap();
        match decode(event.as_bytes(), &clock(), inspection).unwrap().said {
            Said::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_shown_as_it_was_judged_whatever_its_head_says() {
        for head in [
            "GET /a/../b HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n",
            "GET /cut HTTP/1.1\r\nHost: example.com\r\nX-Cu",
            "\x16\x03",
            "",
        ] {
            let request = requested(head.as_bytes(), ALL);
            assert_eq!(request.host.as_str(), "example.com", "{head}");
            assert_eq!(request.path, Some("/short".into()), "{head}");
        }
        for (path, shown) in [
            (&b"/a?b=../c"[..], Some("/a?b=../c")),
            (b"*", Some("*")),
            (b"example.com:443", None),
            (b"", None),
        ] {
            assert_eq!(asked_for(path, ALL).path, shown.map(Into::into));
        }
    }

    #[test]
    fn an_address_is_shown_as_in_a_url() {
        for (address, shown) in [
            (Address::mapped([192, 0, 2, 7]), "192.0.2.7"),
            (Address::LOOPBACK, "[::1]"),
        ] {
            for kind in [claim_kind::TLS, claim_kind::HTTP] {
                let mut event = claim_event(kind);
                (event.is_address, event.address, event.name_length) = (1, address, 0);
                let said = decode(event.as_bytes(), &clock(), ALL).unwrap().said;
                let name = match said {
                    Said::Hello { sni, .. } => sni.expect("a name"),
                    Said::Request(request) => request.host,
                };
                assert_eq!(name.as_str(), shown);
            }
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
