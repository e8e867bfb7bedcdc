//! `cargo xtask lint`: format, lints, documentation, generated files, alerts, dependencies.
//! Goes through all checks and names those that failed at the end.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    build::kernel_cargo,
    chart,
    command::{self, cargo, note, step},
    generate,
    setup::{self, KERNEL_PROGRAMS, Need},
    workspace,
};

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 7] = [
    ("format", format),
    ("lints of the host crates", host_lints),
    ("lints of the kernel programs", kernel_lints),
    ("documentation", documentation),
    ("generated files", generate::check),
    ("alerts and dashboard", chart::check_alerts),
    ("dependencies", dependencies),
];

/// The two workspaces, each with a `Cargo.toml` and a lock file of its own.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "ebfw-ebpf/Cargo.toml"];

/// A network that answers nothing must not hold up everything else.
const FETCH_WITHIN: Duration = Duration::from_secs(90);

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::Components, Need::CargoDeny])?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        step(name);
        if let Err(error) = check() {
            note(format_args!("FAILED: {error:#}"));
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    step(format_args!("lint: {} checks passed", CHECKS.len()));
    Ok(())
}

fn format() -> Result<()> {
    for manifest in MANIFESTS {
        command::run(
            cargo()
                .args(["fmt", "--all", "--check", "--manifest-path", manifest])
                .current_dir(workspace::root()),
        )?;
    }
    Ok(())
}

fn host_lints() -> Result<()> {
    let with_logs = ["--package", "ebfw-agent", "--features", "kernel-log"];
    for selection in [&["--workspace"][..], &with_logs] {
        command::run(
            cargo()
                .arg("clippy")
                .args(selection)
                .args(["--all-targets", "--", "-D", "warnings"])
                .current_dir(workspace::root()),
        )?;
    }
    Ok(())
}

fn kernel_lints() -> Result<()> {
    for features in [&[][..], &["--features", "log"]] {
        let mut clippy = kernel_cargo("clippy")?;
        command::run(clippy.args(features).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn documentation() -> Result<()> {
    command::run(
        cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(workspace::root()),
    )
}

fn dependencies() -> Result<()> {
    for manifest in MANIFESTS {
        command::run(deny(manifest).args(["check", "bans", "licenses", "sources"]))?;
    }
    if !command::succeeds_within(deny(MANIFESTS[0]).args(["fetch", "db"]), FETCH_WITHIN) {
        note(
            "NOT CHECKED: known vulnerabilities, because the advisory database cannot be fetched from here",
        );
        return Ok(());
    }
    for manifest in MANIFESTS {
        command::run(deny(manifest).args(["check", "--disable-fetch", "advisories"]))?;
    }
    Ok(())
}

/// cargo-deny, never waiting for a password.
fn deny(manifest: &str) -> Command {
    let mut deny = cargo();
    deny.args(["deny", "--manifest-path", manifest, "--log-level", "warn"])
        .current_dir(workspace::root())
        .env("GIT_TERMINAL_PROMPT", "0");
    deny
}
