//! `ebfw policy …` as people, scripts and CI jobs use it.

mod cli_support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, symlink},
    process::Stdio,
};

use cli_support::{Run, command, ebfw};

const POLICY: &str = "\
defaultAction: Deny
rules:
  - name: allow-web
    action: Allow
    match:
      cidrs: [203.0.113.0/24]
      ports: [443]
  - name: deny-tracker
    action: Deny
    match:
      domains: [tracker.example]
  - name: tag
    action: Modify
    match:
      ports: [80]
    mutations:
      - type: SetHeader
        header: X-Checked
        value: ebfw
";

const BAD_POLICY: &str = "rules:\n  - action: Alow\n    match: {cidr: [10.0.0.0/8]}\n";

/// A directory with a file `policy.yaml` of this text.
struct Files(tempfile::TempDir);

impl Files {
    fn with(policy: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for files");
        fs::write(directory.path().join("policy.yaml"), policy).expect("it can be written");
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    fn policy(&self) -> String {
        self.path("policy.yaml")
    }

    /// The path of a good policy in another layout than that of `fmt`.
    fn unformatted(&self) -> String {
        let path = self.path("unformatted.yaml");
        fs::write(&path, "defaultAction:    Deny\n").expect("it can be written");
        path
    }

    fn test(&self, arguments: &[&str]) -> Run {
        let policy = self.policy();
        ebfw(&[&["policy", "test", "--policy", &policy], arguments].concat())
    }

    fn test_lines(&self, arguments: &[&str], lines: &str) -> Run {
        let policy = self.policy();
        ebfw_with_stdin(
            &[&["policy", "test", "--policy", &policy], arguments].concat(),
            lines,
        )
    }
}

/// `ebfw` with `input` on standard input.
fn ebfw_with_stdin(arguments: &[&str], input: &str) -> Run {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ebfw is built");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A child that refuses early closes its end; what it says is judged, not the write.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("it is a child").into()
}

#[test]
fn the_example_of_the_readme_says_what_the_readme_says() {
    let run = ebfw(&[
        "policy",
        "test",
        "--policy",
        "examples/policy.yaml",
        "--flow",
        "pod=payments/web dst=203.0.113.5 port=443 domain=api.example.com",
        "--flow",
        "domain=evil.com port=443",
    ]);
    assert_eq!(
        run.stdout,
        "Allow   rule=allow-payments-api  pod=payments/web dst=203.0.113.5 port=443 domain=api.example.com\n\
         Deny    rule=(default)  domain=evil.com port=443\n"
    );
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn the_examples_have_no_findings_and_are_formatted() {
    for arguments in [["policy", "lint"], ["policy", "fmt"]] {
        let mut arguments = arguments.to_vec();
        if arguments[1] == "fmt" {
            arguments.push("--check");
        }
        let run = ebfw(
            &[
                &arguments[..],
                &["examples/policy.yaml", "examples/demo.yaml"],
            ]
            .concat(),
        );
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
    }
}

#[test]
fn each_flow_has_its_line() {
    let files = Files::with(POLICY);
    for (flow, expected, why) in [
        (
            "dst=203.0.113.5 port=443",
            "Allow   rule=allow-web  dst=203.0.113.5 port=443\n",
            "a rule",
        ),
        (
            "  dst=203.0.113.5   port=443 ",
            "Allow   rule=allow-web  dst=203.0.113.5 port=443\n",
            "blanks",
        ),
        (
            "ip=203.0.113.5 port=443",
            "Allow   rule=allow-web  ip=203.0.113.5 port=443\n",
            "as it was asked",
        ),
        (
            "dst=203.0.113.5",
            "Deny    rule=(default)  dst=203.0.113.5\n",
            "a fact is missing",
        ),
        (
            "domain=tracker.example",
            "Deny    rule=deny-tracker  domain=tracker.example\n",
            "a name",
        ),
        ("port=80", "Modify  rule=tag  port=80\n", "modify"),
        (
            "port=80 stage=connect",
            "Held    rule=deny-tracker  port=80 stage=connect\n",
            "a name may come",
        ),
        (
            "port=80 path=/a/..%2fadmin",
            "Deny    rule=(ambiguous)  port=80 path=/a/..%2fadmin\n",
            "two servers would serve two things",
        ),
        (
            "dst=127.0.0.1 port=1",
            "Allow   rule=(loopback)  dst=127.0.0.1 port=1\n",
            "not governed",
        ),
        (
            "port=80 expect=modify",
            "Modify  rule=tag  port=80\n",
            "as expected",
        ),
    ] {
        let run = files.test(&["--flow", flow]);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (0, expected, ""),
            "{why}"
        );
    }
}

#[test]
fn a_workload_that_the_policy_does_not_select_is_not_governed() {
    let files =
        Files::with("podSelector: {matchLabels: {app: web}}\ndefaultAction: Deny\nrules: []\n");
    let run = files.test(&[
        "--flow",
        "label.app=api port=1",
        "--flow",
        "label.app=web port=1",
    ]);
    assert_eq!(
        run.stdout,
        "Allow   rule=(ungoverned)  label.app=api port=1\nDeny    rule=(default)  label.app=web port=1\n"
    );
}

#[test]
fn another_verdict_than_expected_ends_with_3() {
    let files = Files::with(POLICY);
    for (expect, code, why) in [
        ("modify", 0, "as expected"),
        ("allow", 3, "modify is not allow"),
        ("deny", 3, "nor deny"),
    ] {
        let flow = format!("port=80 expect={expect}");
        assert_eq!(files.test(&["--flow", &flow]).code, code, "{why}");
    }
    let run = files.test(&[
        "--flow",
        "port=80 expect=deny",
        "--flow",
        "port=80 expect=modify",
    ]);
    assert_eq!(run.code, 3);
    assert_eq!(
        run.stdout,
        "Modify  rule=tag  port=80  expected=Deny\nModify  rule=tag  port=80\n"
    );
    assert_eq!(
        run.stderr,
        "ebfw: 1 of 2 flows are not decided as expected\n"
    );
}

#[test]
fn an_explanation_names_for_each_rule_what_rules_it_out() {
    let run = Files::with(POLICY).test(&["--explain", "--flow", "dst=203.0.113.5 port=80"]);
    assert_eq!(
        run.stdout,
        "Modify  rule=tag  dst=203.0.113.5 port=80\n\
         \x20    1  no, ports    Allow   allow-web\n\
         \x20    2  no, domains  Deny    deny-tracker\n\
         \x20    3  yes          Modify  tag\n"
    );
}

#[test]
fn json_has_one_object_a_flow() {
    let files = Files::with(POLICY);
    let run = files.test(&[
        "-o",
        "json",
        "--flow",
        "port=80 stage=connect",
        "--flow",
        "port=1 expect=allow",
    ]);
    assert_eq!(
        run.stdout,
        "{\"action\":\"held\",\"rule\":\"deny-tracker\",\"reason\":\"waiting\",\"waiting_for\":\"domains\",\
         \"flow\":\"port=80 stage=connect\"}\n\
         {\"action\":\"deny\",\"rule\":null,\"reason\":\"default\",\"flow\":\"port=1\",\
         \"expect\":\"allow\",\"as_expected\":false}\n"
    );
    assert_eq!(run.code, 3);
    let run = files.test(&["--output=json", "--explain", "--flow", "port=80"]);
    let object: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        object["rules"][0],
        serde_json::json!({"name": "allow-web", "action": "allow", "matches": "no", "dimension": "ports"})
    );
    assert_eq!(object["rules"][2]["matches"], "yes");
}

