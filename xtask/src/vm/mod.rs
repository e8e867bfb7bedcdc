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
use kernels::Series;

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
    #[arg(long, default_value_t = 1536)]
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
    let mut results = Vec::new();
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
        let outcome = guest::boot(&kernel, &initrd::build(&kernel, &job)?, &machine)?;
        note(format_args!(
            "{}: {outcome}, {} s",
            kernel.release,
            start.elapsed().as_secs()
        ));
        results.push((series, outcome));
    }
    close(&results)
}

fn close(results: &[(Series, Outcome)]) -> Result<()> {
    step("virtual machines");
    for (series, outcome) in results {
        note(format_args!("{series:6} {outcome}"));
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
