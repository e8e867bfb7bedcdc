//! Running other programs: shown before they run, and a failure names the program and its status.
//! Narration goes to standard error, so that standard output belongs to the programs.

use std::{
    env,
    ffi::OsStr,
    fmt::Display,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The cargo that runs this, or the one in PATH.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Shows the command, runs it with inherited output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    note(format_args!("$ {}", shown(command)));
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// As [`run`], beside others: what the command wrote is shown whole, in one piece, when it has ended.
pub(crate) fn run_beside(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    let mut text = format!("    $ {}\n", shown(command)).into_bytes();
    text.extend(output.stdout);
    text.extend(output.stderr);
    io::stderr()
        .lock()
        .write_all(&text)
        .context("failed to show what a program wrote")?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    Ok(())
}

/// Runs the command quietly and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something that is not UTF-8", shown(command)))
}

/// Whether the command can be started and succeeds; says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// As [`succeeds`], and ends it where it takes longer than this.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(50)),
            Ok(Some(status)) => return status.success(),
            Err(_) => return false,
        }
    }
    drop(child.kill());
    drop(child.wait());
    false
}

/// Finds a program in PATH, and in the folders of administrators that PATH often lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// One step of a task: what is about to happen.
pub(crate) fn step(what: impl Display) {
    eprintln!("==> {what}");
}

/// A detail below a step.
pub(crate) fn note(what: impl Display) {
    eprintln!("    {what}");
}

/// The command as a reader would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_in_time_does_not_succeed() {
        let shell = |script| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            shell
        };
        let long = Duration::from_secs(120);
        assert!(succeeds_within(&mut shell("exit 0"), long));
        assert!(!succeeds_within(&mut shell("exit 1"), long));
        let begun = Instant::now();
        let short = Duration::from_millis(100);
        assert!(!succeeds_within(&mut shell("exec sleep 300"), short));
        assert!(begun.elapsed() < long);
    }
}
