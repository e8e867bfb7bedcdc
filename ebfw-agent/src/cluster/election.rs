//! Which agent of the cluster writes the status of policy objects: the one that holds a lease; the others wait for their turn.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Cluster, Policies, outage::Trouble, report::fleet_size, writer};

/// Name of the lease.
const LEASE: &str = "ebfw-status";
/// Without a word from its holder the lease is free.
const LENGTH: Duration = Duration::from_secs(30);
/// So long before that its holder renews it.
const EARLY: Duration = Duration::from_secs(20);
/// How many agents of a large cluster stand for the lease at a time, on the average: they all look at it in the moment at which it would end.
const CANDIDATES: f64 = 8.0;
/// After so long they are drawn anew.
const TERM: Duration = Duration::from_secs(60);
/// Agents that start together, or hear of the first policy together, look at the lease over so long a time.
const TOGETHER: Duration = Duration::from_secs(1);
/// Pause after a request about the lease that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Stands for elections until nobody listens to policies any more.
pub(super) async fn run(cluster: Cluster, mut policies: watch::Receiver<Policies>) {
    let mut candidate = Candidate::new(&cluster);
    // Without an object there is nothing to write.
    let needed =
        |policies: &Policies| policies.objects.is_complete() && !policies.objects.is_empty();
    sleep(TOGETHER.mul_f64(super::random_part())).await;
    loop {
        if policies.wait_for(needed).await.is_err() {
            return;
        }
        let nodes = fleet_size(&policies.borrow());
        if stands(nodes, super::random_part()) {
            candidate.stand(&policies).await;
        } else {
            sleep(TERM).await;
        }
    }
}

/// Whether one of so many agents takes part for a term; `part`: chance, between 0 and 1.
fn stands(nodes: usize, part: f64) -> bool {
    let nodes = f64::from(u32::try_from(nodes).unwrap_or(u32::MAX));
    part * nodes <= CANDIDATES
}

/// Who stands for the lease.
struct Candidate {
    cluster: Cluster,
    /// Among those that write it.
    name: String,
    leases: Api<Lease>,
    /// The lease of somebody else as it was at the end of the last term.
    seen: Option<String>,
    trouble: Trouble,
}

impl Candidate {
    fn new(cluster: &Cluster) -> Self {
        Self {
            name: field_manager(&cluster.node),
            leases: Api::namespaced(cluster.client.clone(), &cluster.namespace),
            cluster: cluster.clone(),
            seen: None,
            trouble: Trouble::new(
                "the lease `ebfw-status` cannot be had, without which this agent writes no status of policies; trying again",
            ),
        }
    }

    /// Tries to have the lease for a term, and writes for as long as it has it.
    async fn stand(&mut self, policies: &watch::Receiver<Policies>) {
        let manager = match self.manager().await {
            Ok(manager) => manager,
            Err(error) => return self.rest(&error).await,
        };
        match timeout(TERM, manager.changed()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(error)) => return self.rest(&error).await,
            Err(_somebody_has_it) => {
                return match self.free_what_nobody_renews().await {
                    Ok(()) => self.trouble.over(),
                    Err(error) => self.rest(&LeaseManagerError::from(error)).await,
                };
            }
        }
        self.trouble.over();
        self.seen = None;
        tracing::info!("this agent writes the status of policies");
        tokio::select! {
            () = lost(&manager) => tracing::info!("this agent no longer writes the status of policies"),
            () = writer::run(&self.cluster, policies.clone()) => {}
        }
    }

    async fn manager(&self) -> Result<LeaseManager, LeaseManagerError> {
        let parameters = LeaseParams::new(&self.cluster.node, LENGTH.as_secs(), EARLY.as_secs())
            .with_field_manager(&self.name);
        LeaseManagerBuilder::new(self.cluster.client.clone(), LEASE)
            .with_namespace(&self.cluster.namespace)
            .with_parameters(parameters)
            .build()
            .await
    }

    async fn rest(&mut self, error: &LeaseManagerError) {
        match error {
            LeaseManagerError::KubeError(error) => self.trouble.failed(error),
            error => tracing::debug!(%error, "the lease cannot be had"),
        }
        sleep(AGAIN).await;
    }

    /// A lease that is the same after a whole term is free, whatever times stand in it: who held it is gone, and its clock was ahead.
    async fn free_what_nobody_renews(&mut self) -> kube::Result<()> {
        let Some(lease) = self.leases.get_metadata_opt(LEASE).await? else {
            return Ok(());
        };
        let now = lease.metadata.resource_version;
        if now.is_none() || self.seen != now {
            self.seen = now;
            return Ok(());
        }
        tracing::info!("nobody renews the lease `{LEASE}`, whatever its times say: it is free");
        // Unless somebody writes it in this moment.
        let free = json!({
            "metadata": { "resourceVersion": now },
            "spec": { "holderIdentity": null, "acquireTime": null, "renewTime": null, "leaseDurationSeconds": null },
        });
        let parameters = PatchParams {
            field_manager: Some(self.name.clone()),
            ..PatchParams::default()
        };
        match self
            .leases
            .patch_metadata(LEASE, &parameters, &Patch::Merge(free))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            freed => freed.map(drop),
        }
    }
}

/// Renews the lease until somebody else has it, or nobody can know.
async fn lost(manager: &LeaseManager) {
    let mut renewed = Instant::now();
    loop {
        match timeout(LENGTH, manager.changed()).await {
            // Renewals are no change.
            Ok(Ok(true)) | Err(_) => renewed = Instant::now(),
            Ok(Ok(false)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the lease cannot be renewed");
                // Deleted, or another's by now.
                let gone = matches!(error, LeaseManagerError::NonexistentLease(_));
                if gone || renewed.elapsed() > LENGTH {
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// An agent's name among those that write the lease: 128 bytes at most, and a node's name may have more.
fn field_manager(node: &str) -> String {
    let digest = Sha256::digest(node);
    let short = digest[..8]
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    format!("ebfw-{short:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_agents_of_a_small_cluster_stand_and_few_of_a_large_one() {
        for (nodes, part, expected) in [
            (1, 1.0, true),
            (8, 1.0, true),
            (16, 0.5, true),
            (16, 0.51, false),
            (5000, 0.0016, true),
            (5000, 0.0017, false),
        ] {
            assert_eq!(stands(nodes, part), expected, "{nodes} {part}");
        }
    }

    #[test]
    fn an_agent_has_a_name_of_its_own_that_the_api_server_takes() {
        let names = ["a", "b", &"n".repeat(253)].map(field_manager);
        assert!(names.iter().all(|name| name.len() <= 128), "{names:?}");
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
    }
}
