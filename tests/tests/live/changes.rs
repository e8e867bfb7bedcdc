//! A new policy meets flows that exist: what it denies is cut at once, and no packet is judged by a mixture of two.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use ebfw_agent::host::privileges::Kernel;
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{v4, v6},
        process::{Line, Process},
    },
    path::{self, MARK},
};
use nix::sys::socket::{setsockopt, sockopt};

use super::{ALL, ALL_BUT_3, BAD, GOOD, at, code, kernel};

/// Whether the secret was seen on the wire.
fn leaked(lab: &Lab) -> bool {
    let frames = lab.wire().frames();
    frames.iter().any(|frame| frame.carries(MARK))
}

/// A process that has a connection with an echo server, and goes on with `then` when the policy has changed.
fn connected(
    lab: &Lab,
    to: std::net::IpAddr,
    then: impl FnOnce(TcpStream) -> io::Result<()> + Send,
) -> Process<()> {
    let mut process = lab.start(move |line| {
        let mut stream = TcpStream::connect(at(to))?;
        stream.write_all(b"before")?;
        stream.read_exact(&mut [0; 6])?;
        line.step();
        then(stream)
    });
    process.reached();
    process
}

/// Lets the process go on, and destroys what the kernel wants destroyed, until it ends.
fn goes_on(lab: &mut Lab, mut process: Process<()>) -> io::Result<()> {
    process.go();
    eventually("the process ends", || {
        lab.tend();
        process.is_heard()
    });
    process.finish()
}

#[test]
fn an_established_flow_that_a_new_policy_denies_is_cut() {
    let Some(mut lab) = Lab::open() else { return };
    for to in [v4(BAD), v6(BAD)] {
        lab.policy(ALL);
        let process = connected(&lab, to, |mut stream| {
            stream.write_all(MARK)?;
            // Nobody answers what did not arrive: only the cut ends this.
            stream.read_exact(&mut [0])
        });
        lab.policy(ALL_BUT_3);
        let result = goes_on(&mut lab, process);
        assert_eq!(code(&result), Some(libc::ECONNABORTED), "{to}: {result:?}");
    }
    assert!(!leaked(&lab));
}

#[test]
fn an_established_flow_that_stays_allowed_goes_on() {
    let Some(mut lab) = Lab::open() else { return };
    for to in [v4(GOOD), v6(GOOD)] {
        lab.policy(ALL);
        let process = connected(&lab, to, |mut stream| {
            stream.write_all(MARK)?;
            stream.read_exact(&mut [0; MARK.len()])
        });
        lab.policy(ALL_BUT_3);
        goes_on(&mut lab, process).unwrap();
    }
    assert_eq!(lab.tend(), 0);
}

#[test]
fn urgent_data_does_not_overtake_the_cut() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL);
    let process = connected(&lab, v4(BAD), |mut stream| {
        path::send(&stream, MARK, libc::MSG_OOB)?;
        stream.read_exact(&mut [0])
    });
    lab.policy(ALL_BUT_3);
    let result = goes_on(&mut lab, process);
    assert_eq!(code(&result), Some(libc::ECONNABORTED), "{result:?}");
    assert!(!leaked(&lab));
}

/// A reader that sends nothing is cut when it acknowledges what it gets.
#[test]
fn a_flow_that_only_receives_is_cut_by_what_it_receives() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL);
    let listener = lab.net().far.enter(|| TcpListener::bind((v4(BAD), 81)));
    let listener = listener.unwrap().unwrap();
    let process = lab.start(|_| {
        let mut stream = TcpStream::connect((v4(BAD), 81))?;
        stream.read_exact(&mut [0; 2])
    });
    let (mut server, _) = listener.accept().unwrap();
    lab.policy(ALL_BUT_3);
    server.write_all(b"x").unwrap();
    eventually("the reader ends", || {
        lab.tend();
        process.is_heard()
    });
    assert_eq!(code(&process.finish()), Some(libc::ECONNABORTED));
}

