//! The automaton against the patterns themselves: whatever the patterns, both say the same of every name.

use ebfw_common::abi::MAX_NAME;
use fastrand::Rng;

use super::{Advice, Limit, NameClasses as _, Names};
use crate::{
    domain::{DomainMatch, DomainPattern, Name},
    parse_policy, testgen,
};

/// Pairs of a pattern and a name that a plain `cargo test` judges.
const PAIRS: usize = 1_000_000;

fn glob(text: &str) -> DomainPattern {
    DomainPattern::new(text, DomainMatch::Glob).unwrap()
}

fn suffix(text: &str) -> DomainPattern {
    DomainPattern::new(text, DomainMatch::Suffix).unwrap()
}

fn globs<T: AsRef<str>>(texts: &[T]) -> Vec<DomainPattern> {
    texts.iter().map(|text| glob(text.as_ref())).collect()
}

/// Compares all patterns on `name` and says how many match.
fn check(names: &Names, patterns: &[DomainPattern], name: &str) -> usize {
    let name = Name::new(name);
    let class = names.class_of(&name);
    let mut matching = 0;
    let mut ids = Vec::new();
    for pattern in patterns {
        let expected = pattern.matches(&name);
        assert_eq!(
            names.matches(class, pattern),
            expected,
            "`{pattern}` (with names below: {}) and the name {name:?}, class {class}, among {patterns:?}",
            pattern.is_suffix()
        );
        if expected {
            matching += 1;
            ids.push(names.pattern(pattern).unwrap());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(*names.classes()[class as usize], ids, "the class of {name}");
    matching
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

const LABELS: [&str; 12] = [
    "a", "b", "ab", "api", "api-1", "cdn", "cdn_2", "example", "com", "co", "xn--p1ai", "0",
];
const GLOBS: [&str; 21] = [
    "*",
    "*",
    "*",
    "?",
    "?*",
    "a*",
    "*b",
    "*a*",
    "a?",
    "api-?",
    "[ab]",
    "[a-c]*",
    "[!a]",
    "[^a-z]*",
    "[!!-.]",
    "c{dn,o}*",
    "{a,b}",
    "{api,cdn}{-1,_2}",
    "{a*,?b,[0-9]}",
    "[]a]",
    "[--_]",
];

/// A pattern whose labels are globs with the probability `wild`.
fn pattern(rng: &mut Rng, wild: f64) -> Option<DomainPattern> {
    let labels: Vec<&str> = (0..rng.usize(1..5))
        .map(|_| {
            let is_glob = rng.f64() < wild;
            pick(rng, if is_glob { &GLOBS } else { &LABELS })
        })
        .collect();
    let text = labels.join(if rng.u8(..10) == 0 { "" } else { "." });
    let mode = [DomainMatch::Glob, DomainMatch::Suffix][rng.usize(..2)];
    DomainPattern::new(&text, mode).ok()
}

/// A name that `pattern` means, or nearly.
fn name(rng: &mut Rng, pattern: &DomainPattern) -> String {
    let mut name = String::new();
    if pattern.is_suffix() && rng.bool() {
        name = format!("{}.", pick(rng, &LABELS));
    }
    let text = pattern.to_string();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' if rng.u8(..20) == 0 => {}
            '*' => name += pick(rng, &["a", "b", "x", "api", "a.b", "b-a.", "é"]),
            '?' => name.push(rng.char('!'..='~')),
            '[' => {
                let class: Vec<char> = rest.by_ref().take_while(|&c| c != ']').collect();
                name.push(rng.choice(class).unwrap_or(']'));
            }
            '{' => {
                let group: String = rest.by_ref().take_while(|&c| c != '}').collect();
                let branches: Vec<&str> = group.split(',').collect();
                name += &pick(rng, &branches).replace(['*', '?'], "b");
            }
            c => name.push(c),
        }
    }
    mutate(rng, name)
}

fn mutate(rng: &mut Rng, mut name: String) -> String {
    let boundary = |rng: &mut Rng, name: &str| {
        let at = rng.usize(..=name.len());
        (0..=at)
            .rev()
            .find(|&at| name.is_char_boundary(at))
            .unwrap()
    };
    match rng.u8(..12) {
        0 => {
            let at = boundary(rng, &name);
            name.insert(at, rng.char('\0'..='\u{17f}'));
        }
        1 => name = name.replace('.', ""),
        2 => name = format!("{}{name}", pick(rng, &["x", "x.", ".", "a.b."])),
        3 => name += pick(rng, &["x", ".x", ".", ".com"]),
        4 => name.truncate(boundary(rng, &name.clone())),
        5 => name = name.to_uppercase(),
        6 => name = name.replacen('a', "b", 1),
        7 => name = name.chars().skip(1).collect(),
        _ => {}
    }
    name
}

#[test]
fn automaton_and_patterns_agree_on_random_patterns_and_names() {
    let (mut pairs, mut matching) = (0, 0);
    for seed in 0.. {
        if pairs >= PAIRS {
            break;
        }
        let mut rng = Rng::with_seed(seed);
        // Many inner globs that must all be told apart are refused, see below.
        let (number, wild) = [(1, 0.5), (4, 0.7), (12, 0.4), (60, 0.1)][rng.usize(..4)];
        let mut patterns: Vec<_> = (0..number)
            .filter_map(|_| pattern(&mut rng, wild))
            .collect();
        patterns.extend_from_within(..patterns.len() / 8);
        let names = Names::compile(&patterns)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{patterns:?}"));
        for _ in 0..400 {
            let name = match rng.choice(&patterns) {
                Some(pattern) => name(&mut rng, pattern),
                None => "example.com".into(),
            };
            matching += check(&names, &patterns, &name);
            pairs += patterns.len();
        }
    }
    println!("{pairs} pairs, {matching} matches");
    assert!(matching > pairs / 30, "{matching} of {pairs} match");
    assert!(matching < pairs / 2, "{matching} of {pairs} match");
}

/// Pattern, whether with the names below, names that it means, names that it does not mean.
type Case = (
    &'static str,
    bool,
    &'static [&'static str],
    &'static [&'static str],
);

