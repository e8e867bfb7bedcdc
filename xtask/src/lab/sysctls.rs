//! Settings of the whole machine that kubelet changes: kept, and put back.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

const CHANGED: [&str; 4] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
];

/// Writes down what they are.
pub(super) fn keep(file: &Path) -> Result<()> {
    let mut kept = String::new();
    for name in CHANGED {
        let value = fs::read_to_string(setting(name))
            .with_context(|| format!("failed to read the setting {name}"))?;
        kept += &format!("{name}={}\n", value.trim());
    }
    fs::write(file, kept).with_context(|| format!("failed to write {}", file.display()))
}

/// Makes them again what was written down; nothing where nothing was.
pub(super) fn put_back(file: &Path) -> Result<()> {
    let Ok(kept) = fs::read_to_string(file) else {
        return Ok(());
    };
    for (name, value) in kept.lines().filter_map(|line| line.split_once('=')) {
        fs::write(setting(name), value)
            .with_context(|| format!("failed to put back the setting {name}"))?;
    }
    Ok(())
}

fn setting(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}
