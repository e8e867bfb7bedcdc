//! Watches the contents of one file, whatever replaces it: inotify on every directory on the way, and a look every few seconds for
//! file systems that tell nothing.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ebfw_policy::MAX_BYTES;
use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};
use tokio::sync::mpsc;

use super::{
    Digest,
    trail::{Step, trail},
};
use crate::host::inbox::{Bell, Inbox};

/// Events of any entry on the way.
const REPLACED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);
/// Events of the file itself.
const WRITTEN: AddWatchFlags = AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_CLOSE_WRITE);
/// How often the way is looked at again when it changes under the look.
const ARMINGS: usize = 3;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// Quiet after a change, before the file is read.
    pub settle: Duration,
    /// Quiet after a write whose writer has not closed the file: it may have stopped in the middle.
    pub unclosed: Duration,
    /// How long two looks must agree about a change that no event told of.
    pub untold: Duration,
    /// After so much unrest the file is looked at all the same; for so long an empty file is one that is about to be filled.
    pub patience: Duration,
    /// Between two looks without a reason.
    pub poll: Duration,
    /// Without inotify: for tests of the poll.
    pub deaf: bool,
}

impl Timing {
    pub(super) const DEFAULT: Self = Self {
        settle: Duration::from_millis(100),
        unclosed: Duration::from_secs(30),
        untold: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        poll: Duration::from_secs(5),
        deaf: false,
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why there are no contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the file does not exist")]
    Missing,
    #[error("not a regular file")]
    NotAFile,
    #[error("{0} bytes long, {MAX_BYTES} at most are read")]
    TooLarge(u64),
    #[error("failed to read the file: {0}")]
    Failed(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The contents of the file, of the allowed size.
pub(super) fn read(path: &Path) -> Contents {
    let mut file = open(path)?;
    contents(&mut file)
}

/// Opens without waiting for a fifo's writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

fn contents(file: &mut File) -> Contents {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if metadata.len() > MAX_BYTES as u64 {
        return Err(Unreadable::TooLarge(metadata.len()));
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        Err(Unreadable::TooLarge(bytes.len() as u64))
    } else {
        Ok(bytes)
    }
}

/// What the file holds, or why that is unknown.
type Contents = Result<Vec<u8>, Unreadable>;

/// One look at the file.
struct Look {
    contents: Contents,
    /// Whether the file held still meanwhile.
    steady: bool,
}

fn look(path: &Path) -> Look {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) => {
            return Look {
                contents: Err(error.into()),
                steady: true,
            };
        }
    };
    let before = file.metadata().ok().as_ref().map(stamp);
    let contents = contents(&mut file);
    Look {
        contents,
        steady: before == file.metadata().ok().as_ref().map(stamp),
    }
}

/// What two looks are compared by.
type Identity = Result<Digest, Unreadable>;

fn identity(contents: &Contents) -> Identity {
    contents
        .as_ref()
        .map(|bytes| Digest::of(bytes))
        .map_err(Clone::clone)
}

/// Watches until dropped.
#[derive(Debug)]
pub(super) struct FileWatch<T> {
    updates: mpsc::Receiver<T>,
    stop: Arc<AtomicBool>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> FileWatch<T> {
    /// Reads the file and goes on watching. `make` runs on the watching thread for each new contents, and here for the first.
    pub(super) fn start(
        path: PathBuf,
        timing: Timing,
        mut make: impl FnMut(Contents) -> T + Send + 'static,
    ) -> io::Result<(T, Self)> {
        let inbox = if timing.deaf {
            Inbox::deaf()?
        } else {
            Inbox::new()?
        };
        let (bell, stop) = (inbox.bell(), Arc::<AtomicBool>::default());
        let mut watcher = Watcher::new(path, timing, inbox);
        watcher.arm();
        let first = look(&watcher.path).contents;
        watcher.last = Some(identity(&first));
        let first = make(first);
        // One update may wait; while the reader has not taken it, the watcher waits with the next.
        let (send, updates) = mpsc::channel(1);
        let stopped = Arc::clone(&stop);
        let run = move || {
            watcher.run(&stopped, |contents| {
                send.blocking_send(make(contents)).is_ok()
            })
        };
        let thread = thread::Builder::new()
            .name("ebfw-policy".to_owned())
            .spawn(run)?;
        Ok((
            first,
            Self {
                updates,
                stop,
                bell,
                thread: Some(thread),
            },
        ))
    }

    pub(super) async fn next(&mut self) -> Option<T> {
        self.updates.recv().await
    }
}

impl<T> Drop for FileWatch<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.updates.close();
        self.bell.ring();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that watches the policy file has panicked");
        }
    }
}

