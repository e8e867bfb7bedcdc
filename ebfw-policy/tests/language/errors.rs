//! Every error of a file: where it is reported, as what, and with which hint.

mod document;
mod matches;

use ebfw_policy::{
    diagnostics::{Code, Diagnostics},
    parse_policy,
};

use crate::schema;

/// A file with one error.
struct Case {
    why: &'static str,
    file: &'static str,
    code: Code,
    at: (usize, usize),
    says: &'static str,
}

const fn case(
    why: &'static str,
    file: &'static str,
    code: Code,
    at: (usize, usize),
    says: &'static str,
) -> Case {
    Case {
        why,
        file,
        code,
        at,
        says,
    }
}

/// Checks each case, and that the schema refuses it too; `left`: those of which it cannot know.
fn check(cases: &[Case], left: &[&str]) {
    let mut wrong = Vec::new();
    let mut unseen = Vec::new();
    for Case {
        why,
        file,
        code,
        at,
        says,
    } in cases
    {
        let found = match parse_policy(file) {
            Ok(_) => "accepted".to_owned(),
            Err(problems) => {
                let [problem] = problems.iter().as_slice() else {
                    panic!("{why}: {problems}")
                };
                if schema::can_know(*code) && schema::judge(file) == Some(Ok(())) {
                    unseen.push(*why);
                }
                let fits = problem.code == *code && (problem.line, problem.column) == *at;
                if fits && problem.to_string().contains(says) {
                    continue;
                }
                problem.to_string()
            }
        };
        wrong.push(format!(
            "{why}: want {at:?} {} …{says}…, found {found}",
            code.as_str()
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(unseen, left, "accepted by the schema");
}

/// Line and code of each.
fn places(problems: &Diagnostics) -> Vec<(usize, Code)> {
    problems
        .iter()
        .map(|problem| (problem.line, problem.code))
        .collect()
}

#[test]
fn every_error_of_a_file_is_reported_at_once_in_the_order_of_lines() {
    let file = "defaultAction: allow\nrules:\n  - name: a\n    action: Allow\n    match: {cidr: [], ports: [0, 70000]}\n  - action: Dny\n  - action: Modify\n    action: Deny\n";
    let problems = parse_policy(file).unwrap_err();
    let found = places(&problems);
    let want = [
        (1, Code::BadValue),
        (5, Code::UnknownField),
        (5, Code::BadPort),
        (5, Code::BadPort),
        (6, Code::BadValue),
        (7, Code::Mutations),
        (8, Code::DuplicateKey),
    ];
    assert_eq!(found, want, "{problems}");
}

#[test]
fn a_key_that_comes_twice_is_found_among_few_and_among_many() {
    for number in [2, 8, 9, 40] {
        let labels = (0..number).chain([0, number - 1]);
        let lines: String = labels.map(|at| format!("    key-{at}: x\n")).collect();
        let problems = parse_policy(&format!("podSelector:\n  matchLabels:\n{lines}")).unwrap_err();
        let found: Vec<_> = problems
            .iter()
            .map(|problem| (problem.line, problem.code, problem.hint.as_deref()))
            .collect();
        let hints =
            [3, number + 2].map(|at| format!("it stands on line {at} already; join the two"));
        let want = [
            (number + 3, Code::DuplicateKey, Some(&*hints[0])),
            (number + 4, Code::DuplicateKey, Some(&*hints[1])),
        ];
        assert_eq!(found, want, "{number} keys");
    }
}

#[test]
fn a_rendered_error_shows_line_mark_and_hint() {
    let file = "rules:\n  - action: Deny\n    match:\n      cidr: [10.0.0.0/8]\n";
    let plain = parse_policy(file)
        .unwrap_err()
        .render("policy.yaml", file, false);
    let want = "error[unknown-field]: unknown field `cidr`\n --> policy.yaml:4:7\n  |\n4 |       cidr: [10.0.0.0/8]\n  |       ^^^^\n  |\n  = help: did you mean `cidrs`?";
    assert_eq!(plain, want);
    let colour = parse_policy(file)
        .unwrap_err()
        .render("policy.yaml", file, true);
    assert!(colour.contains('\u{1b}'), "colour was asked for");
}

#[test]
fn every_end_of_a_line_is_one() {
    for (end, why) in [("\n", "LF"), ("\r\n", "CRLF"), ("\r", "CR")] {
        let file = ["rules:", "- action: Dny", "  match: {port: [1]}", ""].join(end);
        let shown = parse_policy(&file).unwrap_err().render("p", &file, false);
        assert!(
            shown.contains("p:2:11\n  |\n2 | - action: Dny\n  |           ^^^"),
            "{why}: {shown}"
        );
        assert!(
            shown.contains("p:3:11\n  |\n3 |   match: {port: [1]}\n  |           ^^^^"),
            "{why}: {shown}"
        );
    }
}

#[test]
fn of_a_long_line_what_stands_around_the_place_is_shown() {
    let many = "\"é.example.com\", ".repeat(200);
    let file =
        format!("rules: [{{action: Deny, match: {{domains: [a.b, {many} c.d], port: [1]}}}}]");
    let column = file.chars().count() - "port: [1]}}]".len() + 1;
    let rendered = parse_policy(&file)
        .unwrap_err()
        .render("policy.yaml", &file, false);
    let last = rendered.split("\n\n").last().unwrap();
    let lines: Vec<&str> = last.lines().collect();
    let [title, place, _, _, source, mark, ..] = lines[..] else {
        panic!("{last}");
    };
    assert_eq!(title, "error[unknown-field]: unknown field `port`");
    assert_eq!(place, format!(" --> policy.yaml:1:{column}"));
    assert!(source.starts_with("1 | …"), "{last}");
    assert!(source.ends_with("c.d], port: [1]}}]"), "{last}");
    let at = |line: &str, text: &str| line[..line.find(text).unwrap()].chars().count();
    assert_eq!(at(mark, "^^^^"), at(source, "port"), "{last}");

    let endless = format!("rules: [{{action: \"{}\"}}]", "x".repeat(5000));
    let rendered = parse_policy(&endless)
        .unwrap_err()
        .render("policy.yaml", &endless, false);
    assert!(
        rendered.contains("1 | rules: [{action: \"xxx"),
        "{rendered}"
    );
    assert!(rendered.contains("x…\n"), "{rendered}");
    assert!(rendered.lines().all(|line| line.len() < 200), "{rendered}");
}

#[test]
fn what_can_be_read_past_hides_no_other_error() {
    let file = "!a defaultAction: !!str allow\nrules: !x\n  - !y\n    action: Dny\n  - action: Deny\n    action: Deny\n---\nrulez: []\n";
    let problems = parse_policy(file).unwrap_err();
    let found = places(&problems);
    let want = [
        (1, Code::Tag),
        (1, Code::Tag),
        (1, Code::BadValue),
        (2, Code::Tag),
        (3, Code::Tag),
        (4, Code::BadValue),
        (6, Code::DuplicateKey),
        (7, Code::Documents),
    ];
    assert_eq!(found, want, "{problems}");
}

#[test]
fn an_error_is_an_object_in_json() {
    let problems = parse_policy("rulez: []").unwrap_err();
    let json = serde_json::to_value(&problems).unwrap();
    assert_eq!(json[0]["code"], "unknown-field");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["line"], 1);
}

#[test]
fn escape_codes_of_a_file_do_not_reach_the_terminal() {
    let file = "\"\\e[2J\": 1\nrules: [{action: \"\\e]0;x\\a\"}]";
    let rendered = parse_policy(file)
        .unwrap_err()
        .render("policy.yaml", file, false);
    assert!(!rendered.contains(['\u{1b}', '\u{7}']), "{rendered:?}");
}
