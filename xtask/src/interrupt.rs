//! The signals that end a program, as an error: what a task has made is then taken away in order.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Whether such a signal has come.
pub(crate) struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// From now on these signals do not end the program.
    pub(crate) fn watch() -> Result<Self> {
        let interrupted = Self(Arc::default());
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&interrupted.0))
                .context("failed to watch for signals")?;
        }
        Ok(interrupted)
    }

    /// Fails once one has come; loops that wait for something call it.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
