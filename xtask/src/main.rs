//! `cargo xtask`: every command that a developer or CI needs, one file each.
//! Parses the command line and dispatches; does nothing itself.

mod build;
mod command;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel programs, then the host crates with them inside
    Build(build::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Build(options) => build::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
