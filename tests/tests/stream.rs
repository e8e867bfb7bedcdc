//! The readers of streams as the kernel runs them: they load, and they say what they say outside of the kernel. Needs root.

#[path = "../../ebfw-common/tests/stream/drive.rs"]
mod drive;
#[expect(dead_code, reason = "the reader's own tests use the rest")]
#[path = "../../ebfw-common/tests/stream/frames.rs"]
mod frames;
#[path = "../../ebfw-common/tests/stream/hello.rs"]
mod hello;

use ebfw_agent::datapath::StreamReader;
use ebfw_common::stream::{Step, why};
use ebfw_tests::packet::segment;
use fastrand::Rng;

use crate::{
    drive::{Driver, Said, heard},
    frames::{PREFACE, Writer, frame, headers},
    hello::{extension, hello, record, records, server_name},
};

/// As in `datapath`: half of what the verifier is willing to follow.
const VERIFIED_CEILING: u32 = 500_000;

/// What the kernel says about a stream that is one packet.
fn read(reader: &StreamReader, bytes: &[u8]) -> Vec<(usize, Said)> {
    let (read, _) = reader
        .read(&segment(bytes), 1)
        .expect("the kernel reads it");
    read.into_iter()
        .filter(|read| read.step != Step::More)
        .map(|read| (read.at as usize, heard(read.step, &read.facts, read.why)))
        .collect()
}

fn expected(bytes: &[u8]) -> Vec<(usize, Said)> {
    let mut driver = Driver::new(false);
    driver.feed(bytes);
    driver.said
}

const GET: &[u8] = b"GET /a/../%62 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n";
/// As a browser sends it.
const REQUEST: &[u8] = b"GET /static/js/app.js?v=2024-11-25 HTTP/1.1\r\nHost: shop.example:8080\r\nConnection: keep-alive\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n\r\n";
const POST: &[u8] = b"POST /form HTTP/1.1\r\nHost: A.example.\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789";
const CHUNKS: &[u8] = b"PUT /x HTTP/1.1\r\nHost: 192.0.2.7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n";
const ABSOLUTE: &[u8] = b"GET http://a.example/%7Ex//y/./z?q HTTP/1.1\r\nHost: a.example\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";

const UPGRADE: &[u8] = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// A connection with requests to these authorities and paths.
fn http2(requests: &[&[&str; 2]]) -> Vec<u8> {
    let mut rng = Rng::with_seed(9);
    let mut writer = Writer::new();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
    for (&[authority, path], id) in requests.iter().zip((1..).step_by(2)) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.70.0"),
            ("te", "trailers"),
        ] {
            block.extend(writer.field(&mut rng, name, value));
        }
        bytes.extend(headers(id, &block));
        bytes.extend(frame(0, 1, id, &[0; 45]));
    }
    bytes
}

/// Streams of all kinds, whole.
fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let sni = server_name(b"Shop.Example.");
    let large = hello(&[
        extension(51, &[5; 1263]),
        sni.clone(),
        extension(0xfe0d, &[6; 192]),
    ]);
    let small = records(&hello(std::slice::from_ref(&sni)), 16384);
    let second = records(&hello(&[server_name(b"b.example")]), 40);
    vec![
        ("a hello", small.clone()),
        ("records of 1 byte", records(&large, 1)[..1300].to_vec()),
        ("records of 50 bytes", records(&large, 50)),
        ("a large hello", records(&large, 16384)),
        ("two names", records(&hello(&[sni.clone(), sni]), 16384)),
        (
            "two hellos",
            [small.clone(), record(20, &[1]), second].concat(),
        ),
        ("what comes behind", [small, record(23, &[1; 300])].concat()),
        ("a request", REQUEST.to_vec()),
        ("a request by itself", GET.to_vec()),
        ("requests and bodies", [REQUEST, POST, CHUNKS, GET].concat()),
        ("a target with a host", ABSOLUTE.to_vec()),
        ("a tunnel", [CONNECT, b"\x16\x03\x01".as_slice()].concat()),
        ("HTTP/2", http2(&[&["a.example", "/"]; 1])),
        (
            "HTTP/2 as gRPC speaks it",
            http2(&[&["grpc.example:50051", "/pkg.Service/Method"]; 12]),
        ),
        (
            "HTTP/2 with other paths",
            http2(&[
                &["a.example", "/x/../%41"],
                &["b.example", "/y?z"],
                &["a.example", "*"],
            ]),
        ),
        (
            "HTTP/2 behind an upgrade",
            [UPGRADE, &http2(&[&["a.example", "/"]; 2])].concat(),
        ),
        ("another protocol", b"\0\0\0\x17hello".to_vec()),
    ]
}

#[test]
fn the_kernel_reads_streams_as_they_are_read_outside() {
    if !ebfw_test_need::root() {
        return;
    }
    let reader = StreamReader::load().unwrap_or_else(|error| panic!("{error:?}"));
    let verified = reader.verified_instructions();
    eprintln!("verified: {verified:?}");
    assert!(
        verified.is_none_or(|count| count <= VERIFIED_CEILING),
        "{verified:?} instructions verified, {VERIFIED_CEILING} at most"
    );
    let mut rng = Rng::with_seed(4);
    let mut ends = 0;
    for (name, bytes) in streams() {
        assert_eq!(read(&reader, &bytes), expected(&bytes), "{name}");
        for _ in 0..300 {
            let mut broken = bytes.clone();
            broken.truncate(rng.usize(1..=bytes.len()));
            for _ in 0..rng.usize(..3) {
                let at = rng.usize(..broken.len());
                broken[at] = rng.u8(..);
            }
            let said = expected(&broken);
            ends += usize::from(matches!(said.last(), Some((_, Said::End(..)))));
            assert_eq!(read(&reader, &broken), said, "{name}: {broken:02x?}");
        }
    }
    assert!(ends > 500, "{ends} of the broken streams are malformed");
    let why = read(&reader, &streams()[4].1);
    assert!(matches!(
        why.last(),
        Some((_, Said::End(Step::Malformed, why::TWO_NAMES)))
    ));
    for (name, bytes) in streams() {
        let (_, run) = reader.read(&segment(&bytes), 1000).unwrap();
        eprintln!("{name}: {} bytes in {:?}", bytes.len(), run.duration);
    }
}
