//! Probes inside TLS under load that comes and goes: processes that use a libssl which is replaced all the time, and map and unmap it while
//! they do. None of them may end otherwise than well, and the agent must have in the end what it had at the start.
//!
//! `bench-soak --seconds 3600 --processes 200`. No network: connections shake hands in memory, and their records go nowhere.

#![expect(clippy::print_stdout, reason = "the report is what the program is for")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebfw_tests::{
    lab::{Lab, agent::Home},
    tls::{self, Library},
};

/// Copies of the library that are in use at once.
const COPIES: usize = 4;
/// How often one of them is replaced.
const UPGRADE_EVERY: Duration = Duration::from_millis(700);
/// How long a process lives, milliseconds.
const LIFE: std::ops::Range<u64> = 200..8000;
/// Bytes of one write, writes of one connection, and the pause between two.
const WRITE: usize = 200;
const WRITES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// How long the agent may take to let go of what nobody uses any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory that the agent may have more at the end than when a quarter of the time had gone.
const GROWTH_KIB: u64 = 32 * 1024;
/// The word by which this program knows that it is one of the processes.
const VICTIM: &str = "victim";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [VICTIM, library, folder, life] => victim(Path::new(library), Path::new(folder), life),
        ["--seconds", seconds, "--processes", processes] => soak(seconds, processes),
        _ => Err(anyhow::anyhow!(
            "bench-soak --seconds N --processes N: nothing else"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One process: connections one after the other, while a thread maps the library once more and lets go of it.
fn victim(path: &Path, folder: &Path, life: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_millis(life.parse()?);
    let library = Library::load(path)?;
    let done = Arc::new(AtomicBool::new(false));
    let mapping = thread::spawn({
        let (path, done) = (path.to_owned(), Arc::clone(&done));
        move || -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                map_once(&path)?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    });
    while Instant::now() < until {
        let connection = library.connect(folder);
        let head = format!(
            "POST /soak HTTP/1.1\r\nHost: soak.example\r\nContent-Length: {}\r\n\r\n",
            WRITE * WRITES
        );
        connection.write(head.as_bytes());
        for _ in 0..WRITES {
            connection.write(&[b'x'; WRITE]);
            thread::sleep(PAUSE);
        }
    }
    done.store(true, Ordering::Relaxed);
    mapping.join().expect("the thread does not panic")
}

/// Maps a file as code, looks at it, and lets go of it.
fn map_once(path: &Path) -> Result<()> {
    let file = fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())?;
    // SAFETY: a fresh mapping that nobody else knows and that is only read; the file is replaced as a whole and never shrinks.
    unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
        let start = libc::mmap(
            std::ptr::null_mut(),
            length,
            prot,
            flags,
            file.as_raw_fd(),
            0,
        );
        ensure!(start != libc::MAP_FAILED, "the library cannot be mapped");
        std::ptr::read_volatile(start.cast::<u8>());
        libc::munmap(start, length);
    }
    Ok(())
}

/// What the agent holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    links: usize,
    memory_kib: u64,
}

struct Agent {
    child: Child,
    requests: Arc<AtomicU64>,
}

