//! The cgroup tree below a root, kept up to date by inotify: which cgroups exist, under which ids.
//!
//! One thread owns the state and publishes snapshots. What it cannot watch it looks at again every second; it is never silently blind.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor},
};
use tokio::sync::{oneshot, watch};

use super::{
    cgroup::{CgroupId, CgroupPath, Error, Hierarchy},
    inbox::{Bell, Inbox},
};

/// Pause between two looks at the whole tree where it cannot be watched.
const RESCAN_EVERY: Duration = Duration::from_secs(1);
/// How long [`Tree::look`] waits for a cgroup that is not known.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// After one that was not to be found it does not wait for others: cgroups that come and go must not slow down who asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Cgroups that are gone and still found by [`Tree::lookup`]: events arrive after the cgroup went.
const REMEMBERED: usize = 1024;
/// kernfs sends inotify events for mkdir(2) and rmdir(2), which go through the VFS. Symbolic links do not occur.
const MASK: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Cgroups that are watched at most: several times what a full node has, and a bound on the memory that a fork bomb of cgroups can take.
const MAX_CGROUPS: u32 = 65536;

/// The cgroups that exist.
pub type Cgroups = BTreeMap<CgroupId, CgroupPath>;

/// Watches the tree until it is dropped.
#[derive(Debug)]
pub struct Tree {
    snapshots: watch::Receiver<Arc<Cgroups>>,
    shared: Arc<Shared>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the others both touch.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    blind: AtomicBool,
    /// Who waits for the next rescan. Bounded by the number of callers that wait.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    /// The same for callers that block.
    looking: Mutex<Vec<mpsc::SyncSender<()>>>,
    /// When one of them found nothing.
    missed: Mutex<Option<Instant>>,
    /// The last [`REMEMBERED`] cgroups that went, oldest first.
    gone: Mutex<VecDeque<(CgroupId, CgroupPath)>>,
}

/// A lock whose holder panicked guards plain lists here: they are whole after every single operation.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// Looks at everything below `root` and goes on watching. The first snapshot is complete.
    pub fn start(hierarchy: Hierarchy, root: CgroupPath) -> Result<Self, Error> {
        hierarchy.id(&root)?;
        let place = hierarchy.directory(&root);
        let failed = |action: &'static str| {
            move |source: io::Error| Error::Io {
                action,
                path: place,
                source,
            }
        };
        let inbox = Inbox::new().map_err(failed.clone()("watch"))?;
        let bell = inbox.bell();
        let shared = Arc::new(Shared::default());
        let (publish, snapshots) = watch::channel(Arc::default());
        let mut watcher = Watcher::new(hierarchy, root, inbox, Arc::clone(&shared), publish);
        watcher.rescan();
        watcher.publish();
        let thread = thread::Builder::new()
            .name("ebfw-tree".to_owned())
            .spawn(move || watcher.run())
            .map_err(failed("watch"))?;
        Ok(Self {
            snapshots,
            shared,
            bell,
            thread: Some(thread),
        })
    }

    /// The cgroups that exist, as of the last change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Cgroups> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Told of every change; only the newest snapshot is kept for a slow reader.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Cgroups>> {
        self.snapshots.clone()
    }

    /// The path of a cgroup that exists or went a short while ago.
    #[must_use]
    pub fn lookup(&self, id: CgroupId) -> Option<CgroupPath> {
        let known = self.snapshots.borrow().get(&id).cloned();
        known.or_else(|| {
            locked(&self.shared.gone)
                .iter()
                .rev()
                .find(|(gone, _)| *gone == id)
                .map(|(_, path)| path.clone())
        })
    }

    /// As [`Tree::lookup`], but looks at the tree again for a cgroup that is not known: what a process does first may be heard of before its cgroup.
    #[must_use]
    pub fn look(&self, id: CgroupId) -> Option<CgroupPath> {
        let known = self.lookup(id);
        let missed = *locked(&self.shared.missed);
        if known.is_some() || missed.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return known;
        }
        let (done, finished) = mpsc::sync_channel(1);
        locked(&self.shared.looking).push(done);
        self.bell.ring();
        // Whoever takes longer, or has ended, has found nothing.
        let _ = finished.recv_timeout(LOOK_FOR);
        let found = self.lookup(id);
        if found.is_none() {
            *locked(&self.shared.missed) = Some(Instant::now());
        }
        found
    }

    /// Looks at the whole tree again; the snapshot after that. Calls that come meanwhile share one look.
    pub async fn rescan(&self) -> Arc<Cgroups> {
        let (done, finished) = oneshot::channel();
        locked(&self.shared.waiting).push(done);
        self.bell.ring();
        // An error means that the thread has ended: then the last snapshot is all there is.
        let _ = finished.await;
        self.snapshot()
    }

    /// The path of a cgroup, looked for in the tree itself if it is not known yet.
    pub async fn find(&self, id: CgroupId) -> Option<CgroupPath> {
        let known = self.snapshots.borrow().get(&id).cloned();
        match known {
            Some(path) => Some(path),
            None => self.rescan().await.get(&id).cloned(),
        }
    }

    /// Whether some of the tree cannot be watched and is looked at every second instead.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.shared.blind.load(Ordering::Relaxed)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that watches the cgroup tree has panicked");
        }
    }
}

