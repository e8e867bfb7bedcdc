//! One agent per pin directory: an flock on the directory itself, so that it ends with the process, however that ends.
//!
//! Works on bpffs, which has no regular files: flock(2) needs an open file description only.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::sys::stat::{major, minor};

/// Held as long as this value lives. A directory that was made for it and is still empty at the end goes with it.
#[derive(Debug)]
pub struct PinLock {
    directory: PathBuf,
    made: bool,
    /// Closed, and with that unlocked, after the directory has gone.
    file: File,
}

/// Why the pin directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent has it.
    #[error("another agent already uses {}{}: stop it, or give this one a pin directory of its own with EBFW_PIN_DIR", directory.display(), process(*holder))]
    Held {
        /// The pin directory.
        directory: PathBuf,
        /// The other agent, where /proc/locks tells.
        holder: Option<u32>,
    },
    /// The directory has a name that it cannot have.
    #[error("the pin directory {} cannot be made: a bpf file system takes no dot in names", directory.display())]
    Dot {
        /// The pin directory.
        directory: PathBuf,
    },
    /// The directory could not be made, opened or locked.
    #[error("failed to {action} the pin directory {}", directory.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The pin directory.
        directory: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Names a holder behind what it holds or is.
pub(crate) fn process(holder: Option<u32>) -> String {
    holder
        .map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// What to say where it cannot even be seen whether there is a pin directory.
pub(crate) fn cannot_look(directory: &Path) -> String {
    format!(
        "what is pinned at {} cannot be seen (run ebfw as root)",
        directory.display()
    )
}

/// The agent that has the pin directory, as far as /proc/locks tells. Locks nothing, so it is in no starting agent's way.
#[must_use]
pub fn holder(directory: &Path) -> Option<u32> {
    holder_of(&File::open(directory).ok()?)
}

impl PinLock {
    /// Locks `directory`, which is made (for its owner alone) where it does not exist.
    pub fn take(directory: &Path) -> Result<Self, Error> {
        let failed = |action| {
            move |source| Error::Io {
                action,
                directory: directory.to_owned(),
                source,
            }
        };
        loop {
            let made = make(directory).map_err(|source| {
                // kernel/bpf/inode.c, bpf_lookup.
                let is_dot = source.raw_os_error() == Some(libc::EPERM) && has_dot(directory);
                if is_dot {
                    let directory = directory.to_owned();
                    Error::Dot { directory }
                } else {
                    failed("create")(source)
                }
            })?;
            let file = File::open(directory).map_err(failed("open"))?;
            let lock = match file.try_lock() {
                Ok(()) => Self {
                    directory: directory.to_owned(),
                    made,
                    file,
                },
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Held {
                        directory: directory.to_owned(),
                        holder: holder_of(&file),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
            };
            // Another agent that failed may have taken the directory away between the two: what is locked then is nowhere.
            if lock.is_in_place() {
                return Ok(lock);
            }
        }
    }

    fn is_in_place(&self) -> bool {
        let inode = |metadata: io::Result<fs::Metadata>| {
            metadata
                .map(|metadata| (metadata.dev(), metadata.ino()))
                .ok()
        };
        let held = inode(self.file.metadata());
        held.is_some() && held == inode(fs::metadata(&self.directory))
    }
}

impl Drop for PinLock {
    fn drop(&mut self) {
        if self.made && self.is_in_place() {
            // Fails where something is pinned.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

fn has_dot(directory: &Path) -> bool {
    directory.components().any(
        |component| matches!(component, Component::Normal(name) if name.as_bytes().contains(&b'.')),
    )
}

/// Makes `directory` (for its owner alone) where it does not exist; whether it did.
fn make(directory: &Path) -> io::Result<bool> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = directory.parent() {
        builder.recursive(true).create(parent)?;
    }
    match builder.recursive(false).create(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The process that holds a lock on `file`, as this pid namespace numbers it.
fn holder_of(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    find_holder(
        &fs::read_to_string("/proc/locks").ok()?,
        metadata.dev(),
        metadata.ino(),
    )
}

/// The holder in a table of /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 00:1f:5678 0 EOF` (device numbers in hex).
/// A line with `->` waits for the lock; a holder in another pid namespace has the number 0 or -1.
fn find_holder(table: &str, device: u64, inode: u64) -> Option<u32> {
    let object = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_holder = fields.next() == Some("FLOCK");
        let pid = fields.nth(2)?.parse().ok().filter(|&pid| pid != 0);
        (is_holder && fields.next() == Some(&object))
            .then_some(pid)
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::makedev;

    use super::*;

    #[test]
    fn a_second_agent_is_refused_and_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("deep/ebfw");
        assert_eq!(holder(&pins), None, "there is nothing yet");
        let first = PinLock::take(&pins).unwrap();
        assert_eq!(holder(&pins), Some(std::process::id()));
        let message = PinLock::take(&pins).unwrap_err().to_string();
        assert!(message.contains(&pins.display().to_string()), "{message}");
        assert!(
            message.contains(&format!("(process {})", std::process::id())),
            "{message}"
        );
        drop(first);
        assert_eq!(holder(&pins), None, "the first has gone");
        PinLock::take(&pins).unwrap();
    }

    #[test]
    fn a_directory_that_was_made_for_nothing_goes_with_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let pins = place.path().join("ebfw");
        drop(PinLock::take(&pins).unwrap());
        assert!(!pins.exists(), "nothing was pinned");

        let lock = PinLock::take(&pins).unwrap();
        fs::create_dir(pins.join("links")).unwrap();
        drop(lock);
        assert!(pins.join("links").exists(), "what is pinned stays");

        fs::remove_dir(pins.join("links")).unwrap();
        drop(PinLock::take(&pins).unwrap());
        assert!(pins.exists(), "somebody else made it");
    }

    #[test]
    fn a_lock_of_a_directory_that_has_gone_leaves_its_successor_alone() {
        let place = tempfile::tempdir().unwrap();
        let pins = place.path().join("ebfw");
        let gone = PinLock::take(&pins).unwrap();
        fs::remove_dir(&pins).unwrap();
        let successor = PinLock::take(&pins).unwrap();
        drop(gone);
        assert!(pins.exists());
        drop(successor);
        assert!(!pins.exists());
    }

    #[test]
    fn a_pin_directory_that_cannot_be_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let message = PinLock::take(&file.join("ebfw")).unwrap_err().to_string();
        assert!(
            message.contains("failed to create the pin directory"),
            "{message}"
        );
    }

    #[test]
    fn the_holder_is_read_from_the_table_of_locks() {
        let table = "1: POSIX  ADVISORY  WRITE 7 00:1f:42 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 8 00:1f:43 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 10 00:1f:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:1f:42 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 00:1f:44 0 EOF\n\
                     nonsense\n";
        for (device, inode, expected, why) in [
            (
                makedev(0, 0x1f),
                42,
                Some(9),
                "flock on the object, not the POSIX lock, not the waiting one",
            ),
            (makedev(0, 0x20), 42, None, "another device"),
            (
                makedev(0, 0x1f),
                44,
                None,
                "a holder in another pid namespace",
            ),
            (makedev(0, 0x1f), 4, None, "no prefix of an inode"),
        ] {
            assert_eq!(find_holder(table, device, inode), expected, "{why}");
        }
    }
}
