//! An archive in cpio's `newc` form, which is what the kernel unpacks as its first root.
//! Writes only; owner is root and time is zero, so that equal content makes an equal archive.

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, &[]);
    }

    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.entry(path, LINK | 0o777, to.as_bytes());
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE | 0o644, content);
    }

    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE | 0o755, content);
    }

    /// Closes the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len())
            .expect("an archive for a guest with less than 4 GiB of memory");
        let name = u32::try_from(path.len() + 1).expect("paths are short");
        // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor), name, check.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_starts_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", b"12345");
        archive.link("ab", "b");
        let bytes = archive.finish();
        let headers: Vec<usize> = (0..bytes.len() - 5)
            .filter(|at| &bytes[*at..at + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 4, "three entries and the trailer");
        assert!(headers.iter().all(|at| at % 4 == 0), "{headers:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_header_tells_mode_and_size() {
        let mut archive = Archive::default();
        archive.program("run", b"12345");
        let header = String::from_utf8(archive.finish()[..110].to_vec()).unwrap();
        assert_eq!(&header[14..22], "000081ed", "a regular file, 0755");
        assert_eq!(&header[54..62], "00000005", "five bytes");
        assert_eq!(&header[94..102], "00000004", "the name and its end");
    }
}
