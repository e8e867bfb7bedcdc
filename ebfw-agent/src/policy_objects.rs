//! The policy objects of the cluster: what was made of each, and which of them are in force.
//!
//! Pure: what the API server says goes in, the set of policies and the verdict on each object come out. One object cannot harm another.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ebfw_crd::{LastValid, PolicyStatus, object};
use ebfw_policy::{
    compile::Names,
    object::{Kind, ObjectId, PolicyObject},
    policy_set::PolicySet,
};
use kube::core::DynamicObject;
use serde_json::{Value, json};

/// What the API server says about objects of a kind.
#[derive(Debug)]
pub enum Change {
    /// One is there, or changed.
    Known(Kind, Box<DynamicObject>),
    /// One was deleted.
    Deleted(ObjectId),
    /// These are all of this kind.
    All(Kind, HashSet<ObjectId>),
}

/// Every object of the cluster and what was made of it. Cheap to copy; a copy does not change.
#[derive(Clone, Debug, Default)]
pub struct PolicyObjects {
    objects: Arc<BTreeMap<ObjectId, Entry>>,
    /// Kinds of which all objects are known.
    complete: [bool; Kind::ALL.len()],
}

/// One object.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which version of which object: another object may have the same name later.
    pub version: Version,
    /// How many rules it has, or what is wrong with it, in one line.
    pub verdict: Result<usize, String>,
    /// What is in force: this version, or the last one that was valid.
    pub in_force: Option<Valid>,
    /// What the object's status says, as the API server has it.
    pub status: Value,
}

/// A valid version of an object.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Its generation.
    pub generation: i64,
    /// What it says.
    pub policy: Arc<PolicyObject>,
    /// The same, as JSON.
    pub spec: Arc<str>,
}

/// A version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// The object.
    pub uid: String,
    /// Its generation: counts changes of `spec`.
    pub generation: i64,
}

/// What a change changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing.
    None,
    /// What statuses say.
    Status,
    /// What is in force, or what was made of an object.
    Policy,
}

impl PolicyObjects {
    /// Takes in a change.
    pub fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::Known(kind, object) => self.learn(kind, &object),
            Change::Deleted(id) => self.delete(&id),
            Change::All(kind, present) => {
                let gone: Vec<_> = self
                    .objects
                    .keys()
                    .filter(|id| id.kind() == kind && !present.contains(*id))
                    .cloned()
                    .collect();
                let news = !std::mem::replace(&mut self.complete[place(kind)], true);
                for id in &gone {
                    self.delete(id);
                }
                if news || !gone.is_empty() {
                    Effect::Policy
                } else {
                    Effect::None
                }
            }
        }
    }

    fn learn(&mut self, kind: Kind, object: &DynamicObject) -> Effect {
        let id = object::id(kind, object);
        let version = Version {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
        };
        let status = object.data.get("status").cloned().unwrap_or_default();
        let objects = Arc::make_mut(&mut self.objects);
        if let Some(entry) = objects.get_mut(&id)
            && entry.version == version
        {
            if entry.status == status {
                return Effect::None;
            }
            entry.status = status;
            // Somebody else knows a later valid version than this agent has seen.
            let told = entry.verdict.is_err().then(|| entry.told(kind, object));
            return match told.flatten() {
                Some(told) if entry.is_newer(&told) => {
                    entry.in_force = Some(told);
                    Effect::Policy
                }
                Some(_) | None => Effect::Status,
            };
        }
        // What another object of that name said is of no account.
        let last = objects
            .remove(&id)
            .filter(|entry| entry.version.uid == version.uid)
            .and_then(|entry| entry.in_force);
        let mut entry = Entry {
            version,
            verdict: Ok(0),
            in_force: last,
            status,
        };
        match read(kind, object) {
            Ok(policy) => {
                entry.verdict = Ok(policy.policy().rules.len());
                entry.in_force = Some(Valid {
                    generation: entry.version.generation,
                    policy: Arc::new(policy),
                    spec: object.data["spec"].to_string().into(),
                });
            }
            Err(why) => {
                entry.verdict = Err(why);
                if let Some(told) = entry.told(kind, object)
                    && entry.is_newer(&told)
                {
                    entry.in_force = Some(told);
                }
            }
        }
        objects.insert(id, entry);
        Effect::Policy
    }

    fn delete(&mut self, id: &ObjectId) -> Effect {
        match Arc::make_mut(&mut self.objects).remove(id) {
            Some(_) => Effect::Policy,
            None => Effect::None,
        }
    }

    /// Whether all objects of both kinds were known at some time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.iter().all(|complete| *complete)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Every object.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Entry)> {
        self.objects.iter()
    }

    /// What is in force.
    #[must_use]
    pub fn in_force(&self) -> PolicySet {
        PolicySet::new(
            self.objects
                .values()
                .filter_map(|entry| Some(Arc::clone(&entry.in_force.as_ref()?.policy))),
        )
    }

    /// What is known and in force, to be compared.
    #[must_use]
    pub fn standing(&self) -> Vec<(Version, Option<i64>)> {
        let standing = |entry: &Entry| {
            let valid = entry.in_force.as_ref().map(|valid| valid.generation);
            (entry.version.clone(), valid)
        };
        self.objects.values().map(standing).collect()
    }

    /// The versions that a node has which enforces all of this.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        let mut versions: Vec<_> = self
            .objects
            .values()
            .map(|entry| entry.version.clone())
            .collect();
        versions.sort_unstable();
        versions
    }
}

