//! The policy file: loads it, watches it, and says what came of each change.
//!
//! Keeps no policy: after a rejection the reader goes on with the one that it has.

mod trail;
mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use ebfw_policy::{parse_policy, policy::Policy};
use sha2::{Digest as _, Sha256};
use watch::{FileWatch, Timing, Unreadable};

use crate::input;

/// SHA-256 of a policy file, as `sha256sum` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these contents.
    #[must_use]
    pub fn of(contents: &[u8]) -> Self {
        Self(Sha256::digest(contents).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// A policy that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub policy: Policy,
    /// Of the file that says so.
    pub digest: Digest,
}

/// A file that is no policy: why, in full, as the operator should see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// What came of a change of the file.
pub type Update = Result<Loaded, Rejected>;

/// Watches a policy file until dropped.
#[derive(Debug)]
pub struct PolicyFile {
    watch: FileWatch<Update>,
}

impl PolicyFile {
    /// Loads the file at `path` and goes on watching it, whether it is good or not. No change after the load is missed.
    ///
    /// # Errors
    /// The watch itself could not be started.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<(Update, Self)> {
        Self::with_timing(path.into(), Timing::default())
    }

    fn with_timing(path: PathBuf, timing: Timing) -> io::Result<(Update, Self)> {
        let name = path.clone();
        let (first, watch) =
            FileWatch::start(path, timing, move |contents| update(&name, contents))?;
        Ok((first, Self { watch }))
    }

    /// Waits for the next change of contents. May be cancelled; nothing is lost by that. `None` when the watch has ended, which it
    /// does not do by itself.
    pub async fn next(&mut self) -> Option<Update> {
        self.watch.next().await
    }
}

/// Reads a policy file once.
///
/// # Errors
/// It cannot be read, or is no policy.
pub fn load(path: &Path) -> Update {
    update(path, watch::read(path))
}

