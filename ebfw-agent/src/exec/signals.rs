//! The signals of `ebfw exec`: until its command runs they end it, then they are for the command.

use std::{
    fs, future, io,
    path::PathBuf,
    process,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

use crate::host::cgroup::OwnedCgroup;

use crate::host::signals::Held;

/// What is passed on.
const SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Hears signals from the first moment on.
pub(super) struct Signals {
    phase: Arc<Mutex<Phase>>,
    heard: mpsc::UnboundedReceiver<Signal>,
}

enum Phase {
    /// The command does not run yet. What was made for it goes with the process.
    Starting(Option<PathBuf>),
    Running,
}

impl Signals {
    /// Holds the signals back until [`Signals::listen`]. To be called before there are other threads.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(super) fn hold() -> io::Result<Held> {
        Held::back(&SIGNALS)
    }

    /// Listens from now on. Until [`Signals::commit`] a signal ends the process, whatever it is busy with. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where signals cannot be listened to.
    pub(super) fn listen(held: Held) -> io::Result<Self> {
        let mut sources = Vec::with_capacity(SIGNALS.len());
        for signal in SIGNALS {
            sources.push((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        }
        held.let_through()?;
        let phase = Arc::new(Mutex::new(Phase::Starting(None)));
        let (tell, heard) = mpsc::unbounded_channel();
        let current = Arc::clone(&phase);
        tokio::spawn(async move {
            loop {
                let signal = next(&mut sources).await;
                // Held until the process has ended, so that no command starts meanwhile.
                let phase = current.lock().unwrap_or_else(PoisonError::into_inner);
                match &*phase {
                    Phase::Starting(made) => {
                        if let Some(cgroup) = made {
                            let _ = fs::remove_dir(cgroup);
                        }
                        process::exit(128 + signal as i32);
                    }
                    Phase::Running if tell.send(signal).is_err() => return,
                    Phase::Running => {}
                }
            }
        });
        Ok(Self { phase, heard })
    }

    /// Makes a cgroup that a signal from now on takes away. No signal ends the process in between.
    pub(super) fn guard<E>(
        &self,
        make: impl FnOnce() -> Result<OwnedCgroup, E>,
    ) -> Result<OwnedCgroup, E> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let cgroup = make()?;
        *phase = Phase::Starting(Some(cgroup.directory().to_owned()));
        Ok(cgroup)
    }

    /// From now on signals are for the command.
    pub(super) fn commit(&self) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Running;
    }

    /// Waits for a signal for the command. May be cancelled.
    pub(super) async fn next(&mut self) -> Signal {
        match self.heard.recv().await {
            Some(signal) => signal,
            None => future::pending().await,
        }
    }
}

async fn next(sources: &mut [(Signal, unix::Signal)]) -> Signal {
    future::poll_fn(|context| {
        for (signal, source) in sources.iter_mut() {
            if source.poll_recv(context).is_ready() {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    })
    .await
}