/// The thread's state.
struct Watcher {
    hierarchy: Hierarchy,
    root: CgroupPath,
    inbox: Inbox,
    shared: Arc<Shared>,
    publish: watch::Sender<Arc<Cgroups>>,
    known: Cgroups,
    ids: HashMap<CgroupPath, CgroupId>,
    watches: HashMap<WatchDescriptor, CgroupPath>,
    changed: bool,
    /// Why some of the tree is not watched.
    blind: Option<Blind>,
    /// What was said last about that.
    reported: Option<Blind>,
    next_rescan: Option<Instant>,
}

/// Why a part of the tree cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blind {
    /// inotify refused.
    Inotify(Errno),
    /// The root itself does not exist.
    NoRoot,
    /// More cgroups than the kernel's map can hold.
    TooMany,
}

impl Watcher {
    fn new(
        hierarchy: Hierarchy,
        root: CgroupPath,
        inbox: Inbox,
        shared: Arc<Shared>,
        publish: watch::Sender<Arc<Cgroups>>,
    ) -> Self {
        Self {
            hierarchy,
            root,
            inbox,
            shared,
            publish,
            known: Cgroups::new(),
            ids: HashMap::new(),
            watches: HashMap::new(),
            changed: false,
            blind: None,
            reported: None,
            next_rescan: None,
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.inbox.wait(self.next_rescan) {
                Ok(events) => self.apply(events),
                Err(error) => {
                    tracing::error!(%error, "failed to wait for changes of the cgroup tree; it is read every second");
                    thread::sleep(RESCAN_EVERY);
                    self.rescan();
                }
            }
            let waiting = std::mem::take(&mut *locked(&self.shared.waiting));
            let looking = std::mem::take(&mut *locked(&self.shared.looking));
            let asked = !(waiting.is_empty() && looking.is_empty());
            if asked || self.next_rescan.is_some_and(|when| when <= Instant::now()) {
                self.rescan();
            }
            self.publish();
            for done in waiting {
                // The caller may have given up.
                let _ = done.send(());
            }
            for done in looking {
                let _ = done.try_send(());
            }
        }
    }

