//! A cgroup that we made: removed with its value, and the way to start a program inside of it.
//!
//! Removing kills nothing: a cgroup that still has processes stays, and the error says so.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{CgroupId, CgroupPath, Error, failed, is_cgroup_name};

/// How long removal tries again while the kernel still lets go of processes that have exited.
const REMOVE_FOR: Duration = Duration::from_secs(1);
/// Pause between two tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// A cgroup that exists as long as this value.
#[derive(Debug)]
pub struct OwnedCgroup {
    directory: PathBuf,
    path: CgroupPath,
    id: CgroupId,
    removed: bool,
}

impl OwnedCgroup {
    pub(super) fn create(parent: PathBuf, path: CgroupPath, name: &str) -> Result<Self, Error> {
        let directory = parent.join(name);
        if !is_cgroup_name(name) {
            return Err(failed("create cgroup", directory)(io::Error::from(
                io::ErrorKind::InvalidInput,
            )));
        }
        fs::create_dir(&directory).map_err(failed("create cgroup", &directory))?;
        let mut owned = Self {
            directory,
            path,
            id: CgroupId(0),
            removed: false,
        };
        let metadata =
            fs::metadata(&owned.directory).map_err(failed("look at cgroup", &owned.directory))?;
        owned.id = CgroupId(std::os::unix::fs::MetadataExt::ino(&metadata));
        let kind = fs::read_to_string(owned.directory.join("cgroup.type"));
        if kind.is_ok_and(|kind| kind.trim() == "domain invalid") {
            let cause = "it stands in a threaded cgroup, where it can hold no process; start ebfw from another one";
            let cause = io::Error::new(io::ErrorKind::Unsupported, cause);
            return Err(failed("use cgroup", &owned.directory)(cause));
        }
        Ok(owned)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> CgroupId {
        self.id
    }

    /// Its path below the mount.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes `command` start inside of the cgroup: no instruction of the program runs outside of it.
    /// For tokio's `Command` give its `as_std_mut()`.
    pub fn confine(&self, command: &mut Command) -> Result<(), Error> {
        let list = self.directory.join("cgroup.procs");
        let file = File::options()
            .write(true)
            .open(&list)
            .map_err(failed("open", list))?;
        // "0" is the writing process itself.
        let enter = move || (&file).write_all(b"0");
        // SAFETY: between fork and exec the closure makes one write(2) of constant bytes to a file that was opened before; it
        // allocates nothing and takes no lock.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Moves the process `pid` into the cgroup.
    pub fn admit(&self, pid: u32) -> Result<(), Error> {
        let list = self.directory.join("cgroup.procs");
        fs::write(&list, pid.to_string()).map_err(failed("move a process into", list))
    }

    /// Removes the cgroup and the empty ones below it. Fails where processes are left.
    pub fn remove(mut self) -> Result<(), Error> {
        self.removed = true;
        remove_for(&self.directory, REMOVE_FOR)
    }
}

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = remove_for(&self.directory, REMOVE_FOR) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "a cgroup is left behind");
        }
    }
}

/// Removes until it works, the time is over, or it fails for another reason than being busy: a cgroup is busy for some
/// milliseconds after its last process was reaped.
fn remove_for(directory: &Path, time: Duration) -> Result<(), Error> {
    let until = Instant::now() + time;
    loop {
        match remove_tree(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(REMOVE_PAUSE)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result.map_err(failed("remove cgroup", directory)),
        }
    }
}

/// Removes the cgroups below `directory`, then itself. Files of a cgroup go with it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
