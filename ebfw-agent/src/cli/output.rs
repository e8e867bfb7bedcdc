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

/// Goes on when the reader has gone: for commands whose exit code says more than what they print.
#[derive(Debug)]
pub(super) struct Unheard<W> {
    inner: W,
    closed: bool,
}

impl<W: Write> Unheard<W> {
    /// Writes to `inner` for as long as somebody reads it.
    #[must_use]
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            closed: false,
        }
    }

    fn unless_closed<T>(
        &mut self,
        then: T,
        write: impl FnOnce(&mut W) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.closed {
            return Ok(then);
        }
        match write(&mut self.inner) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(then)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for Unheard<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_closed(bytes.len(), |inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_closed((), Write::flush)
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
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
