//! The agent as its users run it: the policy file, its reloads, events, what it leaves behind, and single commands under a policy.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ebfw_agent::host::cgroup::Hierarchy;
use ebfw_test_need::left_to_the_machine;
use ebfw_tests::{
    lab::{
        Lab,
        agent::{Agent, Home, PROBES, minds},
        eventually,
        net::{v4, v6},
    },
    path::{MARK, tcp, udp},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ALL, ALL_BUT_3, BAD, GOOD, NOTHING, ONLY_2, at, code};

const EPERM: Option<i32> = Some(libc::EPERM);

/// How a connect of the workload ends.
fn verdict(lab: &Lab, to: std::net::IpAddr) -> Option<i32> {
    code(&lab.inside(move || tcp::plain(at(to))))
}

#[test]
fn the_policy_file_decides_and_events_say_so() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let agent = Agent::start_with(&home, &lab, &[PROBES]);
    for (good, bad) in [(v4(GOOD), v4(BAD)), (v6(GOOD), v6(BAD))] {
        assert_eq!(verdict(&lab, good), None);
        assert_eq!(verdict(&lab, bad), EPERM);
        let address = bad.to_string();
        let denied = [
            "\"connect\"",
            "\"deny\"",
            "\"forbidden\"",
            "\"enforce\"",
            &address,
        ];
        let event = agent.events.wait_for(&denied).to_lowercase();
        assert!(event.contains("\"pid\""), "{event}");
    }
    assert!(lab.wire().to(v4(BAD)).is_empty());
}

#[test]
fn a_new_policy_file_takes_over_and_a_bad_one_does_not() {
    if left_to_the_machine("which file is a policy") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let agent = Agent::start(&home, &lab);
    assert_eq!(verdict(&lab, v4(4)), None);
    home.write_policy(ONLY_2);
    agent.log.wait_for(&["policy reloaded"]);
    assert_eq!(verdict(&lab, v4(4)), EPERM);
    home.write_policy("rules: [{nmae: broken}]\n");
    let refused = agent.log.wait_for(&["refused"]);
    assert!(refused.contains("last good policy"), "{refused}");
    assert_eq!(verdict(&lab, v4(4)), EPERM);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
}

/// As a debugger does that looks at it, or whoever freezes its container.
#[test]
fn an_agent_that_is_stopped_again_and_again_while_it_loads_gets_ready() {
    if left_to_the_machine("whether a system call is made again") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let agent = Agent::spawn_with(&home, lab.directory(), &[PROBES]);
    agent.log.wait_for(&["starting ebfw"]);
    for _ in 0..8 {
        // While programs are verified, which takes seconds.
        thread::sleep(Duration::from_millis(200));
        agent.pause();
        agent.resume();
    }
    agent.log.wait_for(&["ready: watching"]);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    agent.log.wait_for(&["requests inside TLS are observed by"]);
    drop(agent);
}
#[test]
fn a_reload_cuts_what_it_denies() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    let agent = Agent::start(&home, &lab);
    let mut process = lab.start(|line| {
        let mut stream = TcpStream::connect(at(v4(BAD)))?;
        line.step();
        std::io::Write::write_all(&mut stream, MARK)?;
        stream.read_exact(&mut [0])
    });
    process.reached();
    home.write_policy(ALL_BUT_3);
    agent.log.wait_for(&["policy reloaded"]);
    process.go();
    let start = Instant::now();
    let result = process.finish();
    assert_eq!(code(&result), Some(libc::ECONNABORTED), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_new_cgroup_connects_late_and_never_unchecked() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    let path = lab.path();
    home.write_policy(&format!(
        "
defaultAction: Deny
rules:
- {{name: late, action: Allow, match: {{cgroups: ['{path}/late*'], cidrs: [10.99.0.2/32]}}}}
"
    ));
    let _agent = Agent::start(&home, &lab);
    for number in 0..5 {
        let late = lab.nested(&format!("late-{number}"));
        let process = lab.start_in(Some(&late), |_| tcp::plain(at(v4(GOOD))));
        let result = process.finish();
        assert!(result.is_ok(), "{result:?}");
        let other = lab.nested(&format!("other-{number}"));
        let process = lab.start_in(Some(&other), |_| udp::unconnected(at(v6(GOOD))));
        let _ = process.finish();
    }
    assert!(lab.wire().to(v6(GOOD)).is_empty());
}

