//! Requests inside TLS that a rule denies, on every kernel: curl with OpenSSL, against a server of `openssl` that says what it was asked for.
//! What clients of all kinds do is the business of the target `probes`, which needs more programs than guests have.

use std::{
    fs, io,
    process::{Command, Stdio},
};

use ebfw_test_need::tool;
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home, PROBES},
    eventually,
    net::v4,
};

use super::openssl_server::{SAID, Server};

const PORT: u16 = 8443;
/// How often what is denied is tried.
const TRIES: usize = 5;

const POLICY: &str = "
defaultAction: Allow
rules:
- name: admin
  action: Deny
  match: {pathPrefix: /admin}
";

/// A server of files of its folder.
fn serve(lab: &Lab) -> Server {
    let server = Server::start(lab, PORT, &["-WWW"]);
    fs::create_dir(server.folder().join("admin")).expect("the folder is writable");
    for file in ["open", "admin/x"] {
        fs::write(server.folder().join(file), "here\n").expect("the folder is writable");
    }
    server
}

/// How often it was asked for a file.
fn asked(server: &Server, file: &str) -> usize {
    let line = format!("FILE:{file}");
    server.count(SAID, |said| *said == line)
}

/// Asks for a file, with HTTP/1.1; whether it came.
fn ask(lab: &Lab, file: &str) -> bool {
    let url = format!("https://{}:{PORT}/{file}", v4(2));
    let curl = || {
        let status = Command::new("curl")
            .args(["-sk", "--http1.1", "--max-time", "60", "-o", "/dev/null"])
            .arg(&url)
            .stdin(Stdio::null())
            .status()?;
        Ok::<_, io::Error>(u64::from(status.success()))
    };
    lab.inside(curl).expect("the program runs") != 0
}

#[test]
fn a_denied_request_inside_tls_never_gets_out() {
    if !tool("curl") || !tool("openssl") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    let server = serve(&lab);
    let home = Home::new();
    home.write_policy(POLICY);
    let config = home.write_config("exclude: {cidrs: []}\n");
    let agent = Agent::start_with(&home, &lab, &[PROBES, ("EBFW_CONFIG", &config)]);
    let ready = agent.log.wait_for(&["requests inside TLS are"]);
    assert!(ready.contains("observed by"), "{:?}", agent.log.so_far());
    for refused in ["not denied before they leave", "without their connections"] {
        let log = agent.log.so_far();
        assert!(!log.iter().any(|line| line.contains(refused)), "{log:?}");
    }
    for time in 1..=TRIES {
        assert!(!ask(&lab, "admin/x"), "it is cut");
        assert!(ask(&lab, "open"), "what is allowed comes");
        // It serves one after the other, so it has said all there was of those before.
        eventually("the server says so", || asked(&server, "open") == time);
        assert_eq!(asked(&server, "admin/x"), 0);
    }
    let denied = [
        "\"https\"",
        "\"/admin/x\"",
        "\"action\":\"deny\",\"rule\":\"admin\"",
    ];
    agent.events.wait_for(&denied);
    let status = home.run(&["status"]).expect("ebfw starts");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let row = status.lines().find(|line| line.starts_with(&lab.path()));
    let columns: Vec<_> = row.unwrap_or_default().split_whitespace().collect();
    let late = columns.iter().rev().nth(1).copied();
    assert!(
        columns.contains(&"enforced") && late == Some("0"),
        "{status}"
    );

    // It was the rule that kept it back.
    home.write_policy("defaultAction: Allow\nrules: []\n");
    eventually("it comes where no rule denies it", || ask(&lab, "admin/x"));
    eventually("the server says so", || asked(&server, "admin/x") > 0);
}
