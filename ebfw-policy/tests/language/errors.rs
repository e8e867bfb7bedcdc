//! Every error of a file: where it is reported, as what, and with which hint.

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

#[test]
fn one_error_is_reported_at_its_place_with_a_hint() {
    let cases = [
        case("nothing", "", Code::Empty, (1, 1), "defaultAction"),
        case("comments only", "# nothing\n", Code::Empty, (1, 1), "empty"),
        case(
            "not YAML",
            "rules: [",
            Code::Syntax,
            (1, 8),
            "not valid YAML",
        ),
        case(
            "a tab for indentation",
            "rules:\n\t- action: Deny\n",
            Code::Syntax,
            (2, 2),
            "indent with spaces",
        ),
        case(
            "a directive",
            "%YAML 1.1\n---\nrules: []\n",
            Code::Syntax,
            (1, 1),
            "begin with `%`",
        ),
        case(
            "a truth value in quotes",
            "strictL7: 'False'",
            Code::WrongType,
            (1, 11),
            "write `false`, without quotes",
        ),
        case(
            "a name that events use where there is no rule",
            "rules:\n- {name: (default), action: Deny}\n",
            Code::BadValue,
            (2, 10),
            "leave the parentheses out",
        ),
        case(
            "too long a prefix of IPv4",
            "rules:\n- {action: Deny, match: {cidrs: [1.2.3.4/33]}}\n",
            Code::BadPrefix,
            (2, 34),
            "0 to 32",
        ),
        case(
            "a mask",
            "rules:\n- {action: Deny, match: {cidrs: [10.0.0.0/255.0.0.0]}}\n",
            Code::BadPrefix,
            (2, 34),
            "number of bits",
        ),
        case(
            "a zone",
            "rules:\n- {action: Deny, match: {cidrs: ['fe80::1%eth0/128']}}\n",
            Code::BadPrefix,
            (2, 34),
            "no zone",
        ),
        case("a list", "- a", Code::WrongType, (1, 1), "a mapping"),
        case("a text", "rules", Code::WrongType, (1, 1), "a mapping"),
        case(
            "two documents",
            "rules: []\n---\nrules: []\n",
            Code::Documents,
            (2, 1),
            "one document",
        ),
        case("a tag", "rules: !x []", Code::Tag, (1, 8), "tags"),
        case(
            "an alias to nothing",
            "rules: *x",
            Code::Syntax,
            (1, 8),
            "anchor",
        ),
        case(
            "an alias inside of itself",
            "rules: &x [*x]",
            Code::Alias,
            (1, 12),
            "inside",
        ),
        case(
            "a merge key",
            "rules: []\n<<: {}\n",
            Code::UnknownField,
            (2, 1),
            "merge keys",
        ),
        case(
            "a misspelt field",
            "rulez: []",
            Code::UnknownField,
            (1, 1),
            "did you mean `rules`",
        ),
        case(
            "a policy object",
            "spec: {rules: []}",
            Code::UnknownField,
            (1, 1),
            "top level",
        ),
        case(
            "a key twice",
            "rules: []\nrules: []\n",
            Code::DuplicateKey,
            (2, 1),
            "line 1",
        ),
        case(
            "a key that is a list",
            "rules: []\n[a]: b\n",
            Code::WrongType,
            (2, 1),
            "field name",
        ),
        case("no value", "rules:\n", Code::Null, (1, 1), "no value"),
        case("null", "podSelector: null", Code::Null, (1, 1), "no value"),
        case(
            "lower case",
            "defaultAction: deny",
            Code::BadValue,
            (1, 16),
            "did you mean `Deny`",
        ),
        case(
            "Modify as a default",
            "defaultAction: Modify",
            Code::BadValue,
            (1, 16),
            "`Allow`, `Deny`",
        ),
        case(
            "yes is no truth value",
            "strictL7: yes",
            Code::WrongType,
            (1, 11),
            "write `true`, without quotes",
        ),
        case(
            "a quoted truth value",
            "strictL7: \"true\"",
            Code::WrongType,
            (1, 11),
            "`true` or `false`",
        ),
        case(
            "a rule that is a number",
            "rules: [5]",
            Code::WrongType,
            (1, 9),
            "a rule",
        ),
        case(
            "rules as a mapping",
            "rules: {a: b}",
            Code::WrongType,
            (1, 8),
            "- ",
        ),
        case(
            "no action",
            "rules: [{name: a}]",
            Code::MissingField,
            (1, 9),
            "`action`",
        ),
        case(
            "an unknown action",
            "rules: [{action: Drop}]",
            Code::BadValue,
            (1, 18),
            "`Modify`",
        ),
        case(
            "an empty name",
            "rules: [{action: Deny, name: \"\"}]",
            Code::BadValue,
            (1, 30),
            "name",
        ),
        case(
            "an escape code in a name",
            "rules: [{action: Deny, name: \"\\e[2J\"}]",
            Code::BadValue,
            (1, 30),
            "control",
        ),
        case(
            "Modify without mutations",
            "rules: [{action: Modify}]",
            Code::Mutations,
            (1, 9),
            "needs",
        ),
        case(
            "Allow with mutations",
            "rules: [{action: Allow, mutations: [{type: RemoveHeader, header: x}]}]",
            Code::Mutations,
            (1, 36),
            "only Modify",
        ),
        case(
            "no mutations in the list",
            "rules: [{action: Modify, mutations: []}]",
            Code::EmptyList,
            (1, 37),
            "empty",
        ),
        case(
            "a mutation without its value",
            "rules: [{action: Modify, mutations: [{type: SetHeader, header: x}]}]",
            Code::MissingField,
            (1, 38),
            "`value`",
        ),
        case(
            "a header of two lines",
            "rules: [{action: Modify, mutations: [{type: SetHeader, header: x, value: \"a\\r\\nb\"}]}]",
            Code::Mutations,
            (1, 74),
            "control",
        ),
        case(
            "a path for a header",
            "rules: [{action: Modify, mutations: [{type: RemoveHeader, header: x, pathReplace: /}]}]",
            Code::Mutations,
            (1, 83),
            "takes no",
        ),
    ];
    // The first cannot be said in a pattern without looking ahead; the second is a merge key for the validator's reader of YAML, the third a truth value.
    check(
        &cases,
        &[
            "a name that events use where there is no rule",
            "a merge key",
            "yes is no truth value",
        ],
    );
}

