//! What the status of policy objects should say: whether each is valid, and which nodes enforce it.
//!
//! Pure: the objects and what nodes report go in, what is to be written comes out. Talking to the API server is the part of [`crate::cluster`].

mod fleet;

use ebfw_crd::{LastValid, PolicyStatus, condition, reason};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde_json::{Value, json};

pub use self::fleet::{Digest, Fleet, Tally};
use crate::policy_objects::Entry;

/// Bytes of a last valid version at most that go into a status: the API server refuses objects above 1.5 MiB, which hold the broken version too.
const MAX_KEPT: usize = 256 * 1024;

/// What is to be done about the status of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// It says what is true.
    Nothing,
    /// Only how many nodes have it has changed: may be late, so that a policy that spreads costs few writes.
    Count(Value),
    /// Something that people wait for.
    Now(Value, Option<Announcement>),
}

/// What is said about an object beside its status, once for each version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Whether the object is valid.
    pub accepted: bool,
    /// One line.
    pub text: String,
}

/// Compares what the status of an object says with what is true.
#[must_use]
pub fn due(entry: &Entry, tally: Tally, now: Timestamp) -> Due {
    let tally = enforced(entry, tally);
    let last: PolicyStatus = serde_json::from_value(entry.status.clone()).unwrap_or_default();
    let generation = entry.version.generation;
    let conditions = vec![
        settled(&last, accepted(entry), generation, now),
        settled(&last, programmed(entry, tally), generation, now),
    ];
    let wanted = PolicyStatus {
        observed_generation: Some(generation),
        rule_count: entry
            .verdict
            .as_ref()
            .ok()
            .and_then(|rules| i32::try_from(*rules).ok()),
        nodes: Some(tally.to_string()),
        last_valid: last_valid(entry, &last),
        conditions,
    };
    if wanted == last {
        return Due::Nothing;
    }
    let states = |status: &PolicyStatus| {
        let state = |condition: &Condition| {
            (
                condition.status.clone(),
                condition.reason.clone(),
                condition.observed_generation,
            )
        };
        status.conditions.iter().map(state).collect::<Vec<_>>()
    };
    let (before, after) = (states(&last), states(&wanted));
    // A field that is to go is written as null.
    let patch = json!({ "status": {
        "observedGeneration": wanted.observed_generation,
        "ruleCount": wanted.rule_count,
        "nodes": wanted.nodes,
        "lastValid": wanted.last_valid,
        "conditions": wanted.conditions,
    } });
    if before == after {
        return Due::Count(patch);
    }
    let announcement = (before.first() != after.first()).then(|| announcement(entry));
    Due::Now(patch, announcement)
}

/// How many nodes enforce this version. An agent reports that it has taken note of an object, of which nothing is enforced where it is invalid.
fn enforced(entry: &Entry, heard: Tally) -> Tally {
    match entry.verdict {
        Ok(_) => heard,
        Err(_) => Tally { done: 0, ..heard },
    }
}

