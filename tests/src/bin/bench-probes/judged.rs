//! What it costs a program that its requests are judged before they leave: requests of HTTP/1 and HTTP/2 on a real connection of a real libssl,
//! beside agents that leave TLS alone, only look, have no rule about requests, and have one; and what each packet costs on the way out.
//!
//! Each agent looks after a cgroup and a copy of the library of its own, so that all can be asked in turn. Of the processes their own
//! processor time counts, with the way of the packets in it; of the kernel programs the kernel's run-time statistics, which are taken in rounds
//! of their own, since they cost something themselves. The empty program beside each agent's sees the same packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _, stdin},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use ebfw_tests::{
    http::browsers_request,
    lab::{
        Lab,
        agent::{Agent, Home, PROBES},
        eventually,
        net::v4,
    },
    tls::{self, Library},
};

use crate::{ROUNDS, calls, fresh_second, median_and_spread};

/// The word by which this program knows that it is one of the processes.
pub(crate) const VICTIM: &str = "victim";
/// Requests of one round: fewer than are copied in a second.
const REQUESTS: u32 = 2000;
/// Where the server listens.
const PORT: u16 = 8443;
/// What the requests are for.
const HOST: &str = "www.example.com";
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36";
/// A judged request may cost this many microseconds more than one that is only seen: a tenth of what a handshake takes.
const LIMIT_US: f64 = 50.0;
/// Once sockets are known, a packet may cost this much more than in the empty program.
const PACKET_LIMIT_NS: f64 = 200.0;
/// The program that sees every packet, and the empty one.
const ON_THE_WAY_OUT: [&str; 2] = ["ebfw_socket", "ebfw_empty"];

const ABOUT_REQUESTS: &str = "
defaultAction: Allow
rules:
- {name: admin, action: Deny, match: {pathPrefix: /admin}}
- {name: delete, action: Deny, match: {methods: [DELETE]}}
";
const ABOUT_PORTS: &str = "
defaultAction: Allow
rules:
- {name: mail, action: Deny, match: {ports: [25]}}
";

/// What an agent does: by what policy, with which settings.
type Setting = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);
const SETTINGS: [Setting; 4] = [
    ("no probes", ABOUT_REQUESTS, &[("EBFW_INSPECT", "false")]),
    (
        "observed",
        ABOUT_REQUESTS,
        &[("EBFW_ENFORCE_DRY_RUN", "true")],
    ),
    ("enforced, no rule about requests", ABOUT_PORTS, &[]),
    ("enforced, two rules about requests", ABOUT_REQUESTS, &[]),
];

/// Versions of HTTP, as their processes are told.
const VERSIONS: [&str; 2] = ["HTTP/1.1", "HTTP/2"];

/// One agent, and a process for each version of HTTP that it looks after.
struct Case {
    name: &'static str,
    // In the order in which they have to go.
    victims: Vec<Victim>,
    programs: BTreeSet<u32>,
    _agent: Agent,
    _home: Home,
    _lab: Lab,
    /// Of each version: nanoseconds a request.
    samples: [Vec<f64>; 2],
    /// Of each version, by program: nanoseconds a run, and runs a request.
    runs: [BTreeMap<String, (f64, f64)>; 2],
}

