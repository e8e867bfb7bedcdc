//! How `run`, `exec` and `detach` end where they cannot do their work. Nothing here gets as far as the kernel.

mod cli_support;

use std::{fs, thread};

use caps::{CapSet, Capability};
use cli_support::{Run, command, ebfw};

/// Runs `ebfw` without what loading programs needs, whoever runs the tests.
fn without_capabilities(arguments: &'static [&'static str]) -> Run {
    // The bounding set belongs to the thread and is inherited by what it starts.
    let run = thread::spawn(|| {
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
            caps::clear(None, CapSet::Bounding).expect("CAP_SETPCAP is held");
        }
        command(arguments)
            .env("EBFW_LOG", "off")
            .output()
            .expect("ebfw is built")
            .into()
    });
    run.join().expect("the thread has not panicked")
}

#[test]
fn a_host_that_is_not_able_ends_with_3_and_what_to_do() {
    for arguments in [
        &["run", "--pin", "off", "--metrics-addr", ""][..],
        &["exec", "--policy", "examples/policy.yaml", "--", "true"][..],
    ] {
        let run = without_capabilities(arguments);
        assert_eq!(run.code, 3, "{arguments:?}: {run:?}");
        let expected = "ebfw: missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: run ebfw as root, or give it these capabilities";
        assert!(
            run.stderr.lines().any(|line| line == expected),
            "{arguments:?}: {run:?}"
        );
        assert_eq!(run.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_cgroup_that_cannot_be_is_told_from_one_that_is_not_there() {
    // Without it the host is not able, and the cgroup is not looked at.
    let able = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN);
    if !ebfw_test_need::met(able.unwrap_or(false), "CAP_SYS_ADMIN") {
        return;
    }
    for (cgroup, code, expected) in [
        (
            "/nonexistent/ebfw",
            3,
            "cgroup `/nonexistent/ebfw` does not exist",
        ),
        ("/../ebfw", 2, "contains `..`"),
    ] {
        let arguments = [
            "run",
            "--pin",
            "off",
            "--metrics-addr",
            "",
            "--log",
            "off",
            "--cgroup",
            cgroup,
        ];
        let run = ebfw(&arguments);
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.stderr.contains(expected), "{run:?}");
    }
}

#[test]
fn a_bad_policy_ends_exec_with_1_before_the_command_runs() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.yaml");
    let witness = directory.path().join("witness");
    fs::write(&policy, "rules:\n  - action: Alow\n").unwrap();
    let arguments = [
        "exec",
        "--policy",
        policy.to_str().unwrap(),
        "--",
        "touch",
        witness.to_str().unwrap(),
    ];
    let run = ebfw(&arguments);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("`Alow`"), "{run:?}");
    assert!(!witness.exists(), "the command has not run");
}

#[test]
fn a_policy_that_is_not_there_ends_exec_with_1_and_its_name() {
    let run = ebfw(&["exec", "--policy", "/nonexistent.yaml", "--", "true"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.starts_with("ebfw: "), "{run:?}");
    assert!(run.stderr.contains("/nonexistent.yaml"), "{run:?}");
}

#[test]
fn detach_says_that_there_is_nothing_to_take_off() {
    let run = ebfw(&["detach", "--pin-dir", "/nonexistent/ebfw"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(
        run.stdout,
        "nothing is pinned at /nonexistent/ebfw: no enforcement to take off\n"
    );
}

#[test]
fn detach_takes_nothing_away_where_no_agent_can_have_pinned() {
    let place = tempfile::tempdir().unwrap();
    let innocent = place.path().join("links/innocent");
    fs::create_dir(place.path().join("links")).unwrap();
    fs::write(&innocent, "").unwrap();
    let place = place.path().to_str().unwrap();
    let run = ebfw(&["detach", "--pin-dir", place]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    let expected = format!(
        "ebfw: {place} is on no bpf file system: agents have pinned nothing there, and nothing is removed\n"
    );
    assert_eq!(run.stderr, expected);
    assert!(innocent.exists());
}

#[test]
fn what_cannot_be_looked_at_is_not_said_to_be_nothing() {
    let place = tempfile::tempdir().unwrap();
    // As for a user who may not pass through the directory, but for root too.
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let hidden = file.join("ebfw");
    let hidden = hidden.to_str().unwrap();
    for command in ["detach", "status", "names"] {
        let run = ebfw(&[command, "--pin-dir", hidden]);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert!(run.stderr.contains(hidden), "{run:?}");
        assert!(!run.stderr.contains("no agent runs"), "{run:?}");
    }
    let run = ebfw(&["detach", "--pin-dir", hidden]);
    assert!(run.stderr.contains("run ebfw as root"), "{run:?}");
}

#[test]
fn names_says_where_it_looked() {
    let run = ebfw(&["names", "--pin-dir", "/nonexistent/ebfw"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert_eq!(
        run.stderr,
        "ebfw: nothing of this version is pinned at /nonexistent/ebfw: no agent has run, or with another `--pin-dir` or `--pin off`\n"
    );
}

#[test]
fn detach_is_not_stopped_by_a_mistake_elsewhere() {
    let run: Run = command(&["detach", "--pin-dir", "/nonexistent/ebfw"])
        .envs([
            ("EBFW_ENFORCE_MODE", "enforced"),
            ("EBFW_CONFIG", "/nonexistent.yaml"),
        ])
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, 0, "{run:?}");
    let run: Run = command(&["detach"])
        .env("EBFW_PIN_DIR", "relative")
        .output()
        .unwrap()
        .into();
    let expected = "ebfw: EBFW_PIN_DIR=relative is not valid, allowed: an absolute path\n";
    assert_eq!((run.code, run.stderr.as_str()), (2, expected));
}

#[test]
fn the_state_of_an_agent_that_does_not_run_is_a_line_and_a_code() {
    let run = ebfw(&["status", "--pin-dir", "/nonexistent/ebfw"]);
    assert_eq!(run.code, 4);
    assert_eq!(run.stdout, "");
    assert_eq!(
        run.stderr,
        "ebfw: no agent runs for /nonexistent/ebfw: nothing is pinned there, and nothing is enforced\n"
    );
    let run = ebfw(&["status", "-o", "json", "--pin-dir", "/nonexistent/ebfw"]);
    assert_eq!(run.code, 4);
    assert_eq!(
        run.stdout,
        "{\n  \"running\": false,\n  \"pinned\": false\n}\n"
    );
    assert_eq!(ebfw(&["status", "--output", "yaml"]).code, 2);
}
