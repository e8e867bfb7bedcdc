//! Who writes statuses: the agent that holds a lease. Pure; the lease itself is read and written elsewhere.
//!
//! As client-go does it, time is measured by the own clock alone: a lease is over when it has not changed for its length since this agent saw it
//! first, whatever the holder's clock wrote into it.

use std::time::{Duration, Instant};

/// The lease, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who has it; `None`: nobody.
    pub holder: Option<String>,
    /// Changes each time that it is written.
    pub version: String,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Write it anew: it is ours.
    Renew,
    /// Write our name into it.
    Take,
    /// Leave it alone.
    Wait,
}

/// What one agent knows of the lease.
#[derive(Debug)]
pub struct Election {
    own: String,
    length: Duration,
    last: Option<(Seen, Instant)>,
}

impl Election {
    /// `own`: the agent's name; `length`: of a lease that is not renewed.
    #[must_use]
    pub fn new(own: &str, length: Duration) -> Self {
        Self {
            own: own.to_owned(),
            length,
            last: None,
        }
    }

    /// What to do, the lease being as `seen`, at `now`; `None`: there is none.
    pub fn claim(&mut self, seen: Option<Seen>, now: Instant) -> Claim {
        let Some(seen) = seen else {
            return Claim::Take;
        };
        let holder = match &seen.holder {
            None => return Claim::Take,
            Some(holder) if holder.is_empty() => return Claim::Take,
            Some(holder) => holder,
        };
        if *holder == self.own {
            return Claim::Renew;
        }
        match &self.last {
            Some((last, since)) if *last == seen => {
                if now.duration_since(*since) > self.length {
                    Claim::Take
                } else {
                    Claim::Wait
                }
            }
            Some(_) | None => {
                self.last = Some((seen, now));
                Claim::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_its_holder_is_silent() {
        let begun = Instant::now();
        let mut election = Election::new("me", Duration::from_secs(30));
        for (second, lease, expected, why) in [
            (0, None, Claim::Take, "there is none"),
            (0, Some((None, "1")), Claim::Take, "given back"),
            (
                0,
                Some((Some(""), "1")),
                Claim::Take,
                "given back by another client",
            ),
            (0, Some((Some("me"), "2")), Claim::Renew, "it is ours"),
            (
                1,
                Some((Some("other"), "3")),
                Claim::Wait,
                "seen for the first time, however old it is",
            ),
            (
                31,
                Some((Some("other"), "3")),
                Claim::Wait,
                "silent for its length",
            ),
            (32, Some((Some("other"), "3")), Claim::Take, "and longer"),
            (
                33,
                Some((Some("other"), "4")),
                Claim::Wait,
                "it spoke again",
            ),
            (
                60,
                Some((Some("third"), "5")),
                Claim::Wait,
                "another holder",
            ),
            (
                89,
                Some((Some("third"), "5")),
                Claim::Wait,
                "whose time begins anew",
            ),
            (91, Some((Some("third"), "5")), Claim::Take, "and ends"),
        ] {
            let seen = lease.map(|(holder, version)| Seen {
                holder: holder.map(str::to_owned),
                version: version.to_owned(),
            });
            let now = begun + Duration::from_secs(second);
            assert_eq!(election.claim(seen, now), expected, "{why}");
        }
    }
}
