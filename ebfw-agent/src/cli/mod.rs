//! The command line of `ebfw`: what can be asked, and who answers it.
//!
//! Each command turns its flags into values and hands them on; nothing here touches the kernel.

mod argv;
mod exec;
mod help;
mod man;
mod output;
mod policy;
mod setting_flags;

use std::{ffi::OsString, io::Write as _, path::PathBuf};

use anstyle::{AnsiColor, Style};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::exec::{ExecMode, ExecOptions};
pub(crate) use self::output::is_closed_pipe;
use self::{
    exec::ExecArgs,
    setting_flags::{DetachFlags, RunFlags},
};
use crate::{
    config::{self, Flags, Loaded, LogFilter, Refused, Variables},
    exit::Exit,
    host::privileges::Unable,
    telemetry,
};

#[derive(Parser)]
#[command(
    name = "ebfw",
    version,
    about = "Egress firewall of a node: decides every outgoing packet against a policy, in the kernel",
    after_help = help::EBFW,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent: observe, and enforce a policy if told to (plain `ebfw` is the same)
    #[command(after_help = help::RUN)]
    Run(RunFlags),
    /// Run a command under a policy and report what was allowed and refused
    #[command(after_help = help::EXEC)]
    Exec(ExecArgs),
    /// Take enforcement off: remove everything that an agent has pinned
    #[command(after_help = help::DETACH)]
    Detach(DetachFlags),
    /// Show the names that workloads resolved, as the kernel programs learned them
    #[command(after_help = help::NAMES)]
    Names(NamesArgs),
    /// Show what the node's agent is doing: mode, policy, programs, probes, workloads
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// Test, check and format policy files, offline
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one page a command into a directory
    #[command(after_help = help::MAN)]
    Man {
        /// Directory for the pages; it is made if it does not exist
        #[arg(value_hint = clap::ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
}

/// Runs the command line `argv` in an environment of `variables`.
pub fn main(argv: impl IntoIterator<Item = OsString>, variables: &Variables) -> Exit {
    let outcome = match Cli::try_parse_from(argv::rewrite(argv)) {
        Ok(cli) => dispatch(cli.command, variables),
        Err(error) => return report_usage(&error),
    };
    match outcome {
        Ok(exit) => exit,
        Err(error) if is_closed_pipe(&error) => Exit::SUCCESS,
        Err(error) => {
            report(&error);
            Exit::of(&error)
        }
    }
}

fn dispatch(command: Command, variables: &Variables) -> anyhow::Result<Exit> {
    match command {
        Command::Run(flags) => run(&flags.0, variables),
        Command::Exec(args) => exec(args, variables),
        Command::Detach(flags) => detach(&flags.0, variables),
        Command::Names(args) => names(&args, variables),
        Command::Status(args) => status(&args, variables),
        Command::Policy(command) => policy::main(command),
        Command::Completions { shell } => {
            man::completions(Cli::command(), shell)?;
            Ok(Exit::SUCCESS)
        }
        Command::Man { directory } => {
            man::pages(Cli::command(), directory.as_deref())?;
            Ok(Exit::SUCCESS)
        }
    }
}

fn run(flags: &Flags, variables: &Variables) -> anyhow::Result<Exit> {
    let Loaded {
        value: config,
        warnings,
    } = config::load(flags, variables)?;
    start_log(&config.log, &warnings);
    tracing::info!("starting ebfw {} with {config}", env!("CARGO_PKG_VERSION"));
    crate::run::run(&config)?;
    Ok(Exit::SUCCESS)
}

fn exec(args: ExecArgs, variables: &Variables) -> anyhow::Result<Exit> {
    let (options, log) = args.into_options();
    let Loaded {
        value: log,
        warnings,
    } = config::load_log(&log.0, variables)?;
    start_log(&log, &warnings);
    crate::exec::exec(&options)
}

fn detach(flags: &Flags, variables: &Variables) -> anyhow::Result<Exit> {
    let Loaded {
        value: config,
        warnings,
    } = config::load_detach(flags, variables)?;
    start_log(&config.log, &warnings);
    output::print(&format!("{}\n", crate::detach::detach(&config)?))?;
    Ok(Exit::SUCCESS)
}

/// The flags of `ebfw names`.
#[derive(Clone, Debug, Args)]
struct NamesArgs {
    /// Form of the list
    #[arg(short, long, value_enum, default_value = "table", value_name = "WORD")]
    output: Shape,
    #[command(flatten)]
    flags: DetachFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

fn names(args: &NamesArgs, variables: &Variables) -> anyhow::Result<Exit> {
    let Loaded {
        value: config,
        warnings,
    } = config::load_detach(&args.flags.0, variables)?;
    start_log(&config.log, &warnings);
    let listing = crate::names::read(&config.pin_dir)?;
    output::print(&match args.output {
        Shape::Table => listing.table(),
        Shape::Json => listing.json(),
    })?;
    Ok(Exit::SUCCESS)
}

/// The flags of `ebfw status`.
#[derive(Clone, Debug, Args)]
struct StatusArgs {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table", value_name = "WORD")]
    output: Shape,
    #[command(flatten)]
    flags: DetachFlags,
}

fn status(args: &StatusArgs, variables: &Variables) -> anyhow::Result<Exit> {
    let Loaded {
        value: config,
        warnings,
    } = config::load_detach(&args.flags.0, variables)?;
    start_log(&config.log, &warnings);
    let found = crate::state::ask(&config)?;
    output::print(&match args.output {
        Shape::Table => found.table(),
        Shape::Json => found.json(),
    })?;
    Ok(match found.complaint() {
        None => Exit::SUCCESS,
        Some(complaint) => {
            say(ERROR, "", &complaint);
            Exit::NOT_RUNNING
        }
    })
}

fn start_log(filter: &LogFilter, warnings: &[String]) {
    telemetry::start(filter);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn report_usage(error: &clap::Error) -> Exit {
    let exit = Exit(u8::try_from(error.exit_code()).unwrap_or(Exit::USAGE.0));
    match error.print() {
        Ok(()) => exit,
        Err(_closed) => exit, // nobody is left to be told
    }
}

fn report(error: &anyhow::Error) {
    if let Some(Refused { problems, warnings }) = error.downcast_ref() {
        for warning in warnings {
            say(WARNING, "warning: ", warning);
        }
        for problem in problems {
            say(ERROR, "", problem);
        }
    } else if let Some(Unable { lines }) = error.chain().find_map(|cause| cause.downcast_ref()) {
        for line in lines {
            say(ERROR, "", line);
        }
    } else {
        say(ERROR, "", &format_args!("{error:#}"));
    }
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Says what is wrong where a command goes on all the same.
fn complain(message: &str) {
    say(ERROR, "", &message);
}

/// A line on standard error, in colours on a terminal that wants them.
fn say(style: Style, kind: &str, message: &dyn std::fmt::Display) {
    // Where nobody reads it, the exit code tells.
    let _ = writeln!(anstream::stderr(), "{style}ebfw:{style:#} {kind}{message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
