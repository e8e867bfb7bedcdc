//! Text files that people write: a path, or `-` for standard input, read whole within a budget.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};

/// Bytes of a file at most: what the policy language takes, refused here before it is in memory.
const MAX_BYTES: u64 = 16 << 20;

/// A file as its user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `-`.
    Stdin,
    /// Anything else.
    Path(PathBuf),
}

impl Input {
    /// The file that an argument of the command line names.
    #[must_use]
    pub fn from_argument(path: &Path) -> Self {
        if path == Path::new("-") {
            Self::Stdin
        } else {
            Self::Path(path.to_owned())
        }
    }

    /// The name for messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "<stdin>".to_owned(),
            Self::Path(path) => path.display().to_string(),
        }
    }

    /// The whole text.
    pub fn read(&self) -> anyhow::Result<String> {
        self.text()
            .with_context(|| format!("failed to read {}", self.name()))
    }

    fn text(&self) -> anyhow::Result<String> {
        let bytes = match self {
            Self::Stdin => read_limited(io::stdin().lock())?,
            Self::Path(path) => read_limited(File::open(path)?)?,
        };
        let bytes = bytes.ok_or_else(|| anyhow!("larger than {MAX_BYTES} bytes"))?;
        Ok(text(&bytes)?.to_owned())
    }
}

/// Bytes that are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not UTF-8 text: line {line}, column {column}{}", if *.is_utf16 { " (it looks like UTF-16: save it as UTF-8)" } else { "" })]
pub struct NotText {
    /// Line of the first bad byte, from 1 on.
    line: usize,
    /// Its column in characters, from 1 on.
    column: usize,
    /// Whether it begins as files do that some editors write.
    is_utf16: bool,
}

/// The text that these bytes are.
///
/// # Errors
///
/// [`NotText`] says where it ends to be one.
pub fn text(bytes: &[u8]) -> Result<&str, NotText> {
    str::from_utf8(bytes).map_err(|error| {
        let (good, _) = bytes.split_at(error.valid_up_to());
        let good = str::from_utf8(good).unwrap_or_default();
        let line = good.rsplit('\n').next().unwrap_or_default();
        NotText {
            line: good.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            is_utf16: bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff"),
        }
    })
}

/// `None` if there is more than the budget.
fn read_limited(reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_BYTES).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_text_is_shown() {
        let cases: [(&[u8], _); 4] = [
            (b"\xff", (1, 1)),
            (b"a\nb\n\xff", (3, 1)),
            (b"rules: [] # \xc3\xa9 \xff", (1, 15)),
            (b"cut \xc3", (1, 5)),
        ];
        for (bytes, (line, column)) in cases {
            let expected = NotText {
                line,
                column,
                is_utf16: false,
            };
            assert_eq!(text(bytes), Err(expected), "{bytes:?}");
        }
        assert_eq!(text("é\n".as_bytes()), Ok("é\n"));
        for bytes in [b"\xff\xfer\0", b"\xfe\xff\0r"] {
            let message = text(bytes).unwrap_err().to_string();
            assert!(message.contains("save it as UTF-8"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("binary"), [0xff, 0xfe]).unwrap();
        File::create(path("huge"))
            .unwrap()
            .set_len(MAX_BYTES + 1)
            .unwrap();
        for (name, cause, why) in [
            ("missing", "No such file or directory", "it is not there"),
            (".", "Is a directory", "it is none"),
            ("binary", "not UTF-8", "it is no text"),
            (
                "huge",
                "larger than",
                "endless files must not fill the memory",
            ),
        ] {
            let error = format!("{:#}", Input::Path(path(name)).read().unwrap_err());
            assert!(error.starts_with("failed to read "), "{why}: {error}");
            assert!(
                error.contains(name) && error.contains(cause),
                "{why}: {error}"
            );
        }
    }
}
