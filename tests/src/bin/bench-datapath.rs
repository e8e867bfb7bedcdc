//! What a verdict costs: ns per packet of the egress program beside the empty one, in one run, on this machine.
//!
//! First with `BPF_PROG_TEST_RUN`, where nothing but the program runs; the limits hold for these figures. Then with a real connected socket
//! and the kernel's run-time statistics, where the network stack runs between two packets and the caches are its own; the empty program is
//! attached to the same cgroup and sees the same packets. Rounds are interleaved; the figure is the median, the spread is the distance
//! of the quartiles. With `-- readers` only what the readers of first words cost. Needs root; makes a cgroup and a network namespace of its own.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

#[path = "../../../ebfw-common/tests/stream/hello.rs"]
mod hello;

use std::{
    collections::BTreeMap,
    env,
    net::UdpSocket,
    process::{Command, ExitCode},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use ebfw_agent::{
    datapath::{Assignment, Datapath, StreamReader},
    host::cgroup::{Hierarchy, OwnedCgroup},
};
use ebfw_common::{
    classify::{claim, request},
    trial::{self, Trial},
};
use ebfw_policy::{parse_policy, ruleset::Ruleset, testgen, workload::Workload};
use ebfw_tests::{
    http::browsers_request,
    packet::{Part, Upper, V4, V6, segment},
};
use nix::sched::{CloneFlags, unshare};
use zerocopy::FromZeros as _;

use crate::hello::{extension, hello, records, server_name};

/// Interleaved rounds; odd, so that the median is a measurement.
const ROUNDS: usize = 9;
/// Runs of one test run.
const REPEAT: u32 = 100_000;
/// Packets of one round on a real socket.
const PACKETS: u64 = 100_000;
/// Where the benchmark's packets go: an address that the benchmark's own namespace has on its loopback device.
const TARGET: [u8; 4] = [10, 99, 0, 2];
/// The same for IPv6.
const TARGET6: &str = "fd99::2";
const PORT: u16 = 60_000;
/// A cached verdict may cost this much more than the empty program.
const CACHED_LIMIT_NS: f64 = 45.0;
/// Starts that are measured; odd, so that the median is a measurement.
const STARTS: usize = 5;
/// A start should not take longer.
const START_LIMIT_S: u32 = 3;
/// An uncached verdict with 4096 rules may cost this many times one with a single rule.
const RULES_LIMIT: f64 = 2.5;

/// The walk over a name of 25 bytes may cost this much more than the empty program.
const WALK_LIMIT_NS: f64 = 150.0;

/// One line of the table.
struct Case {
    name: String,
    ruleset: Arc<Ruleset>,
    packet: Vec<u8>,
    cached: bool,
    samples: Vec<f64>,
}

fn main() -> Result<ExitCode> {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        Some("send") => {
            let count = arguments.next().context("send takes a count")?.parse()?;
            return send(count).map(|()| ExitCode::SUCCESS);
        }
        Some("readers") => return readers().map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "loading kernel programs needs root"
    );
    let within = alone()?;
    let walk_within = what_clients_say()?;
    readers()?;
    between_packets()?;
    Ok(if within && walk_within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A policy of `rules` rules of which only the last matches.
fn last_of(rules: usize) -> Result<Arc<Ruleset>> {
    let mut source = String::from("defaultAction: Deny\nrules:\n");
    for rule in 0..rules {
        let port = if rule + 1 == rules {
            usize::from(PORT)
        } else {
            rule + 1
        };
        source.push_str(&format!(
            "- {{name: r{rule}, action: Allow, match: {{ports: [{port}], protocols: [UDP]}}}}\n"
        ));
    }
    ruleset(&source)
}

/// A policy with one rule of `prefixes` prefixes, one of which holds the target.
fn prefixes(prefixes: u32) -> Result<Arc<Ruleset>> {
    let mut source = String::from(
        "defaultAction: Deny\nrules:\n- name: net\n  action: Allow\n  match:\n    cidrs:\n    - 10.99.0.0/24\n",
    );
    for index in 1..prefixes {
        let [_, b, c, d] = (index << 4).to_be_bytes();
        source.push_str(&format!("    - {}.{b}.{c}.{d}/28\n", 20 + (index >> 20)));
    }
    ruleset(&source)
}

fn ruleset(source: &str) -> Result<Arc<Ruleset>> {
    let policy = parse_policy(source)
        .map_err(|errors| anyhow::anyhow!(errors.render("benchmark", source, false)))?;
    Ok(Arc::new(
        policy
            .select(&Workload::default())?
            .context("the policy has no pod selector")?,
    ))
}

fn cases() -> Result<Vec<Case>> {
    let v4 = V4::plain(TARGET.into(), Upper::new(17, PORT, 32))
        .build()
        .bytes;
    // Its headers are not plain enough for the short way, and cost the parser nothing more: what a remembered verdict costs without that.
    let fragment = V4 {
        part: Part::First,
        ..V4::plain(TARGET.into(), Upper::new(17, PORT, 32))
    }
    .build()
    .bytes;
    let v6 = V6::plain(TARGET6.parse()?, Upper::new(17, PORT, 32))
        .build()
        .bytes;
    let case = |cached: bool, what: &str, ruleset, packet: &[u8]| {
        let name = format!("{}, {what}", if cached { "cached" } else { "uncached" });
        Case {
            name,
            ruleset,
            packet: packet.to_vec(),
            cached,
            samples: Vec::new(),
        }
    };
    let mut cases = vec![
        case(true, "1 rule", last_of(1)?, &v4),
        case(true, "4096 rules", last_of(4096)?, &v4),
        case(true, "4096 rules, IPv6", last_of(4096)?, &v6),
        case(true, "1 rule, a first fragment", last_of(1)?, &fragment),
    ];
    for rules in [1, 64, 1024, 4096] {
        cases.push(case(
            false,
            &format!("last of {rules} rules"),
            last_of(rules)?,
            &v4,
        ));
    }
    cases.push(case(false, "last of 4096 rules, IPv6", last_of(4096)?, &v6));
    for count in [10, 1_000, 10_000, 100_000] {
        cases.push(case(
            false,
            &format!("{count} prefixes"),
            prefixes(count)?,
            &v4,
        ));
    }
    Ok(cases)
}

/// From nothing to maps and programs in the kernel, the verifier's work included.
fn cold_start() -> Result<()> {
    let mut took: Vec<f64> = Vec::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        drop(Datapath::load(None)?);
        took.push(start.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    println!(
        "all programs are loaded after {:.2} s (median of {STARTS}, limit {START_LIMIT_S})",
        took[STARTS / 2]
    );
    Ok(())
}

/// The program alone. Whether the figures are within their limits.
fn alone() -> Result<bool> {
    let hierarchy = Hierarchy::find()?;
    let own = hierarchy.id(&hierarchy.own()?)?.0;
    cold_start()?;
    let mut datapath = Datapath::load(None)?;
    datapath.load_benchmarks()?;
    let mut cases = cases()?;
    let mut empty = Vec::new();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for case in &mut cases {
            let assignment = Assignment {
                ruleset: Some(Arc::clone(&case.ruleset)),
                open: false,
                silent: false,
            };
            // A test run's socket belongs to the caller's cgroup, in older kernels to the root.
            datapath.apply(&BTreeMap::from([
                (1, assignment.clone()),
                (own, assignment),
            ]))?;
            // A test run's socket lives as long as its repetitions: all but the first find the verdict that it remembers.
            let run = if case.cached {
                datapath.test_egress(&case.packet, REPEAT)
            } else {
                datapath.test_uncached(&case.packet, REPEAT)
            }?;
            ensure!(run.returned == 1, "{}: the packet does not pass", case.name);
            case.samples.push(run.duration.as_nanos() as f64);
            empty.push(
                datapath
                    .test_empty(&case.packet, REPEAT)?
                    .duration
                    .as_nanos() as f64,
            );
        }
    }
    println!(
        "{:<40} {:>8} {:>8}",
        "ns per packet (test run)", "median", "spread"
    );
    let bare = row("the empty program", &mut empty);
    let medians: BTreeMap<&str, f64> = cases
        .iter_mut()
        .map(|case| (&*case.name, row(&case.name, &mut case.samples)))
        .collect();
    let cached = medians["cached, 4096 rules"] - bare;
    let ratio = medians["uncached, last of 4096 rules"] / medians["uncached, last of 1 rules"];
    println!(
        "a cached verdict costs {cached:.1} ns more than the empty program (limit {CACHED_LIMIT_NS})"
    );
    println!("uncached, 4096 rules cost {ratio:.2} times 1 rule (limit {RULES_LIMIT})");
    println!(
        "kernel memory of the maps with the last policy: {} KiB",
        datapath.memory()? / 1024
    );
    Ok(ratio <= RULES_LIMIT && cached <= CACHED_LIMIT_NS)
}

/// What a client says, and which program reads it.
struct Spoken {
    name: String,
    ruleset: Arc<Ruleset>,
    trial: Trial,
    walk: bool,
}

/// A name of 25 bytes that the last rule of [`spoken_rules`] means.
const NAME: &str = "cdn-7.assets.example.test";

/// Rules with a domain and a path each, of which only the last means what is said.
fn spoken_rules(rules: usize) -> Result<Arc<Ruleset>> {
    let mut source = String::from("defaultAction: Deny\nrules:\n");
    for (rule, domain) in testgen::domains(rules).iter().enumerate() {
        let (domain, path) = if rule + 1 == rules {
            ("*.assets.example.test".to_owned(), "/api/v1".to_owned())
        } else {
            (domain.to_string(), format!("/service-{rule}/v1"))
        };
        source.push_str(&format!(
            "- {{name: r{rule}, action: Allow, match: {{domains: ['{domain}'], pathPrefix: {path}, methods: [GET]}}}}\n"
        ));
    }
    ruleset(&source)
}

/// One rule with `patterns` domains.
fn many_domains(patterns: usize) -> Result<Arc<Ruleset>> {
    let mut source = String::from(
        "defaultAction: Deny\nrules:\n- name: domains\n  action: Allow\n  match:\n    domains:\n    - '*.assets.example.test'\n",
    );
    for domain in testgen::domains(patterns - 1) {
        source.push_str(&format!("    - '{domain}'\n"));
    }
    ruleset(&source)
}

fn spoken() -> Trial {
    let mut trial = Trial::new_zeroed();
    trial.claim = claim::RESOLVED;
    trial.request = request::KNOWN;
    for place in 0..trial::NAMES {
        trial.names[place][..NAME.len()].copy_from_slice(NAME.as_bytes());
        trial.name_lengths[place] = NAME.len() as u32;
    }
    trial.method[..3].copy_from_slice(b"GET");
    trial.method_length = 3;
    let path = b"/api/v1/users/17/orders";
    trial.path[..path.len()].copy_from_slice(path);
    trial.path_length = path.len() as u32;
    trial
}

/// Claims and requests, which no packet of a test run can carry. Whether the walk over a name is within its limit.
fn what_clients_say() -> Result<bool> {
    let hierarchy = Hierarchy::find()?;
    let own = hierarchy.id(&hierarchy.own()?)?.0;
    let mut datapath = Datapath::load(None)?;
    datapath.load_benchmarks()?;
    let packet = V4::plain(TARGET.into(), Upper::new(6, PORT, 32))
        .build()
        .bytes;
    let case = |name: &str, ruleset, walk| Spoken {
        name: name.to_owned(),
        ruleset,
        trial: spoken(),
        walk,
    };
    let cases = [
        case("walk over 25 bytes, 1 domain", many_domains(1)?, true),
        case(
            "walk over 25 bytes, 100000 domains",
            many_domains(100_000)?,
            true,
        ),
        case("claim and request, 1 rule", spoken_rules(1)?, false),
        case(
            "claim and request, last of 4096 rules",
            spoken_rules(4096)?,
            false,
        ),
    ];
    println!(
        "\n{:<40} {:>8} {:>8}",
        "ns per packet (test run)", "median", "spread"
    );
    let mut within = true;
    for case in &cases {
        let assignment = Assignment {
            ruleset: Some(Arc::clone(&case.ruleset)),
            open: false,
            silent: false,
        };
        datapath.apply(&BTreeMap::from([
            (1, assignment.clone()),
            (own, assignment),
        ]))?;
        datapath.set_trial(&case.trial)?;
        let (mut samples, mut empty) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let run = if case.walk {
                datapath.test_walk(&packet, REPEAT)
            } else {
                datapath.test_trial(&packet, REPEAT)
            }?;
            ensure!(run.returned == 1, "{}: it is not allowed", case.name);
            samples.push(run.duration.as_nanos() as f64);
            empty.push(datapath.test_empty(&packet, REPEAT)?.duration.as_nanos() as f64);
        }
        let bare = row("the empty program beside it", &mut empty);
        let cost = row(&case.name, &mut samples) - bare;
        println!("{}: {cost:.1} ns above the empty program", case.name);
        within &= !case.walk || cost <= WALK_LIMIT_NS;
    }
    println!("the walk's limit is {WALK_LIMIT_NS} ns");
    Ok(within)
}

/// The first words of a connection, from the socket's storage made to its end: read, kept, not judged.
fn readers() -> Result<()> {
    let reader = StreamReader::load()?;
    let mut datapath = Datapath::load(None)?;
    datapath.load_benchmarks()?;
    let sni = server_name(NAME.as_bytes());
    let classic = [sni.clone(), extension(43, &[2; 170])];
    let large = [extension(51, &[5; 1263]), sni, extension(0xfe0d, &[6; 350])];
    let request = browsers_request("shop.example:8080");
    let with_cookies = [
        &request[..request.len() - 4],
        &b"; id=0123456789abcdef".repeat(75),
        b"\r\n\r\n",
    ]
    .concat();
    let mut rows: Vec<(String, Vec<u8>, Vec<f64>)> = [
        ("neither TLS nor HTTP", b"\0".to_vec()),
        ("a hello", records(&hello(&classic), 16384)),
        (
            "a hello with post-quantum keys",
            records(&hello(&large), 16384),
        ),
        ("a request", request),
        ("a request with long cookies", with_cookies),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        let name = format!("{name}, {} bytes", bytes.len());
        (name, segment(&bytes), Vec::new())
    })
    .collect();
    let mut empty = Vec::new();
    for _ in 0..ROUNDS {
        for (_, packet, samples) in &mut rows {
            let (_, run) = reader.read(packet, REPEAT / 10)?;
            samples.push(run.duration.as_nanos() as f64);
            let run = datapath.test_empty(packet, REPEAT / 10)?;
            empty.push(run.duration.as_nanos() as f64);
        }
    }
    println!(
        "\n{:<40} {:>8} {:>8}",
        "ns per connection (test run)", "median", "spread"
    );
    row("the empty program beside them", &mut empty);
    for (name, _, samples) in &mut rows {
        row(name, samples);
    }
    Ok(())
}

