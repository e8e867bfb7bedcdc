use loona_hpack::Encoder;

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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A client with its table of headers.
struct Client(Encoder<'static>);

impl Client {
    fn new() -> Self {
        Self(Encoder::new())
    }

    fn block(&mut self, method: &[u8], path: &[u8]) -> Vec<u8> {
        self.0.encode([
            (&b":method"[..], method),
            (b":scheme", b"https"),
            (b":authority", b"api.example:443"),
            (b":path", path),
            (b"content-type", b"application/grpc"),
            (b"x-trace", b"a-long-value-that-goes-into-the-table"),
        ])
    }
}

fn requests(writes: &[(&[u8], u64)]) -> (Vec<String>, bool) {
    let mut reader = Reader::new();
    let mut found = Vec::new();
    for (bytes, missing) in writes {
        let taken = reader.take(bytes, *missing, |part| found.extend(head(part)));
        if taken.is_err() {
            return (found, true);
        }
    }
    (found, false)
}

#[test]
fn requests_of_several_streams_however_they_are_cut() {
    let mut client = Client::new();
    let mut stream = PREFACE.to_vec();
    stream.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
    stream.extend(frame(8, 0, 0, &[0, 1, 0, 0]));
    stream.extend(frame(
        HEADERS,
        END_HEADERS | 1,
        1,
        &client.block(b"GET", b"/a"),
    ));
    // In three parts, with padding and priority.
    let block = client.block(b"POST", b"/pkg.Service/Method");
    let (first, rest) = block.split_at(1);
    let (second, third) = rest.split_at(1);
    let padded = [&[3][..], &[0, 0, 0, 0, 16], first, &[0; 3]].concat();
    stream.extend(frame(HEADERS, PADDED | PRIORITY, 3, &padded));
    stream.extend(frame(CONTINUATION, 0, 3, second));
    stream.extend(frame(CONTINUATION, END_HEADERS, 3, third));
    stream.extend(frame(0, 0, 3, &vec![7; 5000]));
    // Trailers go through the table as well.
    let trailers = client.0.encode([(&b"x-checksum"[..], &b"abc"[..])]);
    stream.extend(frame(HEADERS, END_HEADERS | 1, 3, &trailers));
    stream.extend(frame(
        HEADERS,
        END_HEADERS | 1,
        5,
        &client.block(b"GET", b"/a"),
    ));
    for size in [1, 2, 9, 100, stream.len()] {
        let writes: Vec<_> = stream.chunks(size).map(|chunk| (chunk, 0)).collect();
        let (found, lost) = requests(&writes);
        assert_eq!(
            found,
            [
                "GET api.example/a",
                "POST api.example/pkg.Service/Method",
                "GET api.example/a"
            ],
            "{size} bytes a write"
        );
        assert!(!lost);
    }
}

#[test]
fn what_was_not_seen_ends_the_reading_unless_it_is_skipped_anyway() {
    let mut client = Client::new();
    let begin = [
        PREFACE,
        &frame(HEADERS, END_HEADERS, 1, &client.block(b"POST", b"/a")),
    ]
    .concat();
    let data = frame(0, 1, 1, &[7; 3000]);
    let next = frame(HEADERS, END_HEADERS, 3, &client.block(b"GET", b"/b"));
    for (writes, expected, lost, why) in [
        (
            &[(&begin[..], 0), (&data[..100], 2909), (&next, 0)][..],
            2,
            false,
            "within data",
        ),
        (
            &[(&begin, 0), (&data[..5], 3004), (&next, 0)],
            1,
            true,
            "a frame's header",
        ),
        (
            &[(&begin, 0), (&next[..12], next.len() as u64 - 12)],
            1,
            true,
            "within headers",
        ),
        (
            &[(&begin[..5], 0), (&begin[6..], 0)],
            0,
            true,
            "within the preface",
        ),
    ] {
        let (found, is_lost) = requests(writes);
        assert_eq!((found.len(), is_lost), (expected, lost), "{why}");
    }
}

#[test]
fn what_breaks_the_rules_ends_the_reading() {
    let mut client = Client::new();
    let block = client.block(b"GET", b"/");
    let huge = vec![0; MAX_HEAD];
    for (frames, why) in [
        (
            vec![frame(HEADERS, 0, 1, &block), frame(0, 0, 1, b"x")],
            "data within a block",
        ),
        (
            vec![
                frame(HEADERS, 0, 1, &block),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ],
            "another stream's continuation",
        ),
        (
            vec![frame(CONTINUATION, END_HEADERS, 1, &block)],
            "a continuation of nothing",
        ),
        (
            vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])],
            "more padding than there is",
        ),
        (
            vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[])],
            "padding of nothing",
        ),
        (
            vec![frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff])],
            "an index out of the table",
        ),
        (
            vec![frame(HEADERS, END_HEADERS, 1, &[0xbe])],
            "an entry that was never made: the connection was joined late",
        ),
        (
            vec![frame(HEADERS, 0, 1, &huge), frame(CONTINUATION, 0, 1, b"x")],
            "a block without end",
        ),
        (
            vec![frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0x3f, 0xff, 0xff, 0x7f, 0x82],
            )],
            "a table of megabytes",
        ),
    ] {
        let stream = [PREFACE, &frames.concat()].concat();
        let (found, lost) = requests(&[(&stream, 0)]);
        assert!(lost && found.is_empty(), "{why}: {found:?}");
    }
}

#[test]
fn any_bytes_are_survived() {
    use proptest::{collection::vec, num::u8::ANY, prelude::*};
    proptest!(|(frames in vec((prop_oneof![Just(1u8), Just(9), ANY], ANY, 0u32..4, vec(ANY, 0..80)), 0..12), cut in 1usize..50)| {
        let mut stream = PREFACE.to_vec();
        for (kind, flags, number, payload) in &frames {
            stream.extend(frame(*kind, *flags, *number, payload));
        }
        let writes: Vec<_> = stream.chunks(cut).map(|chunk| (chunk, 0)).collect();
        let _ = requests(&writes);
    });
}

#[test]
fn another_host_than_the_authority_is_marked() {
    for (host, expected) in [("a.example", true), ("API.example:8443", false)] {
        let block = Encoder::new().encode([
            (&b":method"[..], &b"GET"[..]),
            (b":scheme", b"https"),
            (b":authority", b"api.example"),
            (b":path", b"/"),
            (b"host", host.as_bytes()),
        ]);
        let stream = [PREFACE, &frame(HEADERS, END_HEADERS | 1, 1, &block)[..]].concat();
        let mut marks = Vec::new();
        let taken = Reader::new().take(&stream, 0, |part| {
            if let Part::Head { request, .. } = part {
                marks.push(request.ambiguous);
            }
        });
        assert!(taken.is_ok());
        assert_eq!(marks, [expected], "{host}");
    }
}
