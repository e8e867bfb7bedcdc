//! Writes the status of policy objects, as the one agent of the cluster that holds the lease; the others wait for their turn.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ebfw_crd::{object, reason};
use ebfw_policy::object::ObjectId;
use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::ObjectReference},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        events::{Event as Note, EventType, Recorder, Reporter},
        watcher::{self, Event, watcher},
    },
};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseParams};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Cluster, Policies,
    pauses::Pauses,
    report::{NODE_ROLE, PROGRAMMED, ROLE, fleet_size, spread},
};
use crate::{
    policy_objects::Entry,
    status::{Announcement, Digest, Due, Fleet, due},
};

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
/// After a change the writer waits for what else comes with it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often counts of nodes are written at most, beside the time over which nodes report: each such write goes out to every node that watches policies.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Bytes of the text of a Kubernetes Event at most.
const MAX_NOTE: usize = 1000;

/// Stands for elections until nobody listens to policies any more.
pub(super) async fn run(cluster: Cluster, mut policies: watch::Receiver<Policies>) {
    let name = field_manager(&cluster.node);
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
            stand(&cluster, &name, &policies).await;
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

/// Tries to have the lease for a term, and writes for as long as it has it.
async fn stand(cluster: &Cluster, name: &str, policies: &watch::Receiver<Policies>) {
    let parameters =
        LeaseParams::new(&cluster.node, LENGTH.as_secs(), EARLY.as_secs()).with_field_manager(name);
    let manager = LeaseManagerBuilder::new(cluster.client.clone(), LEASE)
        .with_namespace(&cluster.namespace)
        .with_parameters(parameters)
        .build()
        .await;
    let manager = match manager {
        Ok(manager) => manager,
        Err(error) => {
            tracing::debug!(%error, "the lease cannot be read");
            return sleep(AGAIN).await;
        }
    };
    match timeout(TERM, manager.changed()).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the lease cannot be had");
            return sleep(AGAIN).await;
        }
    }
    tracing::info!("this agent writes the status of policies");
    tokio::select! {
        () = lost(&manager) => tracing::info!("another agent writes the status of policies"),
        () = write(cluster, policies.clone()) => {}
    }
}

