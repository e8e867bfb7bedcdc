//! Prefixes and methods, each judged by the kernel's own walk over the compiled cells.

use std::sync::Arc;

use ebfw_common::{
    classify::{Flow, NO_NAMES, Outcome, Said, TableError, request},
    layout::Block,
    request::{MAX_METHOD, MAX_PATH, MAX_PATH_PREFIX},
};
use fastrand::Rng;

use crate::{
    compile::{CompileError, NoNames, Tables, compile},
    http::{Method, PathPrefix, RequestPath},
    policy::{Action, AnyOf, MAX_RULES, Match, Position, Rule},
    ruleset::Ruleset,
};

fn rule(matches: Match) -> Arc<Rule> {
    Arc::new(Rule {
        name: "r".into(),
        action: Action::Deny,
        matches,
        mutations: Vec::new(),
        strict_l7: false,
        position: Position::default(),
    })
}

fn ruleset(rules: impl IntoIterator<Item = Match>) -> Ruleset {
    Ruleset {
        rules: rules.into_iter().map(rule).collect(),
        default: Action::Allow,
        govern_loopback: false,
    }
}

fn below(prefix: &str) -> Match {
    Match {
        path_prefix: Some(PathPrefix::new(prefix).unwrap()),
        ..Match::ANYTHING
    }
}

fn by(methods: &[&str]) -> Match {
    let method = |text: &&str| Method::from_policy(text).unwrap();
    Match {
        methods: AnyOf::Entries(methods.iter().map(method).collect()),
        ..Match::ANYTHING
    }
}

fn tables(rules: impl IntoIterator<Item = Match>) -> Tables {
    compile(&ruleset(rules), &NoNames).unwrap()
}

/// The rule that a request meets first.
fn first(tables: &Tables, method: &str, target: &str) -> Result<Option<u16>, TableError> {
    let view = tables.view();
    let (method, path) = (Method::from_request(method), RequestPath::new(target));
    let (method, path) = view.request(Some(&method), Some(&path))?;
    let flow = Flow {
        destination: [0; 16].into(),
        protocol: 6,
        port: Some(80),
        said: Said {
            request: request::KNOWN,
            method,
            path,
            ..Said::UNREAD
        },
        names: NO_NAMES,
    };
    Ok(match view.classify(&flow)? {
        Outcome::Rule { rule, .. } => Some(rule),
        Outcome::Default { .. } => None,
        Outcome::Held { rule } => panic!("rule {rule} waits for nothing"),
    })
}

#[test]
fn a_path_is_met_by_whole_elements_from_its_start() {
    let tables = tables([
        below("/api/v1/users"),
        below("/api/v1"),
        below("/apiv2"),
        below("/API"),
        below("/a"),
        below("/%7e/%e4"),
        below("/api/"),
    ]);
    for (target, wanted, why) in [
        ("/api", Some(6), "the prefix itself"),
        ("/api/", Some(6), "a slash behind it"),
        ("/api/x", Some(6), "below it"),
        ("/apix", None, "no whole element"),
        ("/api/v1", Some(1), "the first of two that mean it"),
        ("/api/v1/", Some(1), "likewise"),
        ("/api/v10", Some(6), "one element less"),
        ("/api/v1/users", Some(0), "the first of three"),
        ("/api/v1/users/7", Some(0), "below it"),
        ("/api/v1/usersx", Some(1), "the last element is another"),
        (
            "/api/v1/user",
            Some(1),
            "the last element ends before the prefix",
        ),
        ("/api/v", Some(6), "in the middle of an element"),
        ("/apiv2/x", Some(2), "begins as another does"),
        ("/API", Some(3), "case counts"),
        ("/Api", None, "case counts"),
        ("/a", Some(4), "begins as others do"),
        ("/a/pi", Some(4), "likewise"),
        ("/ap", None, "on the way to others"),
        ("/~/%E4/x", Some(5), "escapes in one form"),
        ("/~/%e4", Some(5), "escapes in one form"),
        ("/", None, "nothing of any"),
        ("", None, "no path"),
        ("*", None, "OPTIONS *"),
        ("api", None, "no slash at the start"),
        ("/api/../a/x", Some(4), "resolved first"),
        ("/api?/v1", Some(6), "the query does not count"),
        ("//api//v1", Some(1), "empty elements do not count"),
    ] {
        assert_eq!(first(&tables, "GET", target), Ok(wanted), "{target}: {why}");
    }
}