#[test]
fn what_is_enforced_outlives_the_agent_until_it_is_detached() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let status = Agent::start(&home, &lab).terminate();
    assert!(status.success(), "{status}");
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
    let detach = home.run(&["detach"]).unwrap();
    let said = String::from_utf8_lossy(&detach.stdout).into_owned()
        + &String::from_utf8_lossy(&detach.stderr);
    assert!(detach.status.success(), "{said}");
    assert!(said.contains("nothing is enforced"), "{said}");
    eventually("the way is open", || verdict(&lab, v4(BAD)).is_none());
}

#[test]
fn it_ends_within_two_seconds() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    let agent = Agent::start_with(&home, &lab, &[PROBES]);
    let start = Instant::now();
    assert!(agent.terminate().success());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// Whatever it is busy with then: the kernel looks at its programs for longer than that.
#[test]
fn it_ends_within_two_seconds_while_it_starts() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    for into_the_start in [0, 400, 1200] {
        let agent = Agent::spawn_with(&home, lab.directory(), &[PROBES]);
        eventually("it minds signals", || agent.minds(Signal::SIGTERM));
        thread::sleep(Duration::from_millis(into_the_start));
        let start = Instant::now();
        let log = agent.log.clone();
        let status = agent.terminate();
        let took = start.elapsed();
        let log = log.so_far().join("\n");
        assert!(
            status.success(),
            "after {into_the_start} ms: {status}\n{log}"
        );
        assert!(
            took < Duration::from_secs(2),
            "after {into_the_start} ms: {took:?}\n{log}"
        );
    }
    // What a start leaves behind that was cut off is in no one's way.
    let _agent = Agent::start(&home, &lab);
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
}

