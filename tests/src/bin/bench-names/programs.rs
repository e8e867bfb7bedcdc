//! What the kernel programs spend on an answer and on a connection, by the kernel's run-time statistics: between their runs the network stack
//! has had the caches. The empty program stands beside egress and sees the same packets; each figure includes what taking it costs.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::{Result, ensure};
use aya::sys::{Stats, enable_stats};
use ebfw_common::abi::Counter;
use ebfw_tests::{
    http::browsers_request,
    lab::{
        Lab, PORT,
        net::v4,
        resolver::{A, answer, asking, question, wire},
    },
};
use hickory_proto::op::Message;

use crate::hello::{extension, hello, records, server_name};

/// Interleaved rounds; odd, so that the median is a measurement.
const ROUNDS: u32 = 9;
/// Addresses of a large answer, and how many such answers of new names there are a round: a workload has room for 30,000 addresses.
const MANY: u32 = 32;
const FEW: u32 = 35;
/// How often everything else is done. Closed connections keep their ports for a minute: all of them together must not need more than there are.
const OFTEN: u32 = 300;
/// All connections go there; a name that the policy allows stands for it.
const NAMED: &str = "n0.c1.good.example";
const ANY: &str =
    "defaultAction: Deny\nrules:\n- {name: net, action: Allow, match: {cidrs: [10.0.0.0/8]}}\n";
const BY_NAME: &str = "defaultAction: Deny\nrules:\n- {name: names, action: Allow, match: {domains: ['*.good.example']}}\n";
const BY_PATH: &str = "defaultAction: Deny\nrules:\n- {name: paths, action: Allow, match: {domains: ['*.good.example'], methods: [GET], pathPrefix: /static}}\n";
/// Address `index` of the name with that number.
fn address(number: u32, index: u32) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 100 + index as u8, high, low)
}

/// `n12.c32.…` has 32 addresses.
fn zone(asked: &Message) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_ascii();
    let mut numbers = name
        .split('.')
        .map(|label| label.get(1..).and_then(|digits| digits.parse().ok()));
    let (number, count) = (numbers.next().flatten(), numbers.next().flatten());
    let addresses: Vec<IpAddr> = (0..count.unwrap_or(1))
        .map(|index| address(number.unwrap_or_default(), index).into())
        .collect();
    vec![wire(&answer(asked, &addresses))]
}

/// Asks for names with so many addresses each, `step` numbers apart; as many answers come.
fn answers(count: u32, first: u32, step: u32, times: u32) -> io::Result<u64> {
    let socket = asking(v4(9))?;
    for time in 0..times {
        let name = format!("n{}.c{count}.good.example", first + time * step);
        socket.send(&wire(&question(time as u16, &name, A)))?;
        socket.recv(&mut [0; 4096])?;
    }
    Ok(times.into())
}

/// Connections on which each of these is a write of its own and comes back.
fn connections(writes: &[&[u8]]) -> io::Result<u64> {
    let to = SocketAddr::new(address(0, 0).into(), PORT);
    for _ in 0..OFTEN {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        for bytes in writes {
            stream.write_all(bytes)?;
        }
        stream.read_exact(&mut vec![0; writes.concat().len()])?;
    }
    Ok(OFTEN.into())
}

/// What a process of the workload does.
#[derive(Clone, Copy)]
enum Work {
    /// Answers with so many addresses, new ones or always the same.
    Answers { count: u32, new: bool },
    /// Connections on which these are written.
    Connections(&'static str, &'static str),
}

/// Medians over the rounds, a row.
struct Row {
    name: String,
    work: Work,
    samples: Vec<[f64; 3]>,
}

