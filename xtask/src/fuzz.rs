//! `cargo xtask fuzz`: each fuzz target for a while, from its committed corpus.
//!
//! cargo-fuzz wants a nightly compiler; the stable one does with its features switched on, and without a sanitizer: the readers have no
//! unsafe code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command::{self, note, step},
    setup::{self, Need},
    side_by_side, workspace,
};

/// The targets, by their files in `fuzz/fuzz_targets`.
const TARGETS: [&str; 5] = [
    "dns_message",
    "client_hello",
    "http_head",
    "http2",
    "program_file",
];

/// What to fuzz.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Build the targets, and stop there
    #[arg(long)]
    no_run: bool,
    /// Targets; all of them if none is named
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
}

/// Builds the targets, then runs one on each processor. What is found is shown, kept in `fuzz/artifacts`, and fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    if command::find("c++").is_none() {
        if ebfw_test_need::all_have_to_run() {
            bail!("no C++ compiler, which libFuzzer is built with");
        }
        note("NOT RUN: no C++ compiler, which libFuzzer is built with");
        return Ok(());
    }
    setup::ensure(&[Need::CargoFuzz])?;
    let folder = workspace::root().join("fuzz");
    let target_dir = workspace::target_dir()?.join("fuzz");
    step("fuzz targets");
    command::run(cargo_fuzz(&folder).arg("build").args(flags(&target_dir)))?;
    if options.no_run {
        return Ok(());
    }
    let targets: Vec<&str> = if options.targets.is_empty() {
        TARGETS.to_vec()
    } else {
        options.targets.iter().map(String::as_str).collect()
    };
    note("as many side by side as there are processors; each shows its log when it has ended");
    let results = side_by_side::run(side_by_side::processors(), targets.len(), |at| {
        one(&folder, &target_dir, targets[at], options.seconds)
    });
    let failed: Vec<String> = results
        .into_iter()
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    note(format_args!("{} targets, nothing found", targets.len()));
    Ok(())
}

fn one(folder: &Path, target_dir: &Path, target: &str, seconds: u32) -> Result<()> {
    step(format_args!("{target}, {seconds} s"));
    let seeds = folder.join("corpus").join(target);
    let files = fs::read_dir(&seeds).map_or(0, Iterator::count);
    if files == 0 {
        bail!("{} has no seeds", seeds.display());
    }
    let found = scratch(target_dir, target)?;
    command::run_beside(
        cargo_fuzz(folder)
            .args(["run", target])
            .args(flags(target_dir))
            // What is found new goes into the first folder: the committed seeds stay what they are.
            .args([&found, &seeds])
            .args(["--", "-max_len=4096", "-print_final_stats=1"])
            .arg(format!("-max_total_time={seconds}")),
    )
    .with_context(|| format!("{target} found an input that fails: see fuzz/artifacts/{target}"))
}

/// A folder for the inputs that this run finds.
fn scratch(target_dir: &Path, target: &str) -> Result<PathBuf> {
    let folder = target_dir.join("found").join(target);
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    Ok(folder)
}

fn flags(target_dir: &Path) -> [std::ffi::OsString; 3] {
    [
        "--sanitizer=none".into(),
        "--target-dir".into(),
        target_dir.into(),
    ]
}

fn cargo_fuzz(folder: &Path) -> Command {
    let mut cargo = command::cargo();
    cargo
        .arg("fuzz")
        .current_dir(folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_run_and_has_seeds() {
        let fuzz = workspace::root().join("fuzz");
        let mut files: Vec<_> = fs::read_dir(fuzz.join("fuzz_targets"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        let mut targets = TARGETS.to_vec();
        targets.sort_unstable();
        assert_eq!(files, targets);
        for target in TARGETS {
            let seeds = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
            assert!(seeds.count() > 2, "{target}");
        }
    }
}