#[test]
fn lines_of_json_are_judged_as_they_come() {
    let run = Files::with(POLICY).test_lines(
        &[],
        "{\"dst\":\"203.0.113.5\",\"port\":443}\n\n  \n{\"namespace\":\"a\",\"name\":\"b\",\"labels\":{\"x\":\"y\"},\"port\":80}\n{\"domain\":\"tracker.example\"}",
    );
    assert_eq!(
        run.stdout,
        "Allow   rule=allow-web  dst=203.0.113.5 port=443\n\
         Modify  rule=tag  pod=a/b label.x=y port=80\n\
         Deny    rule=deny-tracker  domain=tracker.example\n"
    );
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let run = Files::with(POLICY).test_lines(&[], "");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, ""),
        "no line, no verdict"
    );
}

#[test]
fn each_bad_line_is_told_with_its_number_and_the_others_are_judged() {
    let long = format!("{{\"name\":\"{}\"}}\n", "x".repeat(1 << 20));
    for (line, expected, why) in [
        ("{\"dst\":\"203.0.113\"}\n", "dst", "no address"),
        ("{\"dstt\":\"1.2.3.4\"}\n", "dstt", "no such field"),
        ("port=443\n", "JSON", "no JSON"),
        ("[1]\n", "JSON", "no object"),
        ("{\"port\":\n", "JSON", "truncated"),
        (
            long.as_str(),
            "longer than 1048576 bytes",
            "endless lines must not fill the memory",
        ),
    ] {
        let input =
            format!("{{\"port\":80}}\n\n{line}{{\"port\":81,\"expect\":\"allow\"}}\n{line}");
        let run = Files::with(POLICY).test_lines(&[], &input);
        assert_eq!(run.code, 2, "{why}: {run:?}");
        assert!(
            run.stderr.starts_with("ebfw: line 3: "),
            "{why}: {}",
            run.stderr
        );
        assert!(run.stderr.contains(expected), "{why}: {}", run.stderr);
        assert!(run.stderr.contains("\nebfw: line 5: "), "{why}");
        assert!(
            run.stderr
                .ends_with("1 of 2 flows are not decided as expected\n")
        );
        let verdicts =
            "Modify  rule=tag  port=80\nDeny    rule=(default)  port=81  expected=Allow\n";
        assert_eq!(run.stdout, verdicts, "{why}");
    }
}