/// A process that sends requests when it is told to.
struct Victim {
    child: Child,
    tell: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Victim {
    fn start(lab: &Lab, library: &Path, folder: &Path, version: &str) -> Result<Self> {
        let mut command = lab.command(&env::current_exe()?);
        command.arg(VICTIM).args([library, folder]).arg(version);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.net().near.enter(|| command.spawn())??;
        let (tell, said) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            tell: tell.context("it is piped")?,
            said: BufReader::new(said.context("it is piped")?),
        })
    }

    /// Lets it send a round; nanoseconds a request.
    fn round(&mut self) -> Result<f64> {
        writeln!(self.tell, "go")?;
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        line.trim().parse().context("the process has ended")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the processes.
pub(crate) fn victim(library: &Path, folder: &Path, version: &str) -> Result<()> {
    let library = Library::load(library)?;
    let stream = TcpStream::connect(SocketAddr::new(v4(2), PORT))?;
    stream.set_nodelay(true)?;
    let connection = library.connect_over(folder, &stream)?;
    let is_http2 = version == VERSIONS[1];
    let mut requests = Requests { stream: 1 };
    if is_http2 {
        connection.write(&requests.preface());
    }
    for line in stdin().lines() {
        line?;
        fresh_second()?;
        let taken = if is_http2 {
            calls(REQUESTS, || connection.write(&requests.next()))?
        } else {
            let request = browsers_request(HOST);
            calls(REQUESTS, || connection.write(&request))?
        };
        println!("{taken}");
    }
    Ok(())
}

/// Requests of HTTP/2 on one connection, as browsers make them: all but the path refers to the first one.
struct Requests {
    stream: u32,
}

impl Requests {
    /// What a client says first, and a first request that fills the table.
    fn preface(&mut self) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let mut block = vec![0x82, 0x87];
        literal(&mut block, 0x41, HOST);
        literal(&mut block, 0x04, "/static/js/first.js");
        literal(&mut block, 0x40 | 58, USER_AGENT);
        bytes.extend(self.frame(&block));
        bytes
    }

    fn next(&mut self) -> Vec<u8> {
        let mut block = vec![0x82, 0x87, 0x80 | 63];
        literal(&mut block, 0x04, "/static/js/app.js?v=2024-11-25");
        block.push(0x80 | 62);
        self.frame(&block)
    }

    fn frame(&mut self, block: &[u8]) -> Vec<u8> {
        // HEADERS, with the ends of the stream and of the headers.
        let mut frame = vec![0, 0, block.len() as u8, 1, 5];
        frame.extend(self.stream.to_be_bytes());
        frame.extend(block);
        self.stream += 2;
        frame
    }
}

/// A header whose name is in the static table: one byte says how it is kept and where the name stands.
fn literal(block: &mut Vec<u8>, head: u8, value: &str) {
    block.push(head);
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}

/// Measures, and prints the tables.
pub(crate) fn measure(folder: &Path) -> Result<()> {
    let source = tls::library().context("there is no libssl")?;
    tls::make_certificate(folder)?;
    let mut cases = Vec::new();
    for (name, policy, settings) in SETTINGS {
        eprintln!("{name}");
        cases.push(Case::start(name, policy, settings, &source, folder)?);
    }
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for case in &mut cases {
            for (victim, samples) in case.victims.iter_mut().zip(&mut case.samples) {
                samples.push(victim.round()?);
            }
        }
    }
    let _statistics = enable_stats(Stats::RunTime)?;
    for case in &mut cases {
        case.statistics()?;
    }
    show(&mut cases)
}

impl Case {
    fn start(
        name: &'static str,
        policy: &str,
        settings: &[(&str, &str)],
        source: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let mut lab = Lab::open().context("this needs root")?;
        serve(&lab, source, folder)?;
        let own = folder.join(name.replace([' ', ','], "-"));
        fs::create_dir_all(&own)?;
        let copy = own.join("libssl.so.3");
        fs::copy(source, &copy)?;
        let before = programs()?;
        lab.attach_empty();
        let home = Home::new();
        home.write_policy(policy);
        let config = home.write_config("exclude: {cidrs: []}\n");
        let own = [PROBES, ("EBFW_CONFIG", &config[..])];
        let settings = [&own, settings].concat();
        let agent = Agent::start_with(&home, &lab, &settings);
        let looks = !settings.contains(&("EBFW_INSPECT", "false"));
        if looks {
            agent.log.wait_for(&["requests inside TLS are observed by"]);
            let refused = "requests inside TLS are not denied before they leave";
            let log = agent.log.so_far();
            ensure!(!log.iter().any(|line| line.contains(refused)), "{log:?}");
        }
        let programs = programs()?.difference(&before).copied().collect();
        let mut victims = Vec::new();
        for version in VERSIONS {
            // What has written before it was probed cannot be read with HTTP/2: each begins anew until it is seen.
            let mut seen = 0;
            let count = || {
                let events = agent.events.so_far().into_iter();
                events
                    .filter(|line| line.contains("/static/js/app.js"))
                    .count()
            };
            eventually("the requests are seen", || {
                let victim = Victim::start(&lab, &copy, folder, version);
                let mut victim = victim.expect("the process starts");
                // The first one is there to be looked into.
                thread::sleep(Duration::from_millis(200));
                let before = count();
                victim.round().expect("the process runs");
                thread::sleep(Duration::from_millis(200));
                seen = count() - before;
                victims.push(victim);
                let is_seen = !looks || seen > 0;
                if !is_seen {
                    victims.pop();
                }
                is_seen
            });
        }
        Ok(Self {
            name,
            victims,
            programs,
            _agent: agent,
            _home: home,
            _lab: lab,
            samples: Default::default(),
            runs: Default::default(),
        })
    }

