//! Clients that resolve in their own ways, with an agent that is busy, stopped or not there: no verdict may be wrong.

use std::{
    env, fs,
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ebfw_common::abi::{Counter, FlowEvent};
use ebfw_test_need::{not_run, tool};
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home},
    net::{v4, v6},
    resolver::{A, AAAA, DNS, answer, asking, question, serve, wire},
};
use hickory_proto::op::Message;

use super::{super::found, GOOD_NAMES, RESOLVER, code, datagram};

/// Pairs of a look-up and a connect.
pub(super) const PAIRS: u16 = 10_000;

/// Every name has addresses of its own, one of each family: `n1234.…` has fd99::1:1234 and 10.100 + 1234, or 10.200 where it is none of the good.
pub(super) fn fresh(asked: &Message) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_ascii().to_ascii_lowercase();
    let number = name
        .strip_prefix('n')
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    let number: u16 = number.unwrap_or_default();
    vec![wire(&answer(
        asked,
        &[address(number).into(), v4_of(number).into()],
    ))]
}

pub(super) fn address(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number)
}

fn v4_of(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, if is_good(number) { 100 } else { 200 }, high, low)
}

fn is_good(number: u16) -> bool {
    number % 4 != 3
}

pub(super) fn name(number: u16) -> String {
    let zone = if is_good(number) { "good" } else { "evil" };
    format!("n{number}.{zone}.example")
}

/// Whether the verdict on it is wrong. No route leads to those of IPv4, which the kernel says after it has asked the programs.
pub(super) fn is_wrong(address: std::net::IpAddr, number: u16) -> u64 {
    let said = code(&datagram((address, 443).into()));
    let expected = if !is_good(number) {
        Some(libc::EPERM)
    } else if address.is_ipv4() {
        Some(libc::ENETUNREACH)
    } else {
        None
    };
    u64::from(said != expected)
}

/// Looks up and connects, one after the other; how many verdicts were wrong.
fn pairs(numbers: impl Iterator<Item = u16>) -> io::Result<u64> {
    let socket = asking(v6(RESOLVER))?;
    let mut wrong = 0;
    for number in numbers {
        socket.send(&wire(&question(number, &name(number), AAAA)))?;
        socket.recv(&mut [0; 4096])?;
        wrong += is_wrong(address(number).into(), number);
    }
    Ok(wrong)
}

/// As musl: both families at once, from one socket that is not connected.
fn both_at_once(numbers: impl Iterator<Item = u16>) -> io::Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut wrong = 0;
    for number in numbers {
        for (id, kind) in [(number, A), (number ^ 0x8000, AAAA)] {
            let asked = wire(&question(id, &name(number), kind));
            socket.send_to(&asked, (v4(RESOLVER), DNS))?;
        }
        for _ in 0..2 {
            socket.recv_from(&mut [0; 4096])?;
        }
        wrong += is_wrong(address(number).into(), number);
        wrong += is_wrong(v4_of(number).into(), number);
    }
    Ok(wrong)
}

/// A lab with that resolver; the agent has to be started.
fn lab() -> Option<(Lab, Home)> {
    let lab = Lab::open()?;
    serve(&lab.net().far, fresh).expect("the port is free");
    let home = Home::new();
    home.write_policy(GOOD_NAMES);
    Some((lab, home))
}

#[test]
fn both_families_at_once_from_one_socket() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(fresh);
    lab.policy(GOOD_NAMES);
    let wrong = lab.inside(|| both_at_once(0..2_000)).unwrap();
    assert_eq!(wrong, 0, "of 2,000 pairs");
}

#[test]
fn ten_thousand_pairs_with_an_agent_that_is_stopped() {
    let Some((lab, home)) = lab() else { return };
    let agent = Agent::start(&home, &lab);
    agent.pause();
    let wrong = lab.inside(|| pairs(0..PAIRS)).unwrap();
    // With those of the other family, and those above, two thirds of what a workload may know at once.
    let at_once = lab.inside(|| both_at_once(0..PAIRS)).unwrap();
    agent.resume();
    assert_eq!((wrong, at_once), (0, 0));
}

/// A program that resolves names: the arguments before them, those behind each, and whether it asks for IPv6 as well.
type Program = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    bool,
);

/// They resolve as many names as they are given. curl connects as well, and would wait for peers that are not there but for IPv4, to which no
/// route leads.
const PROGRAMS: [Program; 4] = [
    ("python3", &["-c", PYTHON], &[], true),
    ("curl", &["-s", "-4"], &[], false),
    ("getent", &["ahosts"], &[], true),
    ("dig", &["+tries=1"], &["A"], false),
];
const PYTHON: &str = "import socket, sys; [socket.getaddrinfo(name, 443) for name in sys.argv[1:]]";

#[test]
fn real_programs_resolve_by_the_thousand_while_the_agent_is_stopped() {
    const EACH: u16 = 2_000;
    const AT_ONCE: u16 = 500;
    let Some((lab, home)) = lab() else { return };
    let agent = Agent::start(&home, &lab);
    agent.pause();
    let mut first = 0;
    for (program, before, behind, both) in PROGRAMS {
        // Each has names of its own: what another one resolved proves nothing.
        let numbers = first..first + EACH;
        first += EACH;
        if !tool(program) {
            continue;
        }
        let numbers: Vec<u16> = numbers.collect();
        for some in numbers.chunks(AT_ONCE.into()) {
            let wrong = lab.inside(|| {
                let names: Vec<_> = some.iter().map(|number| name(*number)).collect();
                let mut arguments = before.to_vec();
                for name in &names {
                    arguments.push(name);
                    arguments.extend(behind);
                }
                super::run(program, &arguments)?;
                let v4 = some
                    .iter()
                    .map(|number| is_wrong(v4_of(*number).into(), *number));
                let v6 = some
                    .iter()
                    .map(|number| is_wrong(address(*number).into(), *number));
                let v6: u64 = if both { v6.sum() } else { 0 };
                Ok(v4.sum::<u64>() + v6)
            });
            assert_eq!(wrong.unwrap(), 0, "{program}, of {AT_ONCE} names");
        }
    }
    agent.resume();
}

