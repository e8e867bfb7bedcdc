//! Drives a stream as the kernel programs do.

use std::net::Ipv6Addr;

use ebfw_common::stream::{Facts, Http2, Step, Stream};

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
    http2: Option<Box<Http2>>,
    at: usize,
    slow: bool,
}

impl Driver {
    pub(crate) fn new(slow: bool) -> Self {
        Self {
            stream: Stream::default(),
            said: Vec::new(),
            http2: None,
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
                let mut passed = self.stream.advance(packet.len() as u64) as usize;
                if passed == 0 {
                    let bytes = packet.iter().take(self.stream.idles() as usize);
                    passed = bytes.take_while(|byte| Stream::is_idle(**byte)).count();
                    self.stream.idle(passed as u32);
                }
                if passed != 0 {
                    self.at += passed;
                    packet = &packet[passed..];
                    continue;
                }
            }
            if self.stream.is_fresh() {
                self.stream.begin(*byte);
            }
            let step = match &mut self.http2 {
                Some(http2) => self.stream.step_http2(http2, *byte),
                None => self.stream.step(*byte),
            };
            if step == Step::Again {
                continue;
            }
            self.at += 1;
            packet = &packet[1..];
            match step {
                Step::More | Step::Again => {}
                Step::Http2 => self.http2 = Some(Box::default()),
                step => {
                    let said = heard(step, self.stream.facts(), self.stream.why());
                    self.said.push((self.at, said));
                }
            }
        }
    }
}

/// What a step says.
pub(crate) fn heard(step: Step, facts: &Facts, why: u32) -> Said {
    if step != Step::Head {
        return Said::End(step, why);
    }
    let literal = facts
        .literal()
        .map(|address| format!("<{}>", Ipv6Addr::from(address).to_canonical()));
    Said::Head {
        name: facts.name().map(text).or(literal),
        request: facts
            .request()
            .map(|(method, path)| (text(method), text(path))),
        flags: facts.flags,
    }
}
