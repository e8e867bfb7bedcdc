//! The probes inside TLS as the agent has them: still being loaded, at work, or absent for a reason. Nothing that goes
//! wrong with them stops the firewall, and it does not wait for them either.

use std::{collections::HashMap, future::pending, io, sync::Arc};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    config::Config,
    events::pipeline::Intake,
    host::cgroup::{CgroupPath, Hierarchy},
    inspect::Headers,
    metrics::Metrics,
    probes::{Controls, LoadError, Probes, Tally},
    state::ProbesState,
};

/// What has become of the probes.
pub(super) enum Probing {
    /// The kernel is looking at the programs, which may take seconds.
    Loading(JoinHandle<Result<Probes, LoadError>>),
    /// They see requests.
    Running(Box<Probes>),
    /// There are none, and why.
    Absent(String),
}

impl Probing {
    /// Begins to load the probes, where the configuration wants them, for what runs in the cgroup `root` or below.
    pub(super) fn start(
        config: &Config,
        hierarchy: Hierarchy,
        root: &CgroupPath,
        controls: Controls,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let inspect = config.inspect;
        if !(inspect.claims && inspect.paths) {
            return Self::Absent("EBFW_INSPECT and EBFW_INSPECT_PATHS are not both on".to_owned());
        }
        let headers = match (inspect.headers, inspect.redact) {
            (false, _) => Headers::Dropped,
            (true, true) => Headers::Redacted,
            (true, false) => Headers::Shown,
        };
        let root = root.clone();
        let metrics = Arc::clone(metrics);
        Self::Loading(spawn_blocking(move || {
            Probes::start(
                &hierarchy,
                &root,
                headers,
                inspect.bodies(),
                inspect.responses,
                controls,
                metrics,
            )
        }))
    }

    /// Waits until the probes are loaded, or have seen requests, which go to `intake`. May be cancelled; nothing is lost by that.
    ///
    /// # Errors
    ///
    /// Where their ring cannot be polled.
    pub(super) async fn next(&mut self, intake: &Intake) -> io::Result<()> {
        match self {
            Self::Loading(loading) => {
                *self = match loading.await {
                    Ok(Ok(probes)) => Self::Running(Box::new(probes)),
                    Ok(Err(error)) => Self::refused(&format!("{:#}", anyhow::Error::from(error))),
                    Err(broken) => Self::refused(&format!("loading the probes broke: {broken}")),
                };
                Ok(())
            }
            Self::Running(probes) => probes.drain(|seen| intake.offer_request(seen)).await,
            Self::Absent(_) => pending().await,
        }
    }

    fn refused(why: &str) -> Self {
        tracing::warn!("requests inside TLS are not observed: {why}");
        Self::Absent(why.to_owned())
    }

    /// Adds what was lost to the metrics.
    pub(super) fn count(&mut self) {
        if let Self::Running(probes) = self {
            probes.count();
        }
    }

    /// Gives what was seen and not told yet to `intake`, without waiting.
    pub(super) fn take(&mut self, intake: &Intake) {
        if let Self::Running(probes) = self {
            probes.take(|seen| intake.offer_request(seen));
        }
    }

    /// What the agent says of its probes, and the requests they saw by the id of the cgroup.
    pub(super) fn state(&self) -> (ProbesState, HashMap<u64, Tally>) {
        let absent = |why: &str| ProbesState {
            absent: Some(why.to_owned()),
            ..ProbesState::default()
        };
        match self {
            Self::Loading(_) => (absent("they are still being loaded"), HashMap::new()),
            Self::Absent(why) => (absent(why), HashMap::new()),
            Self::Running(probes) => {
                let files = probes.files().into_iter();
                let state = ProbesState {
                    attach: Some(probes.way().to_owned()),
                    absent: None,
                    files: files
                        .map(|(kind, count)| (kind.to_owned(), count))
                        .collect(),
                };
                (state, probes.requests())
            }
        }
    }
}
