//! The binary `ebfw`: everything is in the library.

use std::{env, process::ExitCode};

use ebfw_agent::{cli, config};

fn main() -> ExitCode {
    cli::main(env::args_os(), &config::environment()).into()
}