#[test]
fn a_program_that_asks_line_by_line_gets_its_answers() {
    let files = Files::with(POLICY);
    let mut child = command(&["policy", "test", "--policy", &files.policy()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut questions = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for (question, answer) in [
        ("{\"port\":80}\n", "Modify  rule=tag  port=80"),
        ("{\"port\":81}\n", "Deny    rule=(default)  port=81"),
    ] {
        questions.write_all(question.as_bytes()).unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), answer);
    }
    drop(questions);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let files = Files::with(POLICY);
    let mut child = command(&["policy", "test", "--policy", &files.policy()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut questions = child.stdin.take().unwrap();
    // It may be gone before it has read everything; what it says is judged.
    drop(questions.write_all("{\"port\":80}\n".repeat(100_000).as_bytes()));
    drop(questions);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn a_bad_flow_ends_with_2_and_all_of_them_are_named() {
    let run =
        Files::with(POLICY).test(&["--flow", "port=1", "--flow", "prt=1", "--flow", "port=x"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{run:?}");
    assert!(
        lines[0].starts_with("ebfw: --flow 'prt=1': unknown key `prt`, did you mean `port`?"),
        "{run:?}"
    );
    assert!(lines[1].starts_with("ebfw: --flow 'port=x': "), "{run:?}");
}

#[test]
fn standard_input_cannot_be_two_things() {
    let run = ebfw(&["policy", "test", "--policy", "-"]);
    assert_eq!(run.code, 2);
    assert_eq!(
        run.stderr,
        "ebfw: standard input cannot be both the policy and the flows: give --flow or a file\n"
    );
    let run = ebfw_with_stdin(
        &["policy", "test", "--policy", "-", "--flow", "port=80"],
        POLICY,
    );
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "Modify  rule=tag  port=80\n")
    );
}

#[test]
fn a_bad_policy_ends_with_1_and_every_error_is_shown() {
    let files = Files::with(BAD_POLICY);
    let policy = files.policy();
    for arguments in [
        &["policy", "test", "--policy", &policy, "--flow", "port=1"][..],
        &["policy", "fmt", &policy][..],
        &["policy", "fmt", "--check", &policy][..],
    ] {
        let run = ebfw(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{arguments:?}");
        for part in [
            "policy.yaml has 2 errors",
            "policy.yaml:2:13",
            "`Alow`",
            "unknown field `cidr`",
            "did you mean `cidrs`?",
        ] {
            assert!(
                run.stderr.contains(part),
                "{arguments:?}: {part} is missing in\n{}",
                run.stderr
            );
        }
        assert!(!run.stderr.contains('\u{1b}'), "colours off a terminal");
    }
    assert_eq!(
        fs::read_to_string(policy).unwrap(),
        BAD_POLICY,
        "left as it was"
    );
}

#[test]
fn a_file_that_is_not_there_ends_with_1_and_its_name() {
    for arguments in [
        &[
            "policy",
            "test",
            "--policy",
            "/nonexistent.yaml",
            "--flow",
            "port=1",
        ][..],
        &["policy", "lint", "/nonexistent.yaml"][..],
        &["policy", "fmt", "/nonexistent.yaml"][..],
    ] {
        let run = ebfw(arguments);
        let expected =
            "ebfw: failed to read /nonexistent.yaml: No such file or directory (os error 2)\n";
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (1, expected),
            "{arguments:?}"
        );
    }
}

#[test]
fn lint_ends_with_3_from_the_severity_that_is_asked_for() {
    // A rule that an earlier one covers: a warning.
    let shadowed = "\
defaultAction: Deny
rules:
  - name: all
    action: Allow
    match: {ports: [443]}
  - name: never
    action: Deny
    match: {ports: [443], protocols: [TCP]}
";
    for (policy, fail_on, code, why) in [
        ("rules: []\n", "note", 0, "nothing to find"),
        (shadowed, "never", 0, "only printed"),
        (shadowed, "error", 0, "less than an error"),
        (shadowed, "warning", 3, "a warning"),
        (shadowed, "note", 3, "more than a note"),
        (BAD_POLICY, "never", 1, "a bad policy is always refused"),
    ] {
        let run = ebfw_with_stdin(&["policy", "lint", "--fail-on", fail_on, "-"], policy);
        assert_eq!(run.code, code, "{why}: {run:?}");
    }
    let run = ebfw_with_stdin(&["policy", "lint", "-"], shadowed);
    assert_eq!(run.code, 3, "warnings count by default");
    assert!(
        run.stdout.contains("warning[shadowed]") && run.stdout.contains("<stdin>:6:"),
        "{run:?}"
    );
}

#[test]
fn lint_in_json_has_one_object_a_finding() {
    let files = Files::with(BAD_POLICY);
    let run = ebfw(&["policy", "lint", "-o", "json", &files.policy()]);
    assert_eq!(run.code, 1);
    let objects: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["file"], files.policy());
    assert_eq!(objects[0]["severity"], "error");
    assert_eq!(objects[0]["code"], "bad-value");
    assert_eq!(
        (&objects[0]["line"], &objects[0]["column"]),
        (&2.into(), &13.into())
    );
    assert_eq!(objects[1]["code"], "unknown-field");
}

#[test]
fn lint_goes_on_after_a_file_that_is_bad() {
    let files = Files::with(BAD_POLICY);
    let run = ebfw(&[
        "policy",
        "lint",
        "/nonexistent.yaml",
        &files.policy(),
        "examples/policy.yaml",
    ]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("/nonexistent.yaml") && run.stdout.contains("`Alow`"),
        "{run:?}"
    );
}

#[test]
fn fmt_rewrites_a_file_in_one_step_and_keeps_what_it_is() {
    let untidy = "rules:   []\ndefaultAction:    Deny\n";
    let files = Files::with(untidy);
    fs::set_permissions(files.policy(), fs::Permissions::from_mode(0o640)).unwrap();
    let link = files.path("link.yaml");
    symlink("policy.yaml", &link).unwrap();

    let run = ebfw(&["policy", "fmt", "--check", &link]);
    assert_eq!(run.code, 1);
    assert_eq!(run.stdout, format!("{link} is not formatted\n"));
    assert_eq!(
        fs::read_to_string(files.policy()).unwrap(),
        untidy,
        "a check changes nothing"
    );

    let run = ebfw(&["policy", "fmt", "--stdout", &link]);
    assert_eq!(run.code, 0);
    let formatted = run.stdout;
    assert_ne!(formatted, untidy);
    assert_eq!(
        fs::read_to_string(files.policy()).unwrap(),
        untidy,
        "it goes to standard output"
    );

    let run = ebfw(&["policy", "fmt", &link]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "", "")
    );
    assert_eq!(fs::read_to_string(files.policy()).unwrap(), formatted);
    assert!(
        fs::symlink_metadata(&link).unwrap().is_symlink(),
        "the link is still one"
    );
    assert_eq!(
        fs::metadata(files.policy()).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(
        fs::read_dir(files.0.path()).unwrap().count(),
        2,
        "nothing is left behind"
    );

    assert_eq!(
        ebfw(&["policy", "fmt", "--check", &link]).code,
        0,
        "what is formatted stays so"
    );
}

#[test]
fn fmt_makes_no_yaml_of_a_file_that_others_read_as_json() {
    const JSON: &str = r#"{"rules": [], "defaultAction": "Deny"}"#;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.json");
    fs::write(&path, JSON).unwrap();
    let file = path.to_str().unwrap();
    for arguments in [
        &["policy", "fmt", file][..],
        &["policy", "fmt", "--check", file][..],
    ] {
        let run = ebfw(arguments);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains("is JSON by its name"), "{run:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), JSON);
    }
    let run = ebfw(&["policy", "fmt", "--stdout", file]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn fmt_of_standard_input_goes_to_standard_output() {
    let run = ebfw_with_stdin(&["policy", "fmt", "-"], "rules:   []\n");
    assert_eq!((run.code, run.stdout.as_str()), (0, "rules: []\n"));
    assert_eq!(
        ebfw_with_stdin(&["policy", "fmt", "--check", "-"], "rules: []\n").code,
        0
    );
    assert_eq!(
        ebfw(&["policy", "fmt", "--check", "--stdout", "-"]).code,
        2,
        "one or the other"
    );
}

#[test]
fn fmt_formats_the_policies_of_manifests_and_of_directories() {
    let manifest = "kind: EgressPolicy   # ours\napiVersion: ebfw.dvrkn.com/v1\nmetadata: {name: a}\nspec: {podSelector: {}}\n---\nkind:   ConfigMap\napiVersion: v1\n";
    let files = Files::with("rules:   []\n");
    fs::write(files.path("objects.yml"), manifest).unwrap();
    let directory = files.0.path().to_str().unwrap();
    let run = ebfw(&["policy", "fmt", "--check", directory]);
    let told = format!(
        "{} is not formatted\n{} is not formatted\n",
        files.path("objects.yml"),
        files.policy()
    );
    assert_eq!((run.code, run.stdout), (1, told));
    assert_eq!(ebfw(&["policy", "fmt", directory]).code, 0);
    assert_eq!(
        fs::read_to_string(files.path("objects.yml")).unwrap(),
        "kind: EgressPolicy  # ours\napiVersion: ebfw.dvrkn.com/v1\nmetadata:\n  name: a\nspec:\n  podSelector: {}\n---\nkind:   ConfigMap\napiVersion: v1\n"
    );
    assert_eq!(fs::read_to_string(files.policy()).unwrap(), "rules: []\n");
    assert_eq!(ebfw(&["policy", "fmt", "--check", directory]).code, 0);

    fs::write(
        files.path("objects.yml"),
        manifest.replace("spec: {", "spec: {x: 1, "),
    )
    .unwrap();
    let run = ebfw(&["policy", "fmt", directory]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("unknown field `x`"), "{run:?}");
}

#[test]
fn the_schema_is_json_that_names_every_field() {
    let run = ebfw(&["policy", "schema"]);
    assert_eq!(run.code, 0);
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    for field in [
        "defaultAction",
        "podSelector",
        "rules",
        "domainMatch",
        "strictL7",
        "quic",
        "governLoopback",
    ] {
        assert!(schema["properties"].get(field).is_some(), "{field}");
    }
}

#[test]
fn nothing_to_judge_is_said() {
    let files = Files::with(POLICY);
    let run = files.test(&[]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
    assert!(run.stderr.contains("no flow to judge"), "{run:?}");
}

#[test]
fn a_reader_that_has_gone_does_not_make_a_bad_policy_good() {
    let files = Files::with(BAD_POLICY);
    let policy = files.policy();
    for arguments in [
        ["policy", "lint", &policy].as_slice(),
        &["policy", "lint", "-o", "json", &policy],
        &["policy", "fmt", "--check", &files.unformatted()],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = command(arguments)
            .stdout(writer)
            .status()
            .expect("ebfw is built");
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}
