//! Files that processes execute: opened without being led elsewhere by whoever made the path, and told from one another.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    libc,
    sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs},
};

use super::{
    mapping::{FileKey, Mapping},
    syscall,
};

/// What tells a file from all others, whichever mount it is seen through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// Device and inode.
    Inode(u64, u64),
    /// The handle of the file below.
    Overlay(Vec<u8>),
}

/// Changes with what a file holds. Another file under the number of one that is gone has another one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    written: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    /// Whether the content is the same: links and permissions may have changed.
    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        (self.written, self.size) == (other.written, other.size)
    }
}

/// A regular file that was found, and not opened yet: to open a device can be to start it.
#[derive(Debug)]
pub(super) struct Found {
    place: File,
    metadata: Metadata,
    path: PathBuf,
}

impl Found {
    /// The file that a process has mapped. `None`: the process has gone, or does not show it.
    pub(super) fn by_mapping(mapping: &Mapping) -> Option<Self> {
        let Mapping {
            pid, range, path, ..
        } = mapping;
        let is_mapped = |found: &Self| found.metadata.ino() == mapping.file.inode;
        // The kernel leads to the very file, deleted or in memory; it needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
        let itself = || {
            let (start, end) = range;
            Self::at(format!("/proc/{pid}/map_files/{start:x}-{end:x}").into()).ok()
        };
        let by_path = || Self::below(format!("/proc/{pid}/root").as_ref(), path).ok();
        let program = || Self::at(format!("/proc/{pid}/exe").into()).ok();
        itself()
            .or_else(|| by_path().filter(is_mapped))
            .or_else(|| program().filter(is_mapped))
    }

    /// The file at a path that nobody but the host's administrator, or the kernel, has made.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let place = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(&path)?;
        Self::new(place, path)
    }

    /// The file at a path in a process's own file system. The kernel has told the path with all its links followed, so one that is met now was put
    /// there to lead somewhere else.
    fn below(root: &Path, path: &Path) -> io::Result<Self> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(root)?;
        let within = path.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Self::new(openat2(&directory, within, how)?.into(), root.join(within))
    }

    fn new(place: File, path: PathBuf) -> io::Result<Self> {
        let metadata = place.metadata()?;
        if metadata.is_file() {
            Ok(Self {
                place,
                metadata,
                path,
            })
        } else {
            Err(Errno::EINVAL.into())
        }
    }

    /// Where it was found, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path by which the kernel finds this very file, as long as the value is there.
    pub(super) fn own_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.place.as_raw_fd()).into()
    }

    /// Opens it to be read; does not wait for somebody to give back a lease.
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(self.own_path())
    }

    pub(super) fn stamp(&self) -> Stamp {
        let metadata = &self.metadata;
        Stamp {
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }

    /// As mappings name it where nothing lies between: overlay file systems and others have numbers of their own.
    pub(super) fn key(&self) -> FileKey {
        FileKey {
            major: libc::major(self.metadata.dev()),
            minor: libc::minor(self.metadata.dev()),
            inode: self.metadata.ino(),
        }
    }

    /// Overlay file systems show one file under other numbers in each of their mounts; probes in it would see everything twice.
    pub(super) fn identity(&self) -> Identity {
        let is_overlay =
            fstatfs(&self.place).is_ok_and(|stat| stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
        if is_overlay && let Ok(handle) = syscall::handle(self.place.as_fd()) {
            return Identity::Overlay(handle);
        }
        Identity::Inode(self.metadata.dev(), self.metadata.ino())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_process_does_not_lead_us_to_other_files() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("lib")).unwrap();
        fs::write(at("lib/real.so"), "code").unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        symlink(outside.path(), at("lib/outside.so")).unwrap();
        symlink("real.so", at("lib/beside.so")).unwrap();
        symlink("loop.so", at("lib/loop.so")).unwrap();
        symlink("lib", at("lib64")).unwrap();
        symlink("/proc/self/exe", at("lib/self.so")).unwrap();
        mkfifo(&at("lib/pipe.so"), Mode::S_IRUSR).unwrap();
        for path in [
            "/lib/outside.so",
            "/lib/beside.so",
            "/lib/loop.so",
            "/lib64/real.so",
            "/lib/self.so",
            "/lib/pipe.so",
            "/lib",
            "/lib/missing.so",
            "/",
            "lib/real.so",
            "/memfd:x (deleted)",
        ] {
            let found = Found::below(root.path(), path.as_ref());
            assert!(found.is_err(), "{path}: {found:?}");
        }
        let found = Found::below(root.path(), "/lib/real.so".as_ref()).unwrap();
        assert_eq!(io::read_to_string(found.open().unwrap()).unwrap(), "code");
        // What is `..` in a root is that root.
        let name = root.path().file_name().unwrap().to_str().unwrap();
        let above = format!("/../{name}/lib/real.so");
        assert!(Found::below(root.path(), above.as_ref()).is_err());
        assert!(Found::below(root.path(), "/../lib/real.so".as_ref()).is_ok());
    }

    #[test]
    fn neither_pipes_nor_devices_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        for path in [&pipe, Path::new("/dev/null"), folder.path()] {
            assert!(Found::at(path.to_owned()).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_stamp_changes_with_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = || Found::at(file.path().to_owned()).unwrap().stamp();
        let before = stamp();
        assert_eq!(before, stamp());
        let (folder, link) = (file.path().parent().unwrap(), "another-name");
        let link = tempfile::tempdir_in(folder).unwrap().keep().join(link);
        fs::hard_link(file.path(), &link).unwrap();
        fs::remove_dir_all(link.parent().unwrap()).unwrap();
        assert!(stamp().has_content_of(&before));
        fs::write(file.path(), "more").unwrap();
        assert!(!stamp().has_content_of(&before));
    }
}
