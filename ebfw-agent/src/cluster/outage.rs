//! Watches fail and come back; the log says so once each.

use kube::{core::Status, runtime::watcher};

use crate::metrics::{Pending, Readiness};

/// Whether a watch is down, and what was said about it.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    said: Option<Cause>,
    /// What is not ready without the right to watch.
    readiness: Option<Readiness>,
    lacking: Option<Pending>,
}

/// Why a watch is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The API server does not answer, or not in a way that makes sense.
    Away,
    /// It knows no such kind.
    NoSuchKind,
    /// It forbids it.
    Forbidden,
}

impl Outage {
    /// `what`: what is watched, in the plural.
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            said: None,
            readiness: None,
            lacking: None,
        }
    }

    /// The agent is not ready for as long as the cluster does not let it watch.
    pub(super) fn needed_by(mut self, readiness: &Readiness) -> Self {
        self.readiness = Some(readiness.clone());
        self
    }

    /// Something was heard. That a list begins says nothing yet: it is said of each that will fail, too.
    pub(super) fn heard<K>(&mut self, event: &watcher::Event<K>) {
        if matches!(event, watcher::Event::Init) {
            return;
        }
        self.lacking = None;
        if self.said.take().is_some() {
            tracing::info!("{} are watched again", self.what);
        }
    }

    /// The watch failed; it is tried again. A history that the server has forgotten is no outage: everything is read anew.
    pub(super) fn failed(&mut self, error: &watcher::Error) -> Option<Cause> {
        let cause = cause(error)?;
        if self.said.replace(cause) == Some(cause) {
            return Some(cause);
        }
        let what = self.what;
        self.lacking = match (cause, &self.readiness) {
            (Cause::Forbidden, Some(readiness)) => {
                Some(readiness.pending(format!("right to list and watch {what}")))
            }
            _ => None,
        };
        match cause {
            Cause::Away => tracing::warn!(
                "{what} cannot be watched, trying again; what is known of them stays: {}",
                of_watch(error)
            ),
            Cause::NoSuchKind => tracing::warn!(
                "the cluster has no {what}: install the custom resources (`helm/ebfw/crds`); looking again until they are there"
            ),
            Cause::Forbidden => tracing::error!(
                "the cluster does not let this agent watch {what}, trying again; its service account lacks rights: {}",
                of_watch(error)
            ),
        }
        Some(cause)
    }
}

/// Requests that fail and are made again; the log says so once for each outage.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    said: bool,
}

impl Trouble {
    /// `what` goes wrong, in a sentence.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, said: false }
    }

    /// One went well.
    pub(super) fn over(&mut self) {
        self.said = false;
    }

    /// One failed. Only a right that is missing is worth a line: an API server that is away, whoever watches says, and what is gone meanwhile is nobody's
    /// trouble.
    pub(super) fn failed(&mut self, error: &kube::Error) {
        let forbidden = matches!(error, kube::Error::Api(status) if of_status(status) == Some(Cause::Forbidden));
        if forbidden && !std::mem::replace(&mut self.said, true) {
            tracing::warn!("{}: {}", self.what, brief(error));
        } else {
            tracing::debug!("{}: {}", self.what, brief(error));
        }
    }
}

/// What the API server said, where kube would tell every field of it.
pub(super) fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => error.to_string(),
    }
}

fn of_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => brief(error),
        watcher::Error::WatchError(status) if !status.message.is_empty() => status.message.clone(),
        error => error.to_string(),
    }
}

fn cause(error: &watcher::Error) -> Option<Cause> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => of_status(status),
            _ => Some(Cause::Away),
        },
        watcher::Error::WatchError(status) => of_status(status),
        watcher::Error::NoResourceVersion => Some(Cause::Away),
    }
}

fn of_status(status: &Status) -> Option<Cause> {
    match status.code {
        404 => Some(Cause::NoSuchKind),
        401 | 403 => Some(Cause::Forbidden),
        410 => None,
        _ => Some(Cause::Away),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> watcher::Error {
        let status = Status {
            code: 403,
            ..Status::default()
        };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_list_that_begins_and_fails_again_is_the_same_outage() {
        let readiness = Readiness::new();
        let mut outage = Outage::new("pods").needed_by(&readiness);
        for attempt in 0..3 {
            outage.heard::<()>(&watcher::Event::Init);
            assert_eq!(
                outage.said.is_some(),
                attempt > 0,
                "nothing was heard: what was said of the outage holds"
            );
            assert_eq!(outage.failed(&forbidden()), Some(Cause::Forbidden));
            assert_eq!(readiness.missing(), ["right to list and watch pods"]);
        }
        outage.heard::<()>(&watcher::Event::InitDone);
        assert_eq!(outage.said, None);
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn an_api_server_that_is_away_makes_nobody_unready() {
        let readiness = Readiness::new();
        let mut outage = Outage::new("pods").needed_by(&readiness);
        outage.failed(&watcher::Error::NoResourceVersion);
        assert!(readiness.missing().is_empty());
        outage.failed(&forbidden());
        assert!(!readiness.missing().is_empty());
        outage.failed(&watcher::Error::NoResourceVersion);
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn what_a_status_means_for_a_watch() {
        for (code, expected) in [
            (404, Some(Cause::NoSuchKind)),
            (403, Some(Cause::Forbidden)),
            (401, Some(Cause::Forbidden)),
            (500, Some(Cause::Away)),
            (429, Some(Cause::Away)),
            (410, None),
        ] {
            let status = Status {
                code,
                ..Status::default()
            };
            assert_eq!(of_status(&status), expected, "{code}");
        }
    }
}
