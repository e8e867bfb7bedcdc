//! Which files processes execute, and the probes in them: those of processes that run already, then every new executable mapping, in all
//! mount namespaces. A thread of its own, since files are read here; it sleeps until the kernel records something.
//!
//! Needs CAP_PERFMON for the records; CAP_SYS_PTRACE to look into processes of other users.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io, mem,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::WatchDescriptor,
    },
    time::{ClockId, clock_gettime},
};

use super::{
    changes::{Changes, Heard},
    elf::ElfError,
    file::{Found, Identity, Stamp},
    kernel::Kernel,
    mapping::{self, FileKey, Mapping, Record},
    prologue::Calls,
    syscall::Mappings,
    target::{Function, Target},
};
use crate::{
    host::cgroup::{CgroupPath, Hierarchy},
    metrics::{Metrics, ProbeFailure},
};

/// Files that are remembered as looked at; beyond, all are forgotten and looked at again when they are mapped next.
const MAX_KNOWN: usize = 65_536;
/// A file may have gone and another one have its number, or it holds something else now: where it is only seen to be in use, it is looked at again after so
/// long. Whoever maps it has that done at once.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Files with probes at once.
const MAX_ATTACHED: usize = 4096;
/// Threads that close links at once.
const CLOSING_THREADS: usize = 64;
/// The least time between two looks at all processes.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A look at all processes may take one part in so many of the time: half a percent of a processor.
const SWEEP_SHARE: u32 = 200;
/// The same while records are lost: whoever maps files all day must not keep a processor busy.
const HASTY_SHARE: u32 = 10;
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

/// When a file was looked at last.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    /// What it was then; `None` where it was not opened.
    stamp: Option<Stamp>,
}

/// How a mapping came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// It was made just now, or may have been.
    Mapped,
    /// It was there when all processes were looked at.
    Swept,
}

