//! Runs the built `ebfw` with an environment of its own and tells what it said.

use std::{
    io::Write,
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

/// `ebfw` with `input` on standard input.
pub(crate) fn ebfw_with_stdin(arguments: &[&str], input: &str) -> Run {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ebfw is built");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A child that refuses early closes its end; what it says is judged, not the write.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("it is a child").into()
}