/// Whether the agent answers nobody for half a second.
fn is_busy(home: &Home) -> bool {
    let mut status = home.command(&["status"]);
    let status = status.stdout(Stdio::null()).stderr(Stdio::null());
    let mut status = status.spawn().expect("ebfw starts");
    for _ in 0..50 {
        if status.try_wait().expect("it is a child").is_some() {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    status.kill().and_then(|()| status.wait()).expect("it runs");
    true
}

#[test]
fn it_ends_within_two_seconds_while_it_applies_a_huge_policy() {
    if left_to_the_machine("how long a policy takes") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let agent = Agent::start(&home, &lab);
    let prefixes = |rule: u32| -> String {
        let all = (0..1000).map(|at| {
            format!(
                "11.{}.{}.{}/32",
                rule / 8,
                at / 250 + rule % 8 * 8,
                at % 250
            )
        });
        all.collect::<Vec<_>>().join(",")
    };
    let rules: String = (0..500)
        .map(|rule| {
            format!(
                "- {{action: Allow, match: {{ports: [{}], cidrs: [{}]}}}}\n",
                rule + 1,
                prefixes(rule)
            )
        })
        .collect();
    home.write_policy(&format!("{ALL_BUT_3}{rules}"));
    eventually("it is busy with the policy", || is_busy(&home));
    let log = agent.log.clone();
    let start = Instant::now();
    let status = agent.terminate();
    let took = start.elapsed();
    let log = log.so_far().join("\n");
    assert!(
        status.success() && log.contains("go on enforcing"),
        "{status}\n{log}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}\n{log}");
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    home.write_policy(ALL_BUT_3);
    let _next = Agent::start(&home, &lab);
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
}

#[test]
fn a_second_agent_is_refused() {
    if left_to_the_machine("who holds a lock") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let _first = Agent::start(&home, &lab);
    let mut second = Agent::spawn(&home, lab.directory());
    assert!(!second.ended().success());
    let log = second.log.so_far().join("\n");
    assert!(log.contains("agent"), "{log}");
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
}

/// What is attached goes with it, and what is made under its name is another cgroup: nothing would be enforced there.
#[test]
fn an_agent_whose_cgroup_is_removed_ends_and_the_next_one_governs_the_new() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let service = lab.nested("service");
    let task = lab.nested("service/task");
    let connect = |to: std::net::IpAddr| {
        let process = lab.start_in(Some(&service), move |_| tcp::plain(at(to)));
        code(&process.finish())
    };
    let mut agent = Agent::spawn(&home, &service);
    agent.log.wait_for(&["ready: watching"]);
    fs::remove_dir(&task).unwrap();
    assert_eq!(connect(v4(BAD)), EPERM, "one below it may go");
    eventually("no process is left in the cgroup", || {
        fs::remove_dir(&service).is_ok()
    });
    let _same_name = lab.nested("service");
    assert!(!agent.ended().success());
    agent.log.wait_for(&["cgroup ", "service is gone"]);
    let next = Agent::spawn(&home, &service);
    next.log.wait_for(&["ready: watching"]);
    assert_eq!(connect(v4(BAD)), EPERM);
    assert_eq!(connect(v4(GOOD)), None);
}

#[test]
fn an_agent_whose_pins_are_removed_ends_and_the_next_one_governs() {
    if left_to_the_machine("whether a file is there") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let mut agent = Agent::start(&home, &lab);
    fs::remove_dir_all(home.pins().join("links")).unwrap();
    assert!(!agent.ended().success());
    agent.log.wait_for(&["pins at ", "are gone"]);
    let _next = Agent::start(&home, &lab);
    assert_eq!(verdict(&lab, v4(BAD)), EPERM);
    assert_eq!(verdict(&lab, v4(GOOD)), None);
}

/// `ebfw exec` of this command in the near namespace, set up as it has to be, under the policy of `home`.
fn start_exec(
    lab: &Lab,
    home: &Home,
    command: &[&str],
    set_up: impl FnOnce(&mut Command) -> &mut Command,
) -> Child {
    let policy = home.policy();
    let policy = policy.to_str().expect("the path is made of words");
    let begins = ["exec", "--policy", policy, "--"];
    let mut exec = home.command(&[&begins, command].concat());
    let exec = set_up(exec.env("PATH", "/usr/bin:/bin"));
    let started = lab
        .net()
        .near
        .enter(|| exec.spawn())
        .expect("the namespace exists");
    started.expect("ebfw starts")
}

/// Waits until a command has said that it is `ready`, as all that is on its standard output; that goes on.
fn ready(exec: &mut Child) -> ChildStdout {
    let mut output = exec.stdout.take().expect("it is piped");
    output.read_exact(&mut [0; 6]).expect("the command starts");
    output
}

/// Sends a signal to that process alone.
fn signal(exec: &Child, signal: Signal) {
    kill(Pid::from_raw(exec.id().cast_signed()), signal).expect("it runs");
}

/// `ebfw exec` in the near namespace.
fn exec(lab: &Lab, home: &Home, policy: &str, command: &[&str]) -> std::process::Output {
    home.write_policy(policy);
    let policy = home.policy();
    let policy = policy.to_str().unwrap_or_default();
    let mut arguments = vec!["exec", "--policy", policy, "--mode", "enforce", "--"];
    arguments.extend(command);
    let run = || {
        home.command(&arguments)
            .env("PATH", "/usr/bin:/bin")
            .output()
    };
    let output = lab.net().near.enter(run).expect("the namespace exists");
    output.expect("ebfw starts")
}

#[test]
fn a_single_command_runs_under_a_policy() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    let dial =
        |to: std::net::IpAddr| format!("exec 3<>/dev/tcp/{to}/80 && echo {} >&3", "hello there");
    if !fs::exists("/bin/bash").unwrap_or(false) {
        ebfw_test_need::not_run("ebfw exec: there is no bash, by which the test connects");
        return;
    }
    let good = exec(&lab, &home, ALL_BUT_3, &["bash", "-c", &dial(v4(GOOD))]);
    let report = String::from_utf8_lossy(&good.stderr).into_owned();
    assert!(good.status.success(), "{report}");
    assert!(report.contains("10.99.0.2"), "{report}");
    let bad = exec(&lab, &home, ALL_BUT_3, &["bash", "-c", &dial(v4(BAD))]);
    let report = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{report}");
    assert!(
        report.contains("10.99.0.3") && report.contains("forbidden"),
        "{report}"
    );
    assert!(lab.wire().to(v4(BAD)).is_empty());
    let own = exec(&lab, &home, NOTHING, &["bash", "-c", "exit 42"]);
    assert_eq!(own.status.code(), Some(42));
}

#[test]
fn a_signal_to_ebfw_exec_alone_reaches_its_command() {
    const COMMAND: &str = "trap 'exit 9' INT; trap 'exit 10' TERM; trap 'exit 11' USR1; echo ready; while :; do sleep 0.05; done";
    if left_to_the_machine("which signals are passed on") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    for (sent, expected) in [
        (Signal::SIGINT, 9),
        (Signal::SIGTERM, 10),
        (Signal::SIGUSR1, 11),
    ] {
        let mut child = start_exec(&lab, &home, &["sh", "-c", COMMAND], |exec| {
            // A group of its own, to which no terminal sends anything.
            exec.process_group(0).stdout(Stdio::piped())
        });
        let _output = ready(&mut child);
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(expected), "{sent}");
    }
}

