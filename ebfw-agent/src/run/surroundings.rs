//! Where the agent stands: in which cluster, in which pod and cgroup of its own, and whether it has heard of the pods around it.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    cluster::{Cluster, Unreachable},
    config::Config,
    host::cgroup::{CgroupPath, Hierarchy, Seclusion},
    pods::{
        Pods,
        layout::{self, Place},
    },
};

/// How long the start waits for the pods of the node where nothing is in force yet.
const HEAR_OF_PODS_WITHIN: Duration = Duration::from_secs(10);

/// The cluster that the node belongs to, where the agent runs in a pod and knows the node's name.
pub(super) fn cluster(config: &Config) -> Option<Cluster> {
    match Cluster::of_pod(config.node_name.as_deref().unwrap_or_default()) {
        Ok(cluster) if config.node_name.is_some() => {
            tracing::info!("in a cluster: pods are known by name");
            Some(cluster)
        }
        Ok(_) => {
            tracing::warn!(
                "in a cluster, but the node's name is not known: set EBFW_NODE_NAME from `spec.nodeName`, or no rule can select pods"
            );
            None
        }
        Err(Unreachable::NotInCluster(_)) => None,
        Err(error) => {
            tracing::error!("{error}; pods are not known by name");
            None
        }
    }
}

/// The uid of the agent's own pod, as its cgroup says.
pub(super) fn own_pod(hierarchy: &Hierarchy) -> Option<String> {
    match layout::place(&hierarchy.own().ok()?) {
        Place::Pod(pod) | Place::Inside(pod, _) => Some(pod.uid),
        Place::Elsewhere | Place::Root | Place::Strange => None,
    }
}

/// Sees to it that the agent is alone in its cgroup, where it runs below the governed one: then its connections can be told from others'.
pub(super) fn seclude(hierarchy: &Hierarchy, root: &CgroupPath) -> Option<Seclusion> {
    let own = hierarchy.own().ok()?;
    if !own.is_within(root) {
        return None;
    }
    match hierarchy.seclude() {
        Ok(seclusion) => Some(seclusion),
        Err(error) => {
            tracing::warn!("{error}: the agent's own connections are governed like any other");
            None
        }
    }
}

/// Waits until the pods of the node are known, so that those that run are not cut off while they are asked for. Where an earlier agent's
/// state is in force, it stays until then; else what is not known after a while is closed. Pods of another node are of no use: under a wrong name
/// every pod here would be closed.
pub(super) async fn hear_of_pods(
    pods: Option<&watch::Receiver<Pods>>,
    own: Option<&str>,
    adopted: bool,
) {
    let Some(pods) = pods else {
        return;
    };
    let mut pods = pods.clone();
    let synced = pods.wait_for(Pods::is_synced);
    if tokio::time::timeout(HEAR_OF_PODS_WITHIN, synced)
        .await
        .is_err()
    {
        if !adopted {
            tracing::warn!(
                "the API server has not told of this node's pods: they are closed until it does"
            );
            return;
        }
        tracing::warn!(
            "waiting for the API server to tell of this node's pods; what was in force before stays"
        );
    }
    // An error means that the watch has ended: nobody will ever tell.
    let _ = pods.wait_for(Pods::is_synced).await;
    let here = |pods: &Pods| own.is_none_or(|own| pods.get(own).is_some());
    if !here(&pods.borrow()) {
        tracing::error!(
            "the agent's own pod is not among the pods of the node that EBFW_NODE_NAME names: it must be `spec.nodeName` of this pod; waiting, and nothing changes meanwhile"
        );
        let _ = pods.wait_for(here).await;
    }
}
