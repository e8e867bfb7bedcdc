//! `cargo xtask generate`: files in the repository that a program writes, and the check that they are current.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command::{self, note},
    workspace,
};

/// Where each file lies, and what `ebfw` is called with to write it.
const GENERATED: [(&str, &[&str]); 1] = [("docs/policy.schema.json", &["policy", "schema"])];

/// Write or check.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Change nothing, and fail if a file is out of date
    #[arg(long)]
    check: bool,
}

/// Writes the files, or compares them.
pub(crate) fn run(options: Options) -> Result<()> {
    if options.check { check() } else { write() }
}

/// Fails if a file is not what its program writes now.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for (path, arguments) in GENERATED {
        let there = fs::read_to_string(workspace::root().join(path)).unwrap_or_default();
        if there != generate(arguments)? {
            stale.push(path);
        }
    }
    if !stale.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask generate`",
            stale.join(", ")
        );
    }
    Ok(())
}

fn write() -> Result<()> {
    for (path, arguments) in GENERATED {
        let content = generate(arguments)?;
        fs::write(workspace::root().join(path), content)
            .with_context(|| format!("failed to write {path}"))?;
        note(path);
    }
    Ok(())
}

fn generate(arguments: &[&str]) -> Result<String> {
    command::output(
        command::cargo()
            .args([
                "run",
                "--quiet",
                "--package",
                "ebfw-agent",
                "--bin",
                "ebfw",
                "--",
            ])
            .args(arguments)
            .current_dir(workspace::root()),
    )
}
