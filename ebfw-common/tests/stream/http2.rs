//! Requests in HTTP/2.

mod malformed;

use ebfw_common::stream::{Step, flag, why};
use ebfw_policy::http::RequestPath;
use fastrand::Rng;

use crate::{
    cuts::{positions, said},
    drive::{Driver, Said},
    frames::{
        CONTINUATION, END_HEADERS, HEADERS, PADDED, PREFACE, PRIORITY, Writer, coded, frame,
        headers, integer, kept, literal, plain,
    },
};

fn request(name: Option<&str>, method: &str, path: &str) -> Said {
    let named = match name {
        None => 0,
        Some(name) if name.starts_with('<') => flag::LITERAL,
        Some(_) => flag::NAME,
    };
    Said::Head {
        name: name.map(Into::into),
        request: Some((method.into(), path.into())),
        flags: flag::REQUEST | named,
    }
}

fn malformed(why: u32) -> Said {
    Said::End(Step::Malformed, why)
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
    bytes.extend(frame(8, 0, 0, &[0, 1, 0, 0]));
    bytes.extend(frames.concat());
    bytes
}

/// `GET /x` of `a.example`, plainly.
fn get() -> Vec<u8> {
    [
        vec![0x82, 0x86],
        literal(":authority", "a.example:80"),
        literal(":path", "/x?y"),
    ]
    .concat()
}

#[test]
fn a_request_is_complete_with_its_last_fragment() {
    let block = get();
    let split = |at: usize| {
        [
            frame(HEADERS, 0, 1, &block[..at]),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, &block[at..]),
        ]
        .concat()
    };
    let padded = [vec![3], block.clone(), vec![0; 3]].concat();
    let first = [vec![0, 0, 0, 0, 16], block.clone()].concat();
    let both = [vec![2, 0, 0, 0, 0, 16], block.clone(), vec![0; 2]].concat();
    let end = END_HEADERS;
    for (frames, behind, why) in [
        (headers(1, &block), 0, "one frame"),
        (frame(HEADERS, end | PADDED, 1, &padded), 3, "padded"),
        (
            frame(HEADERS, end | PRIORITY, 1, &first),
            0,
            "with a priority",
        ),
        (
            frame(HEADERS, end | PRIORITY | PADDED, 1, &both),
            2,
            "with both",
        ),
        (split(7), 0, "three frames"),
        (split(0), 0, "an empty frame first"),
        (split(block.len()), 0, "an empty frame last"),
        (
            [
                frame(
                    HEADERS,
                    PADDED | PRIORITY,
                    1,
                    &[vec![4], vec![0; 5], vec![0; 4]].concat(),
                ),
                frame(CONTINUATION, end, 1, &block),
            ]
            .concat(),
            0,
            "nothing but padding first",
        ),
        (
            [
                frame(HEADERS, 0, 1, &block),
                frame(CONTINUATION, end, 1, &[]),
            ]
            .concat(),
            0,
            "nothing last",
        ),
    ] {
        let bytes = connection(&[frames]);
        assert_eq!(
            positions(&bytes),
            [(
                bytes.len() - behind,
                request(Some("a.example"), "GET", "/x")
            )],
            "{why}"
        );
    }
}

