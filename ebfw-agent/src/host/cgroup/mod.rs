//! The cgroup v2 hierarchy: where it is mounted, ids and paths, processes, cgroups of our own.
//!
//! Reads and makes directories below the mount; attaches no program and kills no process.

mod mounts;
mod owned;
mod seclusion;

use std::{
    borrow::Cow,
    collections::VecDeque,
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirEntryExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use ebfw_common::abi::MAX_CGROUP_DEPTH;
pub use owned::OwnedCgroup;
pub use seclusion::Seclusion;

/// Number of the directory at the top of the whole hierarchy: kernfs gives its root node the first id
/// (`kernfs_create_root`, fs/kernfs/dir.c).
const TOP_ID: CgroupId = CgroupId(1);

/// Id of a cgroup as the kernel programs see it (`bpf_get_current_cgroup_id`).
///
/// The same number as the inode of the cgroup's directory: `cgroup_id()` returns `cgrp->kn->id`, and since Linux 5.5 (commit
/// 40430452fd5d) `kernfs_ino()` returns all 64 bits of it where `ino_t` has 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

const _: () = assert!(
    usize::BITS == 64,
    "inode numbers are cgroup ids only on 64-bit kernels"
);

impl fmt::Display for CgroupId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Path of a cgroup below the mount: absolute, `/` for the top, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(Arc<Path>);

impl CgroupPath {
    /// The top of the mounted hierarchy.
    #[must_use]
    pub fn top() -> Self {
        Self(Path::new("/").into())
    }

    /// The path made of `path`'s names, a leading `/` or not; `None` if it climbs with `..`.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Option<Self> {
        let mut clean = PathBuf::from("/");
        for component in path.as_ref().components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => clean.push(name),
                Component::ParentDir | Component::Prefix(_) => return None,
            }
        }
        Some(Self(clean.into()))
    }

    /// The cgroup `name` directly below this one.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        Self(self.0.join(name).into())
    }

    /// The cgroup above; `None` at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.parent().map(|above| Self(above.into()))
    }

    /// Levels below the top, which is 0.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.components().count() - 1
    }

    /// Whether this is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// As text, for policies and output; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        self.0.to_string_lossy()
    }

    /// As a path that begins with `/`.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(out)
    }
}

/// What can be wrong with the cgroup v2 hierarchy of this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No mount of type cgroup2 is visible.
    #[error(
        "no cgroup v2 hierarchy is mounted (looked at /sys/fs/cgroup, /sys/fs/cgroup/unified and /proc/self/mountinfo); \
         mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NotMounted,
    /// The configured cgroup does not exist.
    #[error("cgroup `{configured}` does not exist: tried {}", list(tried))]
    NoSuchCgroup {
        /// As it was configured.
        configured: String,
        /// The directories that were looked for.
        tried: Vec<PathBuf>,
    },
    /// The configured path climbs above itself.
    #[error("cgroup `{configured}` contains `..`; give its path below {}", mount.display())]
    Climbs {
        /// As it was configured.
        configured: String,
        /// Where the hierarchy is mounted.
        mount: PathBuf,
    },
    /// The configured cgroup lies deeper than the kernel programs look.
    #[error(
        "cgroup `{configured}` lies {depth} levels deep, {MAX_CGROUP_DEPTH} at most can be governed: configure one of its ancestors"
    )]
    TooDeep {
        /// As it was configured.
        configured: String,
        /// Its level.
        depth: usize,
    },
    /// The agent's own cgroup is not visible below the mount.
    #[error("the agent's own cgroup ({shown}) is not visible below {}: run the agent in the host's cgroup namespace", mount.display())]
    OwnNotVisible {
        /// What /proc/self/cgroup says.
        shown: String,
        /// Where the hierarchy is mounted.
        mount: PathBuf,
    },
    /// An operation on a file or directory failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn failed(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

/// A mounted cgroup v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What the mount shows at its top, as /proc/self/mountinfo names it: `/` where that is the top of the reader's namespace.
    shown_root: PathBuf,
}

