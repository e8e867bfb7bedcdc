//! The pods of this node, as the API server tells of them: metadata alone, of this node alone.

use std::{collections::HashSet, mem, sync::Arc};

use ebfw_policy::workload::PodFacts;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;

use super::{Cluster, outage::Outage, pauses::Pauses};
use crate::pods::{Change, NodeUid, Pods, node_uid};

impl Cluster {
    /// Watches the pods of the node until nobody listens any more.
    #[must_use]
    pub fn pods(&self) -> watch::Receiver<Pods> {
        let (publish, pods) = watch::channel(Pods::default());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let api: Api<PartialObjectMeta<Pod>> = Api::all(self.client.clone());
        let mut events = watcher(api, config).backoff(Pauses::default()).boxed();
        let readiness = self.readiness.clone();
        tokio::spawn(async move {
            let mut outage = Outage::new("pods").needed_by(&readiness);
            let mut reader = Reader::default();
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = publish.closed() => return,
                };
                match event {
                    Some(Ok(event)) => {
                        outage.heard(&event);
                        if let Some(change) = reader.read(event) {
                            publish.send_if_modified(|pods| pods.apply(change));
                        }
                    }
                    Some(Err(error)) => drop(outage.failed(&error)),
                    None => return,
                }
            }
        });
        pods
    }
}

/// What is read anew is complete only at its end.
#[derive(Debug, Default)]
struct Reader {
    seen: HashSet<NodeUid>,
}

impl Reader {
    fn read(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Option<Change> {
        match event {
            Event::Init => {
                self.seen.clear();
                None
            }
            Event::InitApply(pod) => {
                let (uid, facts) = facts(pod)?;
                self.seen.insert(Arc::clone(&uid));
                Some(Change::Known(uid, facts))
            }
            Event::InitDone => Some(Change::All(mem::take(&mut self.seen))),
            Event::Apply(pod) => facts(pod).map(|(uid, facts)| Change::Known(uid, facts)),
            Event::Delete(pod) => facts(pod).map(|(uid, facts)| Change::Deleted(uid, facts.uid)),
        }
    }
}

/// `None` for what the API server never sends: a pod without a uid or a name.
fn facts(pod: PartialObjectMeta<Pod>) -> Option<(NodeUid, PodFacts)> {
    let metadata = pod.metadata;
    let uid = metadata.uid?;
    let node_uid = node_uid(&uid, &metadata.annotations.unwrap_or_default());
    let facts = PodFacts {
        namespace: metadata.namespace?,
        name: metadata.name?,
        uid,
        labels: metadata.labels.unwrap_or_default(),
    };
    Some((node_uid, facts))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::ObjectMeta;

    use super::*;

    fn pod(name: &str, tier: &str) -> PartialObjectMeta<Pod> {
        let labels = BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
        PartialObjectMeta {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("shop".to_owned()),
                uid: Some(format!("uid-{name}")),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..PartialObjectMeta::default()
        }
    }

    fn known(pods: &Pods) -> Vec<&str> {
        let mut known: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .filter(|name| pods.get(&format!("uid-{name}")).is_some())
            .collect();
        known.sort_unstable();
        known
    }

    #[test]
    fn a_list_that_is_read_again_leaves_no_gap_and_forgets_what_went() {
        let mut reader = Reader::default();
        let mut pods = Pods::default();
        for (event, expected, count, why) in [
            (Event::Init, vec![], 0, "the list begins"),
            (
                Event::InitApply(pod("a", "web")),
                vec!["a"],
                1,
                "known at once",
            ),
            (
                Event::InitApply(pod("b", "web")),
                vec!["a", "b"],
                2,
                "known at once",
            ),
            (Event::InitDone, vec!["a", "b"], 2, "the list is complete"),
            (
                Event::Apply(pod("c", "web")),
                vec!["a", "b", "c"],
                3,
                "a new pod",
            ),
            (
                Event::Delete(pod("a", "web")),
                vec!["a", "b", "c"],
                2,
                "deleted",
            ),
            (
                Event::Init,
                vec!["a", "b", "c"],
                2,
                "read again: what is known stays meanwhile",
            ),
            (
                Event::InitApply(pod("c", "db")),
                vec!["a", "b", "c"],
                2,
                "another label",
            ),
            (
                Event::InitDone,
                vec!["a", "b", "c"],
                1,
                "one went while nobody watched",
            ),
        ] {
            if let Some(change) = reader.read(event) {
                pods.apply(change);
            }
            assert_eq!(known(&pods), expected, "{why}");
            assert_eq!(pods.len(), count, "{why}");
        }
        assert_eq!(pods.get("uid-c").unwrap().labels["tier"], "db");
    }
}
