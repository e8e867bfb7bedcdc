//! What is no request of HTTP/2, or is one to some servers only.

use super::*;

#[test]
fn what_servers_refuse_or_read_in_other_ways_is_malformed() {
    let request = |block: &[u8]| headers(1, block);
    let with = |more: &[u8]| headers(1, &[get(), more.to_vec()].concat());
    let end = END_HEADERS;
    for (frames, expected, why) in [
        (frame(5, end, 1, &[0; 4]), why::FRAME, "a promise"),
        (
            frame(CONTINUATION, end, 1, &get()),
            why::FRAME,
            "a continuation of nothing",
        ),
        (headers(0, &get()), why::FRAME, "no stream"),
        (headers(2, &get()), why::FRAME, "a server's stream"),
        (
            [frame(HEADERS, 0, 1, &get()), frame(0, 0, 1, &[])].concat(),
            why::FRAME,
            "data inside of a block",
        ),
        (
            [frame(HEADERS, 0, 1, &get()), frame(99, 0, 1, &[])].concat(),
            why::FRAME,
            "an unknown frame inside of a block",
        ),
        (
            [
                frame(HEADERS, 0, 1, &get()),
                frame(CONTINUATION, end, 3, &[]),
            ]
            .concat(),
            why::FRAME,
            "a continuation of another",
        ),
        (
            [frame(HEADERS, 0, 1, &get()), headers(1, &[])].concat(),
            why::FRAME,
            "a head inside of a block",
        ),
        (
            frame(HEADERS, end | PADDED, 1, &[]),
            why::FRAME,
            "no room for padding",
        ),
        (
            frame(HEADERS, end | PADDED, 1, &[2, 0]),
            why::FRAME,
            "more padding than frame",
        ),
        (
            frame(HEADERS, end | PRIORITY, 1, &[0; 4]),
            why::FRAME,
            "no room for a priority",
        ),
        (
            frame(HEADERS, end | PRIORITY | PADDED, 1, &[1, 0, 0, 0, 0, 0]),
            why::FRAME,
            "more padding than frame",
        ),
        (request(&[]), why::REQUEST_LINE, "nothing"),
        (request(&[0x84]), why::REQUEST_LINE, "no method"),
        (request(&[0x82]), why::REQUEST_LINE, "no path"),
        (
            request(&[vec![0x84], literal(":method", "")].concat()),
            why::REQUEST_LINE,
            "an empty method",
        ),
        (
            request(&literal(":method", "G T")),
            why::REQUEST_LINE,
            "a space in a method",
        ),
        (
            request(&literal(":method", &"A".repeat(25))),
            why::REQUEST_LINE,
            "a long method",
        ),
        (
            request(&[vec![0x82], literal(":path", "")].concat()),
            why::TARGET,
            "an empty path",
        ),
        (
            request(&[vec![0x82], literal(":path", "x")].concat()),
            why::TARGET,
            "a relative path",
        ),
        (
            request(&[vec![0x82], literal(":path", "http://a/")].concat()),
            why::TARGET,
            "an absolute target",
        ),
        (
            request(&[vec![0x82], literal(":path", "/a b")].concat()),
            why::TARGET,
            "a space",
        ),
        (
            request(&[vec![0x82], literal(":path", "/a#b")].concat()),
            why::TARGET,
            "a fragment",
        ),
        (
            request(&[vec![0x82], literal(":path", "/a?b\\")].concat()),
            why::TARGET,
            "a backslash",
        ),
        (
            request(&[vec![0x82], literal(":path", "*x")].concat()),
            why::TARGET,
            "an asterisk and more",
        ),
        (
            request(&literal(":authority", "a b")),
            why::NAME,
            "a space in a name",
        ),
        (request(&literal(":authority", "u@a")), why::NAME, "a user"),
        (
            request(&literal(":authority", "a/b")),
            why::NAME,
            "a path in a name",
        ),
        (
            with(&literal("host", "b")),
            why::TWO_HOSTS,
            "a host that differs",
        ),
        (
            with(&literal("host", "")),
            why::TWO_HOSTS,
            "a host that is empty",
        ),
        (
            with(&literal(":authority", "a.example")),
            why::TWO_HOSTS,
            "two authorities",
        ),
        (
            with(&[literal("host", "a.example"), literal("host", "a.example")].concat()),
            why::TWO_HOSTS,
            "two hosts",
        ),
        (
            with(&[literal("x", "y"), literal("host", "a.example"), vec![0x86]].concat()),
            why::FIELD,
            "a scheme behind other fields",
        ),
        (
            request(&[vec![0x82, 0x86], literal("te", ""), literal(":path", "/")].concat()),
            why::FIELD,
            "a path behind another field",
        ),
        (
            request(
                &[
                    vec![0x82, 0x86, 0x84],
                    literal("host", "a"),
                    literal(":authority", "a"),
                ]
                .concat(),
            ),
            why::FIELD,
            "an authority behind a host",
        ),
        (request(&[0x82, 0x84]), why::REQUEST_LINE, "no scheme"),
        (with(&[0x87]), why::REQUEST_LINE, "two schemes"),
        (with(&[0x82]), why::REQUEST_LINE, "two methods"),
        (with(&[0x84]), why::REQUEST_LINE, "two paths"),
        (with(&[0x88]), why::FIELD, "a status"),
        (
            with(&literal(":x", "y")),
            why::FIELD,
            "one that nobody knows",
        ),
        (
            with(&literal(":an-unknown-one-with-a-long-name", "y")),
            why::FIELD,
            "one that nobody knows",
        ),
        (
            with(&literal(":protocol", "websocket")),
            why::REQUEST_LINE,
            "a protocol without a tunnel",
        ),
        (
            request(
                &[
                    literal(":method", "CONNECT"),
                    literal(":authority", "a:1"),
                    vec![0x84],
                ]
                .concat(),
            ),
            why::REQUEST_LINE,
            "a tunnel with a path",
        ),
        (
            request(
                &[
                    literal(":method", "CONNECT"),
                    literal(":authority", "a:1"),
                    vec![0x86],
                ]
                .concat(),
            ),
            why::REQUEST_LINE,
            "a tunnel with a scheme",
        ),
        (
            request(
                &[
                    literal(":method", "CONNECT"),
                    literal(":protocol", "websocket"),
                    literal(":authority", "a:1"),
                ]
                .concat(),
            ),
            why::REQUEST_LINE,
            "a tunnel that says what it is for, and not where",
        ),
        (
            with(&literal("Host", "b")),
            why::FIELD,
            "a capital in a name",
        ),
        (
            with(&literal("ho st", "b")),
            why::FIELD,
            "a space in a name",
        ),
        (
            with(&literal("host:", "b")),
            why::FIELD,
            "a colon in a name",
        ),
        (
            with(&[vec![0], coded(b"hosT"), coded(b"b")].concat()),
            why::FIELD,
            "a capital in a name, coded",
        ),
        (
            with(&literal("x", "y\r\nhost: b")),
            why::FIELD,
            "an end of a line in a value",
        ),
        (with(&literal("x", "\0")), why::FIELD, "a zero in a value"),
        (with(&[0x80]), why::FIELD, "index 0"),
        (with(&[0xbe]), why::TABLE, "an empty table"),
        (
            with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            why::FIELD,
            "a number that is too long",
        ),
        (
            with(&[0xff, 0xff, 0xff, 0xff, 0x7f]),
            why::TABLE,
            "a large number",
        ),
        (with(&[0x20]), why::FIELD, "a change of size behind a field"),
        (
            request(&[0x3f, 0xe2, 0x1f]),
            why::TABLE,
            "a table that is too large",
        ),
        (with(&[0, 0]), why::FIELD, "a name without letters"),
        (with(&[0, 1, b'x']), why::FIELD, "a field without a value"),
        (with(&[0, 5, b'x']), why::FIELD, "half a name"),
        (with(&[0]), why::FIELD, "half a field"),
        (with(&[0xff]), why::FIELD, "half a number"),
        (
            with(&[0, 0x81, 0x00]),
            why::FIELD,
            "padding that is not ones",
        ),
        (
            with(&[0, 0x82, 0x1f, 0xff]),
            why::FIELD,
            "padding of a whole byte",
        ),
        (
            with(&[0, 0x84, 0xff, 0xff, 0xff, 0xff]),
            why::FIELD,
            "the end of the string as a symbol",
        ),
    ] {
        assert_eq!(said(&connection(&[frames])), [malformed(expected)], "{why}");
    }
    let backwards = connection(&[
        headers(5, &get()),
        headers(3, &[vec![0x82], get()].concat()),
    ]);
    assert_eq!(
        said(&backwards)[1..],
        [malformed(why::REQUEST_LINE)],
        "a stream that was passed over"
    );
}

#[test]
fn what_never_comes_to_a_head_is_malformed() {
    let data = frame(0, 0, 1, &[0; 1000]);
    let part = [vec![0], plain(b"x"), plain(&[b'y'; 1000])].concat();
    let part = frame(CONTINUATION, 0, 1, &part);
    let open = frame(HEADERS, 0, 1, &get());
    let long = malformed(why::LONG);
    let one = request(Some("a.example"), "GET", "/x");
    for (start, rest, expected, why) in [
        (
            vec![],
            data.clone(),
            vec![long.clone()],
            "data without a request",
        ),
        (open, part, vec![long], "a block without an end"),
        (
            headers(1, &get()),
            data,
            vec![one],
            "data behind a request are judged already",
        ),
    ] {
        let mut driver = Driver::new(false);
        driver.feed(&connection(&[start]));
        for _ in 0..70 {
            driver.feed(&rest);
        }
        let found: Vec<_> = driver.said.into_iter().map(|(_, said)| said).collect();
        assert_eq!(found, expected, "{why}");
    }
}
