//! The Kubernetes cluster that this node belongs to: what its API server says about the node's pods.
//!
//! Watches and reports; what follows from it is decided elsewhere. While the API server is away, what was last heard stays.

mod outage;
mod pods;

use kube::{Client, Config};

/// A way to the API server, as a pod has it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The agent's own namespace.
    namespace: String,
    node: String,
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
        }
    }
}
