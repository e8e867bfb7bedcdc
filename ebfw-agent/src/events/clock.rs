//! From the kernel's time since boot to wall time.
//! The difference is read anew now and then, because wall time can be set.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// How long a reading of the difference is used: a step of the wall clock shows in events at most this late.
const REFRESH: Duration = Duration::from_secs(10);

/// The difference between wall time and time since boot (suspend included).
#[derive(Clone, Debug)]
pub struct BootClock {
    /// Wall time of the moment of boot, nanoseconds since the epoch.
    boot_at: i128,
    read: Instant,
}

impl BootClock {
    /// Reads both clocks.
    ///
    /// # Errors
    /// Where the system has no `CLOCK_BOOTTIME` (before Linux 2.6.39).
    pub fn read() -> std::io::Result<Self> {
        // Wall time is read between two readings of the other clock, so that a pause in between is halved.
        let before = nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        let wall = nanoseconds(ClockId::CLOCK_REALTIME)?;
        let after = nanoseconds(ClockId::CLOCK_BOOTTIME)?;
        Ok(Self {
            boot_at: wall - (before + after) / 2,
            read: Instant::now(),
        })
    }

    /// A clock by which the machine booted at `boot`, for tests and recorded events.
    #[must_use]
    pub fn booted_at(boot: Timestamp) -> Self {
        Self {
            boot_at: boot.as_nanosecond(),
            read: Instant::now(),
        }
    }

    /// Reads both clocks again if the last reading is old; keeps the old one if that fails.
    pub fn refresh(&mut self) {
        if self.read.elapsed() >= REFRESH
            && let Ok(fresh) = Self::read()
        {
            *self = fresh;
        }
    }

    /// Wall time of `boot_ns` nanoseconds after boot; `None` beyond the year 9999.
    #[must_use]
    pub fn wall(&self, boot_ns: u64) -> Option<Timestamp> {
        Timestamp::from_nanosecond(self.boot_at + i128::from(boot_ns)).ok()
    }
}

/// Nanoseconds since boot, suspend included, as the kernel programs have them.
///
/// # Errors
/// As [`BootClock::read`].
pub(crate) fn boot_ns() -> std::io::Result<u64> {
    u64::try_from(nanoseconds(ClockId::CLOCK_BOOTTIME)?).map_err(std::io::Error::other)
}

fn nanoseconds(clock: ClockId) -> nix::Result<i128> {
    let time = clock_gettime(clock)?;
    Ok(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_now() {
        let clock = BootClock::read().unwrap();
        let off = clock
            .wall(boot_ns().unwrap())
            .unwrap()
            .duration_since(Timestamp::now());
        assert!(off.unsigned_abs() < Duration::from_secs(1), "off by {off}");
    }

    #[test]
    fn nanoseconds_are_kept() {
        let clock = BootClock::booted_at("2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(
            format!("{:.9}", clock.wall(1_000_000_007).unwrap()),
            "2026-01-02T03:04:06.000000007Z"
        );
        assert_eq!(
            format!("{:.9}", clock.wall(0).unwrap()),
            "2026-01-02T03:04:05.000000000Z"
        );
    }

    #[test]
    fn no_time_of_the_kernel_is_too_large() {
        let clock = BootClock::booted_at("2026-01-02T03:04:05Z".parse().unwrap());
        assert!(clock.wall(u64::MAX).is_some());
    }
}
