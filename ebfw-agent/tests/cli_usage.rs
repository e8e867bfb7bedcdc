//! What `ebfw` says to a person or script that uses it wrongly, and what it says about itself.

mod cli_support;

use std::fs;

use cli_support::{command, ebfw};

#[test]
fn bad_usage_ends_with_2_and_says_why() {
    for (arguments, expected, why) in [
        (
            &["polcy"][..],
            "unrecognized subcommand 'polcy'",
            "no such command",
        ),
        (
            &["--polcy", "x"][..],
            "unexpected argument '--polcy'",
            "no such flag of run",
        ),
        (
            &["--output", "text", "--output", "json"][..],
            "cannot be used multiple times",
            "twice",
        ),
        (
            &["policy"][..],
            "Usage: ebfw policy",
            "no command of policy",
        ),
        (&["policy", "test"][..], "--policy", "no policy"),
        (
            &["exec", "--policy", "p.yaml"][..],
            "<COMMAND>",
            "no command to run",
        ),
        (&["exec", "--", "true"][..], "--policy", "no policy"),
        (
            &["exec", "--policy", "p", "--mode", "off", "--", "true"][..],
            "[possible values: enforce, log]",
            "no such mode",
        ),
        (
            &["exec", "--policy", "p", "true"][..],
            "'true'",
            "the command follows --",
        ),
        (
            &["completions", "tcsh"][..],
            "[possible values: bash, elvish, fish, powershell, zsh]",
            "no such shell",
        ),
    ] {
        let run = ebfw(arguments);
        assert_eq!(run.code, 2, "{why}: {run:?}");
        assert!(run.stderr.contains(expected), "{why}: {run:?}");
        assert_eq!(run.stdout, "", "{why}");
    }
}

#[test]
fn a_bad_configuration_stops_every_form_of_start() {
    let expected = "ebfw: EBFW_ENFORCE_MODE=enforced is not valid, allowed: off, log, enforce\n";
    for arguments in [&[][..], &["run"][..], &["--output", "json"][..]] {
        let run: cli_support::Run = command(arguments)
            .env("EBFW_ENFORCE_MODE", "enforced")
            .output()
            .unwrap()
            .into();
        assert_eq!(run.code, 2, "{arguments:?}");
        assert_eq!(run.stderr, expected, "{arguments:?}");
    }
}

#[test]
fn all_that_is_wrong_with_a_configuration_is_said_at_once() {
    let run: cli_support::Run = command(&["--metrics-addr=9090", "--inspect-body=maybe"])
        .envs([
            ("EBFW_OUTPUT", "xml"),
            ("EBFW_POLCY", "p"),
            ("EBFW_POLICY_SOURCE", "crds"),
        ])
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, 2);
    assert_eq!(
        run.stderr,
        "ebfw: warning: unknown variable EBFW_POLCY is ignored, the nearest known one is EBFW_POLICY\n\
         ebfw: EBFW_OUTPUT=xml is not valid, allowed: text, json\n\
         ebfw: --inspect-body=maybe is not valid, allowed: true, false, 1, 0, t, f, yes, no, on, off\n\
         ebfw: --metrics-addr=9090 is not valid, allowed: :PORT, IPV4:PORT, [IPV6]:PORT, localhost:PORT, or empty to disable\n\
         ebfw: EBFW_POLICY_SOURCE=crds is not valid, allowed: file, crd\n"
    );
}

#[test]
fn every_spelling_of_config_names_the_filter_file() {
    for (arguments, variable) in [
        (&["-config", "/nonexistent.yaml"][..], None),
        (&["-config=/nonexistent.yaml"][..], None),
        (&["--config", "/nonexistent.yaml"][..], None),
        (&["run", "-config", "/nonexistent.yaml"][..], None),
        (&["run", "--config=/nonexistent.yaml"][..], None),
        (&["run"][..], Some(("EBFW_CONFIG", "/nonexistent.yaml"))),
    ] {
        let named_by = variable.map_or("--config", |(name, _)| name);
        let expected = format!(
            "ebfw: {named_by}: failed to read /nonexistent.yaml: No such file or directory (os error 2)\n"
        );
        let run: cli_support::Run = command(arguments).envs(variable).output().unwrap().into();
        assert_eq!((run.code, run.stderr), (2, expected), "{arguments:?}");
    }
}

#[test]
fn a_mistake_in_the_filter_file_shows_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("filter.yaml");
    fs::write(&path, "exclude:\n  cidr: []\n").unwrap();
    let run = ebfw(&["--config", path.to_str().unwrap()]);
    assert_eq!(run.code, 2);
    for part in [
        "unknown field `cidr`",
        "filter.yaml:2:3",
        "did you mean `cidrs`?",
    ] {
        assert!(
            run.stderr.contains(part),
            "{part} is missing in\n{}",
            run.stderr
        );
    }
}

#[test]
fn it_says_its_version() {
    let run = ebfw(&["--version"]);
    assert_eq!(run.code, 0);
    assert_eq!(
        run.stdout,
        concat!("ebfw ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"][..],
        &["exec", "--help"][..],
        &["detach", "--help"][..],
        &["names", "--help"][..],
        &["status", "--help"][..],
        &["policy", "--help"][..],
        &["policy", "test", "--help"][..],
        &["policy", "lint", "--help"][..],
        &["policy", "fmt", "--help"][..],
        &["policy", "schema", "--help"][..],
        &["completions", "--help"][..],
        &["man", "--help"][..],
    ] {
        let run = ebfw(arguments);
        assert_eq!(run.code, 0, "{arguments:?}");
        assert!(
            run.stdout.contains("\nExample"),
            "{arguments:?}: {}",
            run.stdout
        );
        assert!(
            !run.stdout.contains('\u{1b}'),
            "{arguments:?}: colours off a terminal"
        );
    }
}

#[test]
fn the_help_of_run_names_every_variable() {
    let help = ebfw(&["run", "--help"])
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for setting in ebfw_agent::config::SETTINGS {
        assert!(
            help.contains(&format!("[env: {}]", setting.variable)),
            "{}",
            setting.variable
        );
        assert!(
            help.contains(&format!("--{}", setting.flag)),
            "{}",
            setting.flag
        );
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = ebfw(&["completions", shell]);
        assert_eq!(run.code, 0, "{shell}");
        assert!(
            run.stdout.contains("enforce-mode"),
            "{shell} completes the flags"
        );
    }
}

#[test]
fn manual_pages_go_to_standard_output_or_a_directory() {
    assert!(ebfw(&["man"]).stdout.contains(".TH ebfw 1"));
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    assert_eq!(ebfw(&["man", pages.to_str().unwrap()]).code, 0);
    for page in [
        "ebfw.1",
        "ebfw-run.1",
        "ebfw-exec.1",
        "ebfw-detach.1",
        "ebfw-names.1",
        "ebfw-policy-test.1",
    ] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let run = ebfw(&["man", file.to_str().unwrap()]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .starts_with("ebfw: failed to write manual pages to "),
        "{run:?}"
    );
}
