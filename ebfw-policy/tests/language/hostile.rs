//! Files meant to exhaust or to break the reader.

use std::time::{Duration, Instant};

use ebfw_policy::{MAX_BYTES, diagnostics::Code, flow::Flow, format_policy, parse_policy};
use proptest::prelude::*;

fn refused(file: &str) -> Code {
    let started = Instant::now();
    let problems = parse_policy(file).expect_err("the file is refused");
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "refusing takes time"
    );
    let _ = problems.render("policy", file, false);
    problems.iter().next().expect("there is a problem").code
}

#[test]
fn what_would_exhaust_the_reader_is_refused() {
    assert_eq!(refused(&" ".repeat(MAX_BYTES + 1)), Code::TooLarge, "size");
    assert_eq!(
        refused(&format!("rules: {}", "[".repeat(100_000))),
        Code::Syntax,
        "depth of brackets"
    );
    let deep: String = (0..200)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect();
    assert_eq!(refused(&deep), Code::Syntax, "depth of indentation");
    let laughs: String = (1..9)
        .map(|level| {
            format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{}", level - 1); 10].join(", ")
            )
        })
        .collect();
    assert_eq!(
        refused(&format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{laughs}")),
        Code::TooLarge,
        "aliases that multiply"
    );
    let shared = format!(
        "podSelector: {{matchLabels: &l {{{}}}}}\nrules: [{}]",
        "a: b, ".repeat(2),
        "*l, ".repeat(10)
    );
    refused(&shared);
    assert_eq!(refused(&"\u{0}".repeat(10)), Code::Syntax, "NUL");
}

#[test]
fn a_million_errors_are_counted_and_not_kept() {
    let file = format!("rules: [{}]", "1,".repeat(500_000));
    let problems = parse_policy(&file).unwrap_err();
    assert_eq!(problems.len(), ebfw_policy::diagnostics::MAX_KEPT + 1);
    assert!(problems.to_string().ends_with("and 499000 more"));
    assert!(problems.render("policy", &file, false).len() < 1_000_000);
    for part in ["!t a, ", "a: b, "] {
        let file = format!("rules: [{{{}}}]", part.repeat(200_000));
        let problems = parse_policy(&file).unwrap_err();
        assert_eq!(problems.len(), ebfw_policy::diagnostics::MAX_KEPT + 1);
    }
}

#[test]
fn globs_of_every_length_are_read_or_refused() {
    for length in [200, 253, 254, 5000, 100_000] {
        for part in ["?", "*", "[a]", "{a,b}", "[!a-z]", "a*", "/", "/*", "/**"] {
            let glob = part.repeat(length / part.len());
            let file = format!(
                "rules: [{{action: Deny, match: {{domains: [\"x{glob}\"], cgroups: [\"/{glob}\"]}}}}]"
            );
            if let Ok(policy) = parse_policy(&file) {
                let flow = Flow::parse("domain=xaaaa cgroup=/a/b").unwrap();
                let _ = policy
                    .select(&flow.workload())
                    .map(|ruleset| ruleset.map(|ruleset| ruleset.evaluate(&flow.facts())));
            }
        }
    }
}

const PIECES: [&str; 44] = [
    "rules",
    "match",
    "action",
    "name",
    "Allow",
    "Deny",
    "Modify",
    "mutations",
    "domains",
    "cidrs",
    "ports",
    "pod",
    "labels",
    "cgroups",
    ": ",
    ":",
    "- ",
    "\n",
    "\n  ",
    "\n    ",
    "\n      ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "!x ",
    "|",
    ">",
    "~",
    "10.0.0.0/8",
    "443",
    "80-90",
    "*.",
    "é",
    "\\",
    "\t",
    "---",
    "? ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn no_mixture_of_yaml_makes_the_reader_panic(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        check(&pieces.concat());
    }

    #[test]
    fn no_mutation_of_a_policy_makes_the_reader_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, prop::sample::select(&PIECES[..])), 1..6),
    ) {
        let mut file = include_str!("../../../examples/policy.yaml").to_owned();
        for (at, removed, added) in cuts {
            let from = file.floor_char_boundary(at.index(file.len() + 1));
            let to = file.floor_char_boundary((from + removed).min(file.len())).max(from);
            file.replace_range(from..to, added);
        }
        check(&file);
    }

    #[test]
    fn no_text_makes_the_flow_reader_panic(text in "\\PC{0,80}") {
        let _ = Flow::parse(&text).map(|flow| (flow.facts(), flow.workload(), flow.to_string()));
        let _ = Flow::parse_json(&text);
    }
}

/// Reads, and shows or formats what was read.
fn check(file: &str) {
    match parse_policy(file) {
        Ok(policy) => {
            let _ = policy.lint(file).render("policy", file, true);
            if let Some(Err(error)) = crate::schema::judge(file) {
                panic!("the schema refuses what the reader accepts: {error}");
            }
            if let Ok(formatted) = format_policy(file) {
                assert_eq!(
                    parse_policy(&formatted).as_ref(),
                    Ok(&policy),
                    "formatting keeps the policy"
                );
                assert_eq!(
                    format_policy(&formatted).as_ref(),
                    Ok(&formatted),
                    "formatting twice changes nothing"
                );
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
            }
            let _ = problems.render("policy", file, true);
        }
    }
}
