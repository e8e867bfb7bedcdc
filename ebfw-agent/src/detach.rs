//! `ebfw detach`: the one way to take off what agents left in force.

use anyhow::Context;

use crate::{
    config::DetachConfig,
    datapath,
    exit::Usage,
    host::{
        lock::{self, PinLock},
        privileges,
    },
};

/// Removes all that is pinned and says what that was.
///
/// # Errors
///
/// Where an agent still runs, the directory is none of pins, or something cannot be removed.
pub fn detach(config: &DetachConfig) -> anyhow::Result<String> {
    let exists = config
        .pin_dir
        .try_exists()
        .with_context(|| lock::cannot_look(&config.pin_dir))?;
    if !exists {
        return Ok(format!(
            "nothing is pinned at {}: no enforcement to take off",
            config.pin_dir.display()
        ));
    }
    if !privileges::on_bpffs(&config.pin_dir) {
        return Err(Usage(format!(
            "{} is on no bpf file system: agents have pinned nothing there, and nothing is removed",
            config.pin_dir.display()
        ))
        .into());
    }
    let lock = match PinLock::take(&config.pin_dir) {
        Err(lock::Error::Held { directory, holder }) => anyhow::bail!(
            "an agent{} runs for {}: stop it first, then nothing puts back what is taken off",
            lock::process(holder),
            directory.display()
        ),
        taken => taken?,
    };
    let removed = datapath::detach(&config.pin_dir).with_context(|| {
        format!(
            "failed to remove what is pinned at {}",
            config.pin_dir.display()
        )
    })?;
    drop(lock);
    let programs = removed
        .iter()
        .filter(|name| name.starts_with("ebfw_"))
        .count();
    Ok(format!(
        "detached {programs} programs at {}: nothing is enforced any more",
        config.pin_dir.display()
    ))
}
