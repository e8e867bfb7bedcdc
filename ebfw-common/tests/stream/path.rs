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

/// Whether a part of a segment would be `.` or `..` where an encoded slash is a border or a semicolon an end; or there is an encoded zero.
fn leads_elsewhere(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path.split('/').any(|segment| {
        let mut parts = vec![String::new()];
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            let escaped = rest.get(1..3).filter(|_| first == '%');
            let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            // A number may have a sign here, an escape not.
            let escaped = escaped.filter(|_| rest.as_bytes()[1] != b'+');
            let length = if escaped.is_some() {
                3
            } else {
                first.len_utf8()
            };
            rest = &rest[length..];
            match escaped.map_or(first, char::from) {
                '\0' => return true,
                '/' | '\\' => parts.push(String::new()),
                byte => parts.last_mut().expect("one at least").push(byte),
            }
        }
        let dots = |part: &str| matches!(part, "." | "..");
        let splits = parts.len() > 1;
        parts.iter().any(|part| {
            let head = part.split_once(';').map(|(head, _)| head);
            splits && dots(part) || head.is_some_and(dots)
        })
    })
}

fn check(target: &str) {
    if leads_elsewhere(target) {
        assert_eq!(read(target), None, "{target}");
        return;
    }
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
    const PIECES: [&str; 25] = [
        ";", "%3b", "%5C", "%00", "%2f", "/", "/", "/", ".", "..", "%2e", "%2E", "%", "%4", "%41",
        "%2f", "a", "bc", "%e4", "-", "~", "//", "/../", "é", "%7",
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
fn paths_that_lead_elsewhere_with_some_servers_are_malformed() {
    for (target, fits) in [
        ("/a/..%2fb", false),
        ("/a/%2e%2E%2Fb", false),
        ("/a%2f..", false),
        ("/a%2f../b", false),
        ("/a%2F.%2Fb?c", false),
        ("/a%5c..%5cb", false),
        ("/a/..;/b", false),
        ("/a/..;x=1/b", false),
        ("/a/.;", false),
        ("/a/%2e%2e%3B/b", false),
        ("/a%00", false),
        ("/@scope%2fname", true),
        ("/api/projects/group%2Fproject/x", true),
        ("/a%2f...%2fb", true),
        ("/a%2f..b", true),
        ("/a;x/..", true),
        ("/a;x=..", true),
        ("/...;/b", true),
        ("/a?b=..%2f..;", true),
        ("/a%252f..", true),
        ("/a%2fb/../c", true),
    ] {
        assert_eq!(read(target).is_some(), fits, "{target}");
        check(target);
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