impl Entry {
    /// The last valid version, as the status of the object tells of it: for agents that have not seen it themselves. It is held to what every
    /// version is held to.
    fn told(&self, kind: Kind, object: &DynamicObject) -> Option<Valid> {
        let status: PolicyStatus = serde_json::from_value(self.status.clone()).ok()?;
        let LastValid { generation, spec } = status.last_valid?;
        if generation >= self.version.generation {
            return None;
        }
        let mut last = object.clone();
        last.data = json!({ "spec": serde_json::from_str::<Value>(&spec).ok()? });
        let policy = read(kind, &last)
            .inspect_err(|why| {
                let id = object::id(kind, object);
                tracing::warn!(object = %id, "what its status calls valid is not: {why}");
            })
            .ok()?;
        Some(Valid {
            generation,
            policy: Arc::new(policy),
            spec: spec.into(),
        })
    }

    fn is_newer(&self, told: &Valid) -> bool {
        let known = self.in_force.as_ref().map(|known| known.generation);
        known.is_none_or(|known| known < told.generation)
    }
}

/// An object is invalid as well where its own patterns cannot be compiled: it must not spoil the names of the others.
fn read(kind: Kind, object: &DynamicObject) -> Result<PolicyObject, String> {
    let policy = object::read(kind, object).map_err(|rejection| rejection.to_string())?;
    Names::compile_lists(policy.policy().domain_lists()).map_err(|error| error.to_string())?;
    Ok(policy)
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::ClusterEgressPolicy => 0,
        Kind::EgressPolicy => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, uid: &str, generation: i64, spec: &Value) -> Change {
        let object = json!({
            "apiVersion": "ebfw.dvrkn.com/v1",
            "kind": "EgressPolicy",
            "metadata": { "name": name, "namespace": "shop", "uid": uid, "generation": generation },
            "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        Change::Known(Kind::EgressPolicy, Box::new(object))
    }

    fn allow(port: u16) -> Value {
        let rule = json!({ "name": format!("port-{port}"), "action": "Allow", "match": { "ports": [port] } });
        json!({ "podSelector": {}, "rules": [rule] })
    }

    fn bad() -> Value {
        json!({ "podSelector": {}, "rules": [{ "name": "x", "action": "Perhaps" }] })
    }

    fn id(name: &str) -> ObjectId {
        ObjectId::namespaced("shop", name)
    }

    /// The names of the rules that are in force, without their objects'.
    fn in_force(objects: &PolicyObjects) -> Vec<String> {
        let set = objects.in_force();
        let name = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        set.rules().map(|rule| name(&rule.name)).collect()
    }

    #[test]
    fn a_bad_version_leaves_the_last_good_one_of_that_object_in_force() {
        let mut objects = PolicyObjects::default();
        for (change, expected, accepted, why) in [
            (
                object("a", "1", 1, &bad()),
                vec![],
                Some(false),
                "bad from the beginning",
            ),
            (
                object("b", "2", 1, &allow(2)),
                vec!["port-2"],
                Some(false),
                "another is not affected",
            ),
            (
                object("a", "1", 2, &allow(1)),
                vec!["port-1", "port-2"],
                Some(true),
                "mended",
            ),
            (
                object("a", "1", 3, &bad()),
                vec!["port-1", "port-2"],
                Some(false),
                "broken: the last good one stays",
            ),
            (
                object("a", "1", 4, &allow(3)),
                vec!["port-3", "port-2"],
                Some(true),
                "good again",
            ),
            (
                object("a", "9", 1, &bad()),
                vec!["port-2"],
                Some(false),
                "another object of that name",
            ),
            (Change::Deleted(id("a")), vec!["port-2"], None, "deleted"),
        ] {
            objects.apply(change);
            assert_eq!(in_force(&objects), expected, "{why}");
            let verdict = objects.iter().find(|(known, _)| **known == id("a"));
            assert_eq!(
                verdict.map(|(_, entry)| entry.verdict.is_ok()),
                accepted,
                "{why}"
            );
        }
    }

    #[test]
    fn an_agent_that_has_not_seen_the_last_valid_version_takes_it_from_the_status() {
        let told = |generation: i64, broken: &Value, last: i64, spec: &str| {
            let Change::Known(kind, mut known) = object("a", "1", generation, broken) else {
                panic!("an object is known");
            };
            known.data["status"] = json!({ "lastValid": { "generation": last, "spec": spec } });
            Change::Known(kind, known)
        };
        let text = |port: u16| allow(port).to_string();
        for (changes, expected, why) in [
            (
                vec![told(2, &bad(), 1, &text(1))],
                vec!["port-1"],
                "it is known from the beginning",
            ),
            (
                vec![object("a", "1", 2, &bad()), told(2, &bad(), 1, &text(1))],
                vec!["port-1"],
                "it is told later",
            ),
            (
                vec![object("a", "1", 1, &allow(1)), told(3, &bad(), 2, &text(2))],
                vec!["port-2"],
                "one was missed",
            ),
            (
                vec![object("a", "1", 2, &allow(2)), told(3, &bad(), 1, &text(1))],
                vec!["port-2"],
                "an older one is told than was seen",
            ),
            (
                vec![told(2, &allow(2), 1, &text(1))],
                vec!["port-2"],
                "this version is valid",
            ),
            (
                vec![told(2, &bad(), 1, &bad().to_string())],
                vec![],
                "what is told is not valid",
            ),
            (
                vec![told(2, &bad(), 1, "{")],
                vec![],
                "what is told is nothing",
            ),
            (
                vec![told(2, &bad(), 2, &text(1))],
                vec![],
                "it cannot be this version",
            ),
        ] {
            let mut objects = PolicyObjects::default();
            for change in changes {
                assert_eq!(objects.apply(change), Effect::Policy, "{why}");
            }
            assert_eq!(in_force(&objects), expected, "{why}");
        }
    }

    #[test]
    fn what_a_change_changes() {
        let with_status = |status: &str| {
            let Change::Known(kind, mut known) = object("a", "1", 1, &allow(1)) else {
                panic!("an object is known");
            };
            known.data["status"] = json!({ "nodes": status });
            Change::Known(kind, known)
        };
        let mut objects = PolicyObjects::default();
        for (change, expected, why) in [
            (object("a", "1", 1, &allow(1)), Effect::Policy, "new"),
            (object("a", "1", 1, &allow(1)), Effect::None, "told again"),
            (
                with_status("1/2"),
                Effect::Status,
                "somebody wrote its status",
            ),
            (with_status("1/2"), Effect::None, "told again"),
            (Change::Deleted(id("b")), Effect::None, "never known"),
            (
                Change::All(Kind::EgressPolicy, HashSet::from([id("a")])),
                Effect::Policy,
                "complete for the first time",
            ),
            (
                Change::All(Kind::EgressPolicy, HashSet::from([id("a")])),
                Effect::None,
                "read again",
            ),
            (
                Change::All(Kind::ClusterEgressPolicy, HashSet::new()),
                Effect::Policy,
                "the other kind, complete: says nothing about this one",
            ),
            (
                Change::All(Kind::EgressPolicy, HashSet::new()),
                Effect::Policy,
                "gone while nobody watched",
            ),
        ] {
            assert_eq!(objects.apply(change), expected, "{why}");
        }
        assert!(objects.is_complete());
        assert!(objects.in_force().is_empty());
    }
}
