//! `cargo xtask demo`: two small servers, a policy that allows one of them, and a real curl to both.
//! Touches nothing of the machine's own network and cgroups, and takes away at its end what it made.

mod agent;
mod judge;
mod namespace;
mod server;
mod stage;

use std::{
    path::PathBuf,
    process::{self, Command},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    command::{self, note, step},
    setup::{self, KERNEL_PROGRAMS, Need, Program, is_root},
};

/// The second half of the demo, which needs to be root.
#[derive(Args, Clone, Debug)]
pub(crate) struct StageOptions {
    /// The agent to show
    ebfw: PathBuf,
}

/// Sets up and builds as who it is called by, then shows as root.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::Program(Program::Curl), Need::Program(Program::Ip)])?;
    build::kernel_programs(&[])?;
    let ebfw = build::agent()?;
    if is_root() {
        return stage::play(&ebfw);
    }
    if command::find("sudo").is_none() {
        bail!("network namespaces and kernel programs need root: run this as root");
    }
    step("network namespaces and kernel programs need root: asking sudo");
    note("nothing outside of this demo's own namespaces and cgroups is touched");
    let own_program = format!("/proc/{}/exe", process::id());
    command::run(
        Command::new("sudo")
            .arg(own_program)
            .arg("demo-stage")
            .arg(ebfw),
    )
}

/// What sudo calls.
pub(crate) fn stage(options: &StageOptions) -> Result<()> {
    stage::play(&options.ebfw)
}