/// Data that waits in a socket whose process is gone leaves neither now nor when a later policy would allow it.
#[test]
fn parked_data_never_arrives() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL);
    let listen = || {
        let listener = TcpListener::bind((v4(BAD), 81))?;
        setsockopt(&listener, sockopt::RcvBuf, &4096)?;
        io::Result::Ok(listener)
    };
    let listener = lab.net().far.enter(listen).unwrap().unwrap();
    // The pod's other processes live on.
    let mut bystander = lab.start(|line| {
        line.step();
        Ok(())
    });
    bystander.reached();
    let parker = lab.start(|_| {
        let mut stream = TcpStream::connect((v4(BAD), 81))?;
        stream.set_nonblocking(true)?;
        let mut parked = 0u64;
        while let Ok(length) = stream.write(&[b'.'; 65536]) {
            parked += length as u64;
        }
        Ok(parked)
    });
    let parked = parker.finish().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    lab.policy(ALL_BUT_3);
    server.set_nonblocking(true).unwrap();
    let mut arrived = 0;
    eventually("the orphan is destroyed", || {
        arrived += drain(&mut server);
        lab.tend() > 0
    });
    lab.policy(ALL);
    server.set_nonblocking(false).unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut rest = Vec::new();
    let end = server.read_to_end(&mut rest);
    arrived += rest.len() as u64;
    let reset = code(&end) == Some(libc::ECONNRESET);
    assert!(
        reset || is_silent_about_orphans() && code(&end) == Some(libc::EAGAIN),
        "{end:?}"
    );
    assert!(arrived < parked, "{arrived} of {parked} bytes arrived");
    bystander.go();
}

/// Before Linux 6.11 a destroyed socket that no process has any more loses what it holds, but its peer is not told
/// (net/ipv4/tcp.c, `tcp_abort`; commit bac76cf89816).
fn is_silent_about_orphans() -> bool {
    let first = Kernel {
        major: 6,
        minor: 11,
    };
    kernel() < first
}

/// Reads what is there.
fn drain(server: &mut TcpStream) -> u64 {
    let mut buffer = [0; 65536];
    let mut sum = 0;
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        sum += length as u64;
    }
    sum
}

/// What was opened before there was any policy is judged from its next packet on.
#[test]
fn connections_older_than_the_programs_are_judged_too() {
    let Some(mut lab) = Lab::open() else { return };
    let cases = [(v4(GOOD), None), (v4(BAD), Some(libc::ECONNABORTED))];
    let processes = cases.map(|(to, expected)| {
        let process = connected(&lab, to, |mut stream| {
            stream.write_all(MARK)?;
            stream.read_exact(&mut [0; MARK.len()])
        });
        (process, to, expected)
    });
    let mut sender = lab.start(|line| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at(v4(BAD)))?;
        line.step();
        socket.send(MARK).map(drop)
    });
    sender.reached();
    lab.wire().clear();
    lab.policy(super::ONLY_2);
    for (process, to, expected) in processes {
        let result = goes_on(&mut lab, process);
        assert_eq!(code(&result), expected, "{to}: {result:?}");
    }
    let result = goes_on(&mut lab, sender);
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
    let leaked = lab.wire().to(v4(BAD));
    assert!(leaked.iter().all(|frame| !frame.carries(MARK)));
}

#[test]
fn a_server_older_than_the_programs_goes_on_answering() {
    let Some(mut lab) = Lab::open() else { return };
    let mut server = lab.start(|line| {
        let listener = TcpListener::bind((v4(1), 81))?;
        line.step();
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"before")?;
        line.step();
        stream.write_all(MARK)?;
        stream.read_exact(&mut [0])
    });
    server.reached();
    server.go();
    let client = || TcpStream::connect((v4(1), 81));
    let mut client = lab.net().far.enter(client).unwrap().unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    server.reached();
    lab.policy(super::NOTHING);
    server.go();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    client.read_exact(&mut [0; MARK.len()]).unwrap();
    client.write_all(b"x").unwrap();
    server.finish().unwrap();
}

