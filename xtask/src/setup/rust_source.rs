//! The source of the standard library, in the place where cargo's build-std looks for it.
//! From rustup, else from Debian's package of exactly the compiler's version.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::Apt,
    command::{self, note},
    workspace,
};

pub(super) fn found() -> Option<String> {
    let library = place().ok()?.join("library");
    let complete =
        library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file();
    complete.then(|| library.display().to_string())
}

pub(super) fn install() -> Result<()> {
    let rustup = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .status();
    if rustup.is_ok_and(|status| status.success()) && found().is_some() {
        return Ok(());
    }
    note("rustup does not have it; trying Debian's package");
    from_debian()
}

/// Where the sysroot keeps it.
fn place() -> Result<PathBuf> {
    Ok(workspace::sysroot()?.join("lib/rustlib/src/rust"))
}

fn from_debian() -> Result<()> {
    let release = compiler_release()?;
    let unpacked = workspace::cache_dir()?.join(format!("rust-src-{release}"));
    let source = unpacked.join(format!("usr/src/rustc-{release}"));
    if !source.join("library").is_dir() {
        let apt = Apt::open()?;
        let version = apt
            .versions("rust-src")?
            .into_iter()
            .find(|version| version.starts_with(&format!("{release}+")))
            .with_context(|| format!("Debian has no rust-src {release}"))?;
        apt.unpack(&format!("rust-src={version}"), &unpacked)?;
    }
    let place = place()?;
    fs::create_dir_all(&place).with_context(|| format!("failed to create {}", place.display()))?;
    for name in ["library", "Cargo.lock"] {
        link(&source.join(name), &place.join(name))?;
    }
    Ok(())
}

/// Links a path, in place of a link that leads nowhere.
fn link(to: &Path, at: &Path) -> Result<()> {
    if at.is_symlink() && !at.exists() {
        fs::remove_file(at).with_context(|| format!("failed to remove {}", at.display()))?;
    }
    if at.exists() {
        return Ok(());
    }
    symlink(to, at).with_context(|| format!("failed to link {} to {}", at.display(), to.display()))
}

/// The compiler's version, without what comes after it (`1.95.0`).
fn compiler_release() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("--version"))?;
    match version.split_whitespace().nth(1) {
        Some(release) if !release.contains('-') => Ok(release.to_owned()),
        _ => bail!("not a stable compiler: {}", version.trim()),
    }
}
