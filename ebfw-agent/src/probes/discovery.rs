//! Which files processes execute, and the probes in them: those of processes that run already, then every new executable mapping, in all
//! mount namespaces. A thread of its own, since files are read here; it sleeps until the kernel records something.
//!
//! Needs CAP_PERFMON for the records; CAP_SYS_PTRACE to look into processes of other users.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs},
    },
    time::{ClockId, clock_gettime},
};

use super::{
    elf::ElfError,
    kernel::Kernel,
    mapping::{self, FileKey, Mapping, Record},
    prologue::Calls,
    syscall::{self, Mappings},
    target::{Function, Target},
};
use crate::{
    host::cgroup::{CgroupPath, Hierarchy},
    metrics::{Metrics, ProbeFailure},
};

/// Files that are remembered as looked at; beyond, all are forgotten and looked at again when they are mapped next.
const MAX_KNOWN: usize = 65_536;
/// A file may have gone and another one have its number: so long after the first look, it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Files with probes at once.
const MAX_ATTACHED: usize = 4096;
/// Links that one thread closes.
const LINKS_PER_THREAD: usize = 8;
/// The least time between two looks at all processes.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A look at all processes may take one part in so many of the time: half a percent of a processor.
const SWEEP_SHARE: u32 = 200;
/// Looks at all processes that a file must be missing from before its probes go: a process may be between two mappings in one.
const ABSENCES: u32 = 2;
/// Folders of this host's libraries: programs that live shorter than a look takes are seen from their first call on.
const LIBRARY_FOLDERS: [&str; 6] = [
    "/lib64",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/lib",
];
/// How names of libraries with plaintext begin there.
const LIBRARY_NAMES: [&str; 3] = ["libssl.so", "libgnutls.so", "libnspr4.so"];

/// The running thread; it ends, and all probes with it, when the value is dropped.
pub(super) struct Discovery {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    census: Census,
}

/// Files with probes by kind of library, as the thread counts them.
#[derive(Clone, Debug, Default)]
pub(super) struct Census(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Census {
    pub(super) fn get(&self) -> BTreeMap<&'static str, usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, counts: BTreeMap<&'static str, usize>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

impl Discovery {
    /// Starts it. `responses`: whether what is read is looked at too.
    pub(super) fn start(
        kernel: Kernel,
        scope: Scope,
        responses: bool,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let census = Census::default();
        let finder = Finder::new(kernel, scope, responses, metrics, census.clone());
        let bell = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("ebfw-probes".into())
            .spawn(move || finder.run(&bell))?;
        Ok(Self {
            stop,
            thread: Some(thread),
            census,
        })
    }

    /// Files with probes by kind of library.
    pub(super) fn census(&self) -> BTreeMap<&'static str, usize> {
        self.census.get()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then it is rung.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A watch for each processor that is online. Where there is none, files are found by looking at all processes now and then.
fn watches() -> Vec<Mappings> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let watches: Result<Vec<_>, _> = processors(&online).map(Mappings::watch).collect();
    watches.unwrap_or_else(|error| {
        tracing::warn!(
            "new programs are found late: the kernel does not record mappings for us ({error}; CAP_PERFMON)"
        );
        Vec::new()
    })
}

/// The numbers in a list as `0-3,8`.
fn processors(list: &str) -> impl Iterator<Item = u32> {
    list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first..last.saturating_add(1),
            _ => 0..0,
        }
    })
}

/// What tells a file from all others, whichever mount it is seen through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity {
    Inode(u64, u64),
    Overlay(Vec<u8>),
}

/// A file with probes.
struct Attached {
    links: Vec<OwnedFd>,
    libraries: BTreeSet<&'static str>,
    /// As mappings name it.
    keys: HashSet<FileKey>,
    absences: u32,
    /// The host's own library: stays.
    kept: bool,
}

/// Whose files are looked into.
pub(super) struct Scope {
    hierarchy: Hierarchy,
    root: CgroupPath,
}

impl Scope {
    pub(super) fn new(hierarchy: Hierarchy, root: CgroupPath) -> Self {
        Self { hierarchy, root }
    }

    /// Whether a process belongs there.
    fn holds(&self, pid: u32) -> bool {
        self.root == CgroupPath::top()
            || self
                .hierarchy
                .of_process(pid)
                .is_some_and(|cgroup| cgroup.is_within(&self.root))
    }
}

struct Finder {
    scope: Scope,
    kernel: Kernel,
    metrics: Arc<Metrics>,
    census: Census,
    calls: Calls,
    known: HashMap<FileKey, Instant>,
    /// What was mapped since the last look at all processes: most programs are gone by then.
    mapped: HashSet<FileKey>,
    attached: HashMap<Identity, Attached>,
    full: bool,
    responses: bool,
}

impl Drop for Finder {
    fn drop(&mut self) {
        take_out(self.attached.drain().map(|(_, file)| file));
    }
}