#[test]
fn each_form_of_pattern_means_what_it_says() {
    let cases: [Case; 17] = [
        ("*", false, &["a", "..", "a.b", "é", "\0"], &["", "."]),
        (
            "a",
            false,
            &["a", "A", "a."],
            &["", "b", "aa", ".a", "a..", "x.a"],
        ),
        (
            "a.b",
            true,
            &["a.b", "x.a.b", "..a.b"],
            &["b", ".a.b", "xa.b", "a.b.c"],
        ),
        (
            "*.a.b",
            false,
            &["x.a.b", "..a.b", "x.y.a.b"],
            &["a.b", ".a.b", "xa.b"],
        ),
        ("*.a.b", true, &["a.b", "x.a.b"], &["xa.b", "b"]),
        ("*.*.a", true, &["x.a", "x.y.a"], &["a", ".a"]),
        ("a*", false, &["ab", "a.b", "a\u{80}"], &["a", "ba"]),
        (
            "a*",
            true,
            &["ab", "x.ab", "x.y.a.z"],
            &["a", "x.a", ".ab", "xab"],
        ),
        (
            "*a*",
            false,
            &["xax", ".a..", "aaa"],
            &["a", "ax", "xa", "xx", "aa"],
        ),
        (
            "a?c",
            false,
            &["abc", "a.c", "a\u{7f}c"],
            &["ac", "abbc", "aéc"],
        ),
        (
            "a[!b]c",
            false,
            &["a.c", "a?c", "a~c"],
            &["abc", "aBc", "ac"],
        ),
        ("[,-9]", false, &[",", "/", "0", "-"], &[":", "a", "+", " "]),
        ("[A-C]x", false, &["ax", "Bx", "cX"], &["dx", "x", "^x"]),
        ("[]a]", false, &["]", "a"], &["[", "b", "[]a]"]),
        ("!^*", false, &["!^a"], &["a^a", "!!a", "#^a"]),
        (
            "{a,bc}.{d,*e}",
            false,
            &["a.d", "bc.xe", "a.x.e"],
            &["a.e", "b.d", "a.", "{a.d"],
        ),
        ("{a,b}.c", true, &["a.c", "x.b.c"], &["xa.c", ".a.c", "c.c"]),
    ];
    let all: Vec<DomainPattern> = cases
        .iter()
        .map(|(text, below, ..)| if *below { suffix(text) } else { glob(text) })
        .collect();
    let together = Names::compile(&all).unwrap();
    for ((text, _, meant, other), pattern) in cases.iter().zip(&all) {
        let alone = Names::compile([pattern]).unwrap();
        for (list, expected) in [(meant, 1), (other, 0)] {
            for name in *list {
                let matching = check(&alone, std::slice::from_ref(pattern), name);
                assert_eq!(matching, expected, "`{text}` and {name:?}");
                check(&together, &all, name);
            }
        }
    }
}

#[test]
fn nothing_matches_where_there_are_no_patterns() {
    for names in [Names::none(), Names::compile([]).unwrap()] {
        assert!(names.cells().is_empty());
        assert_eq!(*names.classes(), [Box::default()]);
        for name in ["", "a", "example.com"] {
            assert_eq!(names.class_of(&Name::new(name)), 0);
        }
        assert_eq!(names.pattern(&glob("a")), None);
        assert!(!names.matches(0, &glob("a")) && !names.matches(9, &glob("a")));
    }
}

