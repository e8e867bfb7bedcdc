//! `cargo xtask bench`: what a verdict costs in the kernel, and what the engine does in user space.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    build,
    command::{self, step},
    setup::{self, KERNEL_PROGRAMS, Need, Program},
    workspace,
};

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[arg(value_enum)]
    subject: Subject,
    /// How long to soak
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Processes at once while soaking
    #[arg(long, default_value_t = 200)]
    processes: u32,
    /// Arguments of the benchmark
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subject {
    /// Nanoseconds per packet in the kernel programs (root)
    Datapath,
    /// Names: answers, first connects, beside dnsmasq with nftset (root)
    Names,
    /// Connections with an agent that reads their events, and without (root)
    Connects,
    /// Writes a second to a TLS connection, with and without probes in its library, with and without a judge (root)
    Probes,
    /// Processes that come and go with probes in their library, which is replaced all the time: that nothing breaks or leaks (root)
    Soak,
    /// Flows a second through the engine, and compile times
    Policy,
}

/// Builds with optimisation and measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut bench = command::cargo();
    bench.current_dir(workspace::root());
    match options.subject {
        Subject::Datapath => program(&mut bench, "bench-datapath")?,
        Subject::Names => {
            setup::ensure(&[Program::Dnsmasq, Program::Ip, Program::Nft].map(Need::Program))?;
            program(&mut bench, "bench-names")?;
        }
        Subject::Probes => {
            program(&mut bench, "bench-probes")?;
            agent()?;
        }
        Subject::Connects => {
            setup::ensure(&[Need::Program(Program::Ip)])?;
            program(&mut bench, "bench-connects")?;
            agent()?;
        }
        Subject::Soak => return soak(options),
        Subject::Policy => {
            bench.args(["bench", "--package", "ebfw-policy", "--"]);
        }
    }
    step("benchmark");
    command::run(bench.args(&options.arguments))
}

/// With all checks on, and the agent beside it.
fn soak(options: &Options) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    build::run(&build::Options::default())?;
    step(format_args!("soak, {} s", options.seconds));
    let mut bench = command::cargo();
    bench
        .current_dir(workspace::root())
        .args([
            "run",
            "--package",
            "ebfw-tests",
            "--bin",
            "bench-soak",
            "--",
        ])
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--processes", &options.processes.to_string()]);
    command::run(&mut bench)
}

/// Builds the agent, for benchmarks that look at it from outside.
fn agent() -> Result<()> {
    step("agent");
    let mut build = command::cargo();
    build.current_dir(workspace::root());
    command::run(build.args([
        "build",
        "--release",
        "--package",
        "ebfw-agent",
        "--bin",
        "ebfw",
    ]))
}

/// Runs a program of the tests' crate, with fresh kernel programs inside.
fn program(bench: &mut Command, name: &str) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    build::kernel_programs(&[])?;
    bench.args(["run", "--release", "--package", "ebfw-tests"]);
    bench.args(["--bin", name, "--"]);
    Ok(())
}
