//! Manual pages and shell completions, made from the command line itself.

use std::{fs, path::Path};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::output;

/// Prints the completion script of `shell`.
pub(super) fn completions(mut command: Command, shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "ebfw", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(())
}

/// Prints the page of `ebfw`, or writes one page a command into `directory`.
pub(super) fn pages(command: Command, directory: Option<&Path>) -> anyhow::Result<()> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(());
    };
    let failed = || format!("failed to write manual pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(command, directory).with_context(failed)
}