#[test]
fn every_way_to_write_a_field_is_read() {
    let rest = literal(":authority", "a");
    for (block, name, method, path, why) in [
        (
            [vec![0x83, 0x84, 0x86], rest.clone()].concat(),
            Some("a"),
            "POST",
            "/",
            "of the static table",
        ),
        (
            [vec![0x82, 0x85, 0x86], rest.clone()].concat(),
            Some("a"),
            "GET",
            "/index.html",
            "of the static table",
        ),
        (
            vec![0x82, 0x84, 0x86, 0x81],
            None,
            "GET",
            "/",
            "an empty authority",
        ),
        (
            vec![0x82, 0x84, 0x86, 0x80 | 38],
            None,
            "GET",
            "/",
            "an empty host",
        ),
        (vec![0x82, 0x84, 0x86], None, "GET", "/", "no authority"),
        (
            [vec![0x82, 0x84, 0x86], literal("host", "A.b.")].concat(),
            Some("a.b"),
            "GET",
            "/",
            "a host alone",
        ),
        (
            [vec![0x82, 0x84, 0x86], rest.clone(), literal("host", "A:1")].concat(),
            Some("a"),
            "GET",
            "/",
            "both",
        ),
        (
            [
                vec![0x82, 0x84, 0x86],
                literal(":authority", "[0::1]:8"),
                literal("host", "[::1]"),
            ]
            .concat(),
            Some("<::1>"),
            "GET",
            "/",
            "both",
        ),
        (
            [
                vec![0x87, 2],
                plain(b"PUT"),
                vec![0x14],
                plain(b"/%41/../b"),
                vec![0x41],
                coded(b"192.0.2.7"),
            ]
            .concat(),
            Some("<192.0.2.7>"),
            "PUT",
            "/b",
            "names of the static table",
        ),
        (
            [
                vec![0x86, 0x40],
                coded(b":method"),
                coded(b"X"),
                vec![0x10],
                coded(b":path"),
                coded(b"/~x"),
                vec![0],
                coded(b":authority"),
                coded(b"b"),
            ]
            .concat(),
            Some("b"),
            "X",
            "/~x",
            "written out and coded",
        ),
        (
            [
                literal(":method", "CONNECT"),
                literal(":authority", "a:443"),
            ]
            .concat(),
            Some("a"),
            "CONNECT",
            "*",
            "a tunnel",
        ),
        (
            [
                literal(":method", "CONNECT"),
                literal(":protocol", "websocket"),
                vec![0x86],
                literal(":path", "/chat"),
                literal(":authority", "a"),
            ]
            .concat(),
            Some("a"),
            "CONNECT",
            "/chat",
            "a tunnel that says what it is for",
        ),
        (
            [
                literal(":method", "OPTIONS"),
                literal(":path", "*"),
                literal(":scheme", "http"),
                rest.clone(),
            ]
            .concat(),
            Some("a"),
            "OPTIONS",
            "*",
            "an asterisk",
        ),
        (
            [
                vec![0x82, 0x84, 0x86],
                rest,
                literal("te", "trailers"),
                literal("authority", "b"),
                literal("xhost", "c"),
                literal("x", ""),
            ]
            .concat(),
            Some("a"),
            "GET",
            "/",
            "names that look alike",
        ),
        (
            [vec![0x20, 0x3f, 0xe1, 0x1f], get()].concat(),
            Some("a.example"),
            "GET",
            "/x",
            "changes of the table's size",
        ),
    ] {
        let bytes = connection(&[headers(1, &block)]);
        assert_eq!(
            positions(&bytes),
            [(bytes.len(), request(name, method, path))],
            "{why}"
        );
    }
}

#[test]
fn a_later_request_refers_to_an_earlier_one() {
    let first = [
        kept(":method", "PUT"),
        kept(":path", "/a/b"),
        vec![0x86],
        kept(":authority", "a.example"),
        kept("x", "y"),
    ]
    .concat();
    // x, :authority, :path, :method.
    let (x, authority, path, method) = (0x80 | 62, 0x80 | 63, 0x80 | 64, 0x80 | 65);
    let one = request(Some("a.example"), "PUT", "/a/b");
    for (second, expected, why) in [
        (
            vec![method, 0x86, path, authority, x],
            one.clone(),
            "the same",
        ),
        (
            [
                vec![method, 0x86, path],
                literal(":authority", "b.example"),
                vec![x],
            ]
            .concat(),
            request(Some("b.example"), "PUT", "/a/b"),
            "another authority",
        ),
        (
            [
                vec![0x86, method],
                integer(0x40, 6, 64),
                plain(b"/c"),
                vec![0x80 | 64],
            ]
            .concat(),
            request(Some("a.example"), "PUT", "/c"),
            "a name of the table, and what moved",
        ),
        (
            [
                vec![method, 0x86, path, authority],
                literal("host", "a.EXAMPLE"),
            ]
            .concat(),
            one.clone(),
            "a host that is the same",
        ),
        (
            [
                vec![method, path, authority],
                literal("host", "a.example.org"),
            ]
            .concat(),
            malformed(why::TWO_HOSTS),
            "a host that is not",
        ),
        (
            vec![method, path, authority, authority],
            malformed(why::TWO_HOSTS),
            "two authorities",
        ),
        (
            vec![method, 0x86, path, x, authority],
            malformed(why::FIELD),
            "an authority behind another field",
        ),
        (
            vec![method, method],
            malformed(why::REQUEST_LINE),
            "two methods",
        ),
        (
            vec![method, path, 0x84],
            malformed(why::REQUEST_LINE),
            "two paths",
        ),
        (
            vec![0x80 | 66],
            malformed(why::TABLE),
            "an entry that is not there",
        ),
        (
            vec![0xff, 0x80, 0x01],
            malformed(why::TABLE),
            "an entry that is not there",
        ),
        (
            vec![0x20, 0x80 | 62],
            malformed(why::TABLE),
            "an entry that was evicted",
        ),
        (
            vec![0x20, 0x3f, 0xe1, 0x1f, 0x80 | 62],
            malformed(why::TABLE),
            "an entry that was evicted",
        ),
    ] {
        let data = frame(0, 1, 1, &[7; 90]);
        let bytes = connection(&[
            headers(1, &first),
            data,
            frame(6, 0, 0, &[0; 8]),
            headers(3, &second),
        ]);
        assert_eq!(said(&bytes), [one.clone(), expected], "{why}");
    }
}