/// A file with probes.
struct Attached {
    links: Vec<OwnedFd>,
    /// What it was when its probes were placed.
    stamp: Stamp,
    /// Tells when it is written to; `None` where the host gives no more watches.
    watch: Option<WatchDescriptor>,
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
    known: HashMap<FileKey, Look>,
    /// What was mapped since the last look at all processes: most programs are gone by then.
    mapped: HashSet<FileKey>,
    attached: HashMap<Identity, Attached>,
    changes: Option<Changes>,
    /// When the host's folders of libraries were changed last.
    folders: Vec<Option<SystemTime>>,
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
    let links: Vec<_> = files.flat_map(|file| file.links).collect();
    let share = links.len().div_ceil(CLOSING_THREADS);
    let mut links = links.into_iter();
    thread::scope(|scope| {
        loop {
            let share: Vec<_> = links.by_ref().take(share).collect();
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
            changes: Changes::new()
                .inspect_err(|error| {
                    tracing::warn!(
                        "a program or library that is overwritten while it has probes may fail: the kernel does not tell us of it ({error}; \
                         fs.inotify.max_user_instances)"
                    );
                })
                .ok(),
            folders: Vec::new(),
            full: false,
            responses,
        }
    }

    fn run(mut self, stop: &EventFd) {
        // What is mapped from here on is recorded; then nothing falls between the two.
        let mut watches = watches();
        self.sweep(Occasion::Mapped);
        tracing::info!(
            files = self.attached.len(),
            "requests inside TLS are observed by {}",
            self.kernel.way()
        );
        let (mut next, mut earliest) = (Instant::now() + SWEEP_EVERY, Instant::now());
        let mut occasion = Occasion::Swept;
        loop {
            let rest = next.saturating_duration_since(Instant::now());
            match wait(&watches, self.changes.as_ref(), stop, rest) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "new programs are not found any more");
                    return;
                }
            }
            // First of all: in what has changed, whoever comes by now runs into a probe at a wrong place.
            self.let_go_of_changed();
            let mut lost = 0;
            for watch in &mut watches {
                watch.drain(|bytes| match Record::read(bytes) {
                    Record::Mapped(mapping) => self.meet(&mapping, Occasion::Mapped),
                    Record::Lost(records) => lost += records,
                    Record::Other => {}
                });
            }
            if lost > 0 {
                self.metrics.probe_failed(ProbeFailure::Missed, lost);
                // What was mapped meanwhile is found there.
                (next, occasion) = (earliest, Occasion::Mapped);
            }
            if Instant::now() >= next {
                let (start, spent) = (Instant::now(), processor_time());
                self.sweep(mem::replace(&mut occasion, Occasion::Swept));
                let spent = processor_time().saturating_sub(spent);
                next = start + SWEEP_EVERY.max(spent * SWEEP_SHARE);
                earliest = start + spent * HASTY_SHARE;
            }
        }
    }

    /// Looks at every process: finds what was missed, and takes probes out of files that nobody executes any more.
    fn sweep(&mut self, occasion: Occasion) {
        self.look_at_libraries();
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
                    self.meet(&mapping, occasion);
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
        let (known, changes) = (&mut self.known, &mut self.changes);
        take_out(gone.map(|(_, file)| {
            forget(known, changes, &file);
            file
        }));
        // The look itself has met all that are there.
        self.mapped.clear();
        self.full = false;
        self.count();
    }

    /// Takes the probes out of files that were written to.
    fn let_go_of_changed(&mut self) {
        let heard = match self.changes.as_mut().map(Changes::take) {
            None => return,
            Some(Ok(heard)) => heard,
            Some(Err(error)) => {
                tracing::error!(%error, "files with probes are not watched any more");
                self.changes = None;
                return;
            }
        };
        let Heard { written, lost } = heard;
        if lost {
            // Which are meant is found out when they are mapped the next time.
            self.known.clear();
        }
        for identity in written {
            self.let_go(&identity);
        }
    }

    /// Takes the probes out of a file.
    fn let_go(&mut self, identity: &Identity) {
        if let Some(file) = self.attached.remove(identity) {
            forget(&mut self.known, &mut self.changes, &file);
            take_out([file].into_iter());
            self.count();
        }
    }

    /// Puts probes into the host's own libraries, whether or not anybody uses them now. Does nothing while their folders stay as they are.
    fn look_at_libraries(&mut self) {
        let changed = LIBRARY_FOLDERS.map(|folder| fs::metadata(folder)?.modified());
        let changed: Vec<_> = changed.into_iter().map(Result::ok).collect();
        if self.folders == changed {
            return;
        }
        self.folders = changed;
        for file in self.attached.values_mut() {
            file.kept = false;
        }
        for folder in LIBRARY_FOLDERS {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if LIBRARY_NAMES.iter().any(|begin| name.starts_with(begin))
                    && let Ok(found) = Found::at(entry.path())
                {
                    self.look_at(&found, None);
                }
            }
        }
        self.count();
    }

    /// Looks at the file of a mapping, if it has not been looked at lately.
    fn meet(&mut self, mapping: &Mapping, occasion: Occasion) {
        let now = Instant::now();
        let known = self.known.get(&mapping.file).copied();
        if let Some(look) = known {
            // No more of them than are known.
            self.mapped.insert(mapping.file);
            let is_due = match (occasion, look.stamp) {
                (Occasion::Mapped, Some(_)) => true,
                (Occasion::Swept, _) | (Occasion::Mapped, None) => {
                    now.duration_since(look.at) >= LOOK_AGAIN
                }
            };
            if !is_due {
                return;
            }
        }
        if !self.scope.holds(mapping.pid) {
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let before = known.and_then(|look| look.stamp);
        if before.is_none() {
            let mounts = fs::read(format!("/proc/{}/mountinfo", mapping.pid)).unwrap_or_default();
            if mapping::is_served_by_a_process(&mounts, &mapping.path) {
                let look = Look {
                    at: now,
                    stamp: None,
                };
                self.known.insert(mapping.file, look);
                return self.metrics.probe_failed(ProbeFailure::Unreadable, 1);
            }
        }
        let Some(found) = Found::by_mapping(mapping) else {
            // A file that was not looked at is met again the next time.
            if known.is_none() {
                self.metrics.probe_failed(ProbeFailure::Gone, 1);
            }
            return;
        };
        let look = Look {
            at: now,
            stamp: Some(found.stamp()),
        };
        self.known.insert(mapping.file, look);
        if before != look.stamp {
            self.look_at(&found, Some(mapping));
            self.count();
        }
    }

    /// Looks into a file; without a mapping it is one of the host's libraries.
    fn look_at(&mut self, found: &Found, mapping: Option<&Mapping>) {
        let keys = mapping.map(|mapping| mapping.file).into_iter();
        let keys = keys.chain([found.key()]).collect::<HashSet<_>>();
        let identity = found.identity();
        let stamp = found.stamp();
        if let Some(attached) = self.attached.get_mut(&identity) {
            if attached.stamp.has_content_of(&stamp) {
                attached.keys.extend(keys);
                attached.absences = 0;
                attached.kept |= mapping.is_none();
                return;
            }
            self.let_go(&identity);
        }
        // Before it is read: what is written while it is read is told then.
        let watch = self.changes.as_mut().and_then(|changes| {
            changes
                .watch(found, &identity)
                .inspect_err(|error| {
                    tracing::warn!(path = %found.path().display(), %error, "a file is not watched");
                })
                .ok()
        });
        let attached = self.read(found).map(|target| {
            self.attach(found, &target).map(|links| Attached {
                links,
                stamp,
                watch,
                libraries: target.0.keys().map(|function| function.library()).collect(),
                keys,
                absences: 0,
                kept: mapping.is_none(),
            })
        });
        match attached.flatten() {
            Some(attached) => {
                self.attached.insert(identity, attached);
            }
            None => {
                if let (Some(changes), Some(watch)) = (&mut self.changes, watch) {
                    changes.unwatch(watch);
                }
            }
        }
    }

    /// What there is to probe in a file; `None` where there is nothing.
    fn read(&self, found: &Found) -> Option<Target> {
        let read = found.open().map_err(ElfError::from);
        match read.and_then(|file| Target::find(&file, self.calls)) {
            Ok(target) => Some(target).filter(|target| !target.0.is_empty()),
            Err(ElfError::NotElf | ElfError::Foreign) => None,
            Err(error) => {
                self.metrics.probe_failed(ProbeFailure::Unreadable, 1);
                tracing::debug!(path = %found.path().display(), %error, "a file is not looked into");
                None
            }
        }
    }

    /// Puts probes into a file; `None` where there are none then.
    fn attach(&mut self, found: &Found, target: &Target) -> Option<Vec<OwnedFd>> {
        if self.attached.len() >= MAX_ATTACHED {
            self.metrics.probe_failed(ProbeFailure::Full, 1);
            if !mem::replace(&mut self.full, true) {
                tracing::warn!(
                    "more than {MAX_ATTACHED} files with TLS: what is beyond is not seen"
                );
            }
            return None;
        }
        let path = found.path().display();
        // The kernel follows the link to the very file that was looked into, deleted or not.
        let own = found.own_path();
        let mut links = Vec::new();
        let wanted = |function: &Function| self.responses || function.end().is_none();
        for (function, points) in target.0.iter().filter(|(function, _)| wanted(function)) {
            match self.kernel.attach(&own, *function, points) {
                Ok(made) => links.extend(made),
                Err(error) => {
                    self.metrics.probe_failed(ProbeFailure::Refused, 1);
                    tracing::warn!(%path, ?function, %error, "the kernel refuses a probe");
                }
            }
        }
        tracing::debug!(%path, functions = ?target.0.keys(), "probes attached");
        Some(links).filter(|links| !links.is_empty())
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

/// Whoever maps the file the next time has to be looked at again.
fn forget(known: &mut HashMap<FileKey, Look>, changes: &mut Option<Changes>, file: &Attached) {
    for key in &file.keys {
        known.remove(key);
    }
    if let (Some(changes), Some(watch)) = (changes, file.watch) {
        changes.unwatch(watch);
    }
}

/// Waits for a record, a change or the bell, `rest` at most; whether the bell rang.
fn wait(
    watches: &[Mappings],
    changes: Option<&Changes>,
    stop: &EventFd,
    rest: Duration,
) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(changes.map(|changes| PollFd::new(changes.as_fd(), PollFlags::POLLIN)));
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