#[test]
fn names_may_be_as_long_as_dns_allows() {
    let long = format!("{}.com", "a".repeat(MAX_NAME - 4));
    let patterns = [
        glob(&long),
        glob("*.com"),
        glob("a*"),
        glob("?*b*.com"),
        suffix("com"),
    ];
    let names = Names::compile(&patterns).unwrap();
    assert_eq!(check(&names, &patterns, &long), 4);
    assert_eq!(check(&names, &patterns, &long.replacen('a', "b", 1)), 2);
    assert_eq!(check(&names, &patterns, &long[1..]), 3);
    let longer = Name::new(&format!("a{long}"));
    assert_eq!(
        names.class_of(&longer),
        0,
        "no name, so not even `*` is asked"
    );
}

#[test]
fn a_pattern_that_is_there_twice_counts_once() {
    let patterns = globs(&["a.com", "*.com", "A.com.", "[a].com", "a.com"]);
    let names = Names::compile(&patterns).unwrap();
    assert_eq!(names.pattern(&patterns[0]), names.pattern(&patterns[2]));
    assert_ne!(names.pattern(&patterns[0]), names.pattern(&patterns[3]));
    let class = names.class_of(&Name::new("a.com"));
    assert_eq!(*names.classes()[class as usize], [0, 1, 2]);
    assert_ne!(
        names.pattern(&suffix("a.com")),
        names.pattern(&glob("a.com")),
        "the same text with another meaning"
    );
}

#[test]
fn lists_are_told_apart_and_their_entries_only_where_they_must_be() {
    let lists = [
        globs(&["a.com", "b.com", "*.c.com"]),
        globs(&["*.c.com", "d.com"]),
        globs(&["b.com", "a.com", "b.com"]),
        vec![],
    ];
    let names = Names::compile_lists(lists.iter().map(Vec::as_slice)).unwrap();
    let id = |text| names.pattern(&glob(text)).unwrap();
    assert_eq!(
        id("a.com"),
        id("b.com"),
        "both in the first and the third list"
    );
    assert_ne!(id("a.com"), id("*.c.com"));
    assert_ne!(id("d.com"), id("*.c.com"));
    for name in ["a.com", "b.com", "x.c.com", "c.com", "d.com", "e.com"] {
        let name = Name::new(name);
        let class = names.class_of(&name);
        for list in &lists {
            assert_eq!(
                list.iter().any(|pattern| names.matches(class, pattern)),
                list.iter().any(|pattern| pattern.matches(&name)),
                "{name} and {list:?}"
            );
        }
    }
    let classes: Vec<&[u32]> = names.classes().iter().map(|ids| &**ids).collect();
    assert_eq!(classes.len(), 4, "none, and one for each id: {classes:?}");
}

#[test]
fn lists_and_patterns_agree_on_random_lists() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let pool: Vec<_> = (0..30).filter_map(|_| pattern(&mut rng, 0.3)).collect();
        let lists: Vec<Vec<DomainPattern>> = (0..rng.usize(1..6))
            .map(|_| {
                let number = rng.usize(1..20);
                (0..number)
                    .map(|_| rng.choice(&pool).unwrap().clone())
                    .collect()
            })
            .collect();
        let Ok(names) = Names::compile_lists(lists.iter().map(Vec::as_slice)) else {
            panic!("seed {seed}: refused");
        };
        for _ in 0..200 {
            let near = rng.choice(&pool).unwrap();
            let name = Name::new(&name(&mut rng, near));
            let class = names.class_of(&name);
            for list in &lists {
                assert_eq!(
                    list.iter().any(|pattern| names.matches(class, pattern)),
                    list.iter().any(|pattern| pattern.matches(&name)),
                    "seed {seed}, {name} and {list:?}"
                );
            }
        }
    }
}

#[test]
fn a_policy_hands_out_the_domains_of_its_rules() {
    let text = "rules:\n\
        - {action: Allow, match: {domains: [a.com, '*.b.com']}}\n\
        - {action: Deny, match: {ports: [80]}}\n\
        - {action: Deny, match: {domains: [a.com]}}\n";
    let policy = parse_policy(text).unwrap();
    let (a, b) = (glob("a.com"), glob("*.b.com"));
    assert_eq!(policy.domain_lists().count(), 2);
    assert!(policy.domains().eq([&a, &b, &a]));
    let names = Names::compile_lists(policy.domain_lists()).unwrap();
    assert_eq!(names.class_of(&Name::new("b.com")), 0);
    assert!(names.matches(names.class_of(&Name::new("a.com")), &a));
    assert!(names.matches(names.class_of(&Name::new("x.b.com")), &b));
}

