//! The pods of this node: what is known of them, and which of them a cgroup belongs to.
//!
//! Pure: what the API server says goes in as events, look-ups come out. Watching is the part of [`crate::cluster`].

pub mod layout;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use ebfw_policy::workload::PodFacts;

/// Deleted pods that are still known: their cgroups end after the object, and their last events come later still.
const REMEMBERED: usize = 1024;

/// The uid by which the node knows a pod: of a static pod the hash of its manifest, which is what its cgroup is called after.
pub type NodeUid = Arc<str>;

/// What the API server says about pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A pod is there, or changed.
    Known(NodeUid, PodFacts),
    /// A pod object was deleted.
    Deleted(NodeUid),
    /// These are all pods of the node.
    All(HashSet<NodeUid>),
}

/// The pods of this node. Cheap to copy; a copy does not change.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    known: Arc<HashMap<NodeUid, Arc<PodFacts>>>,
    /// Those of them whose object is gone, oldest first.
    deleted: Arc<VecDeque<NodeUid>>,
    synced: bool,
}

impl Pods {
    /// Takes in a change; whether anything is different now.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Known(uid, facts) => self.learn(uid, facts),
            Change::Deleted(uid) => self.delete(uid),
            Change::All(present) => {
                let gone: Vec<_> = self
                    .known
                    .keys()
                    .filter(|uid| !present.contains(*uid))
                    .cloned()
                    .collect();
                let mut changed = !std::mem::replace(&mut self.synced, true);
                for uid in gone {
                    changed |= self.delete(uid);
                }
                changed
            }
        }
    }

    fn learn(&mut self, uid: NodeUid, facts: PodFacts) -> bool {
        if self.deleted.contains(&uid) {
            Arc::make_mut(&mut self.deleted).retain(|deleted| *deleted != uid);
        }
        if self.known.get(&uid).is_some_and(|known| **known == facts) {
            return false;
        }
        Arc::make_mut(&mut self.known).insert(uid, Arc::new(facts));
        true
    }

    /// A pod whose object is gone keeps its facts, and so its policy, for as long as it may still run.
    fn delete(&mut self, uid: NodeUid) -> bool {
        if !self.known.contains_key(&uid) || self.deleted.contains(&uid) {
            return false;
        }
        let deleted = Arc::make_mut(&mut self.deleted);
        deleted.push_back(uid);
        let oldest = (deleted.len() > REMEMBERED).then(|| deleted.pop_front());
        match oldest.flatten() {
            Some(oldest) => Arc::make_mut(&mut self.known).remove(&oldest).is_some(),
            None => false,
        }
    }

    /// What is known of a pod.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Arc<PodFacts>> {
        self.known.get(uid)
    }

    /// Whether all pods of the node were known at some time.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many pods are known whose object exists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len() - self.deleted.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The uid under which the node's cgroups know a pod: kubelet writes a static pod's own into this annotation of the object that mirrors it.
/// It is a hash without dashes. Whoever may make pods may write anything there; taken as it is, it would give the pod of somebody else, whose uid
/// has dashes, another name and other labels.
#[must_use]
pub fn node_uid(uid: &str, annotations: &BTreeMap<String, String>) -> NodeUid {
    let is_hash =
        |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match annotations.get("kubernetes.io/config.mirror") {
        Some(own) if is_hash(own) => own.as_str().into(),
        _ => uid.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, tier: &str) -> PodFacts {
        PodFacts {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
        }
    }

    fn known(name: &str, tier: &str) -> Change {
        Change::Known(name.into(), facts(name, tier))
    }

    fn all(names: &[&str]) -> Change {
        Change::All(names.iter().map(|name| NodeUid::from(*name)).collect())
    }

    #[test]
    fn pods_come_change_and_stay_known_after_their_end() {
        let mut pods = Pods::default();
        for (change, differs, count, why) in [
            (Change::Deleted("a".into()), false, 0, "never known"),
            (known("a", "web"), true, 1, "new"),
            (known("a", "web"), false, 1, "the same again"),
            (known("a", "db"), true, 1, "another label"),
            (all(&["a"]), true, 1, "in sync for the first time"),
            (all(&["a"]), false, 1, "in sync again"),
            (known("b", "web"), true, 2, "a second"),
            (all(&["b"]), false, 1, "the first went while nobody watched"),
            (Change::Deleted("b".into()), false, 0, "the second went"),
            (Change::Deleted("b".into()), false, 0, "told twice"),
        ] {
            assert_eq!(pods.apply(change), differs, "{why}");
            assert_eq!(pods.len(), count, "{why}");
        }
        assert!(pods.get("a").is_some(), "its cgroup may still be there");
        pods.apply(known("a", "web"));
        assert_eq!(pods.len(), 1, "back again");
    }

    #[test]
    fn only_so_many_deleted_pods_are_known() {
        let mut pods = Pods::default();
        for number in 0..REMEMBERED + 10 {
            let name = format!("pod-{number}");
            pods.apply(known(&name, "web"));
            pods.apply(Change::Deleted(name.as_str().into()));
        }
        assert!(pods.is_empty());
        assert!(pods.get("pod-9").is_none(), "too long ago");
        assert!(pods.get("pod-10").is_some());
    }

    #[test]
    fn a_copy_does_not_change() {
        let mut pods = Pods::default();
        pods.apply(known("a", "web"));
        let copy = pods.clone();
        pods.apply(known("a", "db"));
        assert_eq!(copy.get("a").unwrap().labels["tier"], "web");
        assert_eq!(pods.get("a").unwrap().labels["tier"], "db");
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_of_its_manifest() {
        let mirror = |value: &str| {
            BTreeMap::from([("kubernetes.io/config.mirror".to_owned(), value.to_owned())])
        };
        let hash = "58e5ad26e0d2ae3cbf2b8a5d6fd1ed0f";
        assert_eq!(&*node_uid("object", &mirror(hash)), hash);
        for forged in ["", "hash", "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26"] {
            assert_eq!(&*node_uid("object", &mirror(forged)), "object", "{forged}");
        }
        assert_eq!(&*node_uid("object", &BTreeMap::new()), "object");
    }
}
