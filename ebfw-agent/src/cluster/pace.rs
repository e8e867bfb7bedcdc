//! How often the status of one object is written.

use std::time::Duration;

use tokio::time::Instant;

/// Writes that may follow each other at once: an edit costs two or three.
const BURST: u32 = 6;
/// Beyond them, one in so long a time: somebody edits all the time, and each write goes out to every agent.
const EVERY: Duration = Duration::from_secs(1);

/// The writes of one object.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all writes so far would have been made with a pause after each.
    paid: Instant,
}

impl Pace {
    /// No write yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// How long the next write has to wait.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let ahead = self.paid.saturating_duration_since(now);
        (ahead + EVERY).saturating_sub(EVERY * BURST)
    }

    /// One was made.
    pub(super) fn written(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_writes_follow_at_once_and_many_do_not() {
        let begun = Instant::now();
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let mut pace = Pace::new(begun);
        // Somebody edits ten times a second for ten seconds.
        let mut writes = 0;
        for tenth in 0..100_u32 {
            let now = at(f64::from(tenth) / 10.0);
            if pace.wait(now).is_zero() {
                pace.written(now);
                writes += 1;
            }
        }
        assert_eq!(writes, BURST + 9);
        assert_eq!(pace.wait(at(9.9)), Duration::from_millis(100));
        assert_eq!(pace.wait(at(10.0)), Duration::ZERO, "the last one is due");
        assert_eq!(pace.wait(at(100.0)), Duration::ZERO);
        for _ in 0..BURST {
            assert_eq!(pace.wait(at(100.0)), Duration::ZERO, "a rest gives it back");
            pace.written(at(100.0));
        }
        assert_eq!(pace.wait(at(100.0)), EVERY);
    }
}