fn row(name: &str, samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples[samples.len() * part / 4];
    println!("{name:<40} {:>8.1} {:>8.1}", at(2), at(3) - at(1));
    at(2)
}

/// The program among everything else that a packet needs.
fn between_packets() -> Result<()> {
    let hierarchy = Hierarchy::find()?;
    let cgroup = hierarchy.create(
        &hierarchy.own()?,
        &format!("ebfw-bench-{}", std::process::id()),
    )?;
    let mut datapath = Datapath::load(None)?;
    datapath.load_benchmarks()?;
    let _statistics = enable_stats(Stats::RunTime)
        .context("failed to switch the kernel's run-time statistics on")?;
    datapath.attach_for_benchmark(cgroup.directory(), false)?;
    datapath.attach_for_benchmark(cgroup.directory(), true)?;
    let mut table: Vec<(String, Vec<f64>, Vec<f64>)> = Vec::new();
    for rules in [1, 4096] {
        let assignment = Assignment {
            ruleset: Some(last_of(rules)?),
            open: false,
            silent: false,
        };
        datapath.apply(&BTreeMap::from([(cgroup.id().0, assignment)]))?;
        let (mut real, mut empty) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [before, before_empty] = datapath.run_statistics();
            run_sender(&cgroup)?;
            let [after, after_empty] = datapath.run_statistics();
            let mean = |before: (u64, u64), after: (u64, u64)| {
                (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64
            };
            ensure!(
                after.0 - before.0 >= PACKETS,
                "the program saw {} of {PACKETS} packets",
                after.0 - before.0
            );
            real.push(mean(before, after));
            empty.push(mean(before_empty, after_empty));
        }
        table.push((format!("cached, {rules} rules"), real, empty));
    }
    datapath.detach_unpinned();
    cgroup.remove()?;
    println!(
        "\n{:<40} {:>8} {:>8}",
        "ns per packet (connected socket)", "median", "spread"
    );
    for (name, real, empty) in &mut table {
        let bare = row("the empty program beside it", empty);
        let cost = row(name, real) - bare;
        println!("{name}: {cost:.1} ns above the empty program");
    }
    Ok(())
}

fn run_sender(cgroup: &OwnedCgroup) -> Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["send", &PACKETS.to_string()]);
    cgroup.confine(&mut command)?;
    ensure!(command.status()?.success(), "the sender failed");
    Ok(())
}

/// In the cgroup: makes a network namespace of its own and sends from one connected socket.
fn send(count: u64) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let address = std::net::Ipv4Addr::from(TARGET);
    for arguments in [
        vec!["link", "set", "lo", "up"],
        vec!["address", "add", &format!("{address}/32"), "dev", "lo"],
    ] {
        ensure!(
            Command::new("ip").args(&arguments).status()?.success(),
            "ip {arguments:?} failed"
        );
    }
    // Its queue fills and the rest is dropped behind the hook, which is all the same here.
    let _receiver = UdpSocket::bind((address, PORT))?;
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect((address, PORT))?;
    for _ in 0..count {
        socket.send(&[0; 32])?;
    }
    Ok(())
}
