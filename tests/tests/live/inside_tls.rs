//! Requests inside TLS that a rule denies, on every kernel: curl with OpenSSL, against a server of `openssl` that says what it was asked for.
//! What clients of all kinds do is the business of the target `probes`, which needs more programs than guests have.

use std::{
    env,
    fs::{self, File},
    io,
    path::Path,
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
        fs::write(server.folder().join(file), HERE).expect("the folder is writable");
    }
    server
}

/// How often it was asked for a file.
fn asked(server: &Server, file: &str) -> usize {
    let line = format!("FILE:{file}");
    server.count(SAID, |said| *said == line)
}

/// What a file has in it.
const HERE: &str = "here\n";
/// Where a client finds the next.
const SETTINGS: &str = "openssl.cnf";
/// Lets the kernel encrypt.
const KERNEL_TLS: &str = "
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = own
[own]
Options = KTLS
";

/// Asks for a file by curl, with HTTP/1.1; whether it came.
fn curl(lab: &Lab, file: &str) -> bool {
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

/// The same by OpenSSL's own client, with the settings and the request in `folder`: curl does not leave the socket to the library.
fn by_the_kernel(lab: &Lab, file: &str, folder: &Path) -> bool {
    let request = folder.join("request");
    fs::write(&request, format!("GET /{file} HTTP/1.0\r\n\r\n")).expect("the folder is writable");
    let client = || {
        let output = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect"])
            .arg(format!("{}:{PORT}", v4(2)))
            .env("OPENSSL_CONF", folder.join(SETTINGS))
            .stdin(File::open(&request)?)
            .output()?;
        Ok::<_, io::Error>(u64::from(output.stdout.ends_with(HERE.as_bytes())))
    };
    lab.inside(client).expect("the program runs") != 0
}

/// How many connections have let the kernel encrypt, in the network namespace of the clients; `None` where it does not know how.
fn encrypted_by_the_kernel(lab: &Lab) -> Option<u64> {
    let read = || fs::read_to_string("/proc/thread-self/net/tls_stat");
    let counters = lab.net().near.enter(read).expect("the namespace exists");
    let counters = counters.ok()?;
    let count = counters
        .lines()
        .find_map(|line| line.strip_prefix("TlsTxSw"));
    count?.trim().parse().ok()
}

#[test]
fn a_denied_request_inside_tls_never_gets_out() {
    let Some(lab) = lab() else { return };
    proves(&lab, |file| curl(&lab, file));
}

/// OpenSSL hands over the keys to the kernel once the handshake is over: what it is given to write is seen as before, and so are the records.
#[test]
fn nor_where_the_kernel_encrypts_it() {
    let Some(lab) = lab() else { return };
    if encrypted_by_the_kernel(&lab).is_none() {
        ebfw_test_need::not_run(
            "TLS by the kernel: this one has no module `tls`, or has not loaded it",
        );
        return;
    }
    let folder = env::temp_dir().join(format!("ebfw-kernel-tls-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    fs::write(folder.join(SETTINGS), KERNEL_TLS).expect("the folder is writable");
    proves(&lab, |file| by_the_kernel(&lab, file, &folder));
    let count = encrypted_by_the_kernel(&lab);
    fs::remove_dir_all(&folder).expect("it is there");
    // It may know how, and lack the cipher.
    if count == Some(0) {
        ebfw_test_need::not_run("TLS by the kernel: this one takes no such connection over");
    }
}

/// A lab; `None`, said aloud, where this machine cannot.
fn lab() -> Option<Lab> {
    (tool("curl") && tool("openssl")).then(Lab::open).flatten()
}

/// The server never reads what is denied to a client that asks for a file.
fn proves(lab: &Lab, ask: impl Fn(&str) -> bool) {
    let server = serve(lab);
    let home = Home::new();
    home.write_policy(POLICY);
    let config = home.write_config("exclude: {cidrs: []}\n");
    let agent = Agent::start_with(&home, lab, &[PROBES, ("EBFW_CONFIG", &config)]);
    let ready = agent.log.wait_for(&["requests inside TLS are"]);
    assert!(ready.contains("observed by"), "{:?}", agent.log.so_far());
    for refused in ["not denied before they leave", "without their connections"] {
        let log = agent.log.so_far();
        assert!(!log.iter().any(|line| line.contains(refused)), "{log:?}");
    }
    for time in 1..=TRIES {
        assert!(!ask("admin/x"), "it is cut");
        assert!(ask("open"), "what is allowed comes");
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
    eventually("it comes where no rule denies it", || ask("admin/x"));
    eventually("the server says so", || asked(&server, "admin/x") > 0);
}
