//! Executable mappings of files: from the kernel's records of new ones, and from `/proc/PID/maps` of those that exist. Pure.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// A file as a mapping names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) inode: u64,
}

/// A file that a process executes code of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) pid: u32,
    /// First address and the one behind the last.
    pub(super) range: (u64, u64),
    pub(super) file: FileKey,
    /// The path within the process's own file system, as it was then; a deleted file's ends in ` (deleted)`.
    pub(super) path: PathBuf,
}

/// What the kernel recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A new mapping.
    Mapped(Mapping),
    /// So many records were lost.
    Lost(u64),
    /// Nothing that matters: memory without a file, other records.
    Other,
}

/// Kinds of records, include/uapi/linux/perf_event.h.
const LOST: u32 = 2;
const MMAP2: u32 = 10;
/// Set in `misc`: the record has a build id where file numbers would be. Never asked for.
const BUILD_ID: u16 = 1 << 14;
/// Where the name begins in a record of a mapping.
const NAME: usize = 72;

impl Record {
    /// Reads a record of a perf event.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self::parse(bytes).unwrap_or(Self::Other)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = word(bytes, 0)?;
        match kind {
            LOST => Some(Self::Lost(long(bytes, 16)?)),
            MMAP2 => {
                let misc = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
                if misc & BUILD_ID != 0 {
                    return None;
                }
                let (start, length) = (long(bytes, 16)?, long(bytes, 24)?);
                let name = bytes.get(NAME..)?.split(|byte| *byte == 0).next()?;
                let mapping = Mapping {
                    pid: word(bytes, 8)?,
                    range: (start, start.checked_add(length)?),
                    file: FileKey {
                        major: word(bytes, 40)?,
                        minor: word(bytes, 44)?,
                        inode: long(bytes, 48)?,
                    },
                    path: path(name),
                };
                mapping.is_file().then_some(Self::Mapped(mapping))
            }
            _ => None,
        }
    }
}

impl Mapping {
    /// Memory without a file has no inode; what is called `[vdso]` or `//anon` is none either.
    fn is_file(&self) -> bool {
        self.file.inode != 0 && self.path.is_absolute() && !self.path.starts_with("//anon")
    }
}

/// The executable mappings of files in the text of `/proc/PID/maps`.
pub(super) fn in_maps(pid: u32, text: &[u8]) -> impl Iterator<Item = Mapping> {
    text.split(|byte| *byte == b'\n')
        .filter_map(move |line| in_line(pid, line))
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE      PATH`.
fn in_line(pid: u32, line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let range = text(fields.next()?)?;
    let permissions = fields.next()?;
    let _offset = fields.next()?;
    let device = text(fields.next()?)?;
    let inode = text(fields.next()?)?.parse().ok()?;
    let name = fields.next()?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let padding = name.iter().take_while(|byte| **byte == b' ').count();
    let mapping = Mapping {
        pid,
        range: (
            u64::from_str_radix(start, 16).ok()?,
            u64::from_str_radix(end, 16).ok()?,
        ),
        file: FileKey {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
            inode,
        },
        path: path(&name[padding..]),
    };
    mapping.is_file().then_some(mapping)
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Whether the file system on which `path` lies is served by a process, by the text of `/proc/PID/mountinfo`: to read there is to wait for
/// whoever serves it, which may be forever.
pub(super) fn is_served_by_a_process(mountinfo: &[u8], path: &Path) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let Some(point) = fields.get(4) else { continue };
        let Some(separator) = fields.iter().position(|field| *field == b"-") else {
            continue;
        };
        let kind = fields.get(separator + 1).copied().unwrap_or_default();
        let point = unescape(point);
        // The last one on a path hides those before it.
        if is_below(path.as_os_str().as_bytes(), &point)
            && best.is_none_or(|(length, _)| point.len() >= length)
        {
            best = Some((point.len(), kind.starts_with(b"fuse")));
        }
    }
    best.is_some_and(|(_, served)| served)
}

fn is_below(path: &[u8], point: &[u8]) -> bool {
    point == b"/"
        || path
            .strip_prefix(point)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The kernel writes blanks and backslashes in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(text(digits)?, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/dbus-daemon
7f0000000000-7f0000001000 r-xp 00000000 00:2a 77  /tmp/with blank (deleted)
7f0000001000-7f0000002000 rwxp 00000000 00:00 0 
7f0000002000-7f0000003000 r-xp 00000000 00:01 9   /memfd:payload (deleted)
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0   [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
garbage
";

    #[test]
    fn executable_files_in_maps() {
        let found: Vec<_> = in_maps(7, MAPS.as_bytes()).collect();
        let shown: Vec<_> = found
            .iter()
            .map(|mapping| (mapping.path.to_str().unwrap(), mapping.file.inode))
            .collect();
        assert_eq!(
            shown,
            [
                ("/usr/bin/dbus-daemon", 173_521),
                ("/tmp/with blank (deleted)", 77),
                ("/memfd:payload (deleted)", 9)
            ]
        );
        assert_eq!(found[1].range, (0x7f00_0000_0000, 0x7f00_0000_1000));
        assert_eq!((found[1].file.major, found[1].file.minor), (0, 0x2a));
    }

    fn record(name: &[u8], inode: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MMAP2.to_ne_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(8u32.to_ne_bytes());
        for value in [0x1000u64, 0x2000, 0] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.extend(8u32.to_ne_bytes());
        bytes.extend(2u32.to_ne_bytes());
        bytes.extend(inode.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(8) + 8, 0);
        bytes
    }

    #[test]
    fn records_of_new_mappings() {
        let Record::Mapped(mapping) = Record::read(&record(b"/usr/lib/libssl.so.3", 42)) else {
            panic!("not a mapping");
        };
        assert_eq!((mapping.pid, mapping.range), (7, (0x1000, 0x3000)));
        assert_eq!(
            mapping.file,
            FileKey {
                major: 8,
                minor: 2,
                inode: 42
            }
        );
        assert_eq!(mapping.path, Path::new("/usr/lib/libssl.so.3"));
        for (name, inode, why) in [
            (&b"//anon"[..], 0, "no file"),
            (b"//anon", 5, "shared memory without a name"),
            (b"[vdso]", 1, "the kernel's own page"),
            (b"", 1, "no name"),
        ] {
            assert_eq!(Record::read(&record(name, inode)), Record::Other, "{why}");
        }
        let mut lost = vec![0; 24];
        lost[0] = 2;
        lost[16] = 9;
        assert_eq!(Record::read(&lost), Record::Lost(9));
        let whole = record(b"/x", 1);
        for end in 0..whole.len() {
            let _ = Record::read(&whole[..end]);
        }
    }

    #[test]
    fn a_file_system_that_a_process_serves_is_known_by_its_mount() {
        const MOUNTS: &str = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home/a\\040b rw - fuse.sshfs x rw
31 22 0:41 / /mnt rw master:3 - fuse y rw
32 31 0:42 / /mnt rw - tmpfs tmpfs rw
short
";
        for (path, expected, why) in [
            ("/usr/lib/x.so", false, "ext4"),
            ("/home/a b/x.so", true, "sshfs, a name with a blank"),
            ("/home/a bc/x.so", false, "beside it"),
            ("/mnt/x.so", false, "hidden by another mount"),
            ("/memfd:x (deleted)", false, "memory"),
        ] {
            assert_eq!(
                is_served_by_a_process(MOUNTS.as_bytes(), Path::new(path)),
                expected,
                "{why}"
            );
        }
    }
}
