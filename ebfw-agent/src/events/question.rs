//! The question of a DNS message, read from the bytes that a workload sent: bounded, without pointers, and never shown unescaped.

use std::borrow::Cow;

use super::Printable;

/// Bytes that a name may have on the wire (RFC 1035, 2.3.4).
const MAX_WIRE_NAME: usize = 255;
/// Bytes that a label may have; more means a compression pointer or something that never was.
const MAX_LABEL: u8 = 63;
/// What stands for a name that cannot be read.
const UNREADABLE: &str = "(unreadable)";
/// What stands for a type of record that cannot be read.
const NO_RECORD: &str = "?";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The name without its last dot; the root is `.`.
    pub(super) name: Printable,
    /// The type of record.
    pub(super) record: Printable,
}

/// Reads the question that `bytes` begin with (RFC 1035, 4.1.2). What cannot be read is named so: somebody asked it all the same.
pub(super) fn read(bytes: &[u8]) -> Question {
    let Some((name, rest)) = name(bytes) else {
        return Question {
            name: UNREADABLE.into(),
            record: NO_RECORD.into(),
        };
    };
    let record = match rest {
        [high, low, ..] => record(u16::from_be_bytes([*high, *low])),
        // The kernel keeps 256 bytes: the type of the longest names is cut off.
        [] | [_] => Cow::Borrowed(NO_RECORD),
    };
    Question {
        name,
        record: Printable::from(&*record),
    }
}

/// A name and what stands behind it. In questions there is nothing to point to, so a pointer is refused.
fn name(bytes: &[u8]) -> Option<(Printable, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            rest = after;
            break;
        }
        if length > MAX_LABEL {
            return None;
        }
        let (label, after) = after.split_at_checked(length.into())?;
        if bytes.len() - after.len() >= MAX_WIRE_NAME {
            return None;
        }
        if !text.is_empty() {
            text.push(b'.');
        }
        push(&mut text, label);
        rest = after;
    }
    if text.is_empty() {
        text.push(b'.');
    }
    Some((Printable::from_bytes(&text), rest))
}

/// A label, with what would pass for something else written out: a dot for the end of a label, a colon for that of a host.
fn push(text: &mut Vec<u8>, label: &[u8]) {
    for byte in label {
        match byte {
            b'.' | b':' => text.extend(format!("\\x{byte:02x}").bytes()),
            byte => text.push(*byte),
        }
    }
}

/// The name of a type of record; without one as in RFC 3597, 5.
fn record(number: u16) -> Cow<'static, str> {
    let name = match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        50 => "NSEC3",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        number => return format!("TYPE{number}").into(),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(labels: &[&[u8]], record: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(*label);
        }
        bytes.push(0);
        bytes.extend(record.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    #[test]
    fn what_was_asked_is_shown_and_nothing_else() {
        let long = [b'a'; 63];
        let longest: [&[u8]; 4] = [&long, &long, &long, &[b'b'; 61]];
        let mut cut = wire(&longest, 28);
        cut.truncate(256);
        let longest_name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        for (bytes, name, record, why) in [
            (
                wire(&[b"example", b"com"], 28),
                "example.com",
                "AAAA",
                "a name",
            ),
            (
                wire(&[b"ExAmPlE", b"CoM"], 1),
                "ExAmPlE.CoM",
                "A",
                "as it was written",
            ),
            (wire(&[], 2), ".", "NS", "the root"),
            (wire(&[b"a"], 65280), "a", "TYPE65280", "a private type"),
            (
                [wire(&[b"a"], 16), b"more".to_vec()].concat(),
                "a",
                "TXT",
                "what follows is no part of it",
            ),
            (
                wire(&[b"a.svc"], 1),
                "a\\x2esvc",
                "A",
                "a dot inside of a label ends none",
            ),
            (wire(&[b"svc:53"], 1), "svc\\x3a53", "A", "no port"),
            (
                wire(&[b"a\x1b[2J\n b"], 1),
                "a\\x1b[2J\\x0a b",
                "A",
                "escape sequences",
            ),
            (wire(&[b"\xff\x80"], 1), "\\xff\\x80", "A", "no text"),
            (cut, &longest_name, NO_RECORD, "the type was cut off"),
        ] {
            let expected = Question {
                name: name.into(),
                record: record.into(),
            };
            assert_eq!(read(&bytes), expected, "{why}");
        }
    }

    #[test]
    fn what_is_no_question_is_named_so() {
        let long = [b'a'; 63];
        for (bytes, why) in [
            (vec![], "empty"),
            (vec![3, b'a', b'b'], "cut off inside of a label"),
            (vec![1, b'a'], "cut off behind a label"),
            (vec![0xc0, 12, 0, 1, 0, 1], "a pointer"),
            (vec![1, b'a', 0xc0, 12, 0, 1], "a pointer behind a label"),
            (
                vec![0x40, b'a', 0, 0, 1],
                "a label of a kind that was given up",
            ),
            (
                wire(&[&long, &long, &long, &long[..62]], 1),
                "one byte too long",
            ),
            (vec![63; 256], "labels without an end"),
        ] {
            let question = read(&bytes);
            assert_eq!(question.name.as_str(), UNREADABLE, "{why}");
            assert_eq!(question.record.as_str(), NO_RECORD, "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let Question { name, record } = read(&bytes);
            prop_assert!(!name.as_str().chars().any(char::is_control));
            prop_assert!(!name.as_str().is_empty() && !record.as_str().is_empty());
        }
    }
}
