//! One boot: QEMU with the kernel and its first root; what the tests print is shown as it comes, or kept where other guests run beside it.

use std::{
    fmt, fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{initrd::PROGRAM, kernels::Kernel};
use crate::{command::note, interrupt::Interrupted};

/// The virtual machine.
pub(super) struct Machine<'a> {
    /// In MiB.
    pub(super) memory: u32,
    pub(super) accel: &'a str,
    pub(super) limit: Duration,
    pub(super) interrupted: &'a Interrupted,
    pub(super) show: Show,
}

/// What becomes of what the tests print.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Show {
    /// Shown as it comes.
    Live,
    /// Left to the caller: only the beginning of each test program is told.
    Later,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The tests ended with this status.
    Exit(i32),
    /// Killed after the limit.
    TimedOut,
    /// The guest stopped before the tests had ended.
    Died,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(0) => f.write_str("passed"),
            Self::Exit(status) => write!(f, "failed with status {status}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Died => f.write_str("the guest died"),
        }
    }
}

/// Boots and waits for the end. The second value is what the tests printed, with the end of the console where the guest did not report a status.
pub(super) fn boot(
    kernel: &Kernel,
    initrd: &[u8],
    machine: &Machine<'_>,
) -> Result<(Outcome, String)> {
    let scratch = Scratch::new(&kernel.release)?;
    let root = scratch.0.join("initrd");
    fs::write(&root, initrd).with_context(|| format!("failed to write {}", root.display()))?;
    let mut qemu = Process(
        qemu(kernel, &scratch.0, machine)
            .spawn()
            .context("failed to start qemu-system-x86_64")?,
    );
    let output = qemu.0.stdout.take().context("QEMU has no output")?;
    let (show, release) = (machine.show, kernel.release.clone());
    let printed = thread::spawn(move || read(output, show, &release));
    let in_time = qemu.wait(machine)?;
    let mut printed = printed.join().unwrap_or_default();

    let status = fs::read_to_string(scratch.0.join("status"))
        .ok()
        .and_then(|status| status.trim().parse().ok());
    let outcome = match status {
        Some(status) => Outcome::Exit(status),
        None if in_time => Outcome::Died,
        None => Outcome::TimedOut,
    };
    if status.is_none() {
        let console = end_of_console(&scratch.0.join("console"));
        if show == Show::Live {
            eprint!("{console}");
        }
        printed.push_str(&console);
    }
    Ok((outcome, printed))
}

/// Reads all of it.
fn read(output: impl io::Read, show: Show, release: &str) -> String {
    let mut all = String::new();
    let mut output = io::BufReader::new(output);
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        match (show, text.strip_prefix(PROGRAM)) {
            (Show::Live, _) => eprint!("{text}"),
            (Show::Later, Some(program)) => note(format_args!("{release}: {}", program.trim_end())),
            (Show::Later, None) => {}
        }
        all.push_str(&text);
        line.clear();
    }
    all
}

fn qemu(kernel: &Kernel, scratch: &Path, machine: &Machine<'_>) -> Command {
    let (accel, cpu) = match machine.accel {
        "kvm" => ("kvm", "host"),
        // Five-level page tables cost the emulator time and test nothing here.
        _ => ("tcg,thread=multi", "max,-la57"),
    };
    let serial = |name: &str| format!("file:{}", scratch.join(name).display());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", accel, "-cpu", cpu, "-M", "q35", "-smp", "1", "-m", &machine.memory.to_string()])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci"])
        // ttyS0: the kernel's console; ttyS1: what the tests print; ttyS2: their status.
        .args(["-serial", &serial("console"), "-serial", "stdio", "-serial", &serial("status")])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(scratch.join("initrd"))
        .args(["-append", "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off random.trust_cpu=on no_timer_check tsc=reliable"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    qemu
}

/// The last lines say why a guest died.
fn end_of_console(path: &Path) -> String {
    let console = fs::read(path).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(40)..];
    let last = last.iter().map(|line| format!("    {}\n", line.trim_end()));
    format!(
        "    the end of the guest's console:\n{}",
        last.collect::<String>()
    )
}

/// A process that does not outlive its owner.
struct Process(Child);

impl Process {
    /// Whether it ended by itself within the limit; after that it is killed.
    fn wait(&mut self, machine: &Machine<'_>) -> Result<bool> {
        let deadline = Instant::now() + machine.limit;
        while Instant::now() < deadline {
            machine.interrupted.check()?;
            if self
                .0
                .try_wait()
                .context("failed to wait for QEMU")?
                .is_some()
            {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.0.kill().context("failed to kill QEMU")?;
        self.0.wait().context("failed to wait for QEMU")?;
        Ok(false)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A folder that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(release: &str) -> Result<Self> {
        let name = format!("ebfw-vm-{}-{release}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