/// Takes probes out of files. The kernel lets some ten milliseconds pass at each link, for whoever is still inside of a program
/// (`uprobe_unregister_sync`); they pass for all at once, so that an agent with many files still ends in time.
fn take_out(files: impl Iterator<Item = Attached>) {
    let mut links = files.flat_map(|file| file.links);
    thread::scope(|scope| {
        loop {
            let share: Vec<_> = links.by_ref().take(LINKS_PER_THREAD).collect();
            if share.is_empty() {
                return;
            }
            // Where no thread can be had, they are closed here.
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(share));
        }
    });
}

impl Finder {
    fn new(
        kernel: Kernel,
        scope: Scope,
        responses: bool,
        metrics: Arc<Metrics>,
        census: Census,
    ) -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            scope,
            kernel,
            metrics,
            census,
            calls: Calls::of_processor(&processor),
            known: HashMap::new(),
            mapped: HashSet::new(),
            attached: HashMap::new(),
            full: false,
            responses,
        }
    }

    fn run(mut self, stop: &EventFd) {
        // What is mapped from here on is recorded; then nothing falls between the two.
        let mut watches = watches();
        self.look_at_libraries();
        self.sweep();
        tracing::info!(
            files = self.attached.len(),
            "requests inside TLS are observed by {}",
            self.kernel.way()
        );
        let mut next = Instant::now() + SWEEP_EVERY;
        loop {
            let rest = next.saturating_duration_since(Instant::now());
            match wait(&watches, stop, rest) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "new programs are not found any more");
                    return;
                }
            }
            let mut lost = 0;
            for watch in &mut watches {
                watch.drain(|bytes| match Record::read(bytes) {
                    Record::Mapped(mapping) => self.meet(&mapping),
                    Record::Lost(records) => lost += records,
                    Record::Other => {}
                });
            }
            if lost > 0 {
                self.metrics.probe_failed(ProbeFailure::Missed, lost);
            }
            if Instant::now() >= next || lost > 0 {
                let (start, spent) = (Instant::now(), processor_time());
                self.sweep();
                let spent = processor_time().saturating_sub(spent);
                next = start + SWEEP_EVERY.max(spent * SWEEP_SHARE);
            }
        }
    }

    /// Looks at every process: finds what was missed, and takes probes out of files that nobody executes any more.
    fn sweep(&mut self) {
        // What is missing from here has to be mapped again to be met, and is looked at again then.
        let mapped = mem::take(&mut self.mapped);
        let mut present = HashSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if !self.scope.holds(pid) {
                continue;
            }
            // A process that has gone, or that we may not look into.
            let Ok(maps) = fs::read(entry.path().join("maps")) else {
                continue;
            };
            for mapping in mapping::in_maps(pid, &maps) {
                if present.insert(mapping.file) {
                    self.meet(&mapping);
                }
            }
        }
        let gone = self.attached.extract_if(|_, file| {
            let is_used = !file.keys.is_disjoint(&present) || !file.keys.is_disjoint(&mapped);
            if file.kept || is_used {
                file.absences = 0;
            } else {
                file.absences += 1;
            }
            file.absences >= ABSENCES
        });
        let known = &mut self.known;
        take_out(gone.map(|(_, file)| {
            // Who executes it the next time has to be looked at again.
            for key in &file.keys {
                known.remove(key);
            }
            file
        }));
        // The look itself has met all that are there.
        self.mapped.clear();
        self.full = false;
        self.count();
    }

    /// Puts probes into the host's own libraries, whether or not anybody uses them now.
    fn look_at_libraries(&mut self) {
        for folder in LIBRARY_FOLDERS {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if LIBRARY_NAMES.iter().any(|begin| name.starts_with(begin)) {
                    self.look_at(&entry.path(), None);
                }
            }
        }
        self.count();
    }

    /// Looks at the file of a mapping, if it has not been looked at lately.
    fn meet(&mut self, mapping: &Mapping) {
        let now = Instant::now();
        if let Some(at) = self.known.get(&mapping.file)
            && now.duration_since(*at) < LOOK_AGAIN
        {
            // No more of them than are known.
            self.mapped.insert(mapping.file);
            return;
        }
        if !self.scope.holds(mapping.pid) {
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(mapping.file, now);
        let mounts = fs::read(format!("/proc/{}/mountinfo", mapping.pid)).unwrap_or_default();
        if mapping::is_served_by_a_process(&mounts, &mapping.path) {
            return self.metrics.probe_failed(ProbeFailure::Unreadable, 1);
        }
        let looked = candidates(mapping)
            .iter()
            .any(|(path, proof)| self.look_at(path, Some((mapping, *proof))));
        if !looked {
            // A process that has gone takes its file's number out of the list: it may be seen the next time.
            self.known.remove(&mapping.file);
            self.metrics.probe_failed(ProbeFailure::Gone, 1);
        }
        self.count();
    }

    /// Looks at one file; `false` where it cannot be opened or is not the one that is mapped.
    fn look_at(&mut self, path: &Path, mapping: Option<(&Mapping, Proof)>) -> bool {
        let Ok(file) = open(path) else { return false };
        let Ok(metadata) = file.metadata() else {
            return false;
        };
        if !metadata.is_file()
            || mapping.is_some_and(|(mapping, proof)| {
                proof == Proof::Inode && mapping.file.inode != metadata.ino()
            })
        {
            return false;
        }
        let own = FileKey {
            major: libc::major(metadata.dev()),
            minor: libc::minor(metadata.dev()),
            inode: metadata.ino(),
        };
        let keys = mapping
            .map(|(mapping, _)| mapping.file)
            .into_iter()
            .chain([own]);
        let identity = identity(&file, &metadata);
        if let Some(attached) = self.attached.get_mut(&identity) {
            attached.keys.extend(keys);
            attached.absences = 0;
            return true;
        }
        match Target::find(&file, self.calls) {
            Ok(target) if target.0.is_empty() => {}
            Ok(target) => {
                let keys = keys.collect();
                self.attach(&file, path, &target, identity, keys, mapping.is_none());
            }
            Err(ElfError::NotElf | ElfError::Foreign) => {}
            Err(error) => {
                self.metrics.probe_failed(ProbeFailure::Unreadable, 1);
                tracing::debug!(path = %path.display(), %error, "a file is not looked into");
            }
        }
        true
    }

    fn attach(
        &mut self,
        file: &File,
        path: &Path,
        target: &Target,
        identity: Identity,
        keys: HashSet<FileKey>,
        kept: bool,
    ) {
        if self.attached.len() >= MAX_ATTACHED {
            self.metrics.probe_failed(ProbeFailure::Full, 1);
            if !mem::replace(&mut self.full, true) {
                tracing::warn!(
                    "more than {MAX_ATTACHED} files with TLS: what is beyond is not seen"
                );
            }
            return;
        }
        // The kernel follows the link to the very file that was looked into, deleted or not.
        let own = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut links = Vec::new();
        let wanted = |function: &Function| self.responses || function.end().is_none();
        for (function, points) in target.0.iter().filter(|(function, _)| wanted(function)) {
            match self.kernel.attach(&own, *function, points) {
                Ok(made) => links.extend(made),
                Err(error) => {
                    self.metrics.probe_failed(ProbeFailure::Refused, 1);
                    tracing::warn!(path = %path.display(), ?function, %error, "the kernel refuses a probe");
                }
            }
        }
        if links.is_empty() {
            return;
        }
        tracing::debug!(path = %path.display(), functions = ?target.0.keys(), "probes attached");
        let attached = Attached {
            links,
            libraries: target.0.keys().map(|function| function.library()).collect(),
            keys,
            absences: 0,
            kept,
        };
        self.attached.insert(identity, attached);
    }

    fn count(&self) {
        self.metrics.set_probed_files(self.attached.len());
        let mut counts = BTreeMap::new();
        for library in self.attached.values().flat_map(|file| &file.libraries) {
            *counts.entry(*library).or_default() += 1;
        }
        self.census.set(counts);
    }
}