/// A condition without the times.
struct State {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn counted(rules: usize) -> String {
    format!("{rules} rule{}", if rules == 1 { "" } else { "s" })
}

fn accepted(entry: &Entry) -> State {
    let (holds, reason, message) = match &entry.verdict {
        Ok(rules) => (true, reason::VALIDATED, counted(*rules)),
        Err(why) => (false, reason::VALIDATION_FAILED, why.clone()),
    };
    State {
        kind: condition::ACCEPTED,
        holds,
        reason,
        message,
    }
}

fn programmed(entry: &Entry, tally: Tally) -> State {
    let (holds, reason, message) = match (&entry.verdict, &entry.in_force) {
        (Ok(_), _) if tally.is_whole() => (true, reason::PROGRAMMED, format!("{tally} nodes")),
        (Ok(_), _) => (false, reason::PENDING, format!("{tally} nodes")),
        (Err(_), Some(valid)) => (
            false,
            reason::VALIDATION_FAILED,
            format!(
                "generation {} stays in force, the last valid one",
                valid.generation
            ),
        ),
        (Err(_), None) => (
            false,
            reason::VALIDATION_FAILED,
            "nothing of it is in force: no valid version is known".to_owned(),
        ),
    };
    State {
        kind: condition::PROGRAMMED,
        holds,
        reason,
        message,
    }
}

/// What agents that have not seen it need to know. A version that this agent cannot read is left to those that can.
fn last_valid(entry: &Entry, last: &PolicyStatus) -> Option<LastValid> {
    entry.verdict.as_ref().err()?;
    match &entry.in_force {
        Some(valid) => (valid.spec.len() <= MAX_KEPT).then(|| LastValid {
            generation: valid.generation,
            spec: valid.spec.to_string(),
        }),
        None => last.last_valid.clone(),
    }
}

/// With the time at which it became what it is.
fn settled(last: &PolicyStatus, state: State, generation: i64, now: Timestamp) -> Condition {
    let status = if state.holds { "True" } else { "False" };
    let before = last
        .conditions
        .iter()
        .find(|condition| condition.type_ == state.kind && condition.status == status);
    Condition {
        type_: state.kind.to_owned(),
        status: status.to_owned(),
        reason: state.reason.to_owned(),
        message: state.message,
        observed_generation: Some(generation),
        last_transition_time: before
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

fn announcement(entry: &Entry) -> Announcement {
    match &entry.verdict {
        // The same text each time, so that it is one Event that is counted.
        Ok(_) => Announcement {
            accepted: true,
            text: "the policy is valid".to_owned(),
        },
        Err(why) => Announcement {
            accepted: false,
            text: why.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use ebfw_policy::object::{ObjectId, PolicyObject};

    use super::*;
    use crate::policy_objects::{Valid, Version};

    fn entry(generation: i64, verdict: Result<usize, &str>, status: Value) -> Entry {
        Entry {
            version: Version {
                uid: "u".to_owned(),
                generation,
            },
            verdict: verdict.map_err(str::to_owned),
            in_force: None,
            status,
        }
    }

    fn tally(done: usize, total: usize) -> Tally {
        Tally { done, total }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn written(due: &Due) -> Value {
        match due {
            Due::Nothing => panic!("nothing is due"),
            Due::Count(patch) | Due::Now(patch, _) => patch["status"].clone(),
        }
    }

    /// Each condition as `Type=Status Reason@transition`.
    fn conditions(status: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let conditions = status["conditions"].as_array().unwrap();
        conditions
            .iter()
            .map(|condition| {
                format!(
                    "{}={} {}@{}",
                    text(&condition["type"]),
                    text(&condition["status"]),
                    text(&condition["reason"]),
                    &text(&condition["lastTransitionTime"])[17..19]
                )
            })
            .collect()
    }

    #[test]
    fn a_status_is_written_when_it_is_wrong_and_at_once_when_people_wait_for_it() {
        let first = due(&entry(1, Ok(3), Value::Null), tally(0, 2), at(1));
        assert!(
            matches!(&first, Due::Now(_, Some(said)) if said.accepted),
            "{first:?}"
        );
        let status = written(&first);
        assert_eq!(status["ruleCount"], 3);
        assert_eq!(status["conditions"][0]["message"], "3 rules");
        assert_eq!(counted(1), "1 rule");
        assert_eq!(status["nodes"], "0/2");
        assert_eq!(
            conditions(&status),
            ["Accepted=True Validated@01", "Programmed=False Pending@01"]
        );

        let same = due(&entry(1, Ok(3), status.clone()), tally(0, 2), at(2));
        assert_eq!(same, Due::Nothing, "it is true");

        let spreads = due(&entry(1, Ok(3), status.clone()), tally(1, 2), at(3));
        assert!(
            matches!(spreads, Due::Count(_)),
            "one of two nodes: {spreads:?}"
        );

        let whole = due(&entry(1, Ok(3), status), tally(2, 2), at(4));
        assert!(matches!(whole, Due::Now(_, None)), "all nodes: {whole:?}");
        let status = written(&whole);
        assert_eq!(
            conditions(&status),
            [
                "Accepted=True Validated@01",
                "Programmed=True Programmed@04"
            ],
            "what did not change keeps its time"
        );

        let broken = due(
            &entry(2, Err("spec.rules[0]: bad"), status),
            tally(0, 2),
            at(5),
        );
        assert!(
            matches!(&broken, Due::Now(_, Some(said)) if !said.accepted),
            "{broken:?}"
        );
        let status = written(&broken);
        assert_eq!(status["ruleCount"], Value::Null, "taken out");
        assert_eq!(
            conditions(&status),
            [
                "Accepted=False ValidationFailed@05",
                "Programmed=False ValidationFailed@05"
            ]
        );
    }

    #[test]
    fn the_last_valid_version_is_told_as_long_as_it_is_needed() {
        let object = json!({ "podSelector": {} });
        let valid = |spec: &str| Valid {
            generation: 1,
            policy: PolicyObject::from_json(ObjectId::cluster("a"), &object)
                .unwrap()
                .into(),
            spec: spec.into(),
        };
        let kept = json!({ "generation": 1, "spec": "{}" });
        let told = json!({ "lastValid": kept });
        let long = "x".repeat(MAX_KEPT + 1);
        for (verdict, in_force, status, expected, why) in [
            (Ok(1), Some("{}"), Value::Null, Value::Null, "it is valid"),
            (Ok(1), Some("{}"), told.clone(), Value::Null, "mended"),
            (
                Err("bad"),
                Some("{}"),
                Value::Null,
                kept.clone(),
                "it broke",
            ),
            (
                Err("bad"),
                None,
                told.clone(),
                kept.clone(),
                "others may be able to read it",
            ),
            (Err("bad"), None, Value::Null, Value::Null, "never valid"),
            (
                Err("bad"),
                Some(&*long),
                Value::Null,
                Value::Null,
                "too long for an object",
            ),
        ] {
            let mut entry = entry(2, verdict, status);
            entry.in_force = in_force.map(valid);
            let status = written(&due(&entry, tally(1, 1), at(1)));
            assert_eq!(status["lastValid"], expected, "{why}");
        }
    }

    #[test]
    fn no_node_enforces_what_is_not_valid() {
        let valid = Valid {
            generation: 1,
            policy: PolicyObject::from_json(ObjectId::cluster("a"), &json!({ "podSelector": {} }))
                .unwrap()
                .into(),
            spec: "{}".into(),
        };
        for (verdict, in_force, expected, why) in [
            (
                Err("bad"),
                None,
                (
                    "0/2",
                    "nothing of it is in force: no valid version is known",
                ),
                "never valid",
            ),
            (
                Err("bad"),
                Some(valid.clone()),
                ("0/2", "generation 1 stays in force, the last valid one"),
                "broken",
            ),
            (Ok(0), Some(valid), ("2/2", "2/2 nodes"), "valid"),
        ] {
            let mut entry = entry(2, verdict, Value::Null);
            entry.in_force = in_force;
            // Every agent has heard of it.
            let status = written(&due(&entry, tally(2, 2), at(1)));
            let programmed = &status["conditions"][1];
            assert_eq!(status["nodes"], expected.0, "{why}");
            assert_eq!(programmed["message"], expected.1, "{why}");
            assert_eq!(programmed["status"] == "True", verdict.is_ok(), "{why}");
            let again = due(&Entry { status, ..entry }, tally(1, 2), at(2));
            assert_eq!(
                again == Due::Nothing,
                verdict.is_err(),
                "{why}: nothing spreads of what is not valid"
            );
        }
    }

    #[test]
    fn no_node_is_no_whole() {
        let none = due(&entry(1, Ok(0), Value::Null), tally(0, 0), at(1));
        assert_eq!(
            conditions(&written(&none))[1],
            "Programmed=False Pending@01"
        );
    }

    #[test]
    fn a_status_that_makes_no_sense_is_written_anew() {
        let strange = json!({ "conditions": "many" });
        let due = due(&entry(1, Ok(1), strange), tally(1, 1), at(1));
        assert!(matches!(due, Due::Now(_, Some(_))));
    }
}
