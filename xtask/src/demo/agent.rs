//! `ebfw run` as a child: started, ready, its events shown as they come, ended.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::command::note;

/// Loading kernel programs takes a second; ten times that on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Ends with its owner.
pub(super) struct Agent {
    child: Child,
    events: Option<JoinHandle<Vec<String>>>,
}

impl Agent {
    /// Returns when the agent says that it is ready. `proceed` ends the wait early with its error.
    pub(super) fn start(
        ebfw: &Path,
        policy: &Path,
        cgroup: &Path,
        proceed: impl Fn() -> Result<()>,
    ) -> Result<Self> {
        let address = free_port()?;
        let mut child = Command::new(ebfw)
            .args([
                "run",
                "--enforce-mode",
                "enforce",
                "--pin",
                "off",
                "--log",
                "error",
                "--output",
                "text",
            ])
            .args(["--metrics-addr", &address.to_string()])
            .arg("--policy")
            .arg(policy)
            .arg("--cgroup")
            .arg(cgroup)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", ebfw.display()))?;
        let stdout = child
            .stdout
            .take()
            .context("the agent has no standard output")?;
        let mut agent = Self {
            child,
            events: Some(thread::spawn(|| show(stdout))),
        };
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(address) {
            if let Some(status) = agent
                .child
                .try_wait()
                .context("failed to wait for the agent")?
            {
                bail!("the agent ended before it was ready: {status}");
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent was not ready within {} s",
                    READY_WITHIN.as_secs()
                );
            }
            proceed()?;
            thread::sleep(BETWEEN_TRIES);
        }
        Ok(agent)
    }

    /// Ends the agent, which drains first, and returns its events.
    pub(super) fn stop(mut self) -> Result<Vec<String>> {
        let pid = i32::try_from(self.child.id()).context("a process id that is none")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("failed to end the agent")?;
        let status = self.child.wait().context("failed to wait for the agent")?;
        if !status.success() {
            bail!("the agent ended with {status}");
        }
        let events = self
            .events
            .take()
            .context("the agent's events were read before")?;
        events
            .join()
            .ok()
            .context("the reader of the agent's events ended early")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn show(stdout: ChildStdout) -> Vec<String> {
    BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .inspect(|event| note(event))
        .collect()
}

fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port of 127.0.0.1 is free")?;
    listener
        .local_addr()
        .context("a listener without an address")
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}
