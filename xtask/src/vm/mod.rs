//! `cargo xtask vm`: the tests of the kernel side on real kernels, old and new, in virtual machines.
//! Emulated where the machine lends no virtualisation, so slow, and the same everywhere.

mod cpio;
mod guest;
mod initrd;
mod kernels;
mod modules;
mod programs;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    command::{note, step},
    interrupt::Interrupted,
    setup::{self, KERNEL_PROGRAMS, Need, Program},
};
use guest::Outcome;

/// Which kernels, which tests.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kernel series, or `all`
    #[arg(long, value_delimiter = ',', value_parser = kernels::parse, default_values = ["5.10", "7.3"])]
    kernel: Vec<kernels::Choice>,
    /// Test targets of `ebfw-tests` and `ebfw-agent`
    #[arg(long = "test", value_delimiter = ',', default_values = programs::DEFAULT)]
    tests: Vec<String>,
    /// Environment of the tests
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Give a kernel this many seconds
    #[arg(long, default_value_t = 1200)]
    seconds: u64,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Run each test program this many times, to hunt what fails now and then
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// How QEMU runs the guest
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Arguments of the test programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Boots each kernel, runs the tests there and fails if any failed anywhere.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut results = Vec::new();
    boot_all(options, |kernel, outcome, _| {
        results.push((kernel, outcome))
    })?;
    step("virtual machines");
    for (kernel, outcome) in &results {
        note(format_args!("{kernel:28} {outcome}"));
    }
    let failed = results
        .iter()
        .filter(|(_, outcome)| *outcome != Outcome::Exit(0))
        .count();
    if failed > 0 {
        bail!("the tests failed on {failed} of {} kernels", results.len());
    }
    Ok(())
}

/// Runs one test of one target on every kernel of the matrix and returns what it printed there, by the kernel's release.
pub(crate) fn on_all_kernels(target: &str, test: &str) -> Result<Vec<(String, String)>> {
    let options = Options {
        kernel: vec![kernels::Choice::All],
        tests: vec![target.to_owned()],
        environment: Vec::new(),
        seconds: 1200,
        memory: 1536,
        repeat: 1,
        accel: "tcg".to_owned(),
        arguments: vec![test.to_owned(), "--nocapture".to_owned()],
    };
    let mut printed = Vec::new();
    let mut failed = Vec::new();
    boot_all(&options, |kernel, outcome, text| {
        if outcome == Outcome::Exit(0) {
            printed.push((kernel, text));
        } else {
            failed.push(format!("{kernel} ({outcome})"));
        }
    })?;
    if !failed.is_empty() {
        bail!("{test} failed on {}", failed.join(", "));
    }
    Ok(printed)
}

/// Boots each kernel and tells `each` its release, how the tests ended and what they printed.
fn boot_all(options: &Options, mut each: impl FnMut(String, Outcome, String)) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::Program(Program::Qemu), Need::Program(Program::Xz)])?;
    build::kernel_programs(&[])?;
    let programs = programs::build(&options.tests)?;
    let job = initrd::Job {
        programs: &programs,
        environment: &options.environment,
        arguments: &options.arguments,
        repeat: options.repeat,
    };

    let interrupted = Interrupted::watch()?;
    for series in kernels::chosen(&options.kernel) {
        let kernel = kernels::fetch(series)?;
        step(format_args!("kernel {}", kernel.release));
        let start = Instant::now();
        let machine = guest::Machine {
            memory: options.memory,
            accel: &options.accel,
            limit: Duration::from_secs(options.seconds),
            interrupted: &interrupted,
        };
        let (outcome, printed) = guest::boot(&kernel, &initrd::build(&kernel, &job)?, &machine)?;
        note(format_args!(
            "{}: {outcome}, {} s",
            kernel.release,
            start.elapsed().as_secs()
        ));
        each(kernel.release, outcome, printed);
    }
    Ok(())
}