/// Renews the lease until somebody else has it.
async fn lost(manager: &LeaseManager) {
    loop {
        match manager.changed().await {
            Ok(true) => {}
            Ok(false) => return,
            // Who cannot renew it cannot write statuses either.
            Err(error) => {
                tracing::debug!(%error, "the lease cannot be renewed");
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

/// Writes statuses for as long as anybody listens to policies.
async fn write(cluster: &Cluster, mut policies: watch::Receiver<Policies>) {
    let mut writer = Writer::new(cluster);
    let mut reports = reports(cluster);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            event = reports.next() => match event {
                Some(Ok(event)) => {
                    writer.hear(event);
                    next = next.min(Instant::now() + SETTLE);
                }
                Some(Err(error)) => tracing::debug!(%error, "the reports of nodes cannot be watched"),
                None => return,
            },
            changed = policies.changed() => {
                if changed.is_err() {
                    return;
                }
                next = next.min(Instant::now() + SETTLE);
            }
            () = sleep_until(next) => {
                let known = policies.borrow_and_update().clone();
                next = Instant::now() + writer.write(&known).await;
            }
        }
    }
}

type Reports = BoxStream<'static, watcher::Result<Event<PartialObjectMeta<Lease>>>>;

fn reports(cluster: &Cluster) -> Reports {
    let api: Api<PartialObjectMeta<Lease>> =
        Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let config = watcher::Config::default().labels(&format!("{ROLE}={NODE_ROLE}"));
    watcher(api, config).backoff(Pauses::default()).boxed()
}

/// What the writer knows.
struct Writer {
    cluster: Cluster,
    recorder: Recorder,
    fleet: Fleet,
    seen: BTreeSet<String>,
    /// When the count of an object was written last.
    counted: HashMap<ObjectId, Instant>,
}

impl Writer {
    fn new(cluster: &Cluster) -> Self {
        let reporter = Reporter {
            controller: "ebfw".into(),
            instance: Some(cluster.node.clone()),
        };
        Self {
            recorder: Recorder::new(cluster.client.clone(), reporter),
            cluster: cluster.clone(),
            fleet: Fleet::default(),
            seen: BTreeSet::new(),
            counted: HashMap::new(),
        }
    }

    fn hear(&mut self, event: Event<PartialObjectMeta<Lease>>) {
        match event {
            Event::Init => self.seen.clear(),
            Event::InitApply(lease) => {
                let name = self.report(lease);
                self.seen.insert(name);
            }
            Event::InitDone => self.fleet.only(&self.seen),
            Event::Apply(lease) => drop(self.report(lease)),
            Event::Delete(lease) => {
                self.fleet.gone(&lease.metadata.name.unwrap_or_default());
            }
        }
    }

    fn report(&mut self, lease: PartialObjectMeta<Lease>) -> String {
        let name = lease.metadata.name.unwrap_or_default();
        let annotations = lease.metadata.annotations.unwrap_or_default();
        if let Some(digest) = annotations.get(PROGRAMMED) {
            self.fleet.reported(&name, Digest::reported(digest));
        }
        name
    }

    /// Writes what is due, and says how long nothing else is.
    async fn write(&mut self, policies: &Policies) -> Duration {
        let objects = &policies.objects;
        if !objects.is_complete() {
            return COUNT_EVERY;
        }
        self.fleet.objects(&objects.versions());
        let entries: Vec<_> = objects.iter().collect();
        let tallies = self
            .fleet
            .tally(entries.iter().map(|(_, entry)| &entry.version));
        self.counted
            .retain(|id, _| entries.iter().any(|(known, _)| *known == id));
        let mut pause = LENGTH;
        for ((id, entry), tally) in entries.into_iter().zip(tallies) {
            let (patch, announcement) = match due(entry, tally, Timestamp::now()) {
                Due::Nothing => continue,
                Due::Now(patch, announcement) => (patch, announcement),
                Due::Count(patch) => {
                    let between = COUNT_EVERY + spread(tally.total);
                    let next = self.counted.get(id).map(|last| *last + between);
                    let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
                    if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
                        pause = pause.min(wait);
                        continue;
                    }
                    (patch, None)
                }
            };
            match self.patch(id, patch).await {
                Ok(()) => {
                    self.counted.insert(id.clone(), Instant::now());
                    if let Some(announcement) = announcement {
                        self.announce(id, entry, announcement).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(object = %id, %error, "a status cannot be written; trying again");
                    pause = pause.min(COUNT_EVERY);
                }
            }
        }
        pause
    }

    async fn patch(&self, id: &ObjectId, patch: serde_json::Value) -> kube::Result<()> {
        let resource = object::resource(id.kind());
        let client = self.cluster.client.clone();
        let api: Api<DynamicObject> = match id.namespace() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        api.patch_status(id.name(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }

    /// A Kubernetes Event at the object. It is a courtesy: the status says the same.
    async fn announce(&self, id: &ObjectId, entry: &Entry, announcement: Announcement) {
        let resource = object::resource(id.kind());
        let reference = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(id.name().to_owned()),
            namespace: id.namespace().map(str::to_owned),
            uid: Some(entry.version.uid.clone()),
            ..ObjectReference::default()
        };
        let Announcement { accepted, mut text } = announcement;
        while text.len() > MAX_NOTE {
            text.pop();
        }
        let note = Note {
            type_: if accepted {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: if accepted {
                reason::VALIDATED
            } else {
                reason::VALIDATION_FAILED
            }
            .to_owned(),
            note: Some(text),
            action: "Validate".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&note, &reference).await {
            tracing::debug!(object = %id, %error, "an Event cannot be written");
        }
    }
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
