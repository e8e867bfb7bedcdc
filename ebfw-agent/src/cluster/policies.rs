//! The policy objects of the cluster, as the API server tells of them.

use std::{collections::HashSet, mem};

use ebfw_crd::object;
use ebfw_policy::object::{Kind, ObjectId};
use futures::{StreamExt as _, stream};
use kube::{
    Api,
    core::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;

use super::{
    Cluster,
    outage::{Cause, Outage},
    pauses::Pauses,
};
use crate::{
    metrics::Readiness,
    policy_objects::{Change, Effect, PolicyObjects},
};

/// What is known of the cluster's policy objects.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The objects.
    pub objects: PolicyObjects,
    /// Whether the cluster does not know a kind of which no object was ever heard.
    pub not_installed: bool,
}

impl Cluster {
    /// Watches the policy objects of both kinds until nobody listens any more.
    #[must_use]
    pub fn policies(&self) -> watch::Receiver<Policies> {
        let (publish, policies) = watch::channel(Policies::default());
        let streams = Kind::ALL.map(|kind| {
            let api: Api<DynamicObject> =
                Api::all_with(self.client.clone(), &object::resource(kind));
            watcher(api, watcher::Config::default())
                .backoff(Pauses::default())
                .map(move |event| (kind, event))
                .boxed()
        });
        let mut events = stream::select_all(streams);
        let mut watches = Kind::ALL.map(|kind| Watch::new(kind, &self.readiness));
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    event = events.next() => event,
                    () = publish.closed() => return,
                };
                let Some((kind, event)) = next else {
                    return;
                };
                let Some(watch) = watches.iter_mut().find(|watch| watch.kind == kind) else {
                    continue;
                };
                let change = watch.read(event);
                let not_installed = watches
                    .iter()
                    .any(|watch| watch.cause == Some(Cause::NoSuchKind));
                publish.send_if_modified(|policies| {
                    let effect =
                        change.map_or(Effect::None, |change| policies.objects.apply(change));
                    let news = mem::replace(&mut policies.not_installed, not_installed);
                    effect > Effect::None || news != not_installed
                });
            }
        });
        policies
    }
}

/// The watch of one kind.
struct Watch {
    kind: Kind,
    outage: Outage,
    /// Why it is down.
    cause: Option<Cause>,
    /// What was read since the list began.
    seen: HashSet<ObjectId>,
}

impl Watch {
    fn new(kind: Kind, readiness: &Readiness) -> Self {
        let what = match kind {
            Kind::ClusterEgressPolicy => "ClusterEgressPolicies",
            Kind::EgressPolicy => "EgressPolicies",
        };
        Self {
            kind,
            outage: Outage::new(what).needed_by(readiness),
            cause: None,
            seen: HashSet::new(),
        }
    }

    fn read(&mut self, event: watcher::Result<Event<DynamicObject>>) -> Option<Change> {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.cause = self.outage.failed(&error);
                return None;
            }
        };
        self.outage.heard(&event);
        if !matches!(event, Event::Init) {
            self.cause = None;
        }
        match event {
            Event::Init => {
                self.seen.clear();
                None
            }
            Event::InitApply(known) => {
                self.seen.insert(object::id(self.kind, &known));
                Some(Change::Known(self.kind, Box::new(known)))
            }
            Event::InitDone => Some(Change::All(self.kind, mem::take(&mut self.seen))),
            Event::Apply(known) => Some(Change::Known(self.kind, Box::new(known))),
            Event::Delete(gone) => Some(Change::Deleted(object::id(self.kind, &gone))),
        }
    }
}
