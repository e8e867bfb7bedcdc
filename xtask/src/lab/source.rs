//! Builds the cluster's programs from their sources, which come through the Go module proxy.
//! Minutes of compiling the first time; the result stays in the cache until a version changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    command::{self, note, step},
    workspace,
};

/// The version that the programs say they are; `lab/kubernetes/go.mod` has what they are.
const KUBERNETES: &str = "1.34.4";

/// Builds a program, unless the cache has it as its module file says, and returns its path.
pub(super) fn built(name: &str, cache: &Path) -> Result<PathBuf> {
    let module = match name {
        "kube" => "kubernetes",
        other => other,
    };
    let source = workspace::root().join("xtask/lab").join(module);
    let program = cache.join(format!("{name}-{}", version(&source)?));
    if program.is_file() {
        return Ok(program);
    }
    if command::find("go").is_none() {
        bail!(
            "there is no Go compiler to build {name} with: install one, or set EBFW_LAB_BIN to a folder that has {name}"
        );
    }
    step(format_args!("building {name} from source"));
    note("up to a quarter of an hour the first time");
    fs::create_dir_all(cache).with_context(|| format!("failed to create {}", cache.display()))?;
    let part = cache.join(format!("{name}.part"));
    // Helm's own program is a tool of its module file; the others have a program of ours.
    let package = match name {
        "helm" => "helm.sh/helm/v4/cmd/helm",
        _ => ".",
    };
    command::run(
        Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags"])
            .arg(if module == "kubernetes" {
                kubernetes_flags()
            } else {
                "-s -w".to_owned()
            })
            .arg("-o")
            .arg(&part)
            .arg(package)
            .current_dir(&source)
            .env("CGO_ENABLED", "0"),
    )?;
    fs::rename(&part, &program)
        .with_context(|| format!("failed to write {}", program.display()))?;
    Ok(program)
}

/// Kubernetes refuses to run as version 0.0: the version is what the linker is told.
fn kubernetes_flags() -> String {
    let mut flags = "-s -w".to_owned();
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let commit = "0".repeat(40);
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", &*format!("v{KUBERNETES}")),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
            ("gitCommit", &commit),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    flags
}

/// Changes with everything that the program is made of.
fn version(source: &Path) -> Result<String> {
    let mut all = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        let file = source.join(file);
        if !file.exists() {
            continue;
        }
        all.update(fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?);
    }
    let digest = all.finalize();
    Ok(digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
