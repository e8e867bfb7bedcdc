//! Drives a stream as the kernel programs do.

use std::net::Ipv6Addr;

use ebfw_common::stream::{Step, Stream};

/// What a stream said, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A head with its name, its method and path, and whether there is an encrypted hello.
    Head {
        name: Option<String>,
        request: Option<(String, String)>,
        flags: u32,
    },
    /// Another step and, where it is malformed, why.
    End(Step, u32),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Feeds a stream; `pieces` ends each of its packets. Bytes to be passed over are read one by one where `slow`.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) stream: Stream,
    pub(crate) said: Vec<(usize, Said)>,
    at: usize,
    slow: bool,
}

impl Driver {
    pub(crate) fn new(slow: bool) -> Self {
        Self {
            stream: Stream::default(),
            said: Vec::new(),
            at: 0,
            slow,
        }
    }

    /// Feeds a packet.
    pub(crate) fn feed(&mut self, mut packet: &[u8]) {
        while let [byte, ..] = packet {
            if matches!(self.said.last(), Some((_, Said::End(..)))) {
                return;
            }
            if !self.slow {
                let passed = self.stream.advance(packet.len() as u64) as usize;
                if passed != 0 {
                    self.at += passed;
                    packet = &packet[passed..];
                    continue;
                }
            }
            if self.stream.is_fresh() {
                self.stream.begin(*byte);
            }
            let step = self.stream.step(*byte);
            self.at += 1;
            packet = &packet[1..];
            match step {
                Step::More => {}
                Step::Head => {
                    let facts = self.stream.facts();
                    let literal = facts
                        .literal()
                        .map(|address| format!("<{}>", Ipv6Addr::from(address).to_canonical()));
                    let head = Said::Head {
                        name: facts.name().map(text).or(literal),
                        request: facts
                            .request()
                            .map(|(method, path)| (text(method), text(path))),
                        flags: facts.flags,
                    };
                    self.said.push((self.at, head));
                }
                end => self.said.push((self.at, Said::End(end, self.stream.why()))),
            }
        }
    }
}

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
