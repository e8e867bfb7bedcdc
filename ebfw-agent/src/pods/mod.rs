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
    /// The pod object with this uid of its own was deleted.
    Deleted(NodeUid, String),
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
            Change::Deleted(uid, own) => {
                self.known.get(&uid).is_some_and(|known| known.uid == own) && self.delete(uid)
            }
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
        if self
            .known
            .get(&uid)
            .is_some_and(|known| is_own(&uid, known))
            && !is_own(&uid, &facts)
        {
            return false;
        }
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

/// Whether the object has this uid itself, and not by its annotation.
fn is_own(uid: &str, facts: &PodFacts) -> bool {
    facts.uid == uid
}

/// The uid under which the node's cgroups know a pod: kubelet writes a static pod's own into this annotation of the object that mirrors it, the hash of
/// the manifest or what stands there as `uid` (OpenShift's installer writes one). Whoever may make pods may write anything there: [`Pods`] gives
/// nobody the uid of another object.
#[must_use]
pub fn node_uid(uid: &str, annotations: &BTreeMap<String, String>) -> NodeUid {
    match annotations.get("kubernetes.io/config.mirror") {
        Some(own) if is_uid(own) => own.as_str().into(),
        _ => uid.into(),
    }
}

/// 32 hexadecimal digits, with dashes where a UUID has them or without.
fn is_uid(text: &str) -> bool {
    let dashes = match text.len() {
        32 => &[][..],
        36 => &[8, 13, 18, 23],
        _ => return false,
    };
    let fits = |(place, byte): (usize, u8)| {
        if dashes.contains(&place) {
            byte == b'-'
        } else {
            byte.is_ascii_hexdigit()
        }
    };
    text.bytes().enumerate().all(fits)
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

    fn gone(name: &str) -> Change {
        Change::Deleted(name.into(), name.to_owned())
    }

    fn all(names: &[&str]) -> Change {
        Change::All(names.iter().map(|name| NodeUid::from(*name)).collect())
    }

    #[test]
    fn pods_come_change_and_stay_known_after_their_end() {
        let mut pods = Pods::default();
        for (change, differs, count, why) in [
            (gone("a"), false, 0, "never known"),
            (known("a", "web"), true, 1, "new"),
            (known("a", "web"), false, 1, "the same again"),
            (known("a", "db"), true, 1, "another label"),
            (all(&["a"]), true, 1, "in sync for the first time"),
            (all(&["a"]), false, 1, "in sync again"),
            (known("b", "web"), true, 2, "a second"),
            (all(&["b"]), false, 1, "the first went while nobody watched"),
            (gone("b"), false, 0, "the second went"),
            (gone("b"), false, 0, "told twice"),
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
            pods.apply(gone(&name));
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

    /// An object called `object` that says of itself that it mirrors the pod with this uid.
    fn mirror(uid: &str, tier: &str) -> Change {
        Change::Known(uid.into(), facts("object", tier))
    }

    #[test]
    fn nobody_gets_the_uid_of_another_pod_by_an_annotation() {
        let own = |pods: &Pods| pods.get("a").unwrap().uid == "a";
        let mut pods = Pods::default();
        pods.apply(mirror("a", "forged"));
        assert!(!own(&pods));
        assert!(pods.apply(known("a", "web")), "the pod itself comes later");
        assert!(own(&pods));
        assert!(!pods.apply(mirror("a", "forged")));
        assert!(own(&pods), "it was there before");
        let forgery = Change::Deleted("a".into(), "object".to_owned());
        assert!(!pods.apply(forgery), "the forgery goes");
        assert_eq!(pods.len(), 1, "the pod is there still");
        pods.apply(gone("a"));
        assert_eq!(pods.len(), 0);
        assert!(!pods.apply(mirror("a", "forged")));
        assert!(own(&pods), "its processes end later");
    }

    #[test]
    fn a_mirror_is_made_anew_with_other_labels() {
        let mut pods = Pods::default();
        pods.apply(mirror("static", "web"));
        pods.apply(Change::Deleted("static".into(), "object".to_owned()));
        let mut anew = facts("another-object", "db");
        anew.name = "object".to_owned();
        pods.apply(Change::Known("static".into(), anew));
        assert_eq!(pods.get("static").unwrap().labels["tier"], "db");
        assert_eq!(pods.len(), 1);
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_of_its_manifest_or_the_uid_in_it() {
        let mirror = |value: &str| {
            BTreeMap::from([("kubernetes.io/config.mirror".to_owned(), value.to_owned())])
        };
        for own in [
            "58e5ad26e0d2ae3cbf2b8a5d6fd1ed0f",
            "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26",
        ] {
            assert_eq!(&*node_uid("object", &mirror(own)), own);
        }
        for other in [
            "",
            "hash",
            "58e5ad26e0d2ae3cbf2b8a5d6fd1ed0",
            "58e5ad26e0d2ae3cbf2b8a5d6fd1ed0g",
            "0fbe2a5ef3a44e2081e22b081fa10d26-",
            "0fbe2a5-ef3a4-4e20-81e2-2b081fa10d26",
            "0fbe2a5e_f3a4_4e20_81e2_2b081fa10d26",
            "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d2é",
        ] {
            assert_eq!(&*node_uid("object", &mirror(other)), "object", "{other}");
        }
        assert_eq!(&*node_uid("object", &BTreeMap::new()), "object");
    }
}
