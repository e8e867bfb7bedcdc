//! Reads /proc/self/mountinfo and /proc/self/cgroup: where the cgroup v2 hierarchy is and where in it we are.
//!
//! Pure: takes the text, touches no file.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::CgroupPath;

/// One mount of type cgroup2.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// What of the hierarchy is shown at its top.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

impl Mount {
    /// Lower is better: the usual places, a whole hierarchy before a part of it, a short path before a long one.
    pub(super) fn preference(&self) -> (u8, u8, usize) {
        let place = match self.point.to_str() {
            Some("/sys/fs/cgroup") => 0,
            Some("/sys/fs/cgroup/unified") => 1,
            _ => 2,
        };
        // A root that climbs (`/../..`) shows more than the reader's namespace; anything but `/` below it shows less.
        let part = u8::from(self.root != Path::new("/") && !self.root.starts_with("/.."));
        (part, place, self.point.as_os_str().len())
    }
}

/// The cgroup2 mounts of a mountinfo table (proc_pid_mountinfo(5)). A mount that a later one covers is left out.
pub(super) fn cgroup2(mountinfo: &[u8]) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let point = unescape(point);
        found.retain(|mount| mount.point != point);
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        if kind == Some(b"cgroup2") {
            found.push(Mount {
                root: unescape(root),
                point,
            });
        }
    }
    found
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits (`mangle_path`, fs/seq_file.c).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        match tail {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] if *byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// The path of the `0::` line of /proc/PID/cgroup. The kernel appends ` (deleted)` where the cgroup is gone.
pub(super) fn unified_entry(cgroup: &[u8]) -> Option<PathBuf> {
    let line = cgroup
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    let line = line.strip_suffix(b" (deleted)").unwrap_or(line);
    Some(OsString::from_vec(line.to_vec()).into())
}

/// `shown` (of /proc/self/cgroup) as a path below a mount that shows `root`; `None` if it lies outside of the mount, or where
/// one of the two climbs above the reader's namespace, so that the names in between are unknown.
pub(super) fn below(shown: &Path, root: &Path) -> Option<CgroupPath> {
    CgroupPath::new(root)?;
    CgroupPath::new(shown.strip_prefix(root).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_each_kind_of_machine_is_understood() {
        let line = |id: u32, root: &str, point: &str, kind: &str| {
            format!("{id} 31 0:38 {root} {point} rw,relatime shared:9 - {kind} x rw\n")
        };
        for (table, expected, why) in [
            (
                line(1, "/", "/sys/fs/cgroup", "cgroup2"),
                Some(("/", "/sys/fs/cgroup")),
                "unified",
            ),
            (
                line(1, "/", "/sys/fs/cgroup", "tmpfs")
                    + &line(2, "/", "/sys/fs/cgroup/cpu", "cgroup")
                    + &line(3, "/", "/sys/fs/cgroup/unified", "cgroup2"),
                Some(("/", "/sys/fs/cgroup/unified")),
                "hybrid",
            ),
            (
                line(1, "/", "/mnt/my\\040cgroups\\134x", "cgroup2"),
                Some(("/", "/mnt/my cgroups\\x")),
                "another place, escaped",
            ),
            (
                line(1, "/docker/ab", "/sys/fs/cgroup", "cgroup2")
                    + &line(2, "/", "/host/sys/fs/cgroup", "cgroup2"),
                Some(("/", "/host/sys/fs/cgroup")),
                "the whole before a part",
            ),
            (
                line(1, "/", "/sys/fs/cgroup", "cgroup2")
                    + &line(2, "/../..", "/host/sys/fs/cgroup", "cgroup2"),
                Some(("/", "/sys/fs/cgroup")),
                "the usual place where both show enough",
            ),
            (
                line(1, "/", "/sys/fs/cgroup", "cgroup2")
                    + &line(2, "/", "/sys/fs/cgroup", "tmpfs"),
                None,
                "covered by a later mount",
            ),
            (String::new(), None, "empty"),
            (
                "garbage\n1 2 3\n\n- cgroup2".to_owned(),
                None,
                "not a table",
            ),
        ] {
            let best = cgroup2(table.as_bytes())
                .into_iter()
                .min_by_key(Mount::preference);
            let expected = expected.map(|(root, point)| Mount {
                root: root.into(),
                point: point.into(),
            });
            assert_eq!(best, expected, "{why}");
        }
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        for (field, expected) in [
            ("a\\04", "a\\04"),
            ("\\", "\\"),
            ("\\777", "\\777"),
            ("\\012\\011", "\n\t"),
            ("a\\\\040", "a\\ "),
        ] {
            assert_eq!(unescape(field.as_bytes()), Path::new(expected), "{field}");
        }
    }

    #[test]
    fn the_own_entry_is_the_one_without_controllers() {
        let text = b"9:name=systemd:/x\n4:memory:/y\n0::/system.slice/ebfw.service\n";
        assert_eq!(
            unified_entry(text).unwrap(),
            Path::new("/system.slice/ebfw.service")
        );
        assert_eq!(
            unified_entry(b"0::/gone (deleted)\n").unwrap(),
            Path::new("/gone")
        );
        assert_eq!(unified_entry(b"4:memory:/\n"), None);
        assert_eq!(unified_entry(b""), None);
    }

    #[test]
    fn the_own_path_is_taken_relative_to_what_the_mount_shows() {
        for (shown, root, expected, why) in [
            ("/a/b", "/", Some("/a/b"), "the plain host"),
            ("/docker/ab/x", "/docker/ab", Some("/x"), "a partial mount"),
            (
                "/docker/ab",
                "/docker/ab",
                Some("/"),
                "the top of a partial mount",
            ),
            ("/docker/other", "/docker/ab", None, "outside of the mount"),
            ("/../../a", "/", None, "above the own namespace"),
            (
                "/",
                "/../..",
                None,
                "host mount inside a cgroup namespace: the names between are unknown",
            ),
        ] {
            assert_eq!(
                below(Path::new(shown), Path::new(root)).map(|path| path.to_string()),
                expected.map(str::to_owned),
                "{why}"
            );
        }
    }
}