#[test]
fn the_root_means_every_path_and_nothing_else() {
    let tables = tables([below("/x"), below("/")]);
    for (target, wanted) in [
        ("/", Some(1)),
        ("/y", Some(1)),
        ("/x", Some(0)),
        ("/x/y", Some(0)),
        ("/xy", Some(1)),
        ("", Some(1)),
        ("*", None),
        ("example.com:443", None),
    ] {
        assert_eq!(first(&tables, "GET", target), Ok(wanted), "{target}");
        let prefix = PathPrefix::new("/").unwrap();
        assert_eq!(
            prefix.matches(&RequestPath::new(target)),
            wanted.is_some(),
            "{target}"
        );
    }
}

#[test]
fn a_method_is_met_whole_and_as_it_is_written() {
    let longest = "M".repeat(MAX_METHOD);
    let tables = tables([
        by(&["GET", "POST"]),
        by(&["post", "GETS", "M-SEARCH"]),
        by(&[&longest]),
    ]);
    for (method, wanted) in [
        ("GET", Some(0)),
        ("POST", Some(0)),
        ("GETS", Some(1)),
        ("M-SEARCH", Some(1)),
        ("get", None),
        ("GE", None),
        ("GETT", None),
        ("", None),
        ("\u{e4}", None),
        (&longest, Some(2)),
        (&longest[1..], None),
        (&"M".repeat(MAX_METHOD + 1), None),
        (&"M".repeat(1000), None),
    ] {
        assert_eq!(first(&tables, method, "/"), Ok(wanted), "{method}");
    }
}

#[test]
fn method_and_path_must_both_be_met_by_one_rule() {
    let both = Match {
        path_prefix: PathPrefix::new("/a"),
        ..by(&["GET"])
    };
    let tables = tables([both, below("/b"), by(&["PUT"])]);
    for (method, target, wanted) in [
        ("GET", "/a", Some(0)),
        ("GET", "/b", Some(1)),
        ("PUT", "/a", Some(2)),
        ("PUT", "/b", Some(1)),
        ("POST", "/a", None),
        ("GET", "/c", None),
    ] {
        assert_eq!(
            first(&tables, method, target),
            Ok(wanted),
            "{method} {target}"
        );
    }
}

#[test]
fn a_path_longer_than_what_is_kept_is_met_by_its_start() {
    let longest = format!("/{}", "p".repeat(MAX_PATH_PREFIX - 1));
    let tables = tables([below(&longest), below("/p")]);
    for (target, wanted, why) in [
        (longest.clone(), Some(0), "the longest prefix itself"),
        (format!("{longest}/x"), Some(0), "what follows is seen"),
        (format!("{longest}x"), None, "what follows is seen"),
        (format!("{longest}xx/p"), None, "a longer element"),
        (format!("/p/{}", "q/".repeat(4000)), Some(1), "a long rest"),
        (format!("/p{}", "p".repeat(MAX_PATH)), None, "no end"),
    ] {
        assert_eq!(first(&tables, "GET", &target), Ok(wanted), "{why}");
    }
}

/// Elements of which some begin as others do.
const ELEMENTS: [&str; 8] = ["a", "b", "ab", "aa", "api", "apis", "~", "%2F"];

fn random_path(rng: &mut Rng, elements: usize) -> String {
    let number = rng.usize(0..=elements);
    let path: String = (0..number)
        .map(|_| format!("/{}", ELEMENTS[rng.usize(..ELEMENTS.len())]))
        .collect();
    match rng.u8(..8) {
        0 => path + "/",
        1 => path + "/.",
        2 => path + "/a/..",
        3 => path + "x",
        _ => path,
    }
}

#[test]
fn a_million_prefixes_and_paths_meet_where_the_engine_says_so() {
    let (mut pairs, mut met) = (0, 0);
    for seed in 0.. {
        if pairs >= 1_000_000 {
            break;
        }
        let mut rng = Rng::with_seed(seed);
        let number = if seed % 16 == 0 { 1000 } else { 64 };
        let prefixes: Vec<PathPrefix> = (0..number)
            .map(|_| random_path(&mut rng, 5))
            .filter_map(|path| PathPrefix::new(&path))
            .collect();
        let rules = prefixes.iter().map(|prefix| Match {
            path_prefix: Some(prefix.clone()),
            ..Match::ANYTHING
        });
        let ruleset = ruleset(rules);
        let words = ruleset.rules.len().div_ceil(64).max(1).next_power_of_two();
        let requests = super::compile(&ruleset.rules, words).ok().unwrap();
        let tables = compile(&ruleset, &NoNames).unwrap();
        let view = tables.view();
        for _ in 0..200 {
            let path = RequestPath::new(&random_path(&mut rng, 7));
            let (_, class) = view.request(None, Some(&path)).unwrap();
            let set = requests.paths.classes.set(class as usize).words();
            for (index, prefix) in prefixes.iter().enumerate() {
                let is_met = set[index / 64] >> (index % 64) & 1 == 1;
                assert_eq!(is_met, prefix.matches(&path), "{prefix} {}", path.as_str());
                met += u64::from(is_met);
                pairs += 1;
            }
        }
    }
    assert!(met > pairs / 100, "{met} of {pairs}");
}

