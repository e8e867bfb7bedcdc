//! `cargo xtask`: every command that a developer or CI needs, one file each.
//! Parses the command line and dispatches; does nothing itself.

mod apt;
mod bench;
mod build;
mod chart;
mod ci;
mod command;
mod demo;
mod fuzz;
mod generate;
mod image;
mod interrupt;
mod lab;
mod lint;
mod setup;
mod side_by_side;
mod test;
mod verifier;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing for the other commands, and say why
    Setup,
    /// Build the kernel programs, then the host crates with them inside
    Build(build::Options),
    /// Show the firewall at work: servers, a policy, a real curl
    Demo,
    #[command(hide = true)]
    DemoStage(demo::StageOptions),
    /// Run all tests [-- FILTER]
    Test(test::Options),
    /// Run the fuzz targets for a while each
    Fuzz(fuzz::Options),
    /// Check format, lints, documentation, generated files and dependencies
    Lint,
    /// Measure the kernel programs or the engine
    Bench(bench::Options),
    /// Write the generated files, or check that they are current
    Generate(generate::Options),
    /// Pack the agent as a container image
    Image(image::Options),
    /// Start or end a Kubernetes cluster of one node on this machine
    Lab(lab::Options),
    #[command(hide = true)]
    LabEnter,
    #[command(hide = true)]
    LabNode,
    #[command(hide = true)]
    LabRunc(lab::RuncOptions),
    /// Do what CI does
    Ci,
    /// Write docs/verifier.md: what each kernel's verifier has to follow
    Verifier,
    /// Run the kernel side's tests on old and new kernels in virtual machines
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Lab(options) => match lab::run(&options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Task::LabEnter => lab::enter(),
        Task::LabNode => lab::become_node(),
        Task::LabRunc(options) => lab::become_runc(&options),
        Task::Image(options) => image::run(&options),
        Task::Setup => setup::run(),
        Task::Build(options) => build::run(&options),
        Task::Demo => demo::run(),
        Task::DemoStage(options) => demo::stage(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Lint => lint::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Generate(options) => generate::run(options),
        Task::Ci => ci::run(),
        Task::Verifier => verifier::run(),
        Task::Vm(options) => vm::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
