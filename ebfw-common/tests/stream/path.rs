//! Paths, against the engine.

use ebfw_common::stream::{MAX_PATH, Step, flag};
use ebfw_policy::http::RequestPath;
use fastrand::Rng;

use crate::drive::Driver;

/// The path of a request, what is kept of it and whether that is all; `None` where the target is malformed.
fn read(target: &str) -> Option<(Vec<u8>, bool)> {
    let mut driver = Driver::new(false);
    driver.feed(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes());
    if driver.stream.end() == Step::Malformed {
        return None;
    }
    let facts = driver.stream.facts();
    let (_, path) = facts.request().expect("a whole request");
    assert_eq!(facts.path_length as usize > MAX_PATH, facts.has(flag::CUT));
    Some((path.to_vec(), !facts.has(flag::CUT)))
}

fn check(target: &str) {
    let path = RequestPath::new(target);
    let expected = path.as_str().as_bytes();
    let (found, whole) = read(target).unwrap_or_else(|| panic!("{target} is malformed"));
    assert_eq!(whole, expected.len() <= MAX_PATH, "{target}");
    let kept = &expected[..expected.len().min(MAX_PATH)];
    assert_eq!(
        String::from_utf8_lossy(&found),
        String::from_utf8_lossy(kept),
        "{target}"
    );
}

#[test]
fn the_query_is_kept_behind_the_path_as_it_was_sent() {
    let long = format!("/{}", "x".repeat(MAX_PATH - 4));
    for (target, kept) in [
        ("/a/../b?c=/../%41?", "/b?c=/../%41?".to_owned()),
        ("/a/..?c", "/?c".into()),
        ("http://a/%7E?/", "/~?/".into()),
        ("http://a?x", "/?x".into()),
        ("/?", "/?".into()),
        ("/a", "/a".into()),
        (&format!("{long}?abcdef"), format!("{long}?ab")),
        (&format!("{long}yyyy?a"), format!("{long}yyy")),
    ] {
        let mut driver = Driver::new(false);
        driver.feed(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes());
        let facts = driver.stream.facts();
        let found = String::from_utf8_lossy(facts.path_and_query());
        assert_eq!(found, kept, "{target}");
    }
}

#[test]
fn paths_are_what_the_engine_makes_of_them() {
    for target in [
        "/",
        "//",
        "/.",
        "/..",
        "/./",
        "/../..//../",
        "/...",
        "/..a",
        "/a/..",
        "/a/../",
        "/a/../b",
        "/a/./b/.",
        "/%2e",
        "/%2e%2E/a",
        "/.%2e/a",
        "/a/%2e./b",
        "/a/%2e%2e%2e/b",
        "/%2f",
        "/%2F..",
        "/%",
        "/%%",
        "/%4",
        "/%%41",
        "/%4%41",
        "/%e4%E4",
        "/%zz",
        "/%2",
        "/%2?e",
        "/%/..",
        "/%2/..",
        "/a%2/%2e",
        "/%25%32%65",
        "/%252e",
        "/a?b/../c",
        "/?",
    ] {
        check(target);
    }
}

#[test]
fn generated_paths_are_what_the_engine_makes_of_them() {
    const PIECES: [&str; 20] = [
        "/", "/", "/", ".", "..", "%2e", "%2E", "%", "%4", "%41", "%2f", "a", "bc", "%e4", "-",
        "~", "//", "/../", "é", "%7",
    ];
    let mut rng = Rng::with_seed(11);
    for _ in 0..200_000 {
        let pieces = rng.usize(..16);
        let target: String = (0..pieces)
            .map(|_| PIECES[rng.usize(..PIECES.len())])
            .collect();
        check(&format!("/{target}"));
    }
}

#[test]
fn a_path_longer_than_what_is_kept_comes_out_right() {
    let mut rng = Rng::with_seed(12);
    let mut cut = 0;
    for _ in 0..3000 {
        let mut target = String::new();
        for _ in 0..rng.usize(1..60) {
            target.push('/');
            match rng.u8(..8) {
                0 | 1 => target.push_str(".."),
                2 => target.push_str("%2e%2e"),
                3 => target.push_str(&"%41".repeat(rng.usize(..30))),
                _ => target.push_str(&"x".repeat(rng.usize(..200))),
            }
        }
        check(&target);
        cut += usize::from(RequestPath::new(&target).as_str().len() > MAX_PATH);
    }
    assert!((500..2800).contains(&cut), "{cut} of 3000 paths are cut");
    for length in MAX_PATH - 4..MAX_PATH + 4 {
        check(&format!("/{}", "x".repeat(length - 1)));
        check(&format!("/{}%41%2f/..", "x".repeat(length - 1)));
        check(&format!("/a/{}%2e/..", "x".repeat(length - 1)));
    }
}

#[test]
fn what_is_too_deep_is_malformed_and_not_misread() {
    check(&"/a".repeat(64));
    assert_eq!(read(&format!("{}/b", "/a".repeat(65))), None);
    assert_eq!(
        read(&format!("{}{}", "/a".repeat(66), "/..".repeat(66))),
        None
    );
    check(&"/a/..".repeat(5000));
}