impl Hierarchy {
    /// A hierarchy that lies where a test put it.
    #[cfg(test)]
    pub(crate) fn for_test(mount: &Path) -> Self {
        Self {
            mount: mount.to_owned(),
            shown_root: "/".into(),
        }
    }

    /// Finds the mount: the usual places first, then whatever /proc/self/mountinfo lists.
    pub fn find() -> Result<Self, Error> {
        let table = Path::new("/proc/self/mountinfo");
        let text = fs::read(table).map_err(failed("read", table))?;
        let mut mounts = mounts::cgroup2(&text);
        mounts.retain(|mount| mount.point.is_dir());
        let best = mounts
            .into_iter()
            .min_by_key(|mount| mount.preference())
            .ok_or(Error::NotMounted)?;
        Ok(Self {
            mount: best.point,
            shown_root: best.root,
        })
    }

    /// The directory of `path`.
    #[must_use]
    pub fn directory(&self, path: &CgroupPath) -> PathBuf {
        let below = path.as_path().strip_prefix("/").unwrap_or(path.as_path());
        if below.as_os_str().is_empty() {
            self.mount.clone()
        } else {
            self.mount.join(below)
        }
    }

    /// The id of the cgroup at `path`.
    pub fn id(&self, path: &CgroupPath) -> Result<CgroupId, Error> {
        let directory = self.directory(path);
        let metadata = fs::metadata(&directory).map_err(failed("look at cgroup", directory))?;
        Ok(CgroupId(metadata.ino()))
    }

    /// The path of the cgroup `id`, found by walking the hierarchy; `None` if it is not there (any more).
    #[must_use]
    pub fn path(&self, id: CgroupId) -> Option<CgroupPath> {
        if self.id(&CgroupPath::top()).ok()? == id {
            return Some(CgroupPath::top());
        }
        let mut pending = VecDeque::from([CgroupPath::top()]);
        while let Some(path) = pending.pop_front() {
            for (child, child_id) in self.children(&path).unwrap_or_default() {
                if child_id == id {
                    return Some(child);
                }
                pending.push_back(child);
            }
        }
        None
    }

    /// The cgroups directly below `path`.
    pub fn children(&self, path: &CgroupPath) -> Result<Vec<(CgroupPath, CgroupId)>, Error> {
        let directory = self.directory(path);
        let entries = fs::read_dir(&directory).map_err(failed("list cgroup", &directory))?;
        // An entry that cannot be read belongs to a cgroup that vanished under the listing.
        let children = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(children
            .map(|entry| (path.join(&entry.file_name()), CgroupId(entry.ino())))
            .collect())
    }

