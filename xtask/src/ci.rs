//! `cargo xtask ci`: the gate, as CI runs it. Its steps are listed in one place, `.ci/run`.

use std::process::Command;

use anyhow::Result;

use crate::{command, workspace};

/// Runs the gate.
pub(crate) fn run() -> Result<()> {
    command::run(
        Command::new("bash")
            .arg(".ci/run")
            .current_dir(workspace::root()),
    )
}
