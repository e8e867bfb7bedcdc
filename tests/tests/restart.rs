//! The agent is killed and started again, over and over, under traffic: not one packet is judged wrongly and none leaves unjudged.
//!
//! EBFW_RESTARTS sets the number of restarts. Needs root.

use std::{
    env, io,
    net::{TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use ebfw_tests::lab::{
    Lab, PORT,
    agent::{Agent, Home, PROBES},
    net::{v4, v6},
    process::Line,
};

/// As often as it is killed by default.
const RESTARTS: u32 = 100;
/// Between two rounds of sending: leaves the processors to the agent, whose start is what this is about.
const BREATH: Duration = Duration::from_micros(200);

/// What an agent says that found the programs of another in force.
const ADOPTED: &str = "took over from an earlier agent";
/// About what a start takes: half of the agents are killed somewhere in it.
const START: Duration = Duration::from_millis(800);

const POLICY: &str = "
defaultAction: Deny
rules:
- {name: allowed, action: Allow, match: {cidrs: [10.99.0.2/32, 'fd99::2/128'], ports: [80]}}
";

/// What a round of sending found.
#[derive(Default)]
struct Tally {
    right: u64,
    wrong: u64,
}

impl Tally {
    fn add(&mut self, right: bool) {
        *if right {
            &mut self.right
        } else {
            &mut self.wrong
        } += 1;
    }
}

fn is_refused<T>(result: &io::Result<T>) -> bool {
    let error = result.as_ref().err();
    error.and_then(io::Error::raw_os_error) == Some(libc::EPERM)
}

/// Sends until the test says stop. Wrong verdicts are in the upper half of the answer.
fn send(line: &mut Line, mut round: impl FnMut(&mut Tally) -> io::Result<()>) -> io::Result<u64> {
    line.step();
    let mut tally = Tally::default();
    while !line.is_heard() {
        round(&mut tally)?;
        thread::sleep(BREATH);
    }
    Ok(tally.wrong << 32 | tally.right)
}

/// Sockets that live through all restarts, and a fresh one each round.
fn datagrams(line: &mut Line) -> io::Result<u64> {
    let lasting = UdpSocket::bind("0.0.0.0:0")?;
    let connected = UdpSocket::bind("[::]:0")?;
    connected.connect((v6(2), PORT))?;
    send(line, |tally| {
        let fresh = UdpSocket::bind("[::]:0")?;
        tally.add(lasting.send_to(b"x", (v4(2), PORT)).is_ok());
        tally.add(connected.send(b"x").is_ok());
        tally.add(fresh.send_to(b"x", (v6(2), PORT)).is_ok());
        tally.add(is_refused(&lasting.send_to(b"x", (v4(3), PORT))));
        tally.add(is_refused(&lasting.send_to(b"x", (v4(2), PORT + 1))));
        tally.add(is_refused(&fresh.send_to(b"x", (v6(3), PORT))));
        Ok(())
    })
}

fn connections(line: &mut Line) -> io::Result<u64> {
    let patience = Duration::from_secs(5);
    send(line, |tally| {
        for (address, is_good) in [(v4(2), true), (v6(2), true), (v4(3), false), (v6(3), false)] {
            let result = TcpStream::connect_timeout(&(address, PORT).into(), patience);
            tally.add(if is_good {
                result.is_ok()
            } else {
                is_refused(&result)
            });
        }
        Ok(())
    })
}

#[test]
fn no_packet_leaves_unjudged_while_the_agent_dies_and_comes_back() {
    let Some(lab) = Lab::open() else { return };
    let restarts = env::var("EBFW_RESTARTS").map_or(RESTARTS, |text| {
        text.parse().expect("EBFW_RESTARTS is a number")
    });
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = Home::new();
    home.write_policy(POLICY);
    Agent::start(&home, &lab).kill();
    let mut senders = [lab.start(datagrams), lab.start(connections)];
    for sender in &mut senders {
        sender.reached();
        sender.go();
    }
    let start = Instant::now();
    for number in 0..restarts {
        let settings = if number % 10 < 2 { &[PROBES][..] } else { &[] };
        if number % 2 == 0 {
            let agent = Agent::start_with(&home, &lab, settings);
            let log = agent.log.so_far().join("\n");
            assert!(log.contains(ADOPTED), "restart {number}: {log}");
            agent.kill();
        } else {
            let agent = Agent::spawn_with(&home, lab.directory(), settings);
            thread::sleep(START.mul_f64(random.f64()));
            agent.kill();
        }
    }
    let took = start.elapsed();
    for sender in &mut senders {
        sender.go();
    }
    let sums = senders.map(|sender| sender.finish().expect("senders end in good order"));
    let [datagrams, connects] = sums.map(|sum| (sum & u64::from(u32::MAX), sum >> 32));
    eprintln!(
        "{restarts} restarts in {took:?}: {} datagrams, {} connects judged right",
        datagrams.0, connects.0
    );
    assert_eq!((datagrams.1, connects.1), (0, 0), "wrong verdicts");
    assert!(datagrams.0 > 0 && connects.0 > 0);
    let forbidden = lab.wire().frames().into_iter().filter(|frame| {
        let is_bad = [v4(3), v6(3)].contains(&frame.destination);
        is_bad || frame.port() == Some(PORT + 1)
    });
    assert_eq!(forbidden.count(), 0, "packets left unjudged");
}
