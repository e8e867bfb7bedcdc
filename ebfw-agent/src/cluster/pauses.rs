//! How long a watch that failed rests before it tries again.
//!
//! kube's own backoff starts anew with every list that begins, so that one that never succeeds (no such kind, no right to it) would be asked for every
//! second by every node. This one knows since when nothing works.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

/// The shortest pause: a server that is restarted is back in a second or two.
const LEAST: Duration = Duration::from_millis(500);
/// The longest, as client-go has it: 5,000 nodes with five watches each ask a server that comes back a thousand times a second together.
const MOST: Duration = Duration::from_secs(30);
/// Of the time for which nothing has worked already: what lasted a minute is noticed 8 seconds after its end at the latest.
const PART: u32 = 8;
/// Without a failure for so long, the next one is the first of another outage. Longer than a pause and an attempt that hangs.
const QUIET: Duration = Duration::from_secs(120);

/// The pauses of one watch.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The first and the last failure of an outage.
    outage: Option<(Instant, Instant)>,
}

impl Pauses {
    /// After a failure at `now`; `part`: chance, between 0 and 1, that keeps nodes from asking all at once.
    fn after(&mut self, now: Instant, part: f64) -> Duration {
        let same = |last: &Instant| now.duration_since(*last) < QUIET;
        let since = match self.outage {
            Some((since, last)) if same(&last) => since,
            Some(_) | None => now,
        };
        self.outage = Some((since, now));
        let whole = (now.duration_since(since) / PART).clamp(LEAST, MOST);
        whole.mul_f64(0.5 + part / 2.0)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after(Instant::now(), super::random_part()))
    }
}

impl Backoff for Pauses {
    /// Something was heard, which may be no more than that a list is about to be asked for.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_outage_and_end_soon_after_it() {
        let begun = Instant::now();
        let mut pauses = Pauses::default();
        let mut at = |second: u64, part: f64| {
            pauses.reset();
            pauses.after(begun + Duration::from_secs(second), part)
        };
        for (second, part, expected, why) in [
            (0, 1.0, LEAST, "the first failure"),
            (0, 0.0, LEAST / 2, "nodes do not ask together"),
            (2, 1.0, LEAST, "a restart"),
            (60, 1.0, Duration::from_millis(7500), "a minute"),
            (170, 1.0, Duration::from_millis(21_250), "almost three"),
            (260, 1.0, MOST, "the longest"),
            (379, 0.0, MOST / 2, "the longest, early"),
            (500, 1.0, LEAST, "another outage"),
        ] {
            assert_eq!(at(second, part), expected, "{why}");
        }
    }
}
