//! What this node reports to whoever writes statuses: one short word in a lease of its own, written only when it changes.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use super::{Cluster, Policies, outage::brief};
use crate::status::{Digest, Tally};

/// Label of the nodes' leases.
pub(super) const ROLE: &str = "ebfw.dvrkn.com/role";
/// Its value.
pub(super) const NODE_ROLE: &str = "node";
/// Annotation with the digest.
pub(super) const PROGRAMMED: &str = "ebfw.dvrkn.com/programmed";
/// Who writes them.
const WRITER: &str = "ebfw-node";

/// For each node of the cluster so much later a report may be, so that a change costs the API server 500 writes a second and no more.
const SPREAD: Duration = Duration::from_millis(2);
/// The latest.
const MAX_SPREAD: Duration = Duration::from_secs(10);
/// Pause after a report that could not be written.
const AGAIN: Duration = Duration::from_secs(5);

/// Reports `programmed` each time that it changes, until its sender is gone.
pub(super) async fn run(
    cluster: Cluster,
    policies: watch::Receiver<Policies>,
    mut programmed: watch::Receiver<Option<Digest>>,
) {
    let owner = owner(&cluster).await;
    let mut reported = None;
    let mut trouble = false;
    loop {
        let wanted = programmed.borrow_and_update().clone();
        if let Some(digest) = wanted.filter(|wanted| reported.as_ref() != Some(wanted)) {
            let nodes = fleet_size(&policies.borrow());
            sleep(spread(nodes).mul_f64(super::random_part())).await;
            if programmed.has_changed().unwrap_or(false) {
                continue;
            }
            match write(&cluster, owner.as_ref(), &digest).await {
                Ok(()) => {
                    reported = Some(digest);
                    trouble = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut trouble, true) {
                        tracing::warn!(
                            "what this node enforces cannot be reported; trying again: {}",
                            brief(&error)
                        );
                    }
                    sleep(AGAIN).await;
                }
            }
            continue;
        }
        if programmed.changed().await.is_err() {
            return;
        }
    }
}

/// The time over which the reports of so many nodes are spread.
pub(super) fn spread(nodes: usize) -> Duration {
    SPREAD
        .saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX))
        .min(MAX_SPREAD)
}

/// How many nodes the cluster has, as the statuses of policies tell everybody.
pub(super) fn fleet_size(policies: &Policies) -> usize {
    let sizes = policies.objects.iter().filter_map(|(_, entry)| {
        let tally = Tally::parse(entry.status.get("nodes")?.as_str()?)?;
        Some(tally.total)
    });
    sizes.max().unwrap_or(1).max(1)
}

/// The agent's own pod, with which its report goes.
async fn owner(cluster: &Cluster) -> Option<serde_json::Value> {
    let uid = cluster.pod_uid.as_deref()?;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let of_node = ListParams::default().fields(&format!("spec.nodeName={}", cluster.node));
    let pods = pods.list_metadata(&of_node).await.ok()?;
    let own = pods
        .items
        .into_iter()
        .find(|pod| pod.metadata.uid.as_deref() == Some(uid))?;
    Some(json!({ "apiVersion": "v1", "kind": "Pod", "name": own.metadata.name?, "uid": uid }))
}

async fn write(
    cluster: &Cluster,
    owner: Option<&serde_json::Value>,
    digest: &Digest,
) -> kube::Result<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = format!("ebfw-node-{}", cluster.node);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": { ROLE: NODE_ROLE },
            "annotations": { PROGRAMMED: digest.as_str() },
            "ownerReferences": owner.map_or_else(Vec::new, |owner| vec![owner]),
        },
        "spec": { "holderIdentity": cluster.node },
    });
    let parameters = PatchParams::apply(WRITER).force();
    leases
        .patch(&name, &parameters, &Patch::Apply(lease))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_spread_over_a_time_that_grows_with_the_cluster_and_ends() {
        for (nodes, expected) in [
            (0, Duration::ZERO),
            (1, SPREAD),
            (1000, Duration::from_secs(2)),
            (1_000_000, MAX_SPREAD),
        ] {
            assert_eq!(spread(nodes), expected, "{nodes}");
        }
    }
}