/// The thread's state.
struct Watcher {
    path: PathBuf,
    timing: Timing,
    inbox: Inbox,
    /// The names that matter in each directory that is watched.
    watches: HashMap<WatchDescriptor, HashSet<OsString>>,
    warned: bool,
    /// What was said last: the digest, or the error.
    last: Option<Identity>,
    /// When it was written last, as long as the writer has not closed it.
    writing: Option<Instant>,
    /// A change that waits for quiet.
    unrest: Option<Unrest>,
    next_poll: Instant,
}

/// A change that is not told yet.
#[derive(Clone, Debug)]
struct Unrest {
    since: Instant,
    /// When to look.
    until: Instant,
    /// Whether events told of it.
    told: bool,
    /// What was seen at the last look, and since when nothing else.
    seen: Option<(Identity, Instant)>,
}

impl Watcher {
    fn new(path: PathBuf, timing: Timing, inbox: Inbox) -> Self {
        let next_poll = Instant::now() + timing.poll;
        Self {
            path,
            timing,
            inbox,
            watches: HashMap::new(),
            warned: false,
            last: None,
            writing: None,
            unrest: None,
            next_poll,
        }
    }

    fn run(mut self, stop: &AtomicBool, mut tell: impl FnMut(Contents) -> bool) {
        while !stop.load(Ordering::Relaxed) {
            let events = self
                .inbox
                .wait(Some(self.wake()))
                .unwrap_or_else(|error| self.without_events(&error));
            if let Some(contents) = self.step(&events, Instant::now())
                && !tell(contents)
            {
                return;
            }
        }
    }

    /// Takes note of events, and looks at the file when it is time: its contents if they are new.
    fn step(&mut self, events: &[InotifyEvent], now: Instant) -> Option<Contents> {
        self.note(events, now);
        if self.wake() <= now {
            self.changed(now)
        } else {
            None
        }
    }

    /// When to look at the file unless something happens.
    fn wake(&self) -> Instant {
        self.unrest
            .as_ref()
            .map_or(self.next_poll, |unrest| unrest.until)
    }

    /// Takes note of what happened to the file; whether anything did. Quiet is waited for, as long as patience lasts.
    fn note(&mut self, events: &[InotifyEvent], now: Instant) -> bool {
        let events: Vec<_> = events.iter().filter(|event| self.concerns(event)).collect();
        for event in &events {
            if event.mask.contains(AddWatchFlags::IN_MODIFY) {
                self.writing = Some(now);
            } else if !event.mask.contains(AddWatchFlags::IN_ATTRIB) {
                // Closed, or another file has taken the name.
                self.writing = None;
            }
        }
        if events.is_empty() {
            return false;
        }
        let quiet = match self.writing {
            Some(_) => self.timing.unclosed,
            None => self.timing.settle,
        };
        let (since, latest) = match &self.unrest {
            Some(Unrest { since, until, .. }) => {
                (*since, (*since + self.timing.patience).max(*until))
            }
            None => (now, now + quiet),
        };
        self.unrest = Some(Unrest {
            since,
            until: (now + quiet).min(latest),
            told: true,
            seen: None,
        });
        true
    }

