//! Whether the node lives: its first process, by number and by the time at which it began, so that no other is taken for it.

use std::{fs, thread, time::Duration, time::Instant};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::place::in_state;

const FILE: &str = "node.pid";
const END_WITHIN: Duration = Duration::from_secs(20);

/// Writes down the node's first process.
pub(super) fn note(pid: u32) -> Result<()> {
    let begun = begun(pid).context("the node ended at once")?;
    let part = in_state("node.pid.part");
    fs::write(&part, format!("{pid} {begun}"))
        .and_then(|()| fs::rename(&part, in_state(FILE)))
        .context("failed to write down the node's process")
}

/// The node's first process, if it lives.
pub(super) fn node() -> Option<u32> {
    let text = fs::read_to_string(in_state(FILE)).ok()?;
    let (pid, noted) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (begun(pid)? == noted).then_some(pid)
}

/// Ends the node and everything in it.
pub(super) fn end() -> Result<()> {
    let Some(pid) = node() else {
        return Ok(());
    };
    let number = i32::try_from(pid).context("no process has such a number")?;
    kill(Pid::from_raw(number), Signal::SIGKILL).context("failed to end the node")?;
    let until = Instant::now() + END_WITHIN;
    while node().is_some() {
        if Instant::now() > until {
            bail!("the node's processes do not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Field 22 of /proc/PID/stat, counted after the name, which may contain anything; a zombie is no life.
fn begun(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18).map(str::to_owned)
}