/// What this thread has had of a processor: on a busy machine a look takes long and costs no more.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Waits for a record or the bell, `rest` at most; whether the bell rang.
fn wait(watches: &[Mappings], stop: &EventFd, rest: Duration) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(
        watches
            .iter()
            .map(|watch| PollFd::new(watch.event().as_fd(), PollFlags::POLLIN)),
    );
    let limit = PollTimeout::try_from(rest + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, limit) {
        Ok(_) => Ok(fds[0].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How it is known that a path leads to the file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The kernel leads there.
    Kernel,
    /// The file must have the same number.
    Inode,
}

/// Where the file of a mapping may be opened: by the mapping itself, which finds deleted files and those in memory, then by its path in
/// the process's own file system, or as its program. The first needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
fn candidates(mapping: &Mapping) -> Vec<(PathBuf, Proof)> {
    let Mapping {
        pid,
        range: (start, end),
        path,
        file: _,
    } = mapping;
    let by_mapping = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    let mut paths = vec![(by_mapping.into(), Proof::Kernel)];
    if let Ok(within) = path.strip_prefix("/") {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        paths.push((root.join(within), Proof::Inode));
    }
    paths.push((format!("/proc/{pid}/exe").into(), Proof::Inode));
    paths
}

/// Opens a file of which nobody knows what it is: a pipe must not block, a terminal not become ours.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
}

/// Overlay file systems show one file under other numbers in each of their mounts; probes in it would see everything twice.
fn identity(file: &File, metadata: &fs::Metadata) -> Identity {
    let overlay = fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    if overlay && let Ok(handle) = syscall::handle(file.as_fd()) {
        return Identity::Overlay(handle);
    }
    Identity::Inode(metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (list, expected) in [
            ("0\n", &[0][..]),
            ("0-3\n", &[0, 1, 2, 3]),
            ("0,2-3,7", &[0, 2, 3, 7]),
            ("", &[]),
            ("x-y", &[]),
        ] {
            assert_eq!(processors(list).collect::<Vec<_>>(), expected, "{list:?}");
        }
    }
}
