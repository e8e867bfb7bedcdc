//! Drives the readers of streams as the kernel programs do.

use ebfw_common::stream::{Facts, Http2, Step, Stream};

/// What was read of a stream until it ended, the bytes did, or `enough` heads were there.
pub struct Read {
    /// The heads, and how many bytes there were up to their ends.
    pub heads: Vec<(usize, Facts)>,
    /// How it ended; [`Step::More`] where it did not.
    pub end: Step,
}

/// Reads a stream. Where `slow`, bytes that may be passed over are read too.
#[must_use]
pub fn read(bytes: &[u8], slow: bool) -> Read {
    let mut stream = Stream::default();
    let mut http2: Option<Box<Http2>> = None;
    let mut heads = Vec::new();
    let (mut at, mut again) = (0, 0);
    while at < bytes.len() {
        if !slow {
            let passed = stream.advance((bytes.len() - at) as u64) as usize;
            at += passed;
            if passed != 0 {
                continue;
            }
            let rest = &bytes[at..bytes.len().min(at + stream.idles() as usize)];
            let idle = rest
                .iter()
                .take_while(|byte| Stream::is_idle(**byte))
                .count();
            stream.idle(idle as u32);
            at += idle;
            if idle != 0 {
                continue;
            }
        }
        if stream.is_fresh() {
            stream.begin(bytes[at]);
        }
        let step = match &mut http2 {
            Some(http2) => stream.step_http2(http2, bytes[at]),
            None => stream.step(bytes[at]),
        };
        if step == Step::Again {
            // The longest value that is read again, and what is around it.
            again += 1;
            assert!(again < 5000, "a step that does not end");
            continue;
        }
        again = 0;
        at += 1;
        match step {
            Step::More | Step::Again => {}
            Step::Head => heads.push((at, stream.facts().clone())),
            Step::Http2 => http2 = Some(Box::default()),
            end => return Read { heads, end },
        }
    }
    Read {
        heads,
        end: Step::More,
    }
}

/// As [`read`], and says the same whether bytes are passed over or read.
#[must_use]
pub fn read_both_ways(bytes: &[u8]) -> Read {
    let (fast, slow) = (read(bytes, false), read(bytes, true));
    assert_eq!(fast.heads, slow.heads);
    assert_eq!(fast.end, slow.end);
    fast
}
