//! What names cost: from a question to the connect that it allows, beside the bare network and beside dnsmasq with nftset.
//!
//! Each round asks for fresh names with fresh addresses and connects to each at once, one after the other, in every set-up in turn; the figures
//! are medians over the rounds. A connect that is refused or lost counts as failed. Then what of that the kernel programs spend, on an answer
//! and on a connection; this alone with `-- programs [ROW]`. Needs root, `ip`, and for the comparison `nft` and `dnsmasq`; makes cgroups and network namespaces of
//! its own.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

#[path = "../../../../ebfw-common/tests/stream/hello.rs"]
mod hello;
mod programs;

use std::{
    env, fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use ebfw_agent::host::netns::Netns;
use ebfw_tests::lab::{
    Lab, PORT, eventually,
    net::{Net, v4},
    process::{Line, Place, Process},
    resolver::{A, answer, asking, question, serve, wire},
};
use hickory_proto::op::Message;

/// Interleaved rounds; odd, so that the median is a measurement.
const ROUNDS: u16 = 9;
/// Pairs of a look-up and a connect in each.
const PAIRS: u16 = 300;
/// Where the addresses of fresh names lie.
const FRESH: &str = "10.98.0.0/16";
const ANY: &str =
    "defaultAction: Deny\nrules:\n- {name: net, action: Allow, match: {cidrs: [10.0.0.0/8]}}\n";
const BY_NAME: &str = "defaultAction: Deny\nrules:\n- {name: names, action: Allow, match: {domains: ['*.good.example']}}\n";
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The address of a name `n1234.…`.
fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 98, high, low)
}

fn zone(asked: &Message) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_ascii();
    let number = name
        .strip_prefix('n')
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    vec![wire(&answer(
        asked,
        &[address(number.unwrap_or_default()).into()],
    ))]
}

/// Means of one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    failed: u64,
    lookup_ns: u64,
    connect_ns: u64,
}

impl Round {
    const BITS: u32 = 26;

    fn pack(self) -> u64 {
        let capped = |ns: u64| ns.min((1 << Self::BITS) - 1);
        self.failed << (2 * Self::BITS)
            | capped(self.lookup_ns) << Self::BITS
            | capped(self.connect_ns)
    }

    fn unpack(packed: u64) -> Self {
        let mask = (1 << Self::BITS) - 1;
        Self {
            failed: packed >> (2 * Self::BITS),
            lookup_ns: packed >> Self::BITS & mask,
            connect_ns: packed & mask,
        }
    }
}

/// Looks up and connects, beginning with name `first`.
fn pairs(resolver: IpAddr, first: u16) -> std::io::Result<u64> {
    let socket = asking(resolver)?;
    let mut round = Round::default();
    for number in first..first + PAIRS {
        let asked = wire(&question(number, &format!("n{number}.good.example"), A));
        let start = Instant::now();
        socket.send(&asked)?;
        socket.recv(&mut [0; 4096])?;
        let answered = Instant::now();
        let to = SocketAddr::new(address(number).into(), PORT);
        let connected = TcpStream::connect_timeout(&to, Duration::from_secs(1));
        if let Err(error) = connected {
            eprintln!("{to}: {error}");
            round.failed += 1;
        }
        round.connect_ns += answered.elapsed().as_nanos() as u64;
        round.lookup_ns += (answered - start).as_nanos() as u64;
    }
    round.lookup_ns /= u64::from(PAIRS);
    round.connect_ns /= u64::from(PAIRS);
    Ok(round.pack())
}

/// A namespace in which dnsmasq lets out what it has resolved.
struct Dnsmasq {
    net: Net,
    _server: ebfw_tests::lab::server::Server,
    child: Child,
}

