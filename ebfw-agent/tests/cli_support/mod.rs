//! Runs the built `ebfw` with an environment of its own and tells what it said.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// What a run of `ebfw` ended with.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// `ebfw` with these arguments, nothing of the caller's environment, in the root of the repository.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebfw"));
    command
        .args(arguments)
        .env_clear()
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null());
    command
}

pub(crate) fn ebfw(arguments: &[&str]) -> Run {
    command(arguments).output().expect("ebfw is built").into()
}
