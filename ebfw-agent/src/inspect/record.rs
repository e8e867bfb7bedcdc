//! Bytes of the probes' ring to values. They are not trusted.

use ebfw_common::plaintext::{Header, MAX_COPY, kind, library};
use zerocopy::FromBytes;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it begins with.
    pub header: Header,
    /// The plaintext that was copied.
    pub data: &'a [u8],
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than a header, or than the header says.
    #[error("a record has {found} bytes")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// A tag without a meaning.
    #[error("field {field} cannot be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl<'a> Record<'a> {
    /// Reads one entry of the ring.
    ///
    /// # Errors
    ///
    /// Where it is none.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let length = RecordError::Length { found: bytes.len() };
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| length)?;
        let data = rest.get(..usize::from(header.length)).ok_or(length)?;
        let value = |field, value| Err(RecordError::Value { field, value });
        if !(kind::WRITE..=kind::REFUSED).contains(&header.kind) {
            return value("kind", header.kind.into());
        }
        let is_of_library = (library::OPENSSL..=library::GO).contains(&header.library);
        if is_of_library == (header.kind == kind::REFUSED) {
            return value("library", header.library.into());
        }
        // Less than everything is copied only where it does not fit.
        let copied = header.total.min(MAX_COPY as u64);
        if u64::from(header.length) != copied {
            return value("length", header.length.into());
        }
        Ok(Self { header, data })
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::inspect::streams::samples::header;

    #[test]
    fn a_record_is_whole_and_says_what_it_is() {
        let good = Header {
            total: 3,
            length: 3,
            ..header(1, 0)
        };
        let bytes = |header: Header| [header.as_bytes(), b"abcdef"].concat();
        let whole = bytes(good);
        assert_eq!(Record::read(&whole).unwrap().data, b"abc");
        for end in 0..size_of::<Header>() + 3 {
            assert!(Record::read(&whole[..end]).is_err(), "{end} bytes");
        }
        for (bad, why) in [
            (Header { kind: 0, ..good }, "no kind"),
            (Header { kind: 7, ..good }, "no such kind"),
            (Header { kind: 6, ..good }, "refused by a library"),
            (Header { library: 0, ..good }, "no library"),
            (Header { library: 5, ..good }, "no such library"),
            (Header { length: 2, ..good }, "less than was written"),
            (Header { total: 2, ..good }, "more than was written"),
        ] {
            assert!(Record::read(&bytes(bad)).is_err(), "{why}");
        }
    }
}
