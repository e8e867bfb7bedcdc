//! A stream says the same however it is cut.

use crate::drive::{Driver, Said};

/// What is said about a stream, whole, byte by byte and cut in two at every place: always the same, with the byte at which it is said.
pub(crate) fn positions(bytes: &[u8]) -> Vec<(usize, Said)> {
    let mut whole = Driver::new(false);
    whole.feed(bytes);
    let mut slow = Driver::new(true);
    slow.feed(bytes);
    assert_eq!(whole.said, slow.said, "passed over or read");
    let mut head = Driver::new(false);
    for at in 0..bytes.len() {
        let mut cut = head.clone();
        cut.feed(&bytes[at..]);
        assert_eq!(whole.said, cut.said, "cut at {at}");
        head.feed(&bytes[at..=at]);
    }
    assert_eq!(whole.said, head.said, "byte by byte");
    whole.said
}

/// As [`positions`], without the places.
pub(crate) fn said(bytes: &[u8]) -> Vec<Said> {
    positions(bytes).into_iter().map(|(_, said)| said).collect()
}
