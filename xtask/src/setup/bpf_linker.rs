//! bpf-linker, built against the LLVM that the compiler itself brings, so that both speak the same bitcode.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, note},
    workspace,
};

const VERSION: &str = "0.13.0";

/// A linker whose LLVM went away with an old compiler does not start, so it counts as missing.
pub(super) fn found() -> Option<String> {
    let output = Command::new("bpf-linker").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && version.ends_with(VERSION)).then_some(version)
}

pub(super) fn install() -> Result<()> {
    let lib = workspace::sysroot()?.join("lib");
    let library = llvm_in(&lib)?;
    let soname = library
        .file_name()
        .and_then(|name| name.to_str())
        .context("the name of LLVM's library is not UTF-8")?;
    let major = major(soname).with_context(|| format!("no version in {soname}"))?;
    let prefix = prefix(&library, soname)?;

    note("one to two minutes of compiling");
    command::run(
        command::cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--force",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{major}"),
            ])
            .env("LLVM_PREFIX", prefix)
            .env(
                "RUSTFLAGS",
                format!("-C link-arg=-Wl,-rpath,{}", lib.display()),
            )
            .env_remove("CARGO_TARGET_DIR"),
    )
}

/// The shared LLVM of the compiler.
fn llvm_in(lib: &Path) -> Result<PathBuf> {
    fs::read_dir(lib)
        .with_context(|| format!("failed to list {}", lib.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        })
        .with_context(|| {
            format!(
                "no libLLVM.so in {}: install the compiler with rustup",
                lib.display()
            )
        })
}

/// `22` of `libLLVM.so.22.1-rust-1.95.0-stable`.
fn major(soname: &str) -> Option<&str> {
    soname
        .strip_prefix("libLLVM.so.")?
        .split(['.', '-'])
        .next()
        .filter(|major| major.parse::<u32>().is_ok())
}

/// A folder that looks like an installation of LLVM to the build of bpf-linker.
fn prefix(library: &Path, soname: &str) -> Result<PathBuf> {
    let prefix = workspace::cache_dir()?.join("llvm").join(soname);
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("failed to create {}", lib.display()))?;
    for name in ["libLLVM.so", soname] {
        let at = lib.join(name);
        if at.is_symlink() {
            fs::remove_file(&at).with_context(|| format!("failed to remove {}", at.display()))?;
        }
        symlink(library, &at).with_context(|| format!("failed to link {}", at.display()))?;
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_version_of_llvm_is_read_from_its_library() {
        let cases = [
            ("libLLVM.so.22.1-rust-1.95.0-stable", Some("22")),
            ("libLLVM.so.21-rust", Some("21")),
            ("libLLVM.so.", None),
            ("libLLVM-22.so", None),
        ];
        for (soname, expected) in cases {
            assert_eq!(major(soname), expected, "{soname}");
        }
    }
}
