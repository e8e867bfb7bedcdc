//! For tests and benchmarks: probes in one file, at a place and in a way of the caller's choice. The agent itself uses none of this.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::Context as _;
use aya::maps::MapError;

use super::{
    LoadError,
    kernel::{self, Finder, Loaded},
    prologue::Calls,
    syscall,
    target::{Point, Target},
};
use crate::inspect::Record;

/// How probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By `uprobe_multi` links (kernel 6.6).
    Multi,
    /// By perf events.
    Perf,
}

/// Where in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At its entry, whatever instruction is there.
    Entry,
    /// Where the agent puts it.
    Chosen,
}

/// Loaded probes.
pub struct Trial {
    loaded: Loaded,
    finder: Option<Finder>,
}

/// Attached probes; they go with the value.
pub struct Links(#[expect(dead_code, reason = "kept for its end")] Vec<OwnedFd>);

impl Trial {
    /// Loads them for processes below `scope`, the directory of a cgroup. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or does not have this way.
    pub fn load(scope: &Path, way: Way) -> Result<Self, LoadError> {
        let way = match way {
            Way::Multi => syscall::Way::Multi,
            Way::Perf => syscall::Way::Perf,
        };
        let (loaded, finder) = kernel::load_for_way(scope, way)?;
        Ok(Self {
            loaded,
            finder: Some(finder),
        })
    }

    /// Attaches what finds sockets, and drops what leaves on refused ones, to the way out of the cgroup `scope`; once.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or its BTF does not say how.
    pub fn guard(&mut self, scope: &Path) -> anyhow::Result<Links> {
        let finder = self.finder.take().context("it is attached already")?;
        Ok(Links(vec![finder.attach(scope)?]))
    }

    /// Refuses what leaves on a socket.
    ///
    /// # Errors
    ///
    /// Where there is no room.
    pub fn refuse(&mut self, cookie: u64) -> Result<(), MapError> {
        self.loaded.refused.insert(cookie, [0, 0], 0)
    }

    /// Lets it leave again.
    ///
    /// # Errors
    ///
    /// Where it was not refused.
    pub fn release(&mut self, cookie: u64) -> Result<(), MapError> {
        self.loaded.refused.remove(&cookie)
    }

    /// Puts probes into all functions of a file but those that read.
    ///
    /// # Errors
    ///
    /// Where there are none, or the kernel refuses.
    pub fn attach(&self, path: &Path, placement: Placement) -> io::Result<Links> {
        let calls = Calls::of_processor(&fs::read_to_string("/proc/cpuinfo")?);
        let target = Target::find(&File::open(path)?, calls).map_err(io::Error::other)?;
        if target.0.is_empty() {
            return Err(io::Error::other("the file has nothing to probe"));
        }
        let mut links = Vec::new();
        for (function, points) in &target.0 {
            if function.end().is_some() {
                continue;
            }
            let points: Vec<_> = points
                .iter()
                .map(|point| match placement {
                    Placement::Chosen => *point,
                    Placement::Entry => Point {
                        offset: point.entry,
                        ..*point
                    },
                })
                .collect();
            links.extend(self.loaded.kernel.attach(path, *function, &points)?);
        }
        Ok(Links(links))
    }

    /// Gives the records that lie in the ring to `consume`.
    pub fn take(&mut self, mut consume: impl FnMut(Record<'_>)) {
        self.loaded.ring.take(|bytes| {
            if let Ok(record) = Record::read(bytes) {
                consume(record);
            }
        });
    }
}