fn update(path: &Path, contents: Result<Vec<u8>, Unreadable>) -> Update {
    let name = path.display().to_string();
    let contents = contents.map_err(|error| Rejected(format!("{name}: {error}")))?;
    let source = input::text(&contents).map_err(|error| Rejected(format!("{name}: {error}")))?;
    let policy =
        parse_policy(source).map_err(|problems| Rejected(problems.render(&name, source, false)))?;
    Ok(Loaded {
        policy,
        digest: Digest::of(&contents),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        time::{Duration, Instant},
    };

    use ebfw_policy::{MAX_BYTES, policy::Action};
    use tokio::time::timeout;

    use super::*;

    const ALLOW: &str = "defaultAction: Allow\nrules: []\n";
    const DENY: &str = "defaultAction: Deny\nrules: []\n";
    const BAD: &str = "defaultAction: Denny\nrules: []\n";
    const PATIENCE: Duration = Duration::from_secs(20);

    /// As in production, but the poll is so rare that only inotify can explain what is seen.
    const BY_INOTIFY: Timing = Timing {
        poll: Duration::from_secs(3600),
        ..Timing::DEFAULT
    };

    fn open(path: &Path) -> (Update, PolicyFile) {
        PolicyFile::with_timing(path.to_owned(), BY_INOTIFY).unwrap()
    }

    /// Waits for an update that `wanted` takes. On a machine that stalls, the gap in the middle of a change may be seen as well.
    async fn eventually(file: &mut PolicyFile, why: &str, wanted: impl Fn(&Update) -> bool) {
        let seen = async {
            while let Some(update) = file.next().await {
                if wanted(&update) {
                    return;
                }
            }
            panic!("{why}: the watch has ended");
        };
        timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("{why}: not seen"));
    }

    async fn loads(file: &mut PolicyFile, default: Action, why: &str) {
        eventually(file, why, |update| is_default(update, default)).await;
    }

    async fn rejects(file: &mut PolicyFile, words: &str) {
        let said = |update: &Update| {
            update
                .as_ref()
                .is_err_and(|rejected| rejected.to_string().contains(words))
        };
        eventually(file, words, said).await;
    }

    fn is_default(update: &Update, default: Action) -> bool {
        update
            .as_ref()
            .is_ok_and(|loaded| loaded.policy.default_action == default)
    }

    #[test]
    fn what_is_no_policy_is_rejected_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        let fifo = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let write = |contents: &[u8]| fs::write(&path, contents).unwrap();
        let cases: [(&dyn Fn(), &str, &str); 12] = [
            (&|| {}, "does not exist", "missing"),
            (
                &|| fs::create_dir(&path).unwrap(),
                "not a regular file",
                "a directory",
            ),
            (
                &fifo,
                "not a regular file",
                "a fifo, which would block for ever",
            ),
            (
                &|| symlink("/dev/zero", &path).unwrap(),
                "not a regular file",
                "a device without an end",
            ),
            (
                &|| symlink("policy.yaml", &path).unwrap(),
                "symbolic links",
                "a link to itself",
            ),
            (
                &|| {
                    fs::File::create(&path)
                        .unwrap()
                        .set_len(MAX_BYTES as u64 + 1)
                        .unwrap()
                },
                "16777217 bytes",
                "too large by one",
            ),
            (
                &|| write(b"rules: []\n# \xff"),
                "not UTF-8 text: line 2, column 3",
                "binary",
            ),
            (&|| write(b""), "policy.yaml", "empty"),
            (&|| write(b"\n \n"), "policy.yaml", "white space only"),
            (&|| write(b"---\n# none\n"), "policy.yaml", "a comment only"),
            (&|| write(b"~\n"), "policy.yaml", "null"),
            (
                &|| write(BAD.as_bytes()),
                "policy.yaml:1:16",
                "a wrong value, with its place",
            ),
        ];
        for (make, expected, why) in cases {
            make();
            let start = Instant::now();
            let rejected = load(&path).expect_err(why).to_string();
            assert!(rejected.contains(expected), "{why}: {rejected}");
            assert!(start.elapsed() < Duration::from_secs(5), "{why}");
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        }
    }

    #[test]
    fn the_digest_is_the_one_that_sha256sum_prints() {
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("etc/ebfw");
        fs::create_dir_all(&place).unwrap();
        let path = place.join("policy.yaml");
        let other = place.join(".new");
        let write = |to: &Path, text: &str| fs::write(to, text).unwrap();
        write(&path, ALLOW);
        let (first, mut file) = open(&path);
        assert!(is_default(&first, Action::Allow));

        let moved = directory.path().join("etc/old");
        let changes: [(&dyn Fn(), Action, &str); 7] = [
            (&|| write(&path, DENY), Action::Deny, "written in place"),
            (
                &|| (write(&other, ALLOW), fs::rename(&other, &path).unwrap()).1,
                Action::Allow,
                "renamed over it",
            ),
            (
                &|| (fs::remove_file(&path).unwrap(), write(&path, DENY)).1,
                Action::Deny,
                "deleted and made again",
            ),
            (
                &|| {
                    (
                        write(&other, ALLOW),
                        fs::remove_file(&path).unwrap(),
                        fs::hard_link(&other, &path).unwrap(),
                    )
                        .2
                },
                Action::Allow,
                "linked in its place",
            ),
            (
                &|| {
                    fs::rename(&place, &moved).unwrap();
                    fs::create_dir(&place).unwrap();
                    write(&path, DENY);
                },
                Action::Deny,
                "the directory replaced",
            ),
            (
                &|| {
                    fs::remove_dir_all(directory.path().join("etc")).unwrap();
                    fs::create_dir_all(&place).unwrap();
                    write(&path, ALLOW);
                },
                Action::Allow,
                "the whole branch removed and made again",
            ),
            (
                &|| write(&path, DENY),
                Action::Deny,
                "and still watched after all that",
            ),
        ];
        for (change, expected, why) in changes {
            change();
            loads(&mut file, expected, why).await;
        }
    }

    #[tokio::test]
    async fn a_config_map_is_swapped_by_its_data_link() {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path();
        let version = |name: &str, text: &str| {
            fs::create_dir(mount.join(name)).unwrap();
            fs::write(mount.join(name).join("policy.yaml"), text).unwrap();
            symlink(name, mount.join("..data_tmp")).unwrap();
            fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        };
        version("..1", ALLOW);
        symlink("..data/policy.yaml", mount.join("policy.yaml")).unwrap();
        let (first, mut file) = open(&mount.join("policy.yaml"));
        assert!(is_default(&first, Action::Allow));
        for (name, old, text, expected) in [
            ("..2", "..1", DENY, Action::Deny),
            ("..3", "..2", ALLOW, Action::Allow),
            ("..4", "..3", DENY, Action::Deny),
        ] {
            version(name, text);
            fs::remove_dir_all(mount.join(old)).unwrap();
            loads(&mut file, expected, name).await;
        }
    }

    #[tokio::test]
    async fn a_bad_or_missing_file_is_rejected_once_and_a_good_one_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        let (first, mut file) = open(&path);
        assert!(first.unwrap_err().to_string().contains("does not exist"));
        fs::write(&path, ALLOW).unwrap();
        loads(&mut file, Action::Allow, "the new contents").await;
        fs::write(&path, BAD).unwrap();
        rejects(&mut file, "Denny").await;
        fs::remove_file(&path).unwrap();
        rejects(&mut file, "does not exist").await;
        fs::write(&path, ALLOW).unwrap();
        loads(&mut file, Action::Allow, "the new contents").await;
    }

    #[tokio::test]
    async fn unchanged_contents_are_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        fs::write(&path, ALLOW).unwrap();
        let timing = Timing {
            poll: Duration::from_millis(20),
            ..Timing::DEFAULT
        };
        let (_, mut file) = PolicyFile::with_timing(path.clone(), timing).unwrap();
        for _ in 0..3 {
            // In one step, so that no moment shows other contents.
            let copy = directory.path().join(".copy");
            fs::write(&copy, ALLOW).unwrap();
            fs::rename(&copy, &path).unwrap();
            let quiet = timeout(Duration::from_millis(300), file.next()).await;
            assert!(quiet.is_err(), "{quiet:?}");
        }
        fs::write(&path, DENY).unwrap();
        loads(&mut file, Action::Deny, "the new contents").await;
    }

    #[tokio::test]
    async fn the_last_of_many_quick_changes_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        fs::write(&path, ALLOW).unwrap();
        let (_, mut file) = open(&path);
        let mut last = String::new();
        for number in 0..2000 {
            last = format!("{DENY}# {number}\n");
            // In place: in between the file is empty.
            fs::write(&path, &last).unwrap();
        }
        let wanted = Digest::of(last.as_bytes());
        eventually(&mut file, "the last", |update| {
            let loaded = update.as_ref().expect("no half-written file is told");
            loaded.digest == wanted
        })
        .await;
    }

    #[tokio::test]
    async fn without_inotify_the_contents_are_compared_now_and_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        fs::write(&path, ALLOW).unwrap();
        let timing = Timing {
            poll: Duration::from_millis(20),
            deaf: true,
            ..Timing::DEFAULT
        };
        let (_, mut file) = PolicyFile::with_timing(path.clone(), timing).unwrap();
        fs::write(&path, DENY).unwrap();
        loads(&mut file, Action::Deny, "the new contents").await;
    }
}
