//! Writes the status of policy objects, as the one agent of the cluster that holds the lease; the others wait for their turn.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ebfw_crd::{object, reason};
use ebfw_policy::object::ObjectId;
use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::{DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        events::{Event as Note, EventType, Recorder, Reporter},
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Cluster, Policies,
    pauses::Pauses,
    report::{NODE_ROLE, PROGRAMMED, ROLE, fleet_size},
};
use crate::{
    policy_objects::Entry,
    status::{Announcement, Claim, Digest, Due, Election, Fleet, Seen, due},
};

/// Name of the lease.
const LEASE: &str = "ebfw-status";
/// Without a word from its holder the lease is free.
const LENGTH: Duration = Duration::from_secs(30);
/// How often its holder speaks.
const RENEW: Duration = Duration::from_secs(10);
/// How often the others look, in a cluster of few nodes and in one of many: with 5,000 they look 83 times a second together.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// For each node so much less often.
const LOOK_A_NODE: Duration = Duration::from_millis(12);
/// After a change the writer waits for what else comes with it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often counts of nodes are written at most: each such write goes out to every node that watches policies.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Bytes of the text of a Kubernetes Event at most.
const MAX_NOTE: usize = 1000;

/// Runs for elections until nobody listens to policies any more.
pub(super) async fn run(cluster: Cluster, policies: watch::Receiver<Policies>) {
    let mut election = Election::new(&cluster.node, LENGTH);
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    loop {
        if claim(&cluster, &leases, &mut election).await {
            tracing::info!("this agent writes the status of policies");
            write_while(&cluster, &leases, &mut election, policies.clone()).await;
            tracing::info!("another agent writes the status of policies");
        }
        let (few, many) = LOOK;
        let nodes = u32::try_from(fleet_size(&policies.borrow())).unwrap_or(u32::MAX);
        let pause = LOOK_A_NODE.saturating_mul(nodes).clamp(few, many);
        sleep(pause.mul_f64(0.5 + super::random_part())).await;
        if policies.has_changed().is_err() {
            return;
        }
    }
}

/// Whether the lease is ours now. Two that write at a time: the API server refuses the second, whose version is old.
async fn claim(cluster: &Cluster, leases: &Api<Lease>, election: &mut Election) -> bool {
    let found = match leases.get_opt(LEASE).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "the lease cannot be read");
            return false;
        }
    };
    let seen = found.as_ref().map(|lease| Seen {
        holder: lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone()),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    });
    let now = MicroTime(Timestamp::now());
    let last = found.as_ref().and_then(|lease| lease.spec.clone());
    let mut spec = last.unwrap_or_default();
    match election.claim(seen, std::time::Instant::now()) {
        Claim::Wait => return false,
        Claim::Renew => {}
        Claim::Take => {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            resource_version: found
                .as_ref()
                .and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(cluster.node.clone()),
            lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
            renew_time: Some(now),
            ..spec
        }),
    };
    let parameters = PostParams::default();
    let written = match found {
        Some(_) => leases.replace(LEASE, &parameters, &lease).await,
        None => leases.create(&parameters, &lease).await,
    };
    if let Err(error) = &written {
        tracing::debug!(%error, "the lease cannot be written");
    }
    written.is_ok()
}

/// Writes statuses until the lease is lost.
async fn write_while(
    cluster: &Cluster,
    leases: &Api<Lease>,
    election: &mut Election,
    mut policies: watch::Receiver<Policies>,
) {
    let mut writer = Writer::new(cluster);
    let mut reports = reports(leases);
    let mut renew = Instant::now() + RENEW;
    let mut until = Instant::now() + LENGTH;
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
            () = sleep_until(renew) => {
                renew = Instant::now() + RENEW;
                if claim(cluster, leases, election).await {
                    until = Instant::now() + LENGTH;
                } else if Instant::now() > until {
                    return;
                } else if !matches!(timeout(RENEW, leases.get_opt(LEASE)).await, Ok(Err(_)) | Err(_)) {
                    // The API server answers, and still the lease is not ours.
                    return;
                }
            }
            () = sleep_until(next) => {
                let known = policies.borrow_and_update().clone();
                next = Instant::now() + writer.write(&known).await;
            }
        }
    }
}

type Reports = BoxStream<'static, watcher::Result<Event<PartialObjectMeta<Lease>>>>;

fn reports(leases: &Api<Lease>) -> Reports {
    let api: Api<PartialObjectMeta<Lease>> = Api::namespaced(
        leases.clone().into_client(),
        leases.namespace().unwrap_or_default(),
    );
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
                    let next = self.counted.get(id).map(|last| *last + COUNT_EVERY);
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
