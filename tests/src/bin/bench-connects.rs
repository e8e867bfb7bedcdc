//! What an agent at work costs connections: TCP to addresses that nobody has connected to, each of which is an event.
//!
//! Without a firewall, under a policy with the agent that reads the events, and with that agent stopped, in turn; medians over all connects of
//! a round, and of them over the rounds. Fails where the agent's reading costs as much as half the connect. Needs root and `ip`; makes a
//! cgroup and network namespaces of its own.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home},
    process::{Line, Place, Process},
};

/// Interleaved rounds; odd, so that the median is a measurement.
const ROUNDS: u16 = 9;
/// Connects in each: fewer than a workload may have events in a second.
const CONNECTS: u16 = 1500;
const PORT: u16 = 8000;
const POLICY: &str =
    "defaultAction: Deny\nrules:\n- {name: net, action: Allow, match: {cidrs: [10.0.0.0/8]}}\n";
/// Of a connect with the agent at work to one with the agent stopped.
const LIMIT: f64 = 1.5;

/// Nanoseconds that the median of the connects takes, to the addresses from number `first` on.
fn connects(first: u16) -> io::Result<u64> {
    let mut times = Vec::new();
    for number in first..first + CONNECTS {
        let [high, low] = number.to_be_bytes();
        let to = SocketAddr::from((Ipv4Addr::new(10, 98, high, low), PORT));
        let start = Instant::now();
        TcpStream::connect(to)?;
        times.push(start.elapsed().as_nanos() as u64);
    }
    Ok(median(&mut times))
}

fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Makes 10.98.0.0/16 addresses of the far end, where somebody accepts.
fn serve(lab: &Lab) -> Result<()> {
    let net = lab.net();
    net.widen("10.98.0.0/16")?;
    let listener = net
        .far
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    thread::spawn(move || while listener.accept().is_ok() {});
    Ok(())
}

fn main() -> Result<ExitCode> {
    let Some(lab) = Lab::open() else {
        return Ok(ExitCode::FAILURE);
    };
    serve(&lab)?;
    let home = Home::new();
    home.write_policy(POLICY);
    let agent = Agent::start(&home, &lab);
    let outside = |first| {
        let place = Place {
            netns: &lab.net().near,
            cgroup: None,
        };
        Process::start(place, move |_: &mut Line| connects(first)).finish()
    };
    let [mut without, mut at_work, mut stopped] = [vec![], vec![], vec![]];
    for round in 0..ROUNDS {
        let first = |set_up: u16| (round * 3 + set_up) * CONNECTS;
        without.push(outside(first(0))?);
        at_work.push(lab.inside(move || connects(first(1)))?);
        agent.pause();
        stopped.push(lab.inside(move || connects(first(2)))?);
        agent.resume();
    }
    let [without, at_work, stopped] =
        [without, at_work, stopped].map(|mut times| median(&mut times));
    let ratio = |time: u64| time as f64 / without as f64;
    println!("{:<24} {:>12} {:>7}", "", "connect, µs", "ratio");
    for (name, time) in [
        ("no firewall", without),
        ("ebfw, agent at work", at_work),
        ("ebfw, agent stopped", stopped),
    ] {
        println!(
            "{name:<24} {:>12.1} {:>7.2}",
            time as f64 / 1000.0,
            ratio(time)
        );
    }
    ensure!(
        at_work as f64 <= LIMIT * stopped as f64,
        "the agent's reading costs more than half a connect"
    );
    Ok(ExitCode::SUCCESS)
}