#[test]
fn many_names_share_a_class() {
    let names: Vec<String> = (0..5000)
        .map(|at| format!("host-{at}.example.com"))
        .collect();
    let patterns = globs(&names);
    let automaton = Names::compile_lists([&patterns[..]]).unwrap();
    assert_eq!(automaton.classes().len(), 2);
    assert!(
        automaton.cells().len() < 1000,
        "{}",
        automaton.cells().len()
    );
    for name in &names {
        assert_eq!(automaton.class_of(&Name::new(name)), 1, "{name}");
    }
    for other in [
        "host-5000.example.com",
        "host-00.example.com",
        "host-.example.com",
    ] {
        assert_eq!(automaton.class_of(&Name::new(other)), 0, "{other}");
    }
}

#[test]
fn patterns_that_explode_are_refused_and_the_worst_are_named() {
    let ordered = (0..40).map(|at| format!("*a*b*c*{at}*")).collect();
    let apart = ('a'..='z').map(|letter| format!("*{letter}*")).collect();
    let far = (1..60).map(|at| format!("{}a{}*", "?".repeat(at), "?".repeat(60)));
    let far = far.collect();
    let cases: [(Vec<String>, &str, &str); 3] = [
        (
            ordered,
            "every order of what is between the stars",
            "*a*b*c*0*",
        ),
        (apart, "every subset of the letters", "*a*"),
        (far, "every subset of the places at which an `a` is", "?a?"),
    ];
    for (texts, why, worst) in cases {
        let patterns = globs(&texts);
        let error = Names::compile(&patterns).expect_err(why);
        assert_eq!(
            (error.patterns, error.limit),
            (patterns.len(), Limit::States)
        );
        let Advice::Simplify(worst_of) = &error.advice else {
            panic!("{why}: {error}");
        };
        assert_eq!(worst_of.len(), 3);
        assert!(error.to_string().contains(worst), "{why}: {error}");
    }
}

#[test]
fn inner_globs_are_fine_where_they_need_not_be_told_apart() {
    let words: Vec<String> = (0..200).map(|at| format!("*word-{at}*")).collect();
    let words = globs(&words);
    let names = Names::compile_lists([&words[..], &globs(&["*.example.com"])]).unwrap();
    for (name, word, below) in [
        ("a-word-7-b.example.com", true, true),
        ("word-7.example.com", false, true),
        ("a.word-199.word-198.b", true, false),
        ("a.word-.example.com", false, true),
        ("a.word-1", false, false),
    ] {
        let name = Name::new(name);
        let class = names.class_of(&name);
        assert_eq!(names.matches(class, &words[0]), word, "{name}");
        assert_eq!(words.iter().any(|word| word.matches(&name)), word, "{name}");
        assert_eq!(
            names.matches(class, &glob("*.example.com")),
            below,
            "{name}"
        );
    }
}

#[test]
fn wildcards_far_from_both_ends_cost_little() {
    let question_marks = "?".repeat(60);
    let patterns = globs(&[
        format!("*a{question_marks}"),
        format!("*[ab]{question_marks}"),
        format!("b{question_marks}*"),
    ]);
    let names = Names::compile(&patterns).unwrap();
    assert!(names.cells().len() < 1000, "{}", names.cells().len());
    let tail = "x".repeat(60);
    assert_eq!(check(&names, &patterns, &format!("ba{tail}")), 3);
    assert_eq!(check(&names, &patterns, &format!("xb{tail}")), 1);
}

#[test]
fn many_patterns_fit_into_the_kernel() {
    // A fifth of the 100,000 that the benchmark compiles, in a fifth of the memory; and of such as have nothing in common.
    let (alike, random) = (testgen::domains(20_000), random_names(20_000));
    for (patterns, limit) in [(alike, 4 << 20), (random, 8 << 20)] {
        for names in [
            Names::compile_lists(patterns.chunks(100)).unwrap(),
            Names::compile(&patterns).unwrap(),
        ] {
            let bytes = size_of_val(names.cells());
            assert!(bytes < limit / 5, "{bytes} bytes");
        }
    }
}

/// `*.`, eight letters, seven letters and an ending.
fn random_names(count: usize) -> Vec<DomainPattern> {
    let mut rng = Rng::with_seed(1);
    let mut label = |letters: usize| (0..letters).map(|_| rng.lowercase()).collect::<String>();
    let name = |_| format!("*.{}.{}.net", label(8), label(7));
    (0..count).map(name).map(|name| glob(&name)).collect()
}