impl Agent {
    fn start(home: &Home, lab: &Lab) -> Result<Self> {
        home.write_policy("defaultAction: Allow\nrules: []\n");
        let mut child = home
            .command(&["run", "--enforce-mode", "log", "--output", "json"])
            .env("EBFW_POLICY", home.policy())
            .env("EBFW_CGROUP", lab.directory())
            .env("EBFW_METRICS_ADDR", "")
            .env("EBFW_DNS_RESOLVERS", "10.99.0.9")
            .env("EBFW_INSPECT_BODY", "true")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let requests = Arc::new(AtomicU64::new(0));
        let out = BufReader::new(child.stdout.take().context("it is piped")?);
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                count.fetch_add(u64::from(line.contains("/soak")), Ordering::Relaxed);
            }
        });
        let mut log = BufReader::new(child.stderr.take().context("it is piped")?).lines();
        let ready = log
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("requests inside TLS are"))
            .context("the agent has ended")?;
        ensure!(ready.contains("are observed by"), "{ready}");
        thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
        Ok(Self { child, requests })
    }

    fn held(&self) -> Result<Held> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let open = fs::read_dir(process.join("fd")).context("the agent has gone")?;
        let (mut descriptors, mut links) = (0, 0);
        for entry in open.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            descriptors += 1;
            links += usize::from(target.contains("bpf_link") || target.contains("perf_event"));
        }
        let status = fs::read_to_string(process.join("status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|text| text.split_whitespace().next());
        Ok(Held {
            descriptors,
            links,
            memory_kib: memory.context("a process without memory")?.parse()?,
        })
    }

    /// Asks it to end; whether it does so well.
    fn end(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn soak(seconds: &str, processes: &str) -> Result<()> {
    let (length, limit) = (Duration::from_secs(seconds.parse()?), processes.parse()?);
    let lab = Lab::open().context("this needs root")?;
    let home = Home::new();
    let source = tls::library().context("there is no libssl")?;
    let folder = env::temp_dir().join(format!("ebfw-soak-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    tls::make_certificate(&folder)?;
    let done = run(&lab, &home, &source, &folder, length, limit);
    fs::remove_dir_all(&folder)?;
    done
}

fn run(
    lab: &Lab,
    home: &Home,
    source: &Path,
    folder: &Path,
    length: Duration,
    limit: usize,
) -> Result<()> {
    for number in 0..COPIES {
        upgrade(source, folder, number)?;
    }
    let agent = Agent::start(home, lab)?;
    let first = agent.held()?;
    let (mut upgrades, mut started, mut most) = (0, 0_u64, 0);
    let mut warm = None;
    let mut running: Vec<Child> = Vec::new();
    let begin = Instant::now();
    let mut next_upgrade = begin;
    while begin.elapsed() < length {
        reap(&mut running)?;
        while running.len() < limit {
            running.push(start(lab, folder)?);
            started += 1;
        }
        if Instant::now() >= next_upgrade {
            upgrade(source, folder, upgrades % COPIES)?;
            upgrades += 1;
            next_upgrade = Instant::now() + UPGRADE_EVERY;
            let held = agent.held()?;
            most = most.max(held.links);
            if warm.is_none() && begin.elapsed() >= length / 4 {
                warm = Some(held);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    while !running.is_empty() {
        reap(&mut running)?;
        thread::sleep(Duration::from_millis(50));
    }
    let warm = warm.context("it was too short")?;
    let last = settled(&agent, first)?;
    let requests = agent.requests.load(Ordering::Relaxed);
    println!(
        "{started} processes, {upgrades} upgrades, {requests} requests seen, {most} links at most\n\
         the agent at the start: {first:?}\n\
         after a quarter:        {warm:?}\n\
         at the end:             {last:?}"
    );
    ensure!(
        most > first.links,
        "the copies of the library were not looked into"
    );
    ensure!(requests > 0, "no request was seen");
    ensure!(
        last.memory_kib <= warm.memory_kib + GROWTH_KIB,
        "the agent has grown"
    );
    agent.end()
}

/// Waits until the agent has no more than it had at first.
fn settled(agent: &Agent, first: Held) -> Result<Held> {
    let until = Instant::now() + PATIENCE;
    loop {
        let held = agent.held()?;
        if held.links <= first.links && held.descriptors <= first.descriptors {
            return Ok(held);
        }
        ensure!(
            Instant::now() < until,
            "the agent does not let go: {first:?} at the start, {held:?} now"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Puts a fresh copy of the library in the place of another one, as package managers do.
fn upgrade(source: &Path, folder: &Path, number: usize) -> Result<()> {
    let fresh = folder.join("fresh");
    fs::copy(source, &fresh)?;
    Ok(fs::rename(&fresh, copy(folder, number))?)
}

fn copy(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("libsoak-{number}.so"))
}

/// Starts a process in the lab's cgroup.
fn start(lab: &Lab, folder: &Path) -> Result<Child> {
    lab.command(&env::current_exe()?)
        .arg(VICTIM)
        .arg(copy(folder, fastrand::usize(..COPIES)))
        .arg(folder)
        .arg(fastrand::u64(LIFE).to_string())
        .stdin(Stdio::null())
        .spawn()
        .context("failed to start a process")
}

/// Takes note of those that have ended; all have to end well.
fn reap(running: &mut Vec<Child>) -> Result<()> {
    let mut left = Vec::with_capacity(running.len());
    for mut child in running.drain(..) {
        match child.try_wait()? {
            None => left.push(child),
            Some(status) => ensure!(status.success(), "a process ended with {status}"),
        }
    }
    *running = left;
    Ok(())
}