impl Dnsmasq {
    fn start() -> Result<Self> {
        const RULES: &str = "table ip f {
            set allowed { type ipv4_addr; }
            chain out { type filter hook output priority 0; policy drop;
                oif lo accept; ip daddr 10.99.0.9 accept; ct state established accept; ip daddr @allowed accept; }
        }";
        let net = Net::new()?;
        net.widen(FRESH)?;
        serve(&net.far, zone)?;
        let server = ebfw_tests::lab::server::Server::start(&net.far, PORT)?;
        net.near.enter(|| -> Result<()> {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .spawn()?;
            let stdin = nft.stdin.take().context("it is piped")?;
            (&stdin).write_all(RULES.as_bytes())?;
            drop(stdin);
            ensure!(nft.wait()?.success(), "nft refuses the rules");
            Ok(())
        })??;
        let child = net.near.enter(|| {
            Command::new("dnsmasq")
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                ])
                .args([
                    "--no-hosts",
                    "--user=root",
                    "--listen-address=127.0.0.1",
                    "--bind-interfaces",
                ])
                .args(["--pid-file", "--cache-size=0", "--server=10.99.0.9"])
                .arg("--nftset=/good.example/4#ip#f#allowed")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        })??;
        let dnsmasq = Self {
            net,
            _server: server,
            child,
        };
        let listens = || {
            let path = format!("/proc/{}/net/udp", dnsmasq.child.id());
            fs::read_to_string(path).is_ok_and(|table| table.contains("0100007F:0035"))
        };
        eventually("dnsmasq listens", listens);
        Ok(dnsmasq)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outside(netns: &Netns, resolver: IpAddr, first: u16) -> Result<Round> {
    let place = Place {
        netns,
        cgroup: None,
    };
    let process = Process::start(place, move |_: &mut Line| pairs(resolver, first));
    Ok(Round::unpack(process.finish()?))
}

fn main() -> Result<ExitCode> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some("programs") {
        programs::measure(&arguments.next().unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(mut lab) = Lab::open() else {
        return Ok(ExitCode::FAILURE);
    };
    lab.net().widen(FRESH)?;
    lab.resolver(zone);
    let dnsmasq = Dnsmasq::start()?;
    let _statistics = enable_stats(Stats::RunTime)
        .context("failed to switch the kernel's run-time statistics on")?;
    let mut rows: [(&str, Vec<Round>); 4] = [
        ("no firewall", vec![]),
        ("ebfw, by prefix", vec![]),
        ("ebfw, by name", vec![]),
        ("dnsmasq and nftset", vec![]),
    ];
    let mut answer_ns = Vec::new();
    for round in 0..ROUNDS {
        let first = |set_up: u16| 1 + (round * 4 + set_up) * PAIRS;
        rows[0].1.push(outside(&lab.net().near, v4(9), first(0))?);
        for (row, policy) in [(1, ANY), (2, BY_NAME)] {
            lab.policy(policy);
            let first = first(row as u16);
            let before = lab.run_statistics()[2];
            let done = lab.inside(move || pairs(v4(9), first))?;
            rows[row].1.push(Round::unpack(done));
            // Of the connects it sees the answers to SYN, too: what is not from a resolver costs it next to nothing.
            let after = lab.run_statistics()[2];
            answer_ns.push((after.1 - before.1) / u64::from(PAIRS));
        }
        rows[3]
            .1
            .push(outside(&dnsmasq.net.near, LOCALHOST, first(3))?);
    }
    println!(
        "{:<22} {:>10} {:>12} {:>12} {:>14}",
        "", "failed", "answer, µs", "connect, µs", "connects/s"
    );
    for (name, rounds) in rows {
        let median = |value: fn(&Round) -> u64| {
            let mut values: Vec<_> = rounds.iter().map(value).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let failed: u64 = rounds.iter().map(|round| round.failed).sum();
        let connect = median(|round| round.connect_ns);
        println!(
            "{name:<22} {:>10} {:>12.1} {:>12.1} {:>14}",
            format!("{failed}/{}", usize::from(PAIRS) * rounds.len()),
            median(|round| round.lookup_ns) as f64 / 1000.0,
            connect as f64 / 1000.0,
            1_000_000_000 / connect.max(1)
        );
    }
    answer_ns.sort_unstable();
    println!(
        "ingress for one look-up and connect: {} ns",
        answer_ns[answer_ns.len() / 2]
    );
    drop(lab);
    programs::measure("")?;
    Ok(ExitCode::SUCCESS)
}
