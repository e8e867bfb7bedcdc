//! The network namespaces of the host in the order in which a socket is likely to be found, with a few of them kept open.
//!
//! An open netlink socket keeps its namespace alive, so none is kept for longer than some seconds of idleness.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Outcome, diag::Diag};
use crate::host::{
    cgroup::{CgroupId, CgroupPath, Hierarchy},
    netns::{Netns, NetnsId},
};

/// Namespaces kept open at most.
const KEPT: usize = 32;
/// Idleness after which one is let go.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Cgroups whose namespace is remembered at most; all are forgotten when there are more.
const REMEMBERED: usize = 4096;
/// Processes of a cgroup that are asked for their namespace at most.
const PROCESSES: usize = 1024;
/// How long a list of all namespaces of the host is good for.
const LISTED_FOR: Duration = Duration::from_secs(1);
/// Where named namespaces are mounted: iproute2 and CNI plugins, Docker.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

pub(super) struct Namespaces {
    hierarchy: Hierarchy,
    own: NetnsId,
    own_diag: Diag,
    open: HashMap<NetnsId, Open>,
    by_cgroup: HashMap<CgroupId, NetnsId>,
    everywhere: Vec<(NetnsId, PathBuf)>,
    listed: Option<Instant>,
}

struct Open {
    diag: Diag,
    used: Instant,
}

/// One search: where it was already, and what went wrong on the way.
struct Search<'a> {
    cgroup: CgroupId,
    until: Instant,
    tried: HashSet<NetnsId>,
    error: Option<io::Error>,
    attempt: &'a mut dyn FnMut(&mut Diag) -> io::Result<bool>,
}

impl Namespaces {
    pub(super) fn new(hierarchy: Hierarchy) -> io::Result<Self> {
        let own = Netns::own()?.id();
        Ok(Self {
            hierarchy,
            own,
            own_diag: Diag::open()?,
            open: HashMap::new(),
            by_cgroup: HashMap::new(),
            everywhere: Vec::new(),
            listed: None,
        })
    }

    /// Calls `attempt` for each namespace until it says true: the one where a socket of this cgroup was found before, those of the
    /// cgroup's processes, the agent's own, then all others.
    pub(super) fn try_each(
        &mut self,
        cgroup: CgroupId,
        path: impl FnOnce() -> Option<CgroupPath>,
        until: Instant,
        mut attempt: impl FnMut(&mut Diag) -> io::Result<bool>,
    ) -> Outcome {
        let mut search = Search {
            cgroup,
            until,
            tried: HashSet::new(),
            error: None,
            attempt: &mut attempt,
        };
        if self.search(&mut search, path) {
            return Outcome::Destroyed;
        }
        search.error.map_or(Outcome::Gone, Outcome::Failed)
    }

    fn search(
        &mut self,
        search: &mut Search<'_>,
        path: impl FnOnce() -> Option<CgroupPath>,
    ) -> bool {
        if let Some(&known) = self.by_cgroup.get(&search.cgroup)
            && self.try_open(search, known)
        {
            return true;
        }
        let processes = path()
            .map(|path| self.hierarchy.processes(&path, PROCESSES))
            .unwrap_or_default();
        processes
            .iter()
            .any(|pid| self.try_at(search, &process_namespace(*pid)))
            || self.try_own(search)
            || self
                .list(Instant::now())
                .iter()
                .any(|(id, place)| !search.tried.contains(id) && self.try_at(search, place))
    }

    fn try_own(&mut self, search: &mut Search<'_>) -> bool {
        search.tried.insert(self.own) && search.attempt(&mut self.own_diag)
    }

    /// Tries a namespace that may be kept open.
    fn try_open(&mut self, search: &mut Search<'_>, id: NetnsId) -> bool {
        if id == self.own {
            return self.try_own(search);
        }
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        open.used = Instant::now();
        search.tried.insert(id) && search.attempt(&mut open.diag)
    }

    /// Tries the namespace that a file names; one that is gone or may not be entered is passed over.
    fn try_at(&mut self, search: &mut Search<'_>, place: &Path) -> bool {
        let Ok(id) = NetnsId::at(place) else {
            return false;
        };
        if search.tried.contains(&id) || Instant::now() >= search.until {
            return false;
        }
        if id != self.own && !self.open.contains_key(&id) && self.enter(place).is_err() {
            search.tried.insert(id);
            return false;
        }
        let found = self.try_open(search, id);
        if found {
            self.remember(search.cgroup, id);
        }
        found
    }

    fn enter(&mut self, place: &Path) -> io::Result<()> {
        let netns = Netns::open(place)?;
        let diag = netns.enter(Diag::open)??;
        if self.open.len() >= KEPT {
            let oldest = self
                .open
                .iter()
                .min_by_key(|(_, open)| open.used)
                .map(|(id, _)| *id);
            oldest.map(|id| self.open.remove(&id));
        }
        self.open.insert(
            netns.id(),
            Open {
                diag,
                used: Instant::now(),
            },
        );
        Ok(())
    }

    fn remember(&mut self, cgroup: CgroupId, id: NetnsId) {
        if self.by_cgroup.len() >= REMEMBERED {
            self.by_cgroup.clear();
        }
        self.by_cgroup.insert(cgroup, id);
    }

    /// Every distinct namespace of the host that a file names.
    fn list(&mut self, now: Instant) -> Vec<(NetnsId, PathBuf)> {
        if self
            .listed
            .is_none_or(|listed| now.duration_since(listed) >= LISTED_FOR)
        {
            let mut seen = HashSet::new();
            let with_id = |place: PathBuf| NetnsId::at(&place).ok().map(|id| (id, place));
            self.everywhere = places()
                .filter_map(with_id)
                .filter(|(id, _)| seen.insert(*id))
                .collect();
            self.listed = Some(now);
        }
        self.everywhere.clone()
    }

    /// Lets go of what was idle for a while.
    pub(super) fn release_idle(&mut self, now: Instant) {
        self.open
            .retain(|_, open| now.duration_since(open.used) < KEPT_FOR);
        let Self {
            open,
            by_cgroup,
            own,
            ..
        } = self;
        by_cgroup.retain(|_, id| id == own || open.contains_key(id));
    }
}

impl Search<'_> {
    fn attempt(&mut self, diag: &mut Diag) -> bool {
        match (self.attempt)(diag) {
            Ok(found) => found,
            Err(error) => {
                self.error.get_or_insert(error);
                false
            }
        }
    }
}

fn process_namespace(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// The files that may name a namespace: named ones first, which are few.
fn places() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
    let named = NAMED
        .into_iter()
        .flat_map(entries)
        .map(|entry| entry.path());
    let pids = entries("/proc").filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    named.chain(pids.map(process_namespace))
}
