use super::*;

fn head(part: Part<'_>) -> Option<String> {
    match part {
        Part::Head { request, .. } => Some(shown(&request)),
        _ => None,
    }
}

fn shown(request: &Request) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{} {}{}",
        text(&request.method),
        text(&request.host),
        text(&request.path)
    )
}

/// The requests in `writes`, and whether the reader lost its place.
fn requests(writes: &[(&[u8], u64)]) -> (Vec<String>, bool) {
    let mut reader = Reader::new();
    let mut found = Vec::new();
    for (bytes, missing) in writes {
        if reader
            .take(bytes, *missing, |part| found.extend(head(part)))
            .is_err()
        {
            return (found, true);
        }
    }
    (found, false)
}

const GET: &[u8] = b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\n\r\n";

#[test]
fn requests_however_they_are_cut() {
    let post = [
        &b"POST /upload HTTP/1.1\r\nHost: example.com:8443\r\nContent-Length: 11\r\n\r\nhello world"[..],
        GET,
    ]
    .concat();
    let chunked = [
        &b"PUT /c HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
           5;x=y\r\nGET /\r\n1f\r\n0123456789012345678901234567890\r\n0\r\nTrailer: x\r\n\r\n"[..],
        GET,
    ]
    .concat();
    for (stream, expected, why) in [
        (GET.to_vec(), &["GET example.com/a?b=c"][..], "one"),
        (
            [GET, GET, GET].concat(),
            &["GET example.com/a?b=c"; 3],
            "pipelined",
        ),
        (
            post,
            &["POST example.com/upload", "GET example.com/a?b=c"],
            "behind a body",
        ),
        (
            chunked,
            &["PUT [2001:db8::1]/c", "GET example.com/a?b=c"],
            "behind chunks that look like requests",
        ),
        (
            b"GET https://other.example/x HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(),
            &["GET other.example/x"],
            "absolute",
        ),
        (
            b"GET http://other.example HTTP/1.1\r\n\r\n".to_vec(),
            &["GET other.example/"],
            "absolute without a path",
        ),
        (
            b"OPTIONS * HTTP/1.0\n\n".to_vec(),
            &["OPTIONS *"],
            "no host, bare line feeds",
        ),
        (
            b"\r\nHEAD / HTTP/1.1\r\nhOsT:  x \r\nContent-Length: 0\r\n\r\n".to_vec(),
            &["HEAD x/"],
            "an empty line first",
        ),
        (
            b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example\r\n\r\nGET / HTTP/1.1\r\n\r\n"
                .to_vec(),
            &["CONNECT db.example"],
            "what a tunnel carries is not looked at",
        ),
    ] {
        for size in [1, 2, 3, 7, stream.len()] {
            let writes: Vec<_> = stream.chunks(size).map(|chunk| (chunk, 0)).collect();
            let (found, lost) = requests(&writes);
            assert_eq!(found, expected, "{why}, {size} bytes a write");
            assert!(!lost, "{why}");
        }
    }
}

#[test]
fn bytes_that_were_not_seen_matter_only_where_they_are_read() {
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n";
    let chunks = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n";
    for (writes, expected, lost, why) in [
        (
            &[(&head[..], 0), (b"0123", 9996), (GET, 0)][..],
            2,
            false,
            "within a body",
        ),
        (&[(&head[..], 10_000), (GET, 0)], 2, false, "the whole body"),
        (
            &[(&head[..], 10_001), (GET, 0)],
            1,
            true,
            "one byte of the next head",
        ),
        (
            &[(&chunks[..], 10_002), (b"0\r\n\r\n", 0), (GET, 0)],
            2,
            false,
            "a whole chunk",
        ),
        (&[(&GET[..10], 1), (GET, 0)], 0, true, "within a head"),
        (&[(GET, 1)], 1, true, "between two"),
    ] {
        let (found, is_lost) = requests(writes);
        assert_eq!((found.len(), is_lost), (expected, lost), "{why}");
    }
}

#[test]
fn what_is_not_http_loses_the_place() {
    let long = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'x'; MAX_HEAD]].concat();
    let many = [
        &b"GET / HTTP/1.1\r\n"[..],
        &b"a: b\r\n".repeat(MAX_HEADERS + 1),
        b"\r\n",
    ]
    .concat();
    for (stream, why) in [
        (&b"\x16\x03\x01\x02\x00\n\n"[..], "TLS within TLS"),
        (b"GET /\r\n\r\n", "HTTP/0.9"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "no colon"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "a negative length",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "no chunk",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "a chunk without end",
        ),
        (&long, "a head without end"),
        (&many, "too many headers"),
    ] {
        assert!(requests(&[(stream, 0)]).1, "{why}");
    }
}

#[test]
fn the_look_of_a_request() {
    for (bytes, whole, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], true, Look::Request),
        (b"M-SEARCH * HTTP/1.0\n", true, Look::Request),
        (b"GET / HTTP/1.1", false, Look::Unclear),
        (b"GET / HTTP/1.1", true, Look::Other),
        (b"G", false, Look::Unclear),
        (b"", false, Look::Unclear),
        (b"G", true, Look::Other),
        (b"get / HTTP/1.1\r\n", false, Look::Other),
        (b"GET / HTTP/2.0\r\n", false, Look::Other),
        (b"PRI * HTTP/2.0\r\n", false, Look::Other),
        (b"EHLO example.com\r\n", false, Look::Other),
        (b"{\"json\": true}", false, Look::Other),
        (b"\x00\x00\x12\x04", false, Look::Other),
    ] {
        assert_eq!(look(bytes, whole), expected, "{bytes:?}, {whole}");
    }
}

#[test]
fn any_bytes_are_survived() {
    proptest::proptest!(|(writes in proptest::collection::vec(
        (proptest::collection::vec(proptest::num::u8::ANY, 0..300), 0u64..3), 0..8))| {
        let mut reader = Reader::new();
        for (bytes, missing) in &writes {
            let _ = look(bytes, false);
            if reader.take(bytes, *missing, |_| ()).is_err() { break; }
        }
    });
}

#[test]
fn what_a_server_may_read_in_another_way_is_marked() {
    let ambiguous = |head: &str| {
        let mut marks = Vec::new();
        let result = Reader::new().take(head.as_bytes(), 0, |part| {
            if let Part::Head { request, .. } = part {
                marks.push(request.ambiguous);
            }
        });
        assert!(result.is_ok(), "{head}");
        marks
    };
    for (fields, expected, why) in [
        ("Host: a", false, "one host"),
        ("Host: a\r\nHost: b", true, "two"),
        ("Host: a\r\nHost: a", true, "the same twice"),
        (
            "Host: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked",
            true,
            "two lengths",
        ),
    ] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(ambiguous(&head), [expected], "{why}");
    }
    assert_eq!(ambiguous("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), [false]);
    assert_eq!(
        ambiguous("GET https://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
        [true]
    );
}