    /// Whether the mount shows the top of the host's hierarchy. If not, cgroups outside of what it shows cannot be governed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.id(&CgroupPath::top()).is_ok_and(|id| id == TOP_ID)
    }

    /// A line for the start log where the mount shows only a part of the host's cgroups.
    #[must_use]
    pub fn gap(&self) -> Option<String> {
        (!self.is_whole()).then(|| {
            format!(
                "{} shows only the cgroups below {} (a cgroup namespace or a partial mount): processes outside are not governed; \
                 mount the host's /sys/fs/cgroup to govern the node",
                self.mount.display(),
                self.shown_root.display(),
            )
        })
    }

    /// The agent's own cgroup.
    pub fn own(&self) -> Result<CgroupPath, Error> {
        let file = Path::new("/proc/self/cgroup");
        let text = fs::read(file).map_err(failed("read", file))?;
        let shown = mounts::unified_entry(&text).ok_or(Error::NotMounted)?;
        let own =
            mounts::below(&shown, &self.shown_root).filter(|path| self.directory(path).is_dir());
        // Seen from inside a cgroup namespace the names above are unknown: look where this process is listed.
        own.or_else(|| self.cgroup_listing(std::process::id()))
            .ok_or_else(|| Error::OwnNotVisible {
                shown: shown.display().to_string(),
                mount: self.mount.clone(),
            })
    }

    /// The cgroup of a process; `None` where it has gone or its cgroup is not visible from here.
    #[must_use]
    pub fn of_process(&self, pid: u32) -> Option<CgroupPath> {
        let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
        let shown = mounts::unified_entry(&text)?;
        mounts::below(&shown, &self.shown_root)
    }

    /// The cgroup whose list of processes contains `pid`.
    fn cgroup_listing(&self, pid: u32) -> Option<CgroupPath> {
        let mut pending = VecDeque::from([CgroupPath::top()]);
        while let Some(path) = pending.pop_front() {
            if self.listed(&path).is_ok_and(|pids| pids.contains(&pid)) {
                return Some(path);
            }
            pending.extend(
                self.children(&path)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(child, _)| child),
            );
        }
        None
    }

    /// The cgroup that a configured value means: a directory below the mount, a path relative to it, or the top where absent.
    pub fn resolve(&self, configured: Option<&str>) -> Result<CgroupPath, Error> {
        let Some(configured) = configured.filter(|value| !value.is_empty()) else {
            return Ok(CgroupPath::top());
        };
        let mut tried = Vec::new();
        let value = Path::new(configured);
        for candidate in [value.strip_prefix(&self.mount).ok(), Some(value)]
            .into_iter()
            .flatten()
        {
            let path = CgroupPath::new(candidate).ok_or_else(|| Error::Climbs {
                configured: configured.to_owned(),
                mount: self.mount.clone(),
            })?;
            let directory = self.directory(&path);
            if directory.join("cgroup.procs").exists() {
                let depth = path.depth();
                let too_deep = || Error::TooDeep {
                    configured: configured.to_owned(),
                    depth,
                };
                return if depth <= MAX_CGROUP_DEPTH as usize {
                    Ok(path)
                } else {
                    Err(too_deep())
                };
            }
            tried.push(directory);
        }
        Err(Error::NoSuchCgroup {
            configured: configured.to_owned(),
            tried,
        })
    }

    /// The processes in `path` and below, in no order; at most about `limit`. Cgroups that vanish meanwhile are left out.
    #[must_use]
    pub fn processes(&self, path: &CgroupPath, limit: usize) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut pending = VecDeque::from([path.clone()]);
        while let Some(path) = pending.pop_front() {
            pids.extend(self.listed(&path).unwrap_or_default());
            if pids.len() >= limit {
                pids.truncate(limit);
                break;
            }
            pending.extend(
                self.children(&path)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(child, _)| child),
            );
        }
        pids
    }

    /// The processes directly in `path`. A threaded cgroup refuses to list processes (EOPNOTSUPP, `cgroup_procs_start`): its
    /// processes are listed by its domain above, so for it the list is empty. 0 stands for a process of another pid namespace.
    fn listed(&self, path: &CgroupPath) -> io::Result<Vec<u32>> {
        match fs::read_to_string(self.directory(path).join("cgroup.procs")) {
            Ok(text) => Ok(text
                .lines()
                .filter_map(|line| line.parse().ok())
                .filter(|&pid| pid != 0)
                .collect()),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes the cgroup `name` below `parent`; it is removed when the result is dropped.
    pub fn create(&self, parent: &CgroupPath, name: &str) -> Result<OwnedCgroup, Error> {
        OwnedCgroup::create(self.directory(parent), parent.join(OsStr::new(name)), name)
    }
}

/// Whether `name` can be a cgroup's: one path element, and not one that the kernel would take for a file of its own.
fn is_cgroup_name(name: &str) -> bool {
    let bytes = OsStr::new(name).as_bytes();
    !bytes.is_empty()
        && name != "."
        && name != ".."
        && !bytes.contains(&b'/')
        && !bytes.contains(&b'\n')
        && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CgroupPath {
        CgroupPath::new(text).unwrap()
    }

    #[test]
    fn a_path_is_absolute_and_never_climbs() {
        for (given, expected, why) in [
            ("/system.slice", Some("/system.slice"), "as it is"),
            (
                "system.slice/",
                Some("/system.slice"),
                "relative, with a slash at its end",
            ),
            ("", Some("/"), "nothing is the top"),
            ("/a//./b", Some("/a/b"), "empty elements"),
            ("/a/../b", None, "climbs"),
            ("..", None, "climbs out"),
        ] {
            assert_eq!(
                CgroupPath::new(given).map(|path| path.to_string()),
                expected.map(str::to_owned),
                "{why}"
            );
        }
    }

    #[test]
    fn depth_and_containment_count_whole_names() {
        assert_eq!(
            [path("/").depth(), path("/a").depth(), path("/a/b").depth()],
            [0, 1, 2]
        );
        assert!(
            path("/a/b").is_within(&path("/a"))
                && path("/a").is_within(&path("/a"))
                && path("/a").is_within(&path("/"))
        );
        assert!(!path("/ab").is_within(&path("/a")) && !path("/").is_within(&path("/a")));
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/").parent(), None);
    }

    /// A directory tree that looks enough like a hierarchy for `resolve`.
    fn lookalike() -> (tempfile::TempDir, Hierarchy) {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().join("cg");
        fs::create_dir_all(mount.join("system.slice/a.service")).unwrap();
        for place in ["", "system.slice", "system.slice/a.service"] {
            fs::write(mount.join(place).join("cgroup.procs"), "").unwrap();
        }
        (directory, Hierarchy::for_test(&mount))
    }

    #[test]
    fn a_configured_cgroup_is_found_by_every_way_to_say_it() {
        let (_keep, hierarchy) = lookalike();
        let absolute = hierarchy.mount.join("system.slice").display().to_string();
        for (configured, expected, why) in [
            (None, "/", "absent is the whole hierarchy"),
            (Some(""), "/", "empty is as absent"),
            (Some("/"), "/", "the top by its path"),
            (Some("/system.slice"), "/system.slice", "below the mount"),
            (
                Some("system.slice/a.service"),
                "/system.slice/a.service",
                "without a slash",
            ),
            (
                Some(absolute.as_str()),
                "/system.slice",
                "the directory itself",
            ),
        ] {
            assert_eq!(
                hierarchy.resolve(configured).unwrap().to_string(),
                expected,
                "{why}"
            );
        }
    }

    #[test]
    fn an_unknown_cgroup_is_refused_with_what_was_tried() {
        let (_keep, hierarchy) = lookalike();
        let message = hierarchy.resolve(Some("/nope")).unwrap_err().to_string();
        assert!(message.contains("`/nope` does not exist"), "{message}");
        assert!(
            message.contains(&hierarchy.mount.join("nope").display().to_string()),
            "{message}"
        );
        let climbing = hierarchy
            .resolve(Some("/system.slice/../.."))
            .unwrap_err()
            .to_string();
        assert!(climbing.contains("contains `..`"), "{climbing}");
    }

    #[test]
    fn a_cgroup_that_the_kernel_programs_would_not_find_is_refused() {
        let (_keep, hierarchy) = lookalike();
        let deep = ["x"; MAX_CGROUP_DEPTH as usize + 1].join("/");
        fs::create_dir_all(hierarchy.mount.join(&deep)).unwrap();
        fs::write(hierarchy.mount.join(&deep).join("cgroup.procs"), "").unwrap();
        let message = hierarchy.resolve(Some(&deep)).unwrap_err().to_string();
        assert!(
            message.contains("lies 17 levels deep, 16 at most"),
            "{message}"
        );
    }

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_first() {
        for name in ["", ".", "..", "a/b", "a\nb", "a\0b"] {
            assert!(!is_cgroup_name(name), "{name:?}");
        }
        assert!(is_cgroup_name("ebfw-exec-12.scope"));
    }
}
