//! Tells of files with probes that are written to. Where a probe goes was read from what the file held before: in other code it stands in the middle of
//! an instruction, and whoever runs into it dies.

use std::{collections::HashMap, io, os::fd::AsFd, os::fd::BorrowedFd};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

use super::file::{Found, Identity};

/// The files that are watched.
pub(super) struct Changes {
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Identity>,
}

/// What was heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// These were written to.
    pub(super) written: Vec<Identity>,
    /// There was more than the kernel remembers.
    pub(super) lost: bool,
}

impl Changes {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            watched: HashMap::new(),
        })
    }

    /// Begins to watch a file. ENOSPC: the user has no watch left.
    pub(super) fn watch(
        &mut self,
        file: &Found,
        identity: &Identity,
    ) -> io::Result<WatchDescriptor> {
        let path = file.own_path();
        let watch = self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY)?;
        self.watched.insert(watch, identity.clone());
        Ok(watch)
    }

    /// Ends a watch.
    pub(super) fn unwatch(&mut self, watch: WatchDescriptor) {
        // One whose file has gone ended by itself.
        let _ = self.inotify.rm_watch(watch);
        self.watched.remove(&watch);
    }

    /// What has been heard since, without waiting.
    pub(super) fn take(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(heard),
                Err(error) => return Err(error.into()),
            };
            for event in events {
                heard.lost |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let written = event.mask.contains(AddWatchFlags::IN_MODIFY);
                match self.watched.get(&event.wd) {
                    Some(file) if written && !heard.written.contains(file) => {
                        heard.written.push(file.clone());
                    }
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write as _,
    };

    use super::*;

    #[test]
    fn what_is_written_to_is_told_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.so");
        fs::write(&path, "code").unwrap();
        let file = Found::at(path.clone()).unwrap();
        let identity = file.identity();
        let mut changes = Changes::new().unwrap();
        let watch = changes.watch(&file, &identity).unwrap();
        let told = || Heard {
            written: vec![identity.clone()],
            lost: false,
        };
        fs::read(&path).unwrap();
        fs::hard_link(&path, folder.path().join("other.so")).unwrap();
        assert_eq!(changes.take().unwrap(), Heard::default());
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(b"more").unwrap();
        writer.write_all(b"more").unwrap();
        assert_eq!(changes.take().unwrap(), told(), "once");
        // Under another name, cut off, and when it has no name any more.
        fs::write(folder.path().join("other.so"), "").unwrap();
        assert_eq!(changes.take().unwrap(), told());
        fs::remove_file(folder.path().join("other.so")).unwrap();
        fs::remove_file(&path).unwrap();
        writer.write_all(b"more").unwrap();
        assert_eq!(changes.take().unwrap(), told());
        changes.unwatch(watch);
        writer.write_all(b"more").unwrap();
        assert_eq!(changes.take().unwrap(), Heard::default());
        drop((writer, file));
        changes.unwatch(watch);
    }
}