#[test]
fn a_command_stays_governed_when_its_ebfw_exec_is_killed() {
    let Some(lab) = Lab::open() else { return };
    if !fs::exists("/bin/bash").unwrap_or(false) {
        ebfw_test_need::not_run("ebfw exec: there is no bash, by which the test connects");
        return;
    }
    let home = Home::new();
    home.write_policy(ALL_BUT_3);
    let dial =
        |to: std::net::IpAddr| format!("(exec 3<>/dev/tcp/{to}/80) 2>&- && echo out || echo kept");
    let script = format!(
        "echo ready; read line; {}; {}",
        dial(v4(BAD)),
        dial(v4(GOOD))
    );
    let mut child = start_exec(&lab, &home, &["bash", "-c", &script], |exec| {
        exec.stdin(Stdio::piped()).stdout(Stdio::piped())
    });
    let mut output = ready(&mut child);
    signal(&child, Signal::SIGKILL);
    let mut input = child.stdin.take().unwrap();
    child.wait().unwrap();
    input.write_all(b"go\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "kept\nout\n");
    assert!(lab.wire().to(v4(BAD)).is_empty());
    // The next one clears away what is left of it.
    let mine = format!("ebfw-exec-{}", child.id());
    let is_left = || {
        let own = Hierarchy::find().unwrap();
        own.directory(&own.own().unwrap()).join(&mine).exists()
    };
    assert!(is_left());
    eventually("the cgroup of the command that was left is removed", || {
        exec(&lab, &home, NOTHING, &["true"]);
        !is_left()
    });
}

#[test]
fn a_signal_before_the_command_runs_ends_ebfw_exec() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    for sent in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut child = start_exec(&lab, &home, &["sleep", "600"], |exec| {
            // A group of its own, to which no terminal sends anything.
            exec.process_group(0)
        });
        eventually("it minds signals", || minds(child.id(), sent));
        signal(&child, sent);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + sent as i32), "{sent}");
    }
}

#[test]
fn a_signal_before_the_command_runs_leaves_no_cgroup() {
    // On a slow machine the signal may come when it runs already: that ends it in the same way.
    const STAY: &str = "while :; do /bin/sleep 0.05; done";
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    let mut child = start_exec(&lab, &home, &["sh", "-c", STAY], |exec| exec);
    let hierarchy = Hierarchy::find().unwrap();
    let own = hierarchy.directory(&hierarchy.own().unwrap());
    let cgroup = own.join(format!("ebfw-exec-{}", child.id()));
    eventually("there is a cgroup", || cgroup.exists());
    signal(&child, Signal::SIGTERM);
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(128 + libc::SIGTERM));
    assert!(!cgroup.exists());
}

#[test]
fn what_becomes_of_the_report_does_not_hide_the_commands_code() {
    if left_to_the_machine("where a report goes") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy(ALL);
    let policy = home.policy();
    let run = |report: &[&str], stderr: Stdio, code: &str| {
        let exit = format!("exit {code}");
        let ends = ["--", "sh", "-c", &exit];
        let begins = ["exec", "--policy", policy.to_str().unwrap()];
        let arguments = [&begins, report, &ends].concat();
        let start = || home.command(&arguments).stderr(stderr).status();
        let status = lab.net().near.enter(start).expect("the namespace exists");
        status.expect("ebfw starts").code()
    };
    for (code, expected) in [("5", 5), ("0", 0)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(
            run(&[], writer.into(), code),
            Some(expected),
            "nobody reads"
        );
    }
    for (code, expected) in [("5", 5), ("0", 1)] {
        let full = ["--report", "/dev/full"];
        assert_eq!(run(&full, Stdio::null(), code), Some(expected), "no room");
    }
    let on_output = [
        "exec",
        "--policy",
        policy.to_str().unwrap(),
        "-o",
        "json",
        "--report",
        "-",
    ];
    let arguments = [&on_output[..], &["--", "sh", "-c", "echo said"]].concat();
    let start = || home.command(&arguments).output();
    let output = lab.net().near.enter(start).unwrap().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let report = output.strip_prefix("said\n").unwrap_or_default();
    assert!(
        report.starts_with("{\"flows\":[]") && report.ends_with("}\n"),
        "{output}"
    );
    let nowhere = ["--report", "/nonexistent/report"];
    assert_eq!(run(&nowhere, Stdio::null(), "5"), Some(1), "known before");
}
