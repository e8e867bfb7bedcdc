//! What a watching thread waits for: inotify events, a bell that other threads ring, or the time.
//!
//! Knows nothing of what is watched. A host that gives no inotify instance leaves the bell and the time.

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
    },
};

/// Wakes the thread that waits at an [`Inbox`].
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<EventFd>);

impl Bell {
    /// Rings. A bell that is rung already stays rung.
    pub(crate) fn ring(&self) {
        // Fails only when the counter is full (EAGAIN), and then it is rung.
        let _ = self.0.write(1);
    }
}

/// Where a watching thread waits.
#[derive(Debug)]
pub(crate) struct Inbox {
    inotify: Result<Inotify, Errno>,
    bell: Bell,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        Self::with(Inotify::init(
            InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK,
        ))
    }

    /// An inbox on a host that gives no inotify instance.
    pub(crate) fn deaf() -> io::Result<Self> {
        Self::with(Err(Errno::EMFILE))
    }

    fn with(inotify: Result<Inotify, Errno>) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            inotify,
            bell: Bell(Arc::new(bell)),
        })
    }

    pub(crate) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Watches `path`. EMFILE: the user has no inotify instance left; ENOSPC: no watch left.
    pub(crate) fn watch(&self, path: &Path, mask: AddWatchFlags) -> Result<WatchDescriptor, Errno> {
        self.inotify
            .as_ref()
            .map_err(|&error| error)?
            .add_watch(path, mask)
    }

    /// Ends a watch. One that ended by itself is no error.
    pub(crate) fn unwatch(&self, watch: WatchDescriptor) {
        if let Ok(inotify) = &self.inotify {
            let _ = inotify.rm_watch(watch);
        }
    }

    /// Waits for events, the bell, or `until`; the events that are there.
    pub(crate) fn wait(&self, until: Option<Instant>) -> io::Result<Vec<InotifyEvent>> {
        let mut fds = vec![PollFd::new(self.bell.0.as_fd(), PollFlags::POLLIN)];
        if let Ok(inotify) = &self.inotify {
            fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // EAGAIN: not rung.
        let _ = self.bell.0.read();
        match self.inotify.as_ref().map(Inotify::read_events) {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(Errno::EAGAIN)) | Err(_) => Ok(Vec::new()),
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

/// The time until `until` for poll(2), rounded up so that a wait does not end just before it.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else {
        return PollTimeout::NONE;
    };
    let rest = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_bell_an_event_or_the_time() {
        let inbox = Inbox::new().unwrap();
        inbox.bell().ring();
        inbox.bell().ring();
        assert!(
            inbox.wait(None).unwrap().is_empty(),
            "the bell brings no events"
        );

        let directory = tempfile::tempdir().unwrap();
        inbox
            .watch(directory.path(), AddWatchFlags::IN_CREATE)
            .unwrap();
        std::fs::write(directory.path().join("x"), "").unwrap();
        assert_eq!(
            inbox.wait(None).unwrap()[0].name.as_deref(),
            Some("x".as_ref())
        );

        let start = Instant::now();
        let until = start + Duration::from_millis(20);
        assert!(inbox.wait(Some(until)).unwrap().is_empty());
        assert!(Instant::now() >= until, "not before its time");
    }
}