    /// Looks at the file: its contents if they are new and somebody has finished writing them.
    fn changed(&mut self, now: Instant) -> Option<Contents> {
        self.next_poll = now + self.timing.poll;
        let is_armed = self.arm();
        let Look { contents, steady } = look(&self.path);
        // Events tell of changes too quick for the time stamps.
        let meanwhile = self
            .inbox
            .wait(Some(Instant::now()))
            .unwrap_or_else(|error| self.without_events(&error));
        let steady = !self.note(&meanwhile, now) && steady && is_armed;
        let unrest = self.unrest.take();
        let seen = identity(&contents);
        if steady && Some(&seen) == self.last.as_ref() {
            return None;
        }
        let told = unrest.as_ref().is_some_and(|unrest| unrest.told);
        let seen_since = match unrest.as_ref().and_then(|unrest| unrest.seen.as_ref()) {
            Some((before, since)) if *before == seen => *since,
            Some(_) | None => now,
        };
        let finished = if steady {
            self.finished(&contents, told, seen_since)
        } else {
            now + self.timing.settle
        };
        if finished <= now {
            self.last = Some(seen);
            return Some(contents);
        }
        self.unrest = Some(Unrest {
            since: unrest.map_or(now, |unrest| unrest.since),
            until: finished,
            told,
            seen: Some((seen, seen_since)),
        });
        None
    }

    /// When contents that were seen since `seen_since` and hold still can be taken for all that was to be written.
    fn finished(&self, contents: &Contents, told: bool, seen_since: Instant) -> Instant {
        let is_empty = contents.as_ref().is_ok_and(Vec::is_empty);
        let agreement = match (is_empty, told) {
            (true, _) => self.timing.patience,
            (false, true) => Duration::ZERO,
            (false, false) => self.timing.untold,
        };
        let agreed = seen_since + agreement;
        self.writing
            .map_or(agreed, |written| agreed.max(written + self.timing.unclosed))
    }

    /// Watches every directory on the way to the file. What changes while the watches are set is looked at again. Whether all of them
    /// were watched before, so that no event was missed.
    fn arm(&mut self) -> bool {
        let before: HashSet<_> = self.watches.keys().copied().collect();
        let mut steps = Vec::new();
        for _ in 0..ARMINGS {
            let now = trail(&self.path).unwrap_or_default();
            if now == steps {
                break;
            }
            steps = now;
            self.watch(&steps);
        }
        self.watches.keys().all(|watch| before.contains(watch))
    }

    fn watch(&mut self, steps: &[Step]) {
        let mut masks: HashMap<&Path, AddWatchFlags> = HashMap::new();
        for (number, step) in steps.iter().enumerate() {
            let mask = if number + 1 == steps.len() {
                REPLACED.union(WRITTEN)
            } else {
                REPLACED
            };
            *masks
                .entry(&step.directory)
                .or_insert(AddWatchFlags::IN_ONLYDIR) |= mask;
        }
        let mut watches: HashMap<WatchDescriptor, HashSet<OsString>> = HashMap::new();
        for (directory, mask) in masks {
            match self.inbox.watch(directory, mask) {
                Ok(watch) => {
                    let names = steps
                        .iter()
                        .filter(|step| step.directory == directory)
                        .map(|step| step.name.clone());
                    watches.entry(watch).or_default().extend(names);
                }
                // Gone meanwhile: the directory above tells, and is looked at again.
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
                Err(error) => self.warn(directory, error),
            }
        }
        for old in self.watches.keys().filter(|old| !watches.contains_key(old)) {
            self.inbox.unwatch(*old);
        }
        self.watches = watches;
    }

    fn warn(&mut self, directory: &Path, error: nix::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            let every = self.timing.poll;
            tracing::warn!(%error, directory = %directory.display(), ?every, "failed to watch for changes of the policy file; its contents are compared instead");
        }
    }

    fn without_events(&self, error: &io::Error) -> Vec<InotifyEvent> {
        tracing::error!(%error, "failed to wait for changes of the policy file");
        thread::sleep(self.timing.settle);
        Vec::new()
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        match (self.watches.get(&event.wd), &event.name) {
            _ if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => true,
            (Some(names), Some(name)) => names.contains(name),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// What changes when a file is written to.
fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

#[cfg(test)]
mod tests;
