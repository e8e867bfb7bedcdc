//! `cargo xtask build`: the kernel programs first, then the host crates, which embed them.
//! The agent's build script finds the object in the target directory; see `ebfw-agent/build.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    command::{self, note, step},
    setup::{self, KERNEL_PROGRAMS, Need},
    workspace,
};

/// The host target whose programs need no shared library, for virtual machines and bare images.
pub(crate) const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// Cargo's own folder for the kernel programs, below the target directory.
const KERNEL_SCRATCH: &str = "bpf-build";

const KERNEL_TARGET: &str = "bpfel-unknown-none";

/// The objects as cargo calls them, and as the agent's build script looks for them: the firewall, and the probes inside TLS libraries.
const OBJECTS: [(&str, &str); 2] = [("ebfw", "ebfw.o"), ("ebfw-probes", "ebfw-probes.o")];

/// Features of the kernel programs and the feature of the host crates that each needs beside it.
const COUNTERPARTS: [(&str, &str); 1] = [("log", "ebfw-agent/kernel-log")];

/// What to build.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Build the host crates with optimisation
    #[arg(long)]
    pub(crate) release: bool,
    /// Features of the kernel programs (`log`: what they say for debugging goes to the agent's log)
    #[arg(long, value_delimiter = ',')]
    pub(crate) features: Vec<String>,
    /// Build an `ebfw` without shared libraries (musl)
    #[arg(long = "static")]
    pub(crate) without_libraries: bool,
}

/// Builds everything and says where it lies.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    if options.without_libraries {
        setup::ensure(&[Need::StaticTarget])?;
    }
    kernel_programs(&options.features)?;
    let binary = host(options)?;
    note(format_args!("the agent: {}", binary.display()));
    Ok(())
}

/// Builds the kernel programs and puts the objects where the agent's build script looks for them.
pub(crate) fn kernel_programs(features: &[String]) -> Result<()> {
    step("kernel programs");
    let mut build = kernel_cargo("build")?;
    if !features.is_empty() {
        build.arg("--features").arg(features.join(","));
    }
    command::run(&mut build)?;

    let target = workspace::target_dir()?;
    let built = target
        .join(KERNEL_SCRATCH)
        .join(KERNEL_TARGET)
        .join("release");
    for (program, object) in OBJECTS {
        let object = target.join("bpf").join(object);
        let changed = install_if_changed(&built.join(program), &object)?;
        let state = if changed { "new" } else { "unchanged" };
        note(format_args!("{} ({state})", object.display()));
    }
    Ok(())
}

/// A cargo command for the crate of the kernel programs: nightly features on the stable compiler,
/// and none of the flags that were meant for the host.
pub(crate) fn kernel_cargo(subcommand: &str) -> Result<Command> {
    let mut cargo = command::cargo();
    cargo
        .args([subcommand, "--locked", "--release", "--target-dir"])
        .arg(workspace::target_dir()?.join(KERNEL_SCRATCH))
        .current_dir(workspace::root().join("ebfw-ebpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    Ok(cargo)
}

/// Builds the agent alone, for this machine, and returns its path.
pub(crate) fn agent() -> Result<PathBuf> {
    step("agent");
    cargo_build(&["--package", "ebfw-agent", "--bin", "ebfw"], &[], false)?;
    Ok(workspace::target_dir()?.join("debug/ebfw"))
}

/// Builds the host crates and returns the path of `ebfw`.
pub(crate) fn host(options: &Options) -> Result<PathBuf> {
    step("host crates");
    let mut folder = workspace::target_dir()?;
    let features = host_features(&options.features);
    if options.without_libraries {
        cargo_build(
            &["--package", "ebfw-agent", "--target", STATIC_TARGET],
            &features,
            options.release,
        )?;
        folder.push(STATIC_TARGET);
    } else {
        cargo_build(&["--workspace"], &features, options.release)?;
    }
    folder.push(if options.release { "release" } else { "debug" });
    Ok(folder.join("ebfw"))
}

/// What the host crates need for these features of the kernel programs.
fn host_features(kernel: &[String]) -> Vec<&'static str> {
    COUNTERPARTS
        .into_iter()
        .filter(|(feature, _)| kernel.iter().any(|wanted| wanted == feature))
        .map(|(_, counterpart)| counterpart)
        .collect()
}

fn cargo_build(selection: &[&str], features: &[&str], release: bool) -> Result<()> {
    let mut build = command::cargo();
    build
        .arg("build")
        .args(selection)
        .current_dir(workspace::root());
    if !features.is_empty() {
        build.arg("--features").arg(features.join(","));
    }
    if release {
        build.arg("--release");
    }
    command::run(&mut build)
}

/// Copies only what differs: a new time stamp alone would compile the agent anew.
fn install_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
    }
    // Renamed into place: a build that runs at the same time never reads half an object.
    let part = to.with_extension("part");
    fs::write(&part, new)
        .and_then(|()| fs::rename(&part, to))
        .with_context(|| format!("failed to write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_reads_what_the_kernel_programs_say() {
        let host = |kernel: &[&str]| {
            let kernel: Vec<String> = kernel.iter().map(ToString::to_string).collect();
            host_features(&kernel)
        };
        assert!(host(&[]).is_empty(), "off by default");
        assert!(host(&["other", "logs"]).is_empty(), "other features");
        assert_eq!(host(&["other", "log"]), ["ebfw-agent/kernel-log"]);
    }

    #[test]
    fn an_object_that_did_not_change_is_not_written_again() {
        let folder = std::env::temp_dir().join(format!("ebfw-xtask-build-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("below/to"));

        fs::write(&from, "one").unwrap();
        assert!(install_if_changed(&from, &to).unwrap(), "the first time");
        assert!(!install_if_changed(&from, &to).unwrap(), "the same content");
        fs::write(&from, "two").unwrap();
        assert!(install_if_changed(&from, &to).unwrap(), "another content");
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");

        fs::remove_dir_all(&folder).unwrap();
    }
}
