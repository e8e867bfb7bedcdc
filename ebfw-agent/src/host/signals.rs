//! Signals that are held back until somebody listens: tokio installs the handler first and the listener after it, and what comes between
//! would be lost.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals that wait for this thread to let them through; all threads that it starts meanwhile hold them back for good.
#[derive(Debug)]
pub(crate) struct Held {
    before: SigSet,
}

impl Held {
    /// Holds these back. Meant for a process without other threads, which would hear them.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn back(signals: &[Signal]) -> io::Result<Self> {
        let signals: SigSet = signals.iter().copied().collect();
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { before })
    }

    /// Lets them through to this thread, those that have come first.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn let_through(self) -> io::Result<()> {
        Ok(self.before.thread_set_mask()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::raise;
    use tokio::{signal::unix, time::timeout};

    use super::*;

    #[tokio::test]
    async fn what_comes_before_anybody_listens_is_heard() {
        // A test program has other threads, but `raise` means this one.
        let held = Held::back(&[Signal::SIGUSR1]).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        let mut listener = unix::signal(unix::SignalKind::user_defined1()).unwrap();
        held.let_through().unwrap();
        let heard = timeout(Duration::from_secs(60), listener.recv()).await;
        assert_eq!(heard, Ok(Some(())));
    }
}