#[test]
fn fields_behind_a_body_are_no_request() {
    let first = headers(1, &get());
    let one = request(Some("a.example"), "GET", "/x");
    for (trailer, expected, why) in [
        (headers(1, &kept("grpc-status", "0")), one.clone(), "fields"),
        (
            headers(1, &literal(":path", "/y")),
            malformed(why::REQUEST_LINE),
            "a path",
        ),
        (
            headers(1, &[0x82]),
            malformed(why::REQUEST_LINE),
            "a method",
        ),
        (
            headers(1, &[0x86]),
            malformed(why::REQUEST_LINE),
            "a scheme",
        ),
        (
            headers(1, &literal(":authority", "b")),
            malformed(why::REQUEST_LINE),
            "an authority",
        ),
        (
            headers(1, &literal("host", "b")),
            malformed(why::TWO_HOSTS),
            "a host",
        ),
    ] {
        let bytes = connection(&[
            first.clone(),
            frame(0, 0, 1, &[1; 5]),
            trailer,
            headers(3, &get()),
        ]);
        assert_eq!(said(&bytes), [one.clone(), expected], "{why}");
    }
}

#[test]
fn a_request_behind_an_upgrade_is_read() {
    let upgrade = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let bytes = [upgrade.as_slice(), &connection(&[headers(3, &get())])].concat();
    assert_eq!(
        said(&bytes),
        [
            request(Some("a"), "GET", "/u"),
            request(Some("a.example"), "GET", "/x")
        ]
    );
}

