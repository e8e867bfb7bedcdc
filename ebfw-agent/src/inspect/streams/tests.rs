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
            if !seen.is_head {
                found.push(String::from_utf8(seen.request.path).unwrap());
            }
        });
    }
    found
}

#[test]
fn each_connection_is_followed_by_itself() {
    let mut streams = Streams::new(Headers::Redacted, None);
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
        let mut streams = Streams::new(Headers::Redacted, None);
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
        let mut streams = Streams::new(Headers::Redacted, None);
        let found = paths(&mut streams, 1, writes);
        assert_eq!(
            (found.len(), streams.take_unknown()),
            (expected, unknown),
            "{why}"
        );
    }
}

#[test]
fn a_connection_is_unread_as_long_as_nothing_in_it_was_clear() {
    for (writes, expected, why) in [
        (&[][..], false, "nothing was written"),
        (&[(0, &b"EHLO x\r\n"[..])], true, "mail"),
        (
            &[(0, &HTTP2[24..])],
            true,
            "HTTP/2 that was joined late, as by a process that was forked",
        ),
        (&[(5, &HTTP2[24..])], true, "likewise"),
        (&[(0, &GET[..2])], false, "it may become a request"),
        (&[(0, &b"ody"[..]), (1, GET)], false, "a request comes"),
        (&[(0, GET), (2, b"ody")], false, "one has come"),
        (&[(0, HTTP2), (2, &HTTP2[24..])], false, "likewise"),
    ] {
        let mut streams = Streams::new(Headers::Redacted, None);
        paths(&mut streams, 1, writes);
        assert_eq!(streams.is_unread(&header(1, 9)), expected, "{why}");
        assert!(!streams.is_unread(&header(2, 0)), "another one");
    }
    // Of which more was written than is copied.
    for (begin, expected) in [
        (&GET[..GET.len() - 2], false),
        (HTTP2, false),
        (b"EHLO", true),
    ] {
        let mut streams = Streams::new(Headers::Redacted, None);
        let header = Header {
            total: 10_000,
            length: u16::try_from(begin.len()).unwrap(),
            ..header(1, 0)
        };
        streams.take(
            &Record {
                header,
                data: begin,
            },
            |_| (),
        );
        assert_eq!(streams.is_unread(&header), expected, "{begin:?}");
    }
}

#[test]
fn an_object_that_is_used_again_is_another_connection() {
    let mut streams = Streams::new(Headers::Redacted, None);
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
    let mut streams = Streams::new(Headers::Redacted, None);
    for object in 0..2 * MAX_CONNECTIONS as u64 {
        paths(&mut streams, object, &[(0, HTTP2)]);
    }
    assert_eq!(streams.connections.len(), MAX_CONNECTIONS);
    assert_eq!(streams.by_use.len(), MAX_CONNECTIONS);
    assert!(streams.http2 <= MAX_HTTP2);
    for object in 0..2 * MAX_CONNECTIONS as u64 {
        streams.forget(Key { pid: 7, object }, &mut |_| ());
    }
    assert_eq!((streams.http2, streams.by_use.len()), (0, 0));
}

