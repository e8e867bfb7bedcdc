//! Parts of the Rust toolchain, from rustup, and tools that cargo installs.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    build::STATIC_TARGET,
    command::{self, note},
    workspace,
};

const DENY_VERSION: &str = "0.20.2";
const FUZZ_VERSION: &str = "0.13.2";

pub(super) fn found_static_target() -> Option<String> {
    let library = workspace::sysroot()
        .ok()?
        .join("lib/rustlib")
        .join(STATIC_TARGET)
        .join("lib");
    library.is_dir().then(|| library.display().to_string())
}

pub(super) fn install_static_target() -> Result<()> {
    rustup(&["target", "add", STATIC_TARGET])
}

pub(super) fn found_components() -> Option<String> {
    let works = |subcommand| command::succeeds(command::cargo().args([subcommand, "--version"]));
    (works("fmt") && works("clippy")).then(|| "cargo fmt, cargo clippy".to_owned())
}

pub(super) fn install_components() -> Result<()> {
    rustup(&["component", "add", "rustfmt", "clippy"])
}

/// Any version will do: a newer one checks at least as much.
pub(super) fn found_deny() -> Option<String> {
    command::find("cargo-deny").map(|path| path.display().to_string())
}

pub(super) fn install_deny() -> Result<()> {
    note("two to four minutes of compiling");
    install("cargo-deny", DENY_VERSION)
}

/// Any version will do, as it only calls cargo with the right flags.
pub(super) fn found_fuzz() -> Option<String> {
    command::find("cargo-fuzz").map(|path| path.display().to_string())
}

pub(super) fn install_fuzz() -> Result<()> {
    note("about a minute of compiling");
    install("cargo-fuzz", FUZZ_VERSION)
}

fn install(tool: &str, version: &str) -> Result<()> {
    command::run(
        command::cargo()
            .args(["install", tool, "--version", version, "--locked"])
            .env_remove("CARGO_TARGET_DIR"),
    )
}

fn rustup(arguments: &[&str]) -> Result<()> {
    command::run(Command::new("rustup").args(arguments)).context(
        "without rustup, install this part of the toolchain the way the compiler was installed",
    )
}
