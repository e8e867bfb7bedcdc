use ebfw_common::plaintext::{kind, library};

use super::{samples::header, *};

const GET: &[u8] =
    b"GET /a HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer x\r\nAccept: y\r\n\r\n";
/// Preface, settings, and a request that needs no table: `:method GET`, `:path /`.
const HTTP2: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x02\x01\x05\0\0\0\x01\x82\x84";

/// Feeds writes of one connection; the paths of the requests.
fn paths(streams: &mut Streams, object: u64, writes: &[(u32, &[u8])]) -> Vec<String> {
    let mut found = Vec::new();
    for (sequence, data) in writes {
        let header = Header {
            total: data.len() as u64,
            length: u16::try_from(data.len()).unwrap(),
            ..header(object, *sequence)
        };
        let record = Record { header, data };
        streams.take(&record, |seen| {
            found.push(String::from_utf8(seen.request.path).unwrap())
        });
    }
    found
}

#[test]
fn each_connection_is_followed_by_itself() {
    let mut streams = Streams::new(Headers::Redacted);
    let (first, second) = GET.split_at(20);
    assert!(paths(&mut streams, 1, &[(0, first)]).is_empty());
    assert_eq!(paths(&mut streams, 2, &[(0, HTTP2)]), ["/"]);
    assert_eq!(
        paths(&mut streams, 1, &[(1, second), (2, GET)]),
        ["/a", "/a"]
    );
    assert_eq!(streams.take_unknown(), 0);
}

#[test]
fn what_is_spoken_is_known_however_few_bytes_come_first() {
    for stream in [GET, HTTP2] {
        let mut streams = Streams::new(Headers::Redacted);
        let writes: Vec<_> = (0..).zip(stream.chunks(1)).collect();
        assert_eq!(paths(&mut streams, 1, &writes).len(), 1);
    }
}

#[test]
fn nothing_is_guessed() {
    let frames = &HTTP2[24..];
    for (writes, expected, unknown, why) in [
        (&[(5, frames)][..], 0, 1, "HTTP/2 that was joined late"),
        (&[(0, frames)], 0, 1, "the same, as the first that was seen"),
        (
            &[(5, GET)],
            1,
            0,
            "HTTP/1 that was joined late, at a request",
        ),
        (
            &[(5, &b"ody of a request"[..]), (6, GET)],
            1,
            1,
            "within a body: from the next request on",
        ),
        (
            &[(0, &GET[..20]), (2, GET)],
            1,
            0,
            "a write is missing, and the next one begins a request",
        ),
        (
            &[(0, &GET[..20]), (2, &GET[30..]), (3, GET)],
            1,
            1,
            "a write is missing, and the next one begins nothing",
        ),
        (
            &[(0, HTTP2), (2, &HTTP2[24..])],
            1,
            1,
            "a write of HTTP/2 is missing",
        ),
        (&[(0, &b"EHLO x\r\n"[..]), (1, b"MAIL\r\n")], 0, 1, "mail"),
    ] {
        let mut streams = Streams::new(Headers::Redacted);
        let found = paths(&mut streams, 1, writes);
        assert_eq!(
            (found.len(), streams.take_unknown()),
            (expected, unknown),
            "{why}"
        );
    }
}

#[test]
fn an_object_that_is_used_again_is_another_connection() {
    let mut streams = Streams::new(Headers::Redacted);
    assert!(paths(&mut streams, 1, &[(0, &GET[..20])]).is_empty());
    let close = Header {
        kind: kind::CLOSE,
        ..header(1, 0)
    };
    streams.take(
        &Record {
            header: close,
            data: &[],
        },
        |_| panic!("no request"),
    );
    assert_eq!(paths(&mut streams, 1, &[(0, GET)]), ["/a"]);
    assert_eq!(
        paths(&mut streams, 1, &[(0, HTTP2)]),
        ["/"],
        "without a close"
    );
    assert_eq!(streams.http2, 1);
}

#[test]
fn memory_is_bounded() {
    let mut streams = Streams::new(Headers::Redacted);
    for object in 0..2 * MAX_CONNECTIONS as u64 {
        paths(&mut streams, object, &[(0, HTTP2)]);
    }
    assert_eq!(streams.connections.len(), MAX_CONNECTIONS);
    assert_eq!(streams.by_use.len(), MAX_CONNECTIONS);
    assert!(streams.http2 <= MAX_HTTP2);
    for object in 0..2 * MAX_CONNECTIONS as u64 {
        streams.forget(Key { pid: 7, object });
    }
    assert_eq!((streams.http2, streams.by_use.len()), (0, 0));
}

#[test]
fn secrets_do_not_leave() {
    let mut streams = Streams::new(Headers::Redacted);
    let header = Header {
        total: GET.len() as u64,
        length: u16::try_from(GET.len()).unwrap(),
        ..header(1, 0)
    };
    let mut seen = Vec::new();
    streams.take(&Record { header, data: GET }, |found| seen.push(found));
    assert_eq!(
        seen[0].request.headers,
        [
            (b"Authorization".to_vec(), b"(redacted)".to_vec()),
            (b"Accept".to_vec(), b"y".to_vec())
        ]
    );
    let mut streams = Streams::new(Headers::Dropped);
    streams.take(&Record { header, data: GET }, |found| {
        assert!(found.request.headers.is_empty());
    });
}

#[test]
fn a_first_write_that_is_tried_again_is_one() {
    let other = b"GET /b HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let second = 1_000_000_000;
    for (library, writes, expected, why) in [
        (
            library::OPENSSL,
            &[(0, GET), (1, GET), (2, GET), (3, &other[..])][..],
            2,
            "a handshake goes on",
        ),
        (
            library::OPENSSL,
            &[(0, HTTP2), (1, HTTP2), (2, &HTTP2[33..])],
            2,
            "the same with HTTP/2",
        ),
        (
            library::OPENSSL,
            &[(0, GET), (second, GET)],
            2,
            "it would have come to its end",
        ),
        (
            library::OPENSSL,
            &[(0, GET), (1, other), (2, GET), (3, GET)],
            4,
            "later ones were taken",
        ),
        (library::GO, &[(0, GET), (1, GET)], 2, "Go waits by itself"),
    ] {
        let mut streams = Streams::new(Headers::Dropped);
        let mut found = 0;
        for (sequence, (boot_ns, data)) in (0..).zip(writes) {
            let header = Header {
                boot_ns: *boot_ns,
                library,
                total: data.len() as u64,
                length: u16::try_from(data.len()).unwrap(),
                ..header(1, sequence)
            };
            streams.take(&Record { header, data }, |_| found += 1);
        }
        assert_eq!((found, streams.take_unknown()), (expected, 0), "{why}");
        assert!(streams.http2 <= 1);
    }
}
