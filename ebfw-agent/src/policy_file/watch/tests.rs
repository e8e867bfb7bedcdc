//! The watcher with a clock that the test moves: when contents count as finished, and what is never told.

use std::{fs, io::Write as _};

use super::*;

const OLD: &str = "defaultAction: Allow\nrules: []\n";
const NEW: &str = "defaultAction: Deny\nrules: []\n";
const TIMING: Timing = Timing {
    settle: Duration::from_millis(100),
    unclosed: Duration::from_secs(30),
    untold: Duration::from_secs(1),
    patience: Duration::from_secs(3),
    poll: Duration::from_secs(3600),
    deaf: false,
};

/// A watcher whose clock the test moves. Events lie in the inbox when the call that caused them returns.
struct Stage {
    directory: tempfile::TempDir,
    watcher: Watcher,
    now: Instant,
}

impl Stage {
    fn new(timing: Timing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        fs::write(&path, OLD).unwrap();
        let inbox = if timing.deaf {
            Inbox::deaf()
        } else {
            Inbox::new()
        };
        let mut watcher = Watcher::new(path, timing, inbox.unwrap());
        watcher.arm();
        watcher.last = Some(identity(&look(&watcher.path).contents));
        let now = Instant::now();
        Self {
            directory,
            watcher,
            now,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("policy.yaml")
    }

    /// What is told within this time.
    fn told_within(&mut self, time: Duration) -> Option<Contents> {
        let end = self.now + time;
        loop {
            let events = self.watcher.inbox.wait(Some(Instant::now())).unwrap();
            if let Some(contents) = self.watcher.step(&events, self.now) {
                return Some(contents);
            }
            let next = self.watcher.wake().max(self.now + TIMING.settle);
            if next > end {
                self.now = end;
                return None;
            }
            self.now = next;
        }
    }

    fn told_after(&mut self, quiet: Duration) -> Option<Contents> {
        let early = self.told_within(quiet.saturating_sub(TIMING.settle));
        assert_eq!(early, None, "too early");
        self.told_within(TIMING.settle * 3)
    }
}

fn text(text: &str) -> Option<Contents> {
    Some(Ok(text.into()))
}

#[test]
fn what_is_being_written_is_not_read_until_it_is_closed() {
    let mut stage = Stage::new(TIMING);
    let mut file = File::create(stage.path()).unwrap();
    let told = stage.told_within(TIMING.patience * 3);
    assert_eq!(told, None, "truncated");
    // A policy already, but not the one that is meant.
    for line in NEW.split_inclusive('\n') {
        file.write_all(line.as_bytes()).unwrap();
        let told = stage.told_within(TIMING.patience * 3);
        assert_eq!(told, None, "written so far: {line}");
    }
    drop(file);
    assert_eq!(stage.told_after(TIMING.settle), text(NEW));
    assert_eq!(stage.told_within(TIMING.poll * 3), None, "and only once");
}

#[test]
fn a_writer_that_never_closes_has_finished_after_a_long_quiet() {
    let mut stage = Stage::new(TIMING);
    let mut file = File::create(stage.path()).unwrap();
    file.write_all(NEW.as_bytes()).unwrap();
    assert_eq!(stage.told_after(TIMING.unclosed), text(NEW));
    drop(file);
    assert_eq!(stage.told_within(TIMING.poll * 3), None, "no change");
}

#[test]
fn an_empty_file_is_told_only_when_it_stays_empty() {
    for (then, expected, why) in [
        (None, text(""), "stays empty"),
        (Some(NEW), text(NEW), "filled after a while"),
        (Some(OLD), None, "filled as before"),
    ] {
        let mut stage = Stage::new(TIMING);
        drop(File::create(stage.path()).unwrap());
        assert_eq!(stage.told_within(TIMING.patience / 2), None, "{why}");
        if let Some(contents) = then {
            fs::write(stage.path(), contents).unwrap();
        }
        assert_eq!(stage.told_within(TIMING.patience * 3), expected, "{why}");
    }
}

#[test]
fn a_change_that_no_event_told_of_must_be_seen_twice() {
    let mut stage = Stage::new(Timing {
        deaf: true,
        poll: TIMING.settle,
        ..TIMING
    });
    for length in 1..NEW.len() {
        fs::write(stage.path(), &NEW[..length]).unwrap();
        let told = stage.told_within(TIMING.untold / 2);
        assert_eq!(told, None, "{length} bytes, still growing");
    }
    fs::write(stage.path(), NEW).unwrap();
    assert_eq!(stage.told_within(TIMING.untold * 3), text(NEW));
}

#[test]
fn endless_changes_of_whole_files_do_not_hide_all_of_them() {
    let mut stage = Stage::new(TIMING);
    let told = (0..100).find_map(|number| {
        let other = stage.directory.path().join(".new");
        fs::write(&other, format!("{NEW}# {number}\n")).unwrap();
        fs::rename(other, stage.path()).unwrap();
        stage.told_within(TIMING.settle / 2)
    });
    assert!(told.is_some(), "nothing is read as long as files change");
}