/// Two policies that agree about two peers and about nothing else.
fn agreeing(rule: &str, prefixes: &str) -> String {
    format!(
        "
defaultAction: Deny
rules:
- {{name: {rule}, action: Deny, match: {{cidrs: [10.99.0.3/32, 'fd99::3/128', {prefixes}]}}}}
- {{name: rest, action: Allow, match: {{cidrs: [10.99.0.0/24, 'fd99::/64']}}}}
"
    )
}

/// Swaps of policies while the workload sends.
const SWAPS: usize = 300;
/// Between two rounds of sending: on busy processors each of the kernel's grace periods, and so each swap, takes 100 ms.
const BREATH: Duration = Duration::from_micros(100);
/// For one handshake, a few lost packets included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn no_swap_of_policies_lets_a_wrong_verdict_through() {
    let Some(mut lab) = Lab::open() else { return };
    let policies = [
        agreeing("first", "10.99.0.4/32, 'fd99::4/128'"),
        agreeing("second", "10.99.0.5/32, 'fd99::6/127', 10.99.0.8/31"),
    ];
    lab.policy(&policies[0]);
    let mut datagrams = lab.start(|line| load(line, datagram_round()?));
    let mut streams = lab.start(|line| {
        load(line, || {
            let good = TcpStream::connect_timeout(&at(v4(GOOD)), CONNECT_LIMIT).map(drop);
            let bad = TcpStream::connect_timeout(&at(v6(BAD)), CONNECT_LIMIT).map(drop);
            [Verdict::allowed(good), Verdict::denied(bad)]
        })
    });
    datagrams.reached();
    streams.reached();
    datagrams.go();
    streams.go();
    let start = Instant::now();
    for swap in 0..SWAPS {
        lab.policy(&policies[(swap + 1) % 2]);
    }
    let took = start.elapsed();
    for process in [&mut datagrams, &mut streams] {
        process.go();
    }
    let (datagrams, streams) = (datagrams.finish().unwrap(), streams.finish().unwrap());
    eprintln!("{SWAPS} swaps in {took:?}: {datagrams} datagrams, {streams} connects");
    assert!(datagrams > 1000 && streams > 100, "{datagrams}, {streams}");
    assert!(lab.wire().to(v4(BAD)).is_empty());
    assert!(lab.wire().to(v6(BAD)).is_empty());
}

/// What the kernel said to one try, and what it had to say.
struct Verdict {
    said: io::Result<()>,
    code: Option<i32>,
}

impl Verdict {
    fn allowed(said: io::Result<()>) -> Self {
        Self { said, code: None }
    }

    fn denied(said: io::Result<()>) -> Self {
        let code = Some(libc::EPERM);
        Self { said, code }
    }
}

/// Sockets of each kind, each used once a round.
fn datagram_round() -> io::Result<impl FnMut() -> [Verdict; 3]> {
    let unconnected = UdpSocket::bind("[::]:0")?;
    let connected = UdpSocket::bind("0.0.0.0:0")?;
    connected.connect(at(v4(GOOD)))?;
    let (good, bad) = (at(v6(GOOD)), at(v6(BAD)));
    Ok(move || {
        [
            Verdict::allowed(connected.send(b"x").map(drop)),
            Verdict::allowed(unconnected.send_to(b"x", good).map(drop)),
            Verdict::denied(unconnected.send_to(b"x", bad).map(drop)),
        ]
    })
}

/// Runs `round` until the test says stop; answers how many verdicts were right, or fails at the first that was wrong.
fn load<const N: usize>(
    line: &mut Line,
    mut round: impl FnMut() -> [Verdict; N],
) -> io::Result<u64> {
    line.step();
    let mut sum = 0;
    while !line.is_heard() {
        let start = Instant::now();
        for (place, Verdict { said, code: right }) in round().into_iter().enumerate() {
            let took = start.elapsed();
            assert_eq!(
                code(&said),
                right,
                "try {place} of a round of {took:?}, after {sum} right verdicts: {said:?}"
            );
            sum += 1;
        }
        thread::sleep(BREATH);
    }
    Ok(sum)
}
