//! Where events go: lines of text or JSON to a writer.
//! Lines are gathered and written whole; whoever feeds a sink says when it is time to flush.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};

use super::{
    event::Event,
    json,
    text::{Colour, Text},
};

/// Bytes that are gathered before they are written without waiting for a flush.
const BATCH: usize = 32 * 1024;

/// How long to wait for a writer that does not block and is full.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// Takes events.
pub trait Sink: Send + 'static {
    /// Takes one event.
    ///
    /// # Errors
    /// With the number of events that are lost by it, this one and earlier ones that were not written yet.
    fn write(&mut self, event: &Event) -> Result<(), Unwritten>;

    /// Passes on everything that was taken.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn flush(&mut self) -> Result<(), Unwritten>;
}

/// Events that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {events} events")]
pub struct Unwritten {
    /// How many.
    pub events: u64,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// Both get every event.
impl<A: Sink, B: Sink> Sink for (A, B) {
    fn write(&mut self, event: &Event) -> Result<(), Unwritten> {
        let (first, second) = (self.0.write(event), self.1.write(event));
        first.and(second)
    }

    fn flush(&mut self) -> Result<(), Unwritten> {
        let (first, second) = (self.0.flush(), self.1.flush());
        first.and(second)
    }
}

/// `None` takes events and drops them.
impl<S: Sink> Sink for Option<S> {
    fn write(&mut self, event: &Event) -> Result<(), Unwritten> {
        self.as_mut().map_or(Ok(()), |sink| sink.write(event))
    }

    fn flush(&mut self) -> Result<(), Unwritten> {
        self.as_mut().map_or(Ok(()), Sink::flush)
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text(Colour),
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Text for standard output: in colour if that is a terminal and neither `NO_COLOR` nor its like forbids it.
    #[must_use]
    pub fn text_for_stdout() -> Self {
        match AutoStream::choice(&io::stdout()) {
            ColorChoice::Never => Self::Text(Colour::Never),
            ColorChoice::Auto | ColorChoice::Always | ColorChoice::AlwaysAnsi => {
                Self::Text(Colour::Ansi)
            }
        }
    }
}

/// Lines to a writer.
#[derive(Debug)]
pub struct Lines<W> {
    out: W,
    format: Format,
    buffer: Vec<u8>,
    /// Events in `buffer`.
    gathered: u64,
    /// The reader is gone for good.
    closed: bool,
}

impl Lines<File> {
    /// Lines to standard output, past the standard library's own buffer.
    ///
    /// # Errors
    /// Where standard output is closed.
    pub fn stdout(format: Format) -> io::Result<Self> {
        Ok(Self::new(
            File::from(io::stdout().as_fd().try_clone_to_owned()?),
            format,
        ))
    }
}

impl<W: Write> Lines<W> {
    /// Lines to `out`.
    pub fn new(out: W, format: Format) -> Self {
        Self {
            out,
            format,
            buffer: Vec::with_capacity(BATCH),
            gathered: 0,
            closed: false,
        }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn render(&mut self, event: &Event) {
        match self.format {
            Format::Text(colour) => {
                write!(self.buffer, "{}", Text::new(event, colour))
                    .expect("a Vec takes everything");
            }
            Format::Json => json::write_event(&mut self.buffer, event),
        }
        self.buffer.push(b'\n');
    }
}

impl<W: Write + Send + 'static> Sink for Lines<W> {
    fn write(&mut self, event: &Event) -> Result<(), Unwritten> {
        if self.closed {
            return Err(Unwritten {
                events: 1,
                cause: io::ErrorKind::BrokenPipe.into(),
            });
        }
        self.render(event);
        self.gathered += 1;
        if self.buffer.len() >= BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Unwritten> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.gathered);
        let result = write_patiently(&mut self.out, &self.buffer);
        self.buffer.clear();
        result.map_err(|cause| {
            self.closed = cause.kind() == io::ErrorKind::BrokenPipe;
            Unwritten { events, cause }
        })
    }
}

/// As `write_all`, but waits where the other end made the descriptor non-blocking: a line must not be torn.
fn write_patiently(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_WAIT),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::samples::connect_to;

    /// Takes a few bytes at a time and fails as told.
    #[derive(Default)]
    struct Fickle {
        taken: Vec<u8>,
        /// What happens at the next writes, the last one first.
        failures: Vec<io::ErrorKind>,
        flushes: usize,
    }

    impl Write for Fickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.failures.pop() {
                return Err(kind.into());
            }
            let some = &bytes[..bytes.len().min(7)];
            self.taken.extend_from_slice(some);
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes += 1;
            Ok(())
        }
    }

    const LINE: &str = "CONNECT  10.42.0.9 -> 1.1.1.1:443\n";

    fn lines(failures: &[io::ErrorKind]) -> Lines<Fickle> {
        Lines::new(
            Fickle {
                failures: failures.to_vec(),
                ..Fickle::default()
            },
            Format::Text(Colour::Never),
        )
    }

    #[test]
    fn lines_are_written_whole_at_a_flush() {
        let mut lines = lines(&[io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock]);
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        assert!(lines.out.taken.is_empty(), "nothing before the flush");
        lines.flush().unwrap();
        lines.flush().unwrap();
        assert_eq!(String::from_utf8(lines.out.taken).unwrap(), LINE.repeat(2));
        assert_eq!(lines.out.flushes, 1, "an empty flush does nothing");
    }

    #[test]
    fn a_full_batch_does_not_wait_for_a_flush() {
        let mut lines = lines(&[]);
        for _ in 0..=BATCH / LINE.len() {
            lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        }
        assert!(lines.out.taken.len() >= BATCH);
        assert!(lines.out.taken.ends_with(b"\n"), "whole lines only");
    }

    #[test]
    fn a_reader_that_went_away_is_not_asked_again() {
        let mut lines = lines(&[io::ErrorKind::BrokenPipe]);
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        assert_eq!(lines.flush().unwrap_err().events, 2);
        assert_eq!(
            lines.write(&connect_to("1.1.1.1", 443)).unwrap_err().events,
            1
        );
        lines.flush().unwrap();
        assert!(lines.out.taken.is_empty());
    }

    #[test]
    fn another_error_loses_what_was_gathered_and_no_more() {
        let mut lines = lines(&[io::ErrorKind::StorageFull]);
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        assert_eq!(lines.flush().unwrap_err().events, 1);
        lines.write(&connect_to("1.1.1.1", 443)).unwrap();
        lines.flush().unwrap();
        assert_eq!(String::from_utf8(lines.out.taken).unwrap(), LINE);
    }

    #[test]
    fn both_of_two_sinks_get_an_event_even_if_the_first_fails() {
        let mut both = (lines(&[io::ErrorKind::BrokenPipe]), Some(lines(&[])));
        both.write(&connect_to("1.1.1.1", 443)).unwrap();
        assert!(both.flush().is_err());
        assert_eq!(String::from_utf8(both.1.unwrap().out.taken).unwrap(), LINE);
    }
}
