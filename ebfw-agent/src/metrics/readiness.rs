//! Whether the agent does its work: a list of what it waits for.
//! Whoever starts something takes a [`Pending`] before and drops it when the thing is there.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
};

/// What the agent waits for. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<Cow<'static, str>>>>,
}

impl Readiness {
    /// Waits for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for `what`, as in `policy loaded`, until the guard is dropped.
    #[must_use = "dropping the guard says that it is there"]
    pub fn pending(&self, what: impl Into<Cow<'static, str>>) -> Pending {
        let what = what.into();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what.clone());
        Pending {
            what,
            readiness: self.clone(),
        }
    }

    /// What is missing, in the order in which it was asked for.
    #[must_use]
    pub fn missing(&self) -> Vec<Cow<'static, str>> {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Something that is not there yet.
#[derive(Debug)]
pub struct Pending {
    what: Cow<'static, str>,
    readiness: Readiness,
}

impl Pending {
    /// It is there now.
    pub fn ready(self) {
        drop(self);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self
            .readiness
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = pending.iter().position(|what| *what == self.what) {
            pending.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_nothing_is_missing() {
        let readiness = Readiness::new();
        assert!(readiness.missing().is_empty());
        let programs = readiness.pending("programs attached");
        let policy = readiness.clone().pending("policy loaded");
        assert_eq!(readiness.missing(), ["programs attached", "policy loaded"]);
        programs.ready();
        assert_eq!(readiness.missing(), ["policy loaded"]);
        drop(policy);
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn two_of_the_same_name_count_twice() {
        let readiness = Readiness::new();
        let (one, _two) = (readiness.pending("x"), readiness.pending("x"));
        drop(one);
        assert_eq!(readiness.missing(), ["x"]);
    }
}
