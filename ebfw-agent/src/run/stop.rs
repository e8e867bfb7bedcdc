//! How the agent is told to stop, at any time of its life.

use std::{
    future::pending,
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use super::leave;
use crate::{config::Config, host::signals::Held};

/// How long a start that is told to stop may take to notice. The kernel looks at programs inside a system call, which can take seconds.
const NOTICE: Duration = Duration::from_millis(250);
/// How much longer an agent that runs may take, which may be putting a policy of a million prefixes into the kernel. What is half done then is as safe as
/// with SIGKILL.
const FINISH: Duration = Duration::from_millis(1500);

/// Hears SIGTERM and SIGINT.
pub(super) struct Stop {
    told: watch::Receiver<bool>,
    /// Whether all that the agent did can be left as it is.
    leavable: Arc<AtomicBool>,
}

impl Stop {
    /// Holds the signals back until [`Stop::listen`]. To be called before there are other threads.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(super) fn hold() -> io::Result<Held> {
        Held::back(&[Signal::SIGTERM, Signal::SIGINT])
    }

    /// Listens from now on. Until [`Stop::commit`] a signal ends the process within a quarter of a second, then within two, whatever it is busy with.
    ///
    /// # Errors
    ///
    /// Where signals cannot be listened to.
    pub(super) fn listen(held: Held, config: &Config) -> io::Result<Self> {
        let config = config.clone();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        held.let_through()?;
        let (tell, told) = watch::channel(false);
        let leavable = Arc::new(AtomicBool::new(true));
        let may_leave = Arc::clone(&leavable);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // An error means that nobody waits any more.
            let _ = tell.send(true);
            sleep(NOTICE).await;
            if may_leave.swap(false, Ordering::SeqCst) {
                tracing::info!("stopped before it was ready: nothing has changed");
                process::exit(0);
            }
            sleep(FINISH).await;
            tracing::warn!("stopping without waiting for what the agent is busy with");
            let left = leave(&config).inspect_err(|error| tracing::error!("{error:#}"));
            process::exit(i32::from(left.is_err()));
        });
        Ok(Self { told, leavable })
    }

    /// From now on things change that have to be put in order at the end. Never returns where the process is already leaving.
    pub(super) async fn commit(&self) {
        if !self.leavable.swap(false, Ordering::SeqCst) {
            pending().await
        }
    }

    /// Waits for a signal; returns at once where one has come before.
    pub(super) async fn told(&self) {
        // An error means that no signal will ever be heard.
        if self
            .told
            .clone()
            .wait_for(|is_told| *is_told)
            .await
            .is_err()
        {
            pending().await
        }
    }
}