#[test]
fn ten_thousand_pairs_with_an_agent_that_is_busy() {
    let Some((lab, home)) = lab() else { return };
    let agent = Agent::start(&home, &lab);
    let mut process = lab.start(|line| {
        let wrong = pairs(0..PAIRS)?;
        line.step();
        Ok(wrong)
    });
    let mut reloads = 0;
    while !process.is_heard() {
        // Thousands of patterns, so that it has something to do.
        let patterns: Vec<_> = (0..2_000)
            .map(|number| format!("'*.h{number}.r{reloads}.example'"))
            .collect();
        home.write_policy(&format!(
            "{GOOD_NAMES}- {{name: more, action: Allow, match: {{domains: [{}]}}}}\n",
            patterns.join(", ")
        ));
        reloads += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    process.reached();
    process.go();
    let wrong = process.finish().unwrap();
    agent.log.wait_for(&["policy reloaded"]);
    assert_eq!(wrong, 0, "with {reloads} policies");
}

/// Swaps of the policy.
const SWAPS: u32 = 1_000;

#[test]
fn policies_are_swapped_while_names_are_learned_and_used() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(fresh);
    lab.policy(GOOD_NAMES);
    let mut process = lab.start(|line| {
        let (mut wrong, mut done, mut number) = (0, 0u32, 0u16);
        line.step();
        while !line.is_heard() {
            wrong += pairs(number..number + 50)?;
            number = (number + 50) % PAIRS;
            done += 50;
        }
        line.step();
        Ok(wrong << 32 | u64::from(done))
    });
    process.reached();
    process.go();
    let start = Instant::now();
    for swap in 0..SWAPS {
        // Another automaton each time, in which the same names have other classes.
        let extra: Vec<_> = (0..=swap % 7)
            .map(|number| format!("'*.s{swap}.e{number}.example'"))
            .collect();
        let extra = extra.join(", ");
        lab.policy(&format!(
            "defaultAction: Deny\nrules:\n- {{name: extra, action: Allow, match: {{domains: [{extra}]}}}}\n{}",
            GOOD_NAMES.split_once("rules:\n").unwrap().1
        ));
    }
    let took = start.elapsed();
    process.go();
    process.reached();
    process.go();
    let counted = process.finish().unwrap();
    let (wrong, pairs) = (counted >> 32, counted as u32);
    eprintln!("{SWAPS} swaps in {took:?}, with {pairs} pairs");
    assert!(
        pairs >= SWAPS,
        "{pairs} pairs of a look-up and a connect are no load"
    );
    assert_eq!(wrong, 0, "of {pairs} pairs with {SWAPS} swaps");
}

/// The Go program `clients/NAME.go`, or that in the folder `clients/NAME`, built for this test run; `None`, said aloud, where that cannot be.
pub(in super::super) fn go_program(name: &str) -> Option<PathBuf> {
    let go = ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|go| found(go) || Path::new(go).is_file());
    let Some(go) = go else {
        not_run("go: it is not installed");
        return None;
    };
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let file = format!("{name}.go");
    let (folder, source, modules) = if clients.join(name).is_dir() {
        (clients.join(name), ".", "-mod=readonly")
    } else {
        (clients, &*file, "-mod=mod")
    };
    if !folder.join(source).exists() {
        not_run(&format!("the source of {name} is not on this machine"));
        return None;
    }
    let program = env::temp_dir().join(format!("ebfw-go-{name}-{}", std::process::id()));
    let built = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .current_dir(&folder)
        .env("GOFLAGS", modules)
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .output()
        .expect("go runs");
    let said = String::from_utf8_lossy(&built.stderr);
    let need = format!("{name} with what it needs of Go's module proxy: {said}");
    ebfw_test_need::met(built.status.success(), &need).then_some(program)
}

#[test]
fn gos_own_resolver() {
    let Some(mut lab) = Lab::open() else { return };
    let Some(program) = go_program("lookup") else {
        return;
    };
    lab.resolver(fresh);
    lab.policy(GOOD_NAMES);
    let (path, stderr) = (program.clone(), program.with_extension("said"));
    let said = stderr.clone();
    let wrong = lab.inside(move || {
        let mut child = Command::new(path)
            .args(["10.99.0.9:53", &PAIRS.to_string()])
            .stdout(Stdio::piped())
            .stderr(fs::File::create(stderr)?)
            .spawn()?;
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        child.wait()?;
        text.trim().parse::<u64>().map_err(io::Error::other)
    });
    let wrong_ones = fs::read_to_string(&said).unwrap_or_default();
    let _ = (fs::remove_file(program), fs::remove_file(said));
    if !matches!(wrong, Ok(0)) {
        let is_wrong = |event: &FlowEvent| {
            let to = Ipv6Addr::from(event.destination).to_canonical();
            wrong_ones.contains(&format!(" {to} "))
        };
        let events: Vec<_> = lab.events().into_iter().filter(is_wrong).collect();
        let why = [
            Counter::NameUnasked,
            Counter::NameFull,
            Counter::NameSpecial,
        ];
        let counted = why.map(|why| (why, lab.count(why)));
        panic!("{wrong:?} of {PAIRS} pairs:\n{wrong_ones}\n{counted:?}\n{events:#?}");
    }
}
