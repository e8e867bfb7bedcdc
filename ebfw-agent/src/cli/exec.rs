//! Options of `ebfw exec`: the command that is run, its policy and its report.
//! What is done with them is not here.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use super::setting_flags::LogFlag;
use crate::config::Output;

/// What a Deny does to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExecMode {
    /// It is refused.
    Enforce,
    /// It is reported and goes out.
    Log,
}

/// The flags of `ebfw exec`.
#[derive(Clone, Debug, Args)]
pub(super) struct ExecArgs {
    /// Policy file that governs the command and everything that it starts
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: PathBuf,
    /// What a Deny does
    #[arg(long, value_enum, default_value = "enforce", value_name = "WORD")]
    mode: ExecMode,
    /// Form of the report at the end
    #[arg(short, long, value_enum, default_value = "text", value_name = "WORD")]
    output: Output,
    /// Show each decision on standard error as it is taken
    #[arg(long)]
    events: bool,
    /// Write the report there instead of standard error; `-` is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    report: Option<PathBuf>,
    #[command(flatten)]
    log: LogFlag,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// What `ebfw exec` is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOptions {
    /// Policy file.
    pub policy: PathBuf,
    /// What a Deny does.
    pub mode: ExecMode,
    /// Form of the report.
    pub output: Output,
    /// Whether each decision is shown as it is taken.
    pub events: bool,
    /// Where the report goes; standard error if absent, standard output where it is `-`.
    pub report: Option<PathBuf>,
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl ExecArgs {
    /// The options, and the flags that the configuration resolves.
    #[must_use]
    pub(super) fn into_options(self) -> (ExecOptions, LogFlag) {
        let Self {
            policy,
            mode,
            output,
            events,
            report,
            log,
            command,
        } = self;
        let mut words = command.into_iter();
        let program = words.next().expect("clap requires at least one word");
        let arguments = words.collect();
        (
            ExecOptions {
                policy,
                mode,
                output,
                events,
                report,
                program,
                arguments,
            },
            log,
        )
    }
}