    fn apply(&mut self, events: Vec<InotifyEvent>) {
        if events
            .iter()
            .any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW))
        {
            tracing::info!("the inotify queue overflowed; the cgroup tree is read again");
            return self.rescan();
        }
        for InotifyEvent {
            wd,
            mask,
            cookie: _,
            name,
        } in events
        {
            let Some(path) = self.watches.get(&wd).cloned() else {
                continue;
            };
            match name.filter(|_| mask.contains(AddWatchFlags::IN_ISDIR)) {
                Some(name) if mask.contains(AddWatchFlags::IN_CREATE) => {
                    self.examine(path.join(&name))
                }
                Some(name) if mask.contains(AddWatchFlags::IN_DELETE) => {
                    self.check_gone(&path.join(&name))
                }
                _ if mask.contains(AddWatchFlags::IN_DELETE_SELF) => self.check_gone(&path),
                _ if mask.contains(AddWatchFlags::IN_IGNORED) => drop(self.watches.remove(&wd)),
                _ => {}
            }
        }
    }

    /// Looks at the whole tree.
    fn rescan(&mut self) {
        self.blind = None;
        let old: Vec<CgroupPath> = self.ids.keys().cloned().collect();
        self.examine(self.root.clone());
        for path in old {
            self.check_gone(&path);
        }
    }

    /// Takes in `path` and everything below it. Each directory is listed after its watch was set, so that what is made in
    /// between is seen at least once.
    fn examine(&mut self, path: CgroupPath) {
        let mut pending = vec![path];
        while let Some(path) = pending.pop() {
            let directory = self.hierarchy.directory(&path);
            match self.inbox.watch(&directory, MASK) {
                Ok(watch) => drop(self.watches.insert(watch, path.clone())),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => self.blind = self.blind.or(Some(Blind::Inotify(error))),
            }
            let Ok(metadata) = fs::metadata(&directory) else {
                self.forget(&path);
                continue;
            };
            self.learn(CgroupId(metadata.ino()), &path);
            // kernfs counts 2 links and one for each directory below (`kernfs_refresh_inode`, fs/kernfs/inode.c).
            if metadata.nlink() != 2 {
                pending.extend(
                    self.hierarchy
                        .children(&path)
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(child, _)| child),
                );
            }
        }
    }

    fn learn(&mut self, id: CgroupId, path: &CgroupPath) {
        if self.ids.get(path) == Some(&id) {
            return;
        }
        if self.known.len() >= MAX_CGROUPS as usize {
            self.blind = self.blind.or(Some(Blind::TooMany));
            return;
        }
        self.forget(path);
        self.ids.insert(path.clone(), id);
        self.known.insert(id, path.clone());
        self.changed = true;
    }

    /// Forgets `path` unless it is still there, or there again, under the id that is known.
    fn check_gone(&mut self, path: &CgroupPath) {
        let known = self.ids.get(path).copied();
        match self.hierarchy.id(path) {
            Ok(id) if known == Some(id) => {}
            Ok(_) => self.examine(path.clone()),
            Err(_) => self.forget(path),
        }
    }

    fn forget(&mut self, path: &CgroupPath) {
        let Some(id) = self.ids.remove(path) else {
            return;
        };
        self.known.remove(&id);
        self.changed = true;
        let mut gone = locked(&self.shared.gone);
        if gone.len() == REMEMBERED {
            gone.pop_front();
        }
        gone.push_back((id, path.clone()));
    }

    fn publish(&mut self) {
        if !self.ids.contains_key(&self.root) {
            self.blind = self.blind.or(Some(Blind::NoRoot));
        }
        self.next_rescan = self.blind.map(|_| Instant::now() + RESCAN_EVERY);
        self.shared
            .blind
            .store(self.blind.is_some(), Ordering::Relaxed);
        self.report();
        if std::mem::take(&mut self.changed) {
            self.publish.send_replace(Arc::new(self.known.clone()));
        }
    }

    /// Says once what cannot be watched, and once that it can be again.
    fn report(&mut self) {
        if std::mem::replace(&mut self.reported, self.blind) == self.blind {
            return;
        }
        match self.blind {
            None => tracing::info!("the whole cgroup tree is watched"),
            Some(Blind::Inotify(Errno::ENOSPC)) => {
                tracing::warn!(
                    "no inotify watch is left: the cgroup tree is read every second; raise fs.inotify.max_user_watches"
                );
            }
            Some(Blind::Inotify(Errno::EMFILE)) => {
                tracing::warn!(
                    "no inotify instance is left: the cgroup tree is read every second; raise fs.inotify.max_user_instances"
                );
            }
            Some(Blind::Inotify(error)) => {
                tracing::warn!(%error, "failed to watch the cgroup tree; it is read every second")
            }
            Some(Blind::NoRoot) => {
                tracing::warn!(root = %self.root, "the governed cgroup does not exist; looking for it every second")
            }
            Some(Blind::TooMany) => {
                tracing::warn!(
                    limit = MAX_CGROUPS,
                    "more cgroups than can be known: those above the limit have no policy of their own"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, path::Path};

    use super::*;

    /// A watcher over ordinary directories: what differs from kernfs (link counts on some file systems) only costs a listing.
    fn watcher(mount: &Path) -> Watcher {
        let inbox = Inbox::new().unwrap();
        Watcher::new(
            Hierarchy::for_test(mount),
            CgroupPath::top(),
            inbox,
            Arc::default(),
            watch::channel(Arc::default()).0,
        )
    }

    fn paths(watcher: &Watcher) -> Vec<String> {
        let mut paths: Vec<String> = watcher.known.values().map(ToString::to_string).collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_scan_takes_in_everything_and_drops_what_went() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b/c")).unwrap();
        fs::write(directory.path().join("a/cgroup.procs"), "").unwrap();
        let mut watcher = watcher(directory.path());
        watcher.rescan();
        assert_eq!(paths(&watcher), ["/", "/a", "/a/b", "/a/b/c"]);
        fs::remove_dir(directory.path().join("a/b/c")).unwrap();
        watcher.rescan();
        assert_eq!(paths(&watcher), ["/", "/a", "/a/b"]);
        assert_eq!(
            locked(&watcher.shared.gone).len(),
            1,
            "still found for late events"
        );
    }

    #[test]
    fn events_bring_whole_subtrees_in_and_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut watcher = watcher(directory.path());
        watcher.rescan();
        // Made in one go: there is an event for `x` only, the rest was made before its watch.
        fs::create_dir_all(directory.path().join("x/y/z")).unwrap();
        let events = watcher.inbox.wait(None).unwrap();
        watcher.apply(events);
        assert_eq!(paths(&watcher), ["/", "/x", "/x/y", "/x/y/z"]);
        fs::remove_dir_all(directory.path().join("x")).unwrap();
        let events = watcher.inbox.wait(None).unwrap();
        watcher.apply(events);
        assert_eq!(paths(&watcher), ["/"]);
    }

    #[test]
    fn a_late_event_of_an_older_directory_does_not_remove_its_successor() {
        let directory = tempfile::tempdir().unwrap();
        let mut watcher = watcher(directory.path());
        fs::create_dir(directory.path().join("x")).unwrap();
        watcher.rescan();
        watcher.check_gone(&CgroupPath::top().join(OsStr::new("x")));
        assert_eq!(paths(&watcher), ["/", "/x"]);
    }

    #[test]
    fn an_overflow_leads_to_a_scan() {
        let directory = tempfile::tempdir().unwrap();
        let mut watcher = watcher(directory.path());
        watcher.rescan();
        let wd = *watcher.watches.keys().next().unwrap();
        fs::create_dir(directory.path().join("unseen")).unwrap();
        watcher.apply(vec![InotifyEvent {
            wd,
            mask: AddWatchFlags::IN_Q_OVERFLOW,
            cookie: 0,
            name: None,
        }]);
        assert_eq!(paths(&watcher), ["/", "/unseen"]);
    }

    #[test]
    fn without_inotify_the_tree_is_read_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut watcher = Watcher {
            inbox: Inbox::deaf().unwrap(),
            ..watcher(directory.path())
        };
        watcher.rescan();
        watcher.publish();
        assert_eq!(watcher.reported, Some(Blind::Inotify(Errno::EMFILE)));
        assert!(watcher.next_rescan.is_some());
        fs::create_dir(directory.path().join("x")).unwrap();
        watcher.rescan();
        assert_eq!(paths(&watcher), ["/", "/x"]);
    }

    #[test]
    fn what_cannot_be_watched_is_looked_at_again_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut watcher = watcher(directory.path());
        watcher.rescan();
        watcher.publish();
        assert_eq!(watcher.next_rescan, None, "everything is watched");
        fs::remove_dir(directory.path()).unwrap();
        watcher.rescan();
        watcher.publish();
        assert!(
            watcher.next_rescan.is_some() && watcher.shared.blind.load(Ordering::Relaxed),
            "the root is gone"
        );
        fs::create_dir(directory.path()).unwrap();
        watcher.rescan();
        watcher.publish();
        assert_eq!(
            (watcher.next_rescan, paths(&watcher)),
            (None, vec!["/".to_owned()]),
            "and back"
        );
    }
}
