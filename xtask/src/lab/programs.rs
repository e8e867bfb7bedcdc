//! The programs of the cluster: found in `EBFW_LAB_BIN`, packed or not, or built from source.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::source;
use crate::{
    command::{note, step},
    setup::{self, Need, Program},
    workspace,
};

/// A folder with these programs, as they are or as `.xz`.
const GIVEN: &str = "EBFW_LAB_BIN";

/// The names by which the one binary of Kubernetes goes.
const KUBERNETES: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// The programs that a lab is made of.
const PROGRAMS: [&str; 3] = ["kube", "coredns", "helm"];

/// Finds or builds the programs and says where they are.
pub(super) fn show() -> Result<()> {
    for name in PROGRAMS {
        note(program(name)?.display());
    }
    Ok(())
}

/// Puts the programs into `folder`, under their own names.
pub(super) fn provide(folder: &Path) -> Result<()> {
    provide_some(folder, &PROGRAMS)
}

/// Puts those of [`PROGRAMS`] that `wanted` names into `folder`, under their own names.
pub(super) fn provide_some(folder: &Path, wanted: &[&str]) -> Result<()> {
    step("programs of the cluster");
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for name in wanted {
        link(&program(name)?, &folder.join(name))?;
    }
    for name in KUBERNETES {
        link(Path::new("kube"), &folder.join(name))?;
    }
    Ok(())
}

/// Where a program is, found or built.
fn program(name: &str) -> Result<PathBuf> {
    let cache = workspace::cache_dir()?.join("lab/bin");
    let Some(given) = env::var_os(GIVEN).filter(|given| !given.is_empty()) else {
        return source::built(name, &cache);
    };
    let given = fs::canonicalize(&given)
        .with_context(|| format!("{GIVEN}: failed to find {}", Path::new(&given).display()))?;
    let plain = given.join(name);
    if plain.is_file() {
        return Ok(plain);
    }
    let packed = given.join(format!("{name}.xz"));
    if !packed.is_file() {
        bail!(
            "{GIVEN}: {} has neither {name} nor {name}.xz",
            given.display()
        );
    }
    unpack(&packed, &cache, name)
}

/// Unpacks once; a packed file that is newer is unpacked again.
fn unpack(packed: &Path, cache: &Path, name: &str) -> Result<PathBuf> {
    let program = cache.join(format!("{name}-unpacked"));
    let age = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    if age(&program).is_ok_and(|unpacked| age(packed).is_ok_and(|packed| packed <= unpacked)) {
        return Ok(program);
    }
    setup::ensure(&[Need::Program(Program::Xz)])?;
    note(format_args!("unpacking {}", packed.display()));
    fs::create_dir_all(cache).with_context(|| format!("failed to create {}", cache.display()))?;
    let part = cache.join(format!("{name}.part"));
    let out =
        fs::File::create(&part).with_context(|| format!("failed to create {}", part.display()))?;
    let status = Command::new("xz")
        .args(["--decompress", "--stdout", "--threads=0"])
        .arg(packed)
        .stdin(Stdio::null())
        .stdout(out)
        .status()
        .context("failed to start xz")?;
    if !status.success() {
        bail!("xz ended with {status}");
    }
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&part, &program))
        .with_context(|| format!("failed to write {}", program.display()))?;
    Ok(program)
}

fn link(to: &Path, at: &Path) -> Result<()> {
    symlink(to, at).with_context(|| format!("failed to link {}", at.display()))
}
