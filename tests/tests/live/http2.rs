//! HTTP/2 without TLS, from its first byte: every request of a connection is judged.

use std::{io, net::SocketAddr};

use ebfw_common::abi::{inspect, verdict};
use ebfw_test_need::tool;
use ebfw_tests::lab::{Lab, net::v4, recorder::Recorder};

use super::said::{self, is_ended, resolve};

/// Reading below /public of good names is allowed, and nothing else.
const READ_ONLY: &str = "
defaultAction: Deny
rules:
- name: read
  action: Allow
  match: {domains: ['*.good.example'], methods: [GET], pathPrefix: /public}
";

const HTTP: u16 = 8123;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

fn lab() -> Option<(Lab, Recorder)> {
    let (lab, server) = said::lab(READ_ONLY, HTTP)?;
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .expect("the resolver answers");
    Some((lab, server))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("it is short")
        .to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field of the static table's name `index`, as it is, not to be kept (RFC 7541, 6.2.2).
fn literal(index: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("it is short");
    [&[index, length], value.as_bytes()].concat()
}

/// A request that is complete with its head.
fn request(stream: u32, method: &str, host: &str, path: &str) -> Vec<u8> {
    let mut fields = literal(2, method);
    fields.push(0x86);
    fields.extend(literal(4, path));
    fields.extend(literal(1, host));
    // END_STREAM and END_HEADERS.
    frame(HEADERS, 5, stream, &fields)
}

/// As [`request`], of fields in this order.
fn of_fields(fields: &[Vec<u8>]) -> Vec<u8> {
    frame(HEADERS, 5, 1, &fields.concat())
}

fn begun() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The requests that are complete in what a server got.
fn requests(got: &[u8]) -> usize {
    let mut rest = got.strip_prefix(PREFACE).unwrap_or_default();
    let mut count = 0;
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(next) = behind.get(length..) else {
            break;
        };
        count += usize::from(head[3] == HEADERS);
        rest = next;
    }
    count
}

fn say(said: &[u8], piece: usize) -> io::Result<()> {
    let parts: Vec<_> = said.chunks(piece).collect();
    said::say(SocketAddr::new(v4(2), HTTP), &parts)
}

#[test]
fn every_request_of_a_connection_is_judged() {
    let Some((mut lab, server)) = lab() else {
        return;
    };
    let good = |stream| request(stream, "GET", "2.good.example", "/public/a");
    // user-agent: x
    let other = [&[0x0f, 58 - 15][..], &literal(0, "x")[1..]].concat();
    let cases = [
        ("one request", vec![good(1)], true),
        (
            "requests side by side",
            vec![good(1), good(3), good(5)],
            true,
        ),
        (
            "another name",
            vec![request(1, "GET", "2.evil.example", "/public/a")],
            false,
        ),
        (
            "another method",
            vec![request(1, "POST", "2.good.example", "/public/a")],
            false,
        ),
        (
            "a path that leads out",
            vec![request(1, "GET", "2.good.example", "/public/%2e./a")],
            false,
        ),
        (
            "another field, behind those of the request",
            vec![of_fields(&[
                vec![0x82, 0x86],
                literal(4, "/public/a"),
                literal(1, "2.good.example"),
                other.clone(),
            ])],
            true,
        ),
        (
            "the authority comes too late",
            vec![of_fields(&[
                vec![0x82, 0x86],
                literal(4, "/public/a"),
                other.clone(),
                literal(1, "2.good.example"),
            ])],
            false,
        ),
        (
            "two paths",
            vec![of_fields(&[
                vec![0x82, 0x86],
                literal(4, "/public/a"),
                literal(4, "/private"),
                literal(1, "2.good.example"),
            ])],
            false,
        ),
        (
            "no path",
            vec![of_fields(&[vec![0x82, 0x86], literal(1, "2.good.example")])],
            false,
        ),
        (
            "a host that is not the authority",
            vec![of_fields(&[
                vec![0x82, 0x86],
                literal(4, "/public/a"),
                literal(1, "2.good.example"),
                [&[0x0f, 38 - 15][..], &literal(0, "2.evil.example")[1..]].concat(),
            ])],
            false,
        ),
        (
            "the second request",
            vec![good(1), request(3, "GET", "2.evil.example", "/public/a")],
            false,
        ),
    ];
    for (why, said, passes) in cases {
        let all = [begun(), said.concat()].concat();
        for piece in [usize::MAX, 1, 9] {
            let result = lab.tended(|| say(&all, piece));
            let case = format!("{why}, in pieces of {piece}: {result:?}");
            if passes {
                assert!(result.is_ok(), "{case}");
                assert!(server.connections().contains(&all), "{case}");
            } else {
                assert!(is_ended(&result), "{case}");
            }
            let before = said.len() - 1;
            let came = server.connections();
            let most = came
                .iter()
                .filter(|got| all.starts_with(got))
                .map(|got| requests(got))
                .max();
            if !passes {
                assert!(most.unwrap_or(0) <= before, "{case}");
            }
        }
    }
}

#[test]
fn real_clients_are_told_apart() {
    if !tool("curl") {
        return;
    }
    let Some((mut lab, _server)) = lab() else {
        return;
    };
    lab.inspect(inspect::ON);
    for (name, reaches) in [("2.good.example", true), ("2.evil.example", false)] {
        lab.claims();
        let result = lab.tended(|| {
            let url = format!("http://{name}:{HTTP}/public/x");
            let resolve = format!("{name}:{HTTP}:10.99.0.2");
            let arguments = [
                "-s",
                "-o",
                "/dev/null",
                "--max-time",
                "3",
                "--http2-prior-knowledge",
            ];
            let status = std::process::Command::new("curl")
                .args(arguments)
                .args(["--resolve", &resolve, &url])
                .status()?;
            Ok(status.code().unwrap_or(-1) as u64)
        });
        // 28: nobody answers.
        assert_eq!(result.unwrap() == 28, reaches, "{name}");
        let claims = lab.claims();
        let [claim] = &claims[..] else {
            panic!("{claims:?}");
        };
        assert_eq!(
            claim.name[..usize::from(claim.name_length)],
            *name.as_bytes()
        );
        assert_eq!(claim.path[..usize::from(claim.path_length)], *b"/public/x");
        let expected = if reaches {
            verdict::ALLOW
        } else {
            verdict::DENY
        };
        assert_eq!(claim.flow.verdict, expected);
    }
}
