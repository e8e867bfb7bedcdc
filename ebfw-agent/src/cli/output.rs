//! Standard output of the short commands: buffered, flushed, and quiet when the reader has gone.

use std::io::{self, BufWriter, StdoutLock, Write};

/// The one writer of standard output.
pub(super) struct Stdout(BufWriter<StdoutLock<'static>>);

impl Stdout {
    /// Takes standard output for as long as this value lives.
    #[must_use]
    pub(super) fn lock() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes `text` to standard output as a whole.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = Stdout::lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Whether `error` is, or was caused by, a reader that has gone: `ebfw … | head` is no failure.
#[must_use]
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
