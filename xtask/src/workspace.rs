//! Where things are: the repository, cargo's target directory, the cache that outlives a checkout.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest of xtask lies one folder below the root")
}

/// Cargo's target directory, wherever configuration and environment put it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = command::output(
        command::cargo()
            .args(["metadata", "--format-version=1", "--no-deps"])
            .current_dir(root()),
    )?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("cargo metadata wrote something else than JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("cargo metadata names no target directory")
}

/// The root of the compiler's own files.
pub(crate) fn sysroot() -> Result<PathBuf> {
    let sysroot = command::output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(root()),
    )?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// What is expensive to fetch (kernels, package lists): `EBFW_CACHE`, or `ebfw` in the user's cache.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("EBFW_CACHE") {
        return Ok(dir.into());
    }
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base
        .context("no place for a cache: set EBFW_CACHE or HOME")?
        .join("ebfw"))
}
