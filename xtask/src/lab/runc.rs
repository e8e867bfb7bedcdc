//! What containerd calls as runc where the node's cgroups have no controllers: runc, with the limits taken out that they could not set.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

/// What containerd says to runc.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The real one
    runc: PathBuf,
    /// Its arguments
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Becomes runc.
pub(super) fn run(options: &Options) -> Result<()> {
    let mut arguments = options.arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--bundle"
            && let Some(bundle) = arguments.next()
        {
            free(&Path::new(bundle).join("config.json"))?;
        }
    }
    let error = Command::new(&options.runc).args(&options.arguments).exec();
    Err(error).with_context(|| format!("failed to become {}", options.runc.display()))
}

fn free(file: &Path) -> Result<()> {
    let Ok(text) = fs::read(file) else {
        return Ok(());
    };
    let mut config =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    without_limits(&mut config);
    fs::write(file, config.to_string())
        .with_context(|| format!("failed to write {}", file.display()))
}

/// Of a container's resources only the devices stay.
fn without_limits(config: &mut Value) {
    let Some(resources) = config.pointer_mut("/linux/resources") else {
        return;
    };
    let devices = resources["devices"].take();
    *resources = json!({});
    if !devices.is_null() {
        resources["devices"] = devices;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_are_taken_out() {
        let devices = json!([{"allow": false}]);
        for (before, after, why) in [
            (json!({"process": 1}), json!({"process": 1}), "no resources"),
            (
                json!({"linux": {"resources": {"memory": {"limit": 1}, "devices": devices}, "x": 2}}),
                json!({"linux": {"resources": {"devices": devices}, "x": 2}}),
                "limits and devices",
            ),
            (
                json!({"linux": {"resources": {"cpu": {"shares": 2}}}}),
                json!({"linux": {"resources": {}}}),
                "limits alone",
            ),
        ] {
            let mut config = before;
            without_limits(&mut config);
            assert_eq!(config, after, "{why}");
        }
    }
}
