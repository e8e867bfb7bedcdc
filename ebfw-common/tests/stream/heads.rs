//! Heads of HTTP/1, against httparse: what is read here is read there, and alike.

use ebfw_common::stream::Step;
use fastrand::Rng;
use httparse::{EMPTY_HEADER, Request, Status};

use crate::{
    cuts::said,
    drive::{Driver, Said},
};

/// What httparse makes of a head: its length, the request, and the fields that say how long the body is.
struct Parsed {
    length: usize,
    method: String,
    target: String,
    host: Vec<String>,
}

/// `None`: it is none. `Some(None)`: more is to come.
fn parsed(bytes: &[u8]) -> Option<Option<Parsed>> {
    let mut headers = [EMPTY_HEADER; 64];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes).ok()? {
        Status::Partial => return Some(None),
        Status::Complete(length) => length,
    };
    let host = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .map(|header| String::from_utf8_lossy(header.value).into_owned())
        .collect();
    Some(Some(Parsed {
        length,
        method: request.method?.into(),
        target: request.path?.into(),
        host,
    }))
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// A head, right in most of its parts.
fn generated(rng: &mut Rng) -> Vec<u8> {
    let odd = |rng: &mut Rng| rng.u8(..20) == 0;
    let mut head = String::new();
    if odd(rng) {
        head.push_str(pick(rng, &["\r\n", "\n", "\r", " "]));
    }
    head.push_str(pick(
        rng,
        &["GET", "POST", "PUT", "OPTIONS", "x-y", "DELETE"],
    ));
    head.push_str(if odd(rng) {
        pick(rng, &["  ", "\t", ""])
    } else {
        " "
    });
    head.push_str(pick(
        rng,
        &[
            "/",
            "/a/b",
            "/a?b=c",
            "/%41",
            "/~x.y",
            "*",
            "http://a.example/x",
        ],
    ));
    if odd(rng) {
        head.push(char::from(rng.u8(..128)));
    }
    head.push_str(if odd(rng) {
        pick(rng, &["  ", "\t", ""])
    } else {
        " "
    });
    head.push_str(if odd(rng) {
        pick(rng, &["HTTP/1.2", "HTTP/2.0", "http/1.1", ""])
    } else {
        pick(rng, &["HTTP/1.1", "HTTP/1.0"])
    });
    let end = |rng: &mut Rng| {
        if odd(rng) {
            pick(rng, &["\r", "\n\r", " \r\n", "\0\r\n"])
        } else {
            pick(rng, &["\r\n", "\r\n", "\r\n", "\n"])
        }
    };
    head.push_str(end(rng));
    for _ in 0..rng.usize(..6) {
        head.push_str(pick(
            rng,
            &[
                "Host",
                "host",
                "Accept",
                "X-Y",
                "Upgrade",
                "Cookie",
                "Content-Length",
                "User-Agent",
            ],
        ));
        head.push_str(if odd(rng) {
            pick(rng, &[" :", "", "::"])
        } else {
            ":"
        });
        head.push_str(pick(rng, &["", " ", "\t", "  "]));
        head.push_str(pick(
            rng,
            &["a.example", "a.example:80", "0", "x", "", "a b", "\u{e4}"],
        ));
        if odd(rng) {
            head.push(char::from(rng.u8(..128)));
        }
        head.push_str(end(rng));
    }
    head.push_str(end(rng));
    let mut head = head.into_bytes();
    for _ in 0..rng.usize(..2) {
        let at = rng.usize(..head.len());
        head[at] = rng.u8(..128);
    }
    head
}

#[test]
fn heads_are_read_as_a_library_reads_them() {
    let (mut whole, mut refused) = (0, 0);
    for seed in 0..60_000 {
        let mut rng = Rng::with_seed(seed);
        let bytes = generated(&mut rng);
        let mut driver = Driver::new(false);
        driver.feed(&bytes);
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        match (driver.said.first(), parsed(&bytes)) {
            (Some((at, Said::Head { name, request, .. })), found) => {
                let found = found
                    .flatten()
                    .unwrap_or_else(|| panic!("seed {seed}: httparse reads no head in {shown:?}"));
                let (method, path) = request.clone().expect("HTTP has requests");
                assert_eq!(*at, found.length, "seed {seed}: {shown:?}");
                assert_eq!(method, found.method, "seed {seed}: {shown:?}");
                assert!(found.host.len() <= 1, "seed {seed}: {shown:?}");
                if found.target.starts_with('/') {
                    let host = found.host.first().map(|host| {
                        let host = host.split(':').next().unwrap_or(host);
                        host.trim_end_matches('.').to_ascii_lowercase()
                    });
                    assert_eq!(
                        name.clone().unwrap_or_default().trim_matches(['<', '>']),
                        host.unwrap_or_default(),
                        "seed {seed}: {shown:?}"
                    );
                    let expected = ebfw_policy::http::RequestPath::new(&found.target);
                    assert_eq!(path, expected.as_str(), "seed {seed}: {shown:?}");
                }
                whole += 1;
            }
            // What httparse refuses, and what it takes though servers do not read it alike.
            (Some((_, Said::End(step, _))), _) => {
                assert!(
                    matches!(step, Step::Malformed | Step::Opaque),
                    "seed {seed}: {shown:?}"
                );
                refused += 1;
            }
            (None, found) => assert!(
                !matches!(found, Some(Some(_))),
                "seed {seed}: httparse reads a head in {shown:?}"
            ),
        }
        if seed % 50 == 0 {
            said(&bytes);
        }
    }
    assert!(whole > 5_000, "{whole} of 60000 heads are whole");
    assert!(refused > 10_000, "{refused} of 60000 heads are refused");
}

#[test]
fn what_is_opaque_is_no_request_to_a_library() {
    let mut opaque = 0;
    for seed in 0..60_000 {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = generated(&mut rng);
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len().min(30));
            bytes[at] = b"\r\n \t/:HPxX\0\x80"[rng.usize(..12)];
        }
        let mut driver = Driver::new(false);
        driver.feed(&bytes);
        if matches!(driver.said.first(), Some((_, Said::End(Step::Opaque, _)))) {
            opaque += 1;
            let shown = String::from_utf8_lossy(&bytes);
            assert!(
                parsed(&bytes).flatten().is_none(),
                "seed {seed}: httparse reads a head in {shown:?}"
            );
        }
    }
    assert!(opaque > 1000, "{opaque} of 60000 are opaque");
}
