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
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Cluster, Policies,
    outage::{Outage, Trouble},
    pace::Pace,
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
/// Texts of Kubernetes Events that are remembered, so that one that is said again is counted and not written anew.
const MAX_TEXTS: usize = 256;

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
            () = write(&self.cluster, policies.clone()) => {}
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

/// Writes statuses for as long as anybody listens to policies.
async fn write(cluster: &Cluster, mut policies: watch::Receiver<Policies>) {
    let mut writer = Writer::new(cluster);
    let mut reports = reports(cluster);
    let mut outage = Outage::new("reports of nodes (leases)");
    let mut next = Instant::now();
    loop {
        tokio::select! {
            event = reports.next() => match event {
                Some(Ok(event)) => {
                    outage.heard(&event);
                    writer.hear(event);
                    next = next.min(Instant::now() + SETTLE);
                }
                Some(Err(error)) => drop(outage.failed(&error)),
                None => return,
            },
            changed = policies.changed() => {
                if changed.is_err() {
                    return;
                }
                // Nodes may report each of the sets that lie between two looks.
                writer.saw(&policies.borrow_and_update());
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
    /// One for each text: a recorder takes another text about an object for the first one again.
    recorders: HashMap<String, Recorder>,
    fleet: Fleet,
    seen: BTreeSet<String>,
    /// Of each object whose status was written.
    written: HashMap<ObjectId, Written>,
    statuses: Trouble,
    events: Trouble,
}

/// What was written about an object.
struct Written {
    pace: Pace,
    last: Instant,
}

impl Writer {
    fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            recorders: HashMap::new(),
            fleet: Fleet::default(),
            seen: BTreeSet::new(),
            written: HashMap::new(),
            statuses: Trouble::new("the status of policies cannot be written; trying again"),
            events: Trouble::new(
                "Kubernetes Events about policies cannot be written (their status says the same)",
            ),
        }
    }

    fn saw(&mut self, policies: &Policies) {
        if policies.objects.is_complete() {
            self.fleet.objects(&policies.objects.versions());
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
            self.fleet
                .reported(&name, Digest::reported(digest), Instant::now().into_std());
        }
        name
    }

    /// Writes what is due, and says how long nothing else is.
    async fn write(&mut self, policies: &Policies) -> Duration {
        let objects = &policies.objects;
        if !objects.is_complete() {
            return COUNT_EVERY;
        }
        self.saw(policies);
        let entries: Vec<_> = objects.iter().collect();
        let tallies = self.fleet.tally(
            entries.iter().map(|(_, entry)| &entry.version),
            Instant::now().into_std(),
        );
        self.written
            .retain(|id, _| entries.iter().any(|(known, _)| *known == id));
        let mut pause = LENGTH;
        for ((id, entry), tally) in entries.into_iter().zip(tallies) {
            let (patch, announcement, between) = match due(entry, tally, Timestamp::now()) {
                Due::Nothing => continue,
                Due::Now(patch, announcement) => (patch, announcement, Duration::ZERO),
                Due::Count(patch) => (patch, None, COUNT_EVERY + spread(tally.total)),
            };
            let wait = self.wait(id, between);
            if !wait.is_zero() {
                pause = pause.min(wait);
                continue;
            }
            match self.patch(id, patch).await {
                Ok(()) => {
                    self.statuses.over();
                    self.note(id);
                    if let Some(announcement) = announcement {
                        self.announce(id, entry, announcement).await;
                    }
                }
                Err(error) => {
                    self.statuses.failed(&error);
                    pause = pause.min(COUNT_EVERY);
                }
            }
        }
        pause
    }

    /// How long the status of an object may not be written, with so much time between two writes.
    fn wait(&self, id: &ObjectId, between: Duration) -> Duration {
        let now = Instant::now();
        self.written.get(id).map_or(Duration::ZERO, |written| {
            let next = (written.last + between).saturating_duration_since(now);
            next.max(written.pace.wait(now))
        })
    }

    fn note(&mut self, id: &ObjectId) {
        let now = Instant::now();
        let written = self.written.entry(id.clone()).or_insert_with(|| Written {
            pace: Pace::new(now),
            last: now,
        });
        written.pace.written(now);
        written.last = now;
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
    async fn announce(&mut self, id: &ObjectId, entry: &Entry, announcement: Announcement) {
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
            note: Some(text.clone()),
            action: "Validate".to_owned(),
            secondary: None,
        };
        match self.recorder(text).publish(&note, &reference).await {
            Ok(()) => self.events.over(),
            Err(error) => self.events.failed(&error),
        }
    }

    fn recorder(&mut self, text: String) -> &Recorder {
        // Of what is forgotten there is another Event when it is said again.
        if self.recorders.len() >= MAX_TEXTS && !self.recorders.contains_key(&text) {
            self.recorders.clear();
        }
        let cluster = &self.cluster;
        self.recorders.entry(text).or_insert_with(|| {
            let reporter = Reporter {
                controller: "ebfw".into(),
                instance: Some(cluster.node.clone()),
            };
            Recorder::new(cluster.client.clone(), reporter)
        })
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
