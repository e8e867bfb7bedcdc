//! Writes the status of policy objects, as the one agent of the cluster that was elected.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
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
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Cluster, Policies,
    outage::{Outage, Trouble},
    pace::Pace,
    pauses::Pauses,
    report::{NODE_ROLE, PROGRAMMED, ROLE, spread},
};
use crate::{
    policy_objects::Entry,
    status::{Announcement, Digest, Due, Fleet, due},
};

/// Without news the writer looks again after so long a time.
const REST: Duration = Duration::from_secs(30);
/// After a change the writer waits for what else comes with it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often counts of nodes are written at most, beside the time over which nodes report: each such write goes out to every node that watches policies.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Bytes of the text of a Kubernetes Event at most.
const MAX_NOTE: usize = 1000;
/// Texts of Kubernetes Events that are remembered, so that one that is said again is counted and not written anew.
const MAX_TEXTS: usize = 256;

/// Writes statuses for as long as anybody listens to policies.
pub(super) async fn run(cluster: &Cluster, mut policies: watch::Receiver<Policies>) {
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
        let known: HashSet<_> = entries.iter().map(|(id, _)| *id).collect();
        self.written.retain(|id, _| known.contains(id));
        let mut pause = REST;
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
