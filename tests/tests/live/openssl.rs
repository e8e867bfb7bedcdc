//! A real TLS client against a real TLS server, under the agent itself: `openssl s_client` and `openssl s_server`.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ebfw_test_need::tool;
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home},
    eventually,
    net::{v4, v6},
    resolver::serve,
};

use super::{
    openssl_server::Server,
    said::{NO_EVIL, peers, resolve},
};

const TLS: u16 = 443;
const RESETS: u16 = 444;
/// A client hears that it is denied within this time.
const AT_ONCE: Duration = Duration::from_millis(50);
/// What one that was not told would wait for.
const GIVEN_UP: &str = "20";

/// Where the server writes which messages came.
const MESSAGES: &str = "messages";

/// The hellos that were complete when they came.
fn hellos_of(server: &Server) -> usize {
    server.count(MESSAGES, |line| {
        line.starts_with("<<<") && line.ends_with("ClientHello")
    })
}

/// Runs a client in the workload; whether it shook hands, and how long it ran.
fn connect(lab: &Lab, to: IpAddr, port: u16, arguments: &[&str]) -> (bool, Duration) {
    let to = match to {
        IpAddr::V4(to) => format!("{to}:{port}"),
        IpAddr::V6(to) => format!("[{to}]:{port}"),
    };
    let micros = lab.inside(|| {
        let begin = Instant::now();
        let status = Command::new("timeout")
            .args([GIVEN_UP, "openssl", "s_client", "-brief", "-connect", &to])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let micros = u64::try_from(begin.elapsed().as_micros()).map_err(io::Error::other)?;
        Ok(micros << 1 | u64::from(status.success()))
    });
    let micros = micros.expect("the program runs");
    (micros & 1 != 0, Duration::from_micros(micros >> 1))
}

/// A server that resets a connection as soon as a hello comes.
fn reset_hellos(lab: &Lab) {
    let far = &lab.net().far;
    let listener = far.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, RESETS)));
    let listener = listener.and_then(|bound| bound).expect("the port is free");
    thread::spawn(move || {
        // What is closed before it is read whole is reset.
        let reset = |mut stream: TcpStream| stream.read(&mut [0]);
        listener.incoming().flatten().map(reset).all(|_| true)
    });
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn openssl_is_told_apart_by_what_it_claims_and_hears_of_it_at_once() {
    if !tool("openssl") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, peers).expect("the port is free");
    let server = Server::start(&lab, TLS, &["-quiet", "-msg", "-msgfile", MESSAGES]);
    let home = Home::new();
    home.write_policy(NO_EVIL);
    let _agent = Agent::start(&home, &lab);
    lab.inside(|| resolve(&["2.good.example", "2.evil.example", "4.good.example"]))
        .expect("the resolver answers");

    let with = |name: &'static str| vec!["-servername", name];
    let cases = [
        ("a good name", 2, with("2.good.example"), true),
        ("in capitals", 2, with("2.GOOD.example"), true),
        ("an evil name", 2, with("2.evil.example"), false),
        ("in capitals", 2, with("2.EVIL.Example"), false),
        (
            "an evil name of another place",
            4,
            with("2.evil.example"),
            false,
        ),
        ("a good name elsewhere", 4, with("4.good.example"), true),
        ("no name, both resolved", 2, vec!["-noservername"], false),
        (
            "no name, a good one resolved",
            4,
            vec!["-noservername"],
            true,
        ),
    ];
    let mut hellos = 0;
    let mut denied = Vec::new();
    for version in ["-tls1_2", "-tls1_3"] {
        for family in [v4, v6] {
            for (why, peer, said, passes) in &cases {
                let arguments = [said.as_slice(), &[version]].concat();
                let (shook_hands, time) = connect(&lab, family(*peer), TLS, &arguments);
                let case = format!("{why}, {version}, {}", family(*peer));
                assert_eq!(shook_hands, *passes, "{case}");
                if *passes {
                    // It serves one after the other, so it has seen all there was of those before.
                    hellos += 1;
                    eventually("the server has read the hello", || {
                        hellos_of(&server) >= hellos
                    });
                } else {
                    denied.push(time);
                }
                assert_eq!(hellos_of(&server), hellos, "{case}");
            }
        }
    }

    // What the program itself takes to start, to write its hello and to fail, which is much in a guest.
    reset_hellos(&lab);
    let reset = (0..denied.len())
        .map(|_| connect(&lab, v4(4), RESETS, &with("4.good.example")).1)
        .collect();
    let (denied, reset) = (median(denied), median(reset));
    let late = denied.saturating_sub(reset);
    eprintln!("a denied client ends {late:?} after one whose server resets it ({reset:?})");
    assert!(late < AT_ONCE, "{denied:?} and {reset:?}");
}