    /// What the kernel says of this agent's programs, a round of each version.
    fn statistics(&mut self) -> Result<()> {
        for (victim, runs) in self.victims.iter_mut().zip(&mut self.runs) {
            let before = times(&self.programs)?;
            victim.round()?;
            for (name, (count, nanoseconds)) in times(&self.programs)? {
                let (count_before, nanoseconds_before) =
                    before.get(&name).copied().unwrap_or((0, 0.0));
                let ran = count - count_before;
                if ran > 0 {
                    let each = (nanoseconds - nanoseconds_before) / ran as f64;
                    runs.insert(name, (each, ran as f64 / f64::from(REQUESTS)));
                }
            }
        }
        Ok(())
    }
}

/// Reads what comes on each connection, and answers nothing.
fn serve(lab: &Lab, library: &Path, folder: &Path) -> Result<()> {
    let listener = lab
        .net()
        .far
        .enter(|| TcpListener::bind(SocketAddr::new(v4(2), PORT)))??;
    let (library, folder) = (library.to_owned(), folder.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (library, folder) = (library.clone(), folder.clone());
            thread::spawn(move || swallow(&library, &folder, &stream));
        }
    });
    Ok(())
}

/// After the handshake the bytes are not decrypted: that would only take the processor from who is measured.
fn swallow(library: &Path, folder: &Path, mut stream: &TcpStream) -> Result<()> {
    let library = Library::load(library)?;
    let _connection = library.accept_over(folder, stream)?;
    let mut buffer = vec![0; 1 << 16];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Ids of the programs that are loaded.
fn programs() -> Result<BTreeSet<u32>> {
    loaded_programs().map(|program| Ok(program?.id())).collect()
}

/// Run counts and run times of programs, by name.
fn times(ids: &BTreeSet<u32>) -> Result<BTreeMap<String, (u64, f64)>> {
    let mut times = BTreeMap::new();
    for program in loaded_programs() {
        let program = program?;
        if ids.contains(&program.id()) {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            let ran = (program.run_count(), program.run_time().as_nanos() as f64);
            times.insert(name, ran);
        }
    }
    Ok(times)
}

fn show(cases: &mut [Case]) -> Result<()> {
    let mut costs = Vec::new();
    for (place, version) in VERSIONS.iter().enumerate() {
        println!(
            "\n{version:<36} {:>10} {:>12} {:>8} {:>8}",
            "writes/s", "ns a write", "spread", "ratio"
        );
        let mut bare = None;
        for case in &mut *cases {
            let (median, spread) = median_and_spread(&mut case.samples[place]);
            println!(
                "{:<36} {:>10.0} {median:>12.0} {spread:>8.0} {:>8.2}",
                case.name,
                1e9 / median,
                median / *bare.get_or_insert(median)
            );
            costs.push(median);
        }
    }
    for (place, version) in VERSIONS.iter().enumerate() {
        println!(
            "\n{version}, what runs for one write (the kernel's statistics, with what they cost)"
        );
        for case in &*cases {
            for (name, (each, often)) in &case.runs[place] {
                println!(
                    "{:<36} {name:<16} {each:>8.0} ns {often:>6.2} times",
                    case.name
                );
            }
        }
    }
    let runs = cases.iter().flat_map(|case| &case.runs);
    for run in runs {
        let [Some(own), Some(empty)] = ON_THE_WAY_OUT.map(|name| run.get(name)) else {
            continue;
        };
        let cost = own.0 - empty.0;
        ensure!(
            cost <= PACKET_LIMIT_NS,
            "a packet costs {cost:.0} ns more than in the empty program"
        );
    }
    for (version, costs) in VERSIONS.iter().zip(costs.chunks(SETTINGS.len())) {
        let judging = (costs[3] - costs[1]) / 1000.0;
        println!("\n{version}: to judge a request costs {judging:.1} us (limit {LIMIT_US})");
        ensure!(judging <= LIMIT_US, "more than {LIMIT_US} us");
    }
    Ok(())
}