/// Connections with many requests in every way in which they can be written, whose fields a library reads as they were meant.
#[test]
fn generated_connections_are_read_as_they_were_meant() {
    const NAMES: [&str; 4] = [
        "a.example",
        "b.example:8080",
        "c.example.org",
        "192.0.2.1:1",
    ];
    const PATHS: [&str; 6] = [
        "/",
        "/index.html",
        "/pkg.Service/Method",
        "/a/../b",
        "/%7Ex?y=1",
        "/static/js/app.js",
    ];
    let mut requests = 0;
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut writer = Writer::new();
        let mut library = loona_hpack::Decoder::new();
        let mut bytes = connection(&[]);
        let mut expected = Vec::new();
        let mut id = 1;
        for _ in 0..rng.usize(1..60) {
            let mut block = Vec::new();
            if rng.u8(..8) == 0 {
                block.extend(writer.resize(rng.usize(..=4096)));
            }
            let pick = |rng: &mut Rng, of: &[&str]| of[rng.usize(..of.len())].to_owned();
            let name = pick(&mut rng, &NAMES);
            let path = if rng.bool() {
                pick(&mut rng, &PATHS)
            } else {
                format!("/{}", "x".repeat(rng.usize(..300)))
            };
            let method = pick(&mut rng, &["GET", "POST", "PUT", "DELETE"]);
            let mut fields = vec![
                (":method".to_owned(), method.clone()),
                (":scheme".into(), "http".into()),
                (":path".into(), path.clone()),
                (":authority".into(), name.clone()),
            ];
            for _ in 0..rng.usize(..12) {
                let field = if rng.bool() {
                    Writer::other(&mut rng).to_owned()
                } else {
                    format!("x-{}", rng.u8(..20))
                };
                let length = if rng.u8(..30) == 0 {
                    rng.usize(..5000)
                } else {
                    rng.usize(..60)
                };
                fields.push((field, "v".repeat(length)));
            }
            for (name, value) in &fields {
                block.extend(writer.field(&mut rng, name, value));
            }
            let read: Vec<_> = library
                .decode(&block)
                .expect("the block is right")
                .into_iter()
                .map(|(name, value)| {
                    (
                        String::from_utf8(name).unwrap(),
                        String::from_utf8(value).unwrap(),
                    )
                })
                .collect();
            assert_eq!(read, fields, "seed {seed}: what the library reads");
            let cut = rng.usize(..=block.len());
            if rng.bool() {
                bytes.extend(headers(id, &block));
            } else {
                bytes.extend(frame(HEADERS, 0, id, &block[..cut]));
                bytes.extend(frame(CONTINUATION, END_HEADERS, id, &block[cut..]));
            }
            bytes.extend(frame(0, 0, id, &vec![0; rng.usize(..100)]));
            id += 2;
            let host = name.split(':').next().expect("a part").to_owned();
            let host = if host.starts_with('1') {
                format!("<{host}>")
            } else {
                host
            };
            expected.push(request(
                Some(&host),
                &method,
                RequestPath::new(&path).as_str(),
            ));
            requests += 1;
        }
        let mut driver = Driver::new(false);
        driver.feed(&bytes);
        let found: Vec<_> = driver.said.into_iter().map(|(_, said)| said).collect();
        assert_eq!(found, expected, "seed {seed}");
        if bytes.len() < 1200 {
            said(&bytes);
        }
    }
    assert!(requests > 1000, "{requests} requests");
}

#[test]
fn all_bytes_are_decoded_from_their_codes() {
    let mut rng = Rng::with_seed(3);
    for _ in 0..3000 {
        let path: Vec<u8> = (0..rng.usize(..40))
            .map(|_| {
                loop {
                    let byte = rng.u8(..);
                    if byte > b' ' && !b"#?\\%/.\x7f".contains(&byte) {
                        break byte;
                    }
                }
            })
            .collect();
        let path = [b"/", path.as_slice()].concat();
        let block = [vec![0x82, 0x86, 4], coded(&path), vec![1], coded(b"a")].concat();
        let bytes = connection(&[headers(1, &block)]);
        let mut driver = Driver::new(false);
        driver.feed(&bytes);
        let facts = driver.stream.facts();
        assert_eq!(
            facts.request().map(|request| request.1),
            Some(path.as_slice())
        );
    }
}

#[test]
fn the_fuzzers_seeds_with_a_scheme_lead_to_two_requests_each() {
    let seeds: [(&str, &[u8]); 5] = [
        (
            "scheme",
            include_bytes!("../../../fuzz/corpus/http2/scheme"),
        ),
        (
            "scheme-coded",
            include_bytes!("../../../fuzz/corpus/http2/scheme-coded"),
        ),
        (
            "scheme-host",
            include_bytes!("../../../fuzz/corpus/http2/scheme-host"),
        ),
        (
            "scheme-kept",
            include_bytes!("../../../fuzz/corpus/http2/scheme-kept"),
        ),
        (
            "scheme-tunnel",
            include_bytes!("../../../fuzz/corpus/http2/scheme-tunnel"),
        ),
    ];
    for (seed, mut rest) in seeds {
        let mut driver = Driver::new(false);
        driver.feed(PREFACE);
        driver.feed(&frame(4, 0, 0, &[]));
        let mut id = 1;
        while let [length, more @ ..] = rest {
            let (block, behind) = more.split_at(usize::from(*length));
            driver.feed(&headers(id, block));
            (id, rest) = (id + 2, behind);
        }
        let heads = (driver.said.iter()).filter(|(_, said)| matches!(said, Said::Head { .. }));
        assert_eq!(heads.count(), 2, "{seed}: {:?}", driver.said);
        assert_eq!(driver.stream.end(), Step::More, "{seed}");
    }
}