#[test]
fn secrets_do_not_leave() {
    let mut streams = Streams::new(Headers::Redacted, None);
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
    let mut streams = Streams::new(Headers::Dropped, None);
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
        let mut streams = Streams::new(Headers::Dropped, None);
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

#[test]
fn a_request_waits_for_its_body_and_is_given_on_once() {
    let post =
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n";
    let capture = Capture {
        limit: 100,
        redact: true,
    };
    let whole = (Some(b"abcd".to_vec()), false);
    let cut = (Some(b"ab".to_vec()), true);
    let close = Header {
        kind: kind::CLOSE,
        ..header(1, 0)
    };
    for (writes, end, expected, why) in [
        (
            &[&post[..], b"abcd"][..],
            None,
            vec![whole.clone()],
            "the whole body",
        ),
        (&[post, b"ab"], None, vec![], "the rest may come"),
        (
            &[post, b"ab"],
            Some(close),
            vec![cut.clone()],
            "the connection is closed",
        ),
        (
            &[post, b"ab"],
            Some(header(1, 9)),
            vec![cut.clone()],
            "a write is missing",
        ),
        (
            &[post, b"ab"],
            Some(header(1, 0)),
            vec![cut.clone()],
            "the object is used again",
        ),
    ] {
        let mut streams = Streams::new(Headers::Dropped, Some(capture));
        let mut found = Vec::new();
        let mut heads = 0;
        let mut take = |streams: &mut Streams, header: Header, data: &[u8]| {
            let header = Header {
                total: data.len() as u64,
                length: u16::try_from(data.len()).unwrap(),
                ..header
            };
            streams.take(&Record { header, data }, |seen| {
                if seen.is_head {
                    heads += 1;
                } else {
                    found.push(seen);
                }
            });
        };
        for (sequence, data) in (0..).zip(writes) {
            take(&mut streams, header(1, sequence), data);
        }
        if let Some(end) = end {
            take(&mut streams, end, b"");
        }
        assert_eq!(heads, 1, "{why}");
        assert_eq!(streams.is_waiting(), expected.is_empty(), "{why}");
        let shown = |found: &[Seen]| {
            let bodies = found.iter().map(|seen| {
                assert!(seen.request.headers.is_empty());
                seen.request.body.clone().unwrap()
            });
            bodies
                .map(|body| (body.text, body.truncated))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&found), expected, "{why}");
        let mut late = Vec::new();
        streams.give_up(Some(1 + PATIENCE_NS), |seen| late.push(seen));
        assert!(late.is_empty(), "{why}: too early");
        streams.give_up(Some(2 + PATIENCE_NS), |seen| late.push(seen));
        let left = if expected.is_empty() {
            vec![cut.clone()]
        } else {
            vec![]
        };
        assert_eq!(shown(&late), left, "{why}");
        assert!(!streams.is_waiting(), "{why}");
    }
}

#[test]
fn what_waits_for_bodies_is_bounded() {
    let post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n";
    let capture = Capture {
        limit: 100,
        redact: true,
    };
    let mut streams = Streams::new(Headers::Dropped, Some(capture));
    let mut given = 0;
    for object in 0..2 * MAX_WAITING as u64 {
        given += paths(&mut streams, object, &[(0, post)]).len();
    }
    assert_eq!((streams.waiting, given), (MAX_WAITING, MAX_WAITING));
    streams.give_up(None, |_| given += 1);
    assert_eq!((streams.waiting, given), (0, 2 * MAX_WAITING));
}

#[test]
fn further_parts_of_a_write_belong_to_it() {
    let (first, second) = GET.split_at(30);
    let frames = &HTTP2[24..];
    for (records, expected, unknown, why) in [
        (
            &[(kind::WRITE, first), (kind::MORE, second)][..],
            1,
            0,
            "one write",
        ),
        (
            &[
                (kind::WRITE, first),
                (kind::MORE, second),
                (kind::WRITE, first),
                (kind::MORE, second),
                (kind::WRITE, b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"),
            ],
            2,
            0,
            "a first write that is tried again",
        ),
        (
            &[(kind::WRITE, frames), (kind::MORE, GET)],
            0,
            1,
            "nothing begins within a write",
        ),
    ] {
        let mut streams = Streams::new(Headers::Dropped, None);
        let mut found = 0;
        for (sequence, (kind, data)) in (0..).zip(records) {
            let header = Header {
                kind: *kind,
                total: data.len() as u64,
                length: u16::try_from(data.len()).unwrap(),
                ..header(1, sequence)
            };
            streams.take(&Record { header, data }, |_| found += 1);
        }
        assert_eq!(
            (found, streams.take_unknown()),
            (expected, unknown),
            "{why}"
        );
    }
}
