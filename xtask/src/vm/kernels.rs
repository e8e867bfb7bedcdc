//! The kernels of the matrix: Debian's cloud kernels, fetched once and kept in the cache.
//! Exact versions are resolved when they are fetched, because they leave the mirrors after a while.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::modules;
use crate::{
    apt::Apt,
    command::{note, step},
    workspace,
};

/// Oldest first: the oldest that is supported, the long-term ones, the newest that Debian packages.
const MATRIX: [Series; 5] = [
    Series("5.10"),
    Series("6.1"),
    Series("6.12"),
    Series("6.18"),
    Series("7.3"),
];

const FLAVOUR: &str = "-cloud-amd64";

/// A series of kernels, by the first two numbers of its version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Series(&'static str);

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    One(Series),
    All,
}

/// A kernel in the cache.
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// In the order in which they have to be loaded.
    pub(super) modules: Vec<PathBuf>,
    /// A static busybox, which is all of the guest's user space.
    pub(super) busybox: PathBuf,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Reads one entry of `--kernel`.
pub(super) fn parse(text: &str) -> Result<Choice, String> {
    if text == "all" {
        return Ok(Choice::All);
    }
    let known = MATRIX.into_iter().find(|series| series.0 == text);
    known.map(Choice::One).ok_or_else(|| {
        format!(
            "not in the matrix: {}, or all",
            MATRIX.map(|series| series.0).join(", ")
        )
    })
}

/// The series asked for, oldest first, each once.
pub(super) fn chosen(choices: &[Choice]) -> Vec<Series> {
    let wanted = |series: &Series| {
        choices.iter().any(|choice| match choice {
            Choice::All => true,
            Choice::One(one) => one == series,
        })
    };
    MATRIX.into_iter().filter(wanted).collect()
}

/// The oldest and the newest: what works on both works on those between, as far as kernels can be trusted.
pub(super) fn ends() -> [Series; 2] {
    [MATRIX[0], MATRIX[MATRIX.len() - 1]]
}

/// All others.
pub(super) fn between() -> &'static [Series] {
    &MATRIX[1..MATRIX.len() - 1]
}

/// Takes the kernel from the cache, or fetches it: anew, too, where that one was fetched for fewer modules.
pub(super) fn fetch(series: Series) -> Result<Kernel> {
    let cache = workspace::cache_dir()?.join("kernels");
    let dir = cache.join(series.0);
    let is_there = dir.join("release").is_file();
    let is_whole = fs::read_to_string(dir.join("wanted")).is_ok_and(|own| own == modules::wanted());
    if !(is_there && is_whole) {
        step(format_args!("fetching kernel {series}"));
        match replace(series, &cache, &dir) {
            Err(error) if is_there => note(format_args!(
                "the one in the cache is used as it is, without some modules: {error:#}"
            )),
            replaced => replaced?,
        }
    }
    open(&dir)
}

fn replace(series: Series, cache: &Path, dir: &Path) -> Result<()> {
    let apt = Apt::open()?;
    let scratch = cache.join(format!("{series}.{}", std::process::id()));
    let prepared = prepare(&apt, series, &scratch).and_then(|()| {
        drop(fs::remove_dir_all(dir));
        fs::rename(scratch.join("kernel"), dir)
            .with_context(|| format!("failed to create {}", dir.display()))
    });
    drop(fs::remove_dir_all(&scratch));
    prepared
}

fn open(dir: &Path) -> Result<Kernel> {
    let release = dir.join("release");
    let release = fs::read_to_string(&release)
        .with_context(|| format!("failed to read {}", release.display()))?;
    Ok(Kernel {
        release: release.trim().to_owned(),
        image: dir.join("vmlinuz"),
        modules: modules::in_load_order(&dir.join("modules"))?,
        busybox: dir.join("busybox"),
    })
}

/// Unpacks the packages and keeps the few files that a guest needs in `scratch/kernel`.
fn prepare(apt: &Apt, series: Series, scratch: &Path) -> Result<()> {
    let (release, packages) = resolve(apt, series)?;
    let root = scratch.join("root");
    for package in &packages {
        apt.unpack(package, &root)?;
    }
    apt.unpack("busybox-static", &root)?;

    let kernel = scratch.join("kernel");
    fs::create_dir_all(&kernel)
        .with_context(|| format!("failed to create {}", kernel.display()))?;
    let tree = first_of(
        &root,
        &[
            &format!("usr/lib/modules/{release}"),
            &format!("lib/modules/{release}"),
        ],
    )?;
    let image = first_of(
        &root,
        &[
            &format!("boot/vmlinuz-{release}"),
            &format!("usr/lib/modules/{release}/vmlinuz"),
        ],
    )?;
    let busybox = first_of(&root, &["usr/bin/busybox", "bin/busybox"])?;
    for (from, name) in [(image, "vmlinuz"), (busybox, "busybox")] {
        fs::copy(&from, kernel.join(name))
            .with_context(|| format!("failed to copy {}", from.display()))?;
    }
    modules::select(&tree, &kernel.join("modules"))?;
    fs::write(kernel.join("wanted"), modules::wanted())
        .context("failed to write what was wanted")?;
    note(format_args!("kernel {release}"));
    // Written last: a folder with it is complete.
    fs::write(kernel.join("release"), release).context("failed to write the kernel's release")
}

/// The release of the newest kernel of a series, and its packages.
fn resolve(apt: &Apt, series: Series) -> Result<(String, Vec<String>)> {
    let newest = |start: &str| -> Result<Option<String>> {
        let names = apt.names(&format!("{start}{series}."))?;
        Ok(newest_release(&names, start))
    };
    // From 6.19 on the image and the modules are packages of their own, and `linux-image` is empty.
    if let Some(release) = newest("linux-binary-")? {
        let packages = ["linux-binary-", "linux-modules-"].map(|start| format!("{start}{release}"));
        return Ok((release, packages.into()));
    }
    let release = newest("linux-image-")?
        .with_context(|| format!("Debian has no kernel {series} (any more)"))?;
    let package = format!("linux-image-{release}");
    Ok((release, vec![package]))
}

/// Picks the newest release among package names.
fn newest_release(names: &[String], start: &str) -> Option<String> {
    names
        .iter()
        .filter_map(|name| name.strip_prefix(start))
        .filter(|release| release.ends_with(FLAVOUR))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
}

fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn first_of(root: &Path, candidates: &[&str]) -> Result<PathBuf> {
    candidates
        .iter()
        .map(|candidate| root.join(candidate))
        .find(|path| path.exists())
        .with_context(|| format!("the packages hold none of {}", candidates.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_found_by_number_and_not_by_letter() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-51-cloud-amd64-dbg",
            "linux-image-6.1.0-51-cloud-amd64-unsigned",
            "linux-image-6.1.0-51-rt-amd64",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(
            newest_release(&names, "linux-image-").as_deref(),
            Some("6.1.0-50-cloud-amd64")
        );
        assert_eq!(newest_release(&[], "linux-image-"), None);
    }

    #[test]
    fn a_choice_runs_oldest_first_and_once() {
        let choices = ["7.3", "5.10", "7.3"].map(|text| parse(text).unwrap());
        assert_eq!(chosen(&choices), [Series("5.10"), Series("7.3")]);
        assert_eq!(chosen(&[parse("all").unwrap()]).len(), MATRIX.len());
        assert!(
            parse("4.19").unwrap_err().contains("5.10"),
            "says what there is"
        );
    }
}
