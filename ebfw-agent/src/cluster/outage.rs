//! Watches fail and come back; the log says so once each.

use kube::{core::Status, runtime::watcher};

/// Whether a watch is down, and what was said about it.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    said: Option<Cause>,
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
        Self { what, said: None }
    }

    /// Something was heard.
    pub(super) fn over(&mut self) {
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
        match cause {
            Cause::Away => tracing::warn!(
                "{what} cannot be watched, trying again; what is known of them stays: {error}"
            ),
            Cause::NoSuchKind => tracing::warn!(
                "the cluster has no {what}: install the custom resources (`helm/ebfw/crds`); looking again until they are there"
            ),
            Cause::Forbidden => tracing::error!(
                "the cluster does not let this agent watch {what}, trying again; its service account lacks rights: {error}"
            ),
        }
        Some(cause)
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
