//! Requests inside TLS that a rule denies, on every kernel: curl with OpenSSL, against a server of `openssl` that says what it was asked for.
//! What clients of all kinds do is the business of the target `probes`, which needs more programs than guests have.

use std::{
    env,
    fs::{self, File},
    io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use ebfw_test_need::tool;
use ebfw_tests::{
    lab::{
        Lab,
        agent::{Agent, Home, PROBES},
        eventually,
        net::v4,
    },
    tls::make_certificate,
};

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

/// The server; it ends with the value.
struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts it at the far end: it serves files of its folder, one client after the other.
    fn start(lab: &Lab) -> Self {
        let folder = env::temp_dir().join(format!("ebfw-inside-{}", std::process::id()));
        fs::create_dir_all(folder.join("admin")).expect("there is a folder for temporary files");
        make_certificate(&folder).expect("openssl makes a certificate");
        for file in ["open", "admin/x"] {
            fs::write(folder.join(file), "here\n").expect("the folder is writable");
        }
        let said = File::create(folder.join("said")).expect("the folder is writable");
        let start = || {
            Command::new("openssl")
                .args(["s_server", "-accept", &PORT.to_string(), "-WWW"])
                .args(["-key", "key.pem", "-cert", "cert.pem"])
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(said)
                .spawn()
        };
        let child = lab.net().far.enter(start).expect("the namespace exists");
        let server = Self {
            child: child.expect("openssl starts"),
            folder,
        };
        eventually("the server listens", || {
            let connect = || std::net::TcpStream::connect((v4(2), PORT)).is_ok();
            lab.net().far.enter(connect).expect("the namespace exists")
        });
        server
    }

    /// How often it was asked for a file.
    fn asked(&self, file: &str) -> usize {
        let said = fs::read_to_string(self.folder.join("said")).unwrap_or_default();
        let line = format!("FILE:{file}");
        said.lines().filter(|said| *said == line).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
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
    let server = Server::start(&lab);
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
        eventually("the server says so", || server.asked("open") == time);
        assert_eq!(server.asked("admin/x"), 0);
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
    let late = columns.last().copied();
    assert!(
        columns.contains(&"enforced") && late == Some("0"),
        "{status}"
    );

    // It was the rule that kept it back.
    home.write_policy("defaultAction: Allow\nrules: []\n");
    eventually("it comes where no rule denies it", || ask(&lab, "admin/x"));
    eventually("the server says so", || server.asked("admin/x") > 0);
}