/// Prints the table, or the rows of it in whose names `only` is.
pub(crate) fn measure(only: &str) -> Result<()> {
    let Some(mut lab) = Lab::open() else {
        return Ok(());
    };
    lab.net().widen("10.100.0.0/16")?;
    lab.resolver(zone);
    lab.policy(BY_NAME);
    lab.attach_empty();
    let _statistics = enable_stats(Stats::RunTime)?;
    let sni = server_name(NAMED.as_bytes());
    let classic = records(&hello(&[sni.clone(), extension(43, &[2; 170])]), 16384);
    let large = records(
        &hello(&[extension(51, &[5; 1263]), sni, extension(0xfe0d, &[6; 350])]),
        16384,
    );
    let request = browsers_request(NAMED);
    let said = |what: &str| -> Vec<&[u8]> {
        match what {
            "hello" => vec![&classic],
            "large hello" => vec![&large[..1400], &large[1400..]],
            "request" => vec![&request],
            _ => vec![],
        }
    };
    let answer = |name: &str, count, new| Row {
        name: name.to_owned(),
        work: Work::Answers { count, new },
        samples: vec![],
    };
    let mut rows = vec![
        answer("an answer, 1 new address", 1, true),
        answer("an answer, 1 known address", 1, false),
        answer("an answer, 32 new addresses", MANY, true),
        answer("an answer, 32 known addresses", MANY, false),
    ];
    for (what, by) in [
        ("nothing", "prefix"),
        ("nothing", "name"),
        ("hello", "prefix"),
        ("hello", "name"),
        ("large hello", "prefix"),
        ("large hello", "name"),
        ("request", "prefix"),
        ("request", "name"),
        ("request", "path"),
    ] {
        let bytes = said(what).concat().len();
        rows.push(Row {
            name: format!("a connection by {by}, {what}: {bytes} bytes"),
            work: Work::Connections(what, by),
            samples: vec![],
        });
    }
    rows.retain(|row| row.name.contains(only));
    // Numbers of names, of which none is used twice; 0 stands for the address that is connected to.
    let mut next = 1;
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for row in &mut rows {
            let before;
            let times = match row.work {
                Work::Answers { count, new } => {
                    lab.policy(BY_NAME);
                    let times = if new && count == MANY { FEW } else { OFTEN };
                    let (first, step) = if new { (next, 1) } else { (0, 0) };
                    next += times * step;
                    before = lab.run_statistics();
                    lab.inside(move || answers(count, first, step, times))?
                }
                Work::Connections(what, by) => {
                    lab.policy(match by {
                        "name" => BY_NAME,
                        "path" => BY_PATH,
                        _ => ANY,
                    });
                    lab.inside(|| answers(1, 0, 0, 1))?;
                    let writes = said(what);
                    before = lab.run_statistics();
                    lab.inside(move || connections(&writes))?
                }
            };
            let after = lab.run_statistics();
            let spent = |which: usize| (after[which].1 - before[which].1) as f64 / times as f64;
            let runs = after[1].0 - before[1].0;
            ensure!(runs >= times, "{}: {runs} packets for {times}", row.name);
            let which = usize::from(matches!(row.work, Work::Answers { .. })) * 2;
            let packets = runs as f64 / times as f64;
            row.samples
                .push([spent(which), spent(1) / packets, packets]);
        }
    }
    for counter in [Counter::NameFull, Counter::NameUnasked] {
        ensure!(lab.count(counter) == 0, "{counter:?}");
    }
    println!(
        "\n{:<50} {:>10} {:>8} {:>22} {:>9}",
        "ns in ingress an answer, in egress a connection",
        "median",
        "spread",
        "empty, ns a packet",
        "packets"
    );
    for row in &mut rows {
        let quartile = |field: usize, part: usize| {
            let mut values: Vec<f64> = row.samples.iter().map(|sample| sample[field]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() * part / 4]
        };
        println!(
            "{:<50} {:>10.0} {:>8.0} {:>22.0} {:>9.1}",
            row.name,
            quartile(0, 2),
            quartile(0, 3) - quartile(0, 1),
            quartile(1, 2),
            quartile(2, 2)
        );
    }
    Ok(())
}