#[test]
fn the_walk_does_not_depend_on_the_number_of_prefixes() {
    // Looks at cells are counted by their blocks.
    let looks = |rules: usize| {
        let tables = tables((0..rules).map(|number| below(&format!("/service-{number}/v1"))));
        let counted = Counted(&tables.blocks, std::cell::Cell::new(0));
        let path = b"/service-7/v1/some/where/else";
        let class = ebfw_common::request::class_of_path(
            &counted,
            tables.header(),
            &path[..],
            path.len() as u32,
        );
        assert!(matches!(class, Ok(class) if class > 0));
        counted.1.get()
    };
    assert_eq!(looks(8), looks(MAX_RULES));
}

struct Counted<'a>(&'a [Block], std::cell::Cell<u32>);

impl ebfw_common::classify::Tables for Counted<'_> {
    fn block(&self, index: u32) -> Option<&Block> {
        self.1.set(self.1.get() + 1);
        self.0.get(index as usize)
    }
    fn class_v4(&self, _: [u8; 4]) -> Result<Option<u32>, TableError> {
        Err(TableError)
    }
    fn class_v6(&self, _: ebfw_common::abi::Address) -> Result<Option<u32>, TableError> {
        Err(TableError)
    }
}

#[test]
fn classes_that_the_tables_do_not_have_are_an_error() {
    let tables = tables([below("/a"), by(&["GET"])]);
    let flow = |method, path| Flow {
        destination: [0; 16].into(),
        protocol: 6,
        port: Some(80),
        said: Said {
            request: request::KNOWN,
            method,
            path,
            ..Said::UNREAD
        },
        names: NO_NAMES,
    };
    let judge = |method, path| tables.view().classify(&flow(method, path));
    assert!(judge(1, 1).is_ok());
    for wrong in [2, 0xffff, u32::MAX] {
        assert_eq!(judge(wrong, 0), Err(TableError));
        assert_eq!(judge(0, wrong), Err(TableError));
    }
}

#[test]
fn cells_that_are_cut_off_are_an_error_and_no_class() {
    let mut tables = tables([below("/a"), by(&["GET"])]);
    let cells = tables.header().cells as usize;
    tables.blocks.truncate(cells);
    assert_eq!(first(&tables, "GET", "/a"), Err(TableError));
}

#[test]
fn the_longest_prefixes_of_the_largest_ruleset_fit_or_are_refused() {
    let long = |number: usize, length: usize| {
        let text = format!("/{number:x}/");
        below(&(text.clone() + &"x".repeat(length - text.len())))
    };
    let usual = tables((0..MAX_RULES).map(|number| long(number, 60)));
    assert!(usual.block_bytes() < 16 << 20, "{}", usual.block_bytes());
    for number in [0, 4095] {
        let target = format!(
            "/{number:x}/{}",
            "x".repeat(60 - 2 - format!("{number:x}").len())
        );
        assert_eq!(first(&usual, "GET", &target), Ok(Some(number)));
    }
    let huge = ruleset((0..MAX_RULES).map(|number| long(number, MAX_PATH_PREFIX)));
    assert_eq!(
        compile(&huge, &NoNames),
        Err(CompileError::LargeRequests),
        "two million bytes"
    );
}

#[test]
fn a_ruleset_that_looks_at_no_request_carries_none() {
    let tables = tables([Match::ANYTHING]);
    assert_eq!(tables.header().cells, 0);
    let flow = Flow {
        destination: [0; 16].into(),
        protocol: 6,
        port: Some(80),
        said: Said {
            request: request::KNOWN,
            method: u32::MAX,
            path: u32::MAX,
            ..Said::UNREAD
        },
        names: NO_NAMES,
    };
    assert!(tables.view().classify(&flow).is_ok(), "nor looks at it");
}