#[test]
fn one_error_in_a_match_is_reported_at_its_place_with_a_hint() {
    // The value begins at column 30.
    let long_path: &str = format!("pathPrefix: /{}", "x".repeat(511)).leak();
    let cases = [
        case(
            "a misspelt dimension",
            "cidr: [10.0.0.0/8]",
            Code::UnknownField,
            (1, 26),
            "did you mean `cidrs`",
        ),
        case(
            "an empty list",
            "cidrs: []",
            Code::EmptyList,
            (1, 33),
            "leave the field out",
        ),
        case(
            "a text for a list",
            "ports: 443",
            Code::WrongType,
            (1, 33),
            "[443]",
        ),
        case(
            "host bits",
            "cidrs: [10.1.2.3/8]",
            Code::BadPrefix,
            (1, 34),
            "`10.0.0.0/8`",
        ),
        case(
            "host bits in IPv6",
            "cidrs: ['2001:db8::1/32']",
            Code::BadPrefix,
            (1, 34),
            "`2001:db8::/32`",
        ),
        case(
            "no length",
            "cidrs: [10.1.2.3]",
            Code::BadPrefix,
            (1, 34),
            "`10.1.2.3/32`",
        ),
        case(
            "a length too long",
            "cidrs: [10.0.0.0/33]",
            Code::BadPrefix,
            (1, 34),
            "no prefix",
        ),
        case(
            "leading zeros",
            "cidrs: [010.0.0.0/8]",
            Code::BadPrefix,
            (1, 34),
            "no prefix",
        ),
        case(
            "a length with leading zeros",
            "cidrs: [10.0.0.0/08]",
            Code::BadPrefix,
            (1, 34),
            "no prefix",
        ),
        case(
            "a port with leading zeros, which YAML 1.1 reads as another one",
            "ports: [010]",
            Code::BadPort,
            (1, 34),
            "write it without",
        ),
        case(
            "a range with leading zeros",
            "ports: ['80-090']",
            Code::BadPort,
            (1, 34),
            "write it without",
        ),
        case(
            "a protocol with leading zeros",
            "protocols: [017]",
            Code::BadValue,
            (1, 38),
            "allowed are",
        ),
        case("port 0", "ports: [0]", Code::BadPort, (1, 34), "1 to 65535"),
        case(
            "port 65536",
            "ports: [65536]",
            Code::BadPort,
            (1, 34),
            "above 65535",
        ),
        case(
            "a negative port",
            "ports: [-1]",
            Code::BadPort,
            (1, 34),
            "1 to 65535",
        ),
        case(
            "half a port",
            "ports: [1.5]",
            Code::BadPort,
            (1, 34),
            "1 to 65535",
        ),
        case(
            "a reversed range",
            "ports: [90-80]",
            Code::BadPort,
            (1, 34),
            "`80-90`",
        ),
        case(
            "an open range",
            "ports: [\"80-\"]",
            Code::BadPort,
            (1, 34),
            "no port",
        ),
        case(
            "a range from 0",
            "ports: [0-80]",
            Code::BadPort,
            (1, 34),
            "0 is no port",
        ),
        case(
            "a port beyond any integer",
            "ports: [99999999999999999999999]",
            Code::BadPort,
            (1, 34),
            "1 to 65535",
        ),
        case("a null entry", "ports: [~]", Code::Null, (1, 34), "port"),
        case(
            "the glob `*.`",
            "domains: ['*.']",
            Code::BadGlob,
            (1, 36),
            "empty label",
        ),
        case(
            "an empty domain",
            "domains: ['']",
            Code::BadGlob,
            (1, 36),
            "empty",
        ),
        case(
            "a dot",
            "domains: ['.']",
            Code::BadGlob,
            (1, 36),
            "empty label",
        ),
        case(
            "a leading dot",
            "domains: [.example.com]",
            Code::BadGlob,
            (1, 36),
            "`*.example.com`",
        ),
        case(
            "two stars, which elsewhere mean what one means here",
            "domains: ['**.example.com']",
            Code::BadGlob,
            (1, 36),
            "did you mean `*.example.com`?",
        ),
        case(
            "an escaped dot, as in a regular expression",
            "domains: ['www\\.example.com']",
            Code::BadGlob,
            (1, 36),
            "a dot is a dot",
        ),
        case(
            "two stars alone",
            "domains: ['**']",
            Code::BadGlob,
            (1, 36),
            "did you mean `*`?",
        ),
        case(
            "two stars within a name",
            "domains: ['a**b.example.com']",
            Code::BadGlob,
            (1, 36),
            "did you mean `a*b.example.com`?",
        ),
        case(
            "an open class",
            "domains: ['[a']",
            Code::BadGlob,
            (1, 36),
            "class",
        ),
        case(
            "an open group",
            "domains: ['{a']",
            Code::BadGlob,
            (1, 36),
            "glob",
        ),
        case(
            "a nested group",
            "domains: ['{a,{b,c}}']",
            Code::BadGlob,
            (1, 36),
            "nested",
        ),
        case(
            "an empty alternative",
            "domains: ['{a,}.example.com']",
            Code::BadGlob,
            (1, 36),
            "empty",
        ),
        case(
            "two names in one entry",
            "domains: ['a.example,b.example']",
            Code::BadGlob,
            (1, 36),
            "`,`",
        ),
        case(
            "a URL",
            "domains: ['https://a.example/']",
            Code::BadGlob,
            (1, 36),
            "no scheme",
        ),
        case(
            "a port on a name",
            "domains: ['a.example:443']",
            Code::BadGlob,
            (1, 36),
            "ports go into",
        ),
        case(
            "an address as a name",
            "domains: [192.0.2.1]",
            Code::BadGlob,
            (1, 36),
            "`cidrs`",
        ),
        case(
            "a name that is not ASCII",
            "domains: [bücher.example]",
            Code::BadGlob,
            (1, 36),
            "xn--",
        ),
        case(
            "a number as a name",
            "domains: [12]",
            Code::WrongType,
            (1, 36),
            "\"12\"",
        ),
        case(
            "an unknown protocol",
            "protocols: [TPC]",
            Code::BadValue,
            (1, 38),
            "did you mean `TCP`",
        ),
        case(
            "protocol 256",
            "protocols: [UDP-Lite]",
            Code::BadValue,
            (1, 38),
            "write its number, 136; allowed are",
        ),
        case(
            "a name for one of two",
            "protocols: [ipv6-icmp]",
            Code::BadValue,
            (1, 38),
            "write `ICMP`",
        ),
        case(
            "a number that is too high",
            "protocols: [256]",
            Code::BadValue,
            (1, 38),
            "0 to 255",
        ),
        case(
            "a method of two words",
            "methods: [GET /]",
            Code::BadValue,
            (1, 36),
            "`GET`",
        ),
        case(
            "a method that is too long",
            "methods: [ABCDEFGHIJKLMNOPQRSTUVWXY]",
            Code::BadValue,
            (1, 36),
            "at most 24 bytes",
        ),
        case(
            "a path that is too long",
            long_path,
            Code::BadValue,
            (1, 38),
            "first 511 bytes",
        ),
        case(
            "a relative path",
            "pathPrefix: api",
            Code::BadValue,
            (1, 38),
            "begins with `/`",
        ),
        case(
            "a query",
            "pathPrefix: /a?b",
            Code::BadValue,
            (1, 38),
            "query",
        ),
        case(
            "a relative cgroup",
            "cgroups: [a]",
            Code::BadGlob,
            (1, 36),
            "begins with `/`",
        ),
        case(
            "the mount point",
            "cgroups: [/sys/fs/cgroup/../a]",
            Code::BadGlob,
            (1, 36),
            "mount point",
        ),
        case(
            "`**` within a name",
            "cgroups: [/a/b**]",
            Code::BadGlob,
            (1, 36),
            "alone",
        ),
        case(
            "a group over a slash",
            "cgroups: ['/{a/b,c}']",
            Code::BadGlob,
            (1, 36),
            "close",
        ),
        case(
            "a namespace that is a number",
            "pod: {namespace: 12}",
            Code::WrongType,
            (1, 43),
            "\"12\"",
        ),
        case(
            "a glob over namespaces",
            "pod: {namespace: 'a*'}",
            Code::BadValue,
            (1, 43),
            "exactly",
        ),
        case(
            "a label that cannot be",
            "pod: {labels: {a: 'b c'}}",
            Code::BadValue,
            (1, 44),
            "63",
        ),
        case(
            "a label that is a truth value",
            "pod: {labels: {a: true}}",
            Code::WrongType,
            (1, 44),
            "\"true\"",
        ),
        case(
            "In without values",
            "pod: {matchExpressions: [{key: a, operator: In}]}",
            Code::MissingField,
            (1, 51),
            "values",
        ),
        case(
            "In with no values",
            "pod: {matchExpressions: [{key: a, operator: In, values: []}]}",
            Code::EmptyList,
            (1, 82),
            "name one at least",
        ),
        case(
            "Exists with an empty list",
            "pod: {matchExpressions: [{key: a, operator: Exists, values: []}]}",
            Code::BadValue,
            (1, 86),
            "no values",
        ),
        case(
            "the field of a podSelector",
            "pod: {matchLabels: {a: b}}",
            Code::UnknownField,
            (1, 32),
            "did you mean `labels`?",
        ),
        case(
            "Exists with values",
            "pod: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            Code::BadValue,
            (1, 86),
            "no values",
        ),
        case(
            "no expressions",
            "pod: {matchExpressions: []}",
            Code::EmptyList,
            (1, 50),
            "empty",
        ),
    ];
    let cases = cases.map(|case| Case {
        file: format!("rules: [{{action: Deny, match: {{{}}}}}]", case.file).leak(),
        ..case
    });
    check(
        &cases.map(|case| Case {
            at: (1, case.at.1 + 6),
            ..case
        }),
        &[
            "a port with leading zeros, which YAML 1.1 reads as another one",
            "a protocol with leading zeros",
            "a reversed range",
            "a path that is too long",
        ],
    );
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
