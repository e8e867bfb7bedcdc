//! The Kubernetes cluster that this node belongs to: what its API server says about the node's pods.
//!
//! Watches and reports; what follows from it is decided elsewhere. While the API server is away, what was last heard stays.

mod outage;
mod pace;
mod pauses;
mod pods;
mod policies;
mod report;
mod resolvers;
mod writer;

use kube::{Client, Config};
use tokio::sync::watch;

pub use self::policies::Policies;
use crate::{metrics::Readiness, status::Digest};

/// A way to the API server, as a pod has it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The agent's own namespace.
    namespace: String,
    node: String,
    /// The agent's own pod, where it is known.
    pod_uid: Option<String>,
    readiness: Readiness,
}

/// Why a cluster cannot be reached at all; an API server that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// Not in a pod.
    #[error("ebfw runs in no pod that has a service account: {0}")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// The certificates make no sense.
    #[error("failed to prepare for the API server: {0}")]
    Client(#[source] kube::Error),
}

impl Cluster {
    /// By the service account of the pod that the agent runs in. Contacts nobody yet. `node`: the name of the node.
    ///
    /// # Errors
    /// The agent runs in no pod, or its pod's account is broken.
    pub fn of_pod(node: &str) -> Result<Self, Unreachable> {
        let config = Config::incluster().map_err(Unreachable::NotInCluster)?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(Unreachable::Client)?;
        Ok(Self::new(client, &namespace, node))
    }

    /// By `client`, with its objects in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, node: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            pod_uid: None,
            readiness: Readiness::new(),
        }
    }

    /// The agent's own pod, by its uid.
    #[must_use]
    pub fn with_pod(mut self, uid: Option<String>) -> Self {
        self.pod_uid = uid;
        self
    }

    /// Says there which rights are missing.
    #[must_use]
    pub fn with_readiness(mut self, readiness: &Readiness) -> Self {
        self.readiness = readiness.clone();
        self
    }

    /// Reports what this node enforces each time that it changes, and takes part in writing the status of policies, for as long as the
    /// senders live.
    pub fn report(
        &self,
        policies: &watch::Receiver<Policies>,
        programmed: watch::Receiver<Option<Digest>>,
    ) {
        tokio::spawn(report::run(self.clone(), policies.clone(), programmed));
        tokio::spawn(writer::run(self.clone(), policies.clone()));
    }
}

/// Between 0 and 1.
fn random_part() -> f64 {
    let random = getrandom::u32().unwrap_or_default();
    f64::from(random) / f64::from(u32::MAX)
}
