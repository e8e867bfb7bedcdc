//! Streams of HTTP/1: a head that is read is one that httparse reads alike, and none that it reads is opaque.
#![no_main]

use ebfw_common::stream::{Step, flag};
use ebfw_fuzz::read_both_ways;
use httparse::{EMPTY_HEADER, Request, Status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let read = read_both_ways(bytes);
    let mut headers = [EMPTY_HEADER; 256];
    let mut request = Request::new(&mut headers);
    let parsed = request.parse(bytes);
    let Some((length, facts)) = read.heads.first() else {
        if let Ok(Status::Complete(_)) = parsed {
            assert_eq!(read.end, Step::Malformed, "a head that is overlooked");
        }
        return;
    };
    if !facts.has(flag::REQUEST) {
        return;
    }
    let complete = match parsed {
        Ok(Status::Complete(complete)) => complete,
        // It wants targets to be UTF-8, and has an end of patience.
        Err(httparse::Error::Token | httparse::Error::TooManyHeaders) => return,
        other => panic!("httparse says {other:?}"),
    };
    assert_eq!(*length, complete);
    let (method, path) = facts.request().expect("a request");
    assert_eq!(method, request.method.unwrap_or_default().as_bytes());
    // Which path it is, the tests compare with the engine; that it is in its normal form must hold for every one.
    let target = request.path.unwrap_or_default();
    if target.starts_with('/') && !facts.has(flag::CUT) {
        assert!(path.starts_with(b"/"));
        let inner = path.split(|byte| *byte == b'/').skip(1);
        let elements: Vec<_> = inner.collect();
        for (index, element) in elements.iter().enumerate() {
            assert!(!matches!(*element, b"." | b".."));
            assert!(!element.is_empty() || index + 1 == elements.len());
        }
        assert!(!path.contains(&b'?') && path.len() <= target.len());
    }
    let hosts: Vec<_> = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .collect();
    match hosts.as_slice() {
        [] => {}
        [host] => {
            let value = host.value.to_ascii_lowercase();
            let named = facts.has(flag::NAME) || facts.has(flag::LITERAL);
            assert_eq!(named, !value.is_empty());
            let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
            if facts.has(flag::NAME) {
                let claimed = &facts.name[..facts.name_length as usize];
                assert_eq!(claimed, name.strip_suffix(b".").unwrap_or(name));
            }
        }
        _ => panic!("two hosts that were read as one"),
    }
});
