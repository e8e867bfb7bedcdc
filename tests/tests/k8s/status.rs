//! What the status of a policy says, and what a broken one does.

use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::{
    cluster::{OUTSIDE, OwnNamespace, SYSTEM, Server, cluster, deny, eventually, rollout},
    node::Traffic,
};

/// A glob that the API server cannot know for one that is none.
fn broken() -> Value {
    json!({
        "podSelector": {},
        "rules": [{ "name": "no", "action": "Deny", "match": { "domains": ["[.test"] } }],
    })
}

/// `Accepted Programmed RULES NODES`, of the generation that the object has.
fn said(namespace: &OwnNamespace<'_>, name: &str) -> String {
    let object = namespace.read_policy(name);
    let status = &object.data["status"];
    if status["observedGeneration"] != json!(object.metadata.generation) {
        return "old".to_owned();
    }
    let condition = |at: usize| status["conditions"][at]["status"].as_str().unwrap_or("?");
    let nodes = status["nodes"].as_str().unwrap_or("?");
    let (accepted, programmed) = (condition(0), condition(1));
    format!("{accepted} {programmed} {} {nodes}", status["ruleCount"])
}

#[test]
fn a_policy_that_breaks_is_marked_and_what_it_said_last_stays_in_force() {
    let cluster = cluster();
    let namespace = cluster.namespace("status");
    let (first, second) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let pod = namespace.pod("pod", &json!({}));
    namespace.policy("breaks", &deny(OUTSIDE[0], &json!({})));
    eventually("it is accepted and on all nodes", || {
        said(&namespace, "breaks") == "True True 1 1/1"
    });
    assert!(pod.connect(first.address).is_refused());

    namespace.policy("breaks", &broken());
    eventually("it is marked", || {
        said(&namespace, "breaks") == "False False null 0/1"
    });
    let object = namespace.read_policy("breaks");
    let message = &object.data["status"]["conditions"][0]["message"];
    assert!(
        message
            .as_str()
            .is_some_and(|text| text.contains("domains")),
        "{message}"
    );
    assert!(
        pod.connect(first.address).is_refused(),
        "the last good version stays"
    );

    let notes = || -> Vec<String> {
        let events = cluster.api::<Event>(&namespace.name);
        let list = cluster.block_on(events.list(&ListParams::default()));
        let all = list.map(|list| list.items).unwrap_or_default();
        let about = |event: &Event| {
            event
                .regarding
                .as_ref()
                .and_then(|object| object.name.as_deref())
                == Some("breaks")
        };
        all.into_iter()
            .filter(about)
            .filter_map(|event| event.note)
            .collect()
    };
    eventually("an Event says what is wrong", || {
        notes().iter().any(|note| note.contains("domains"))
    });
    namespace.policy(
        "breaks",
        &json!({ "podSelector": {}, "rules": [{ "name": "no", "action": "Deny", "match": { "methods": null } }] }),
    );
    eventually("and what else is wrong later", || {
        notes().iter().any(|note| note.contains("methods"))
    });

    namespace.policy("never", &broken());
    eventually("one that was never valid is on no node", || {
        said(&namespace, "never") == "False False null 0/1"
    });
    namespace.policy("other", &deny(OUTSIDE[1], &json!({})));
    eventually("another is not affected", || {
        pod.connect(second.address).is_refused()
    });
    namespace.policy("breaks", &deny(OUTSIDE[1], &json!({})));
    eventually("it is mended", || pod.connect(first.address).is_made());
    eventually("and says so", || {
        said(&namespace, "breaks") == "True True 1 1/1"
    });
}

#[test]
fn an_agent_that_starts_after_a_policy_broke_knows_what_it_said_last() {
    let cluster = cluster();
    let namespace = cluster.namespace("restart");
    let traffic = Traffic::start(&namespace);
    let (pod, first, second) = (&traffic.pod, &traffic.denied, &traffic.allowed);
    namespace.policy("deny", &broken());
    let kept = || namespace.read_policy("deny").data["status"]["lastValid"].clone();
    eventually("what it said last is kept", || {
        kept()["generation"] == 1
            && kept()["spec"]
                .as_str()
                .is_some_and(|spec| spec.contains("10.99.0.1/32"))
    });
    for (what, arguments) in [
        ("the order", &["restart"][..]),
        ("a rollout", &["status", "--timeout=120s"]),
    ] {
        let rollout = rollout(arguments).spawn().expect("kubectl starts");
        traffic.go_on_during(what, rollout);
    }
    assert!(
        pod.connect(first.address).is_refused(),
        "the new agent knows"
    );
    // It did not only leave what it found in the kernel: it makes new rules, and these have the old ones in them.
    namespace.policy("other", &deny(OUTSIDE[1], &json!({})));
    eventually("another policy", || {
        pod.connect(second.address).is_refused()
    });
    assert!(pod.connect(first.address).is_refused(), "both");
    let late = namespace.pod("late", &json!({}));
    assert!(late.connect(first.address).is_refused(), "a new pod");
    assert_eq!(kept()["generation"], 1, "it stays there");
    namespace.policy("deny", &deny(OUTSIDE[1], &json!({})));
    eventually("it is mended", || pod.connect(first.address).is_made());
    eventually("what it said before is of no account", || kept().is_null());
}

#[test]
fn who_writes_statuses_makes_a_lease_that_was_deleted_anew() {
    let cluster = cluster();
    let namespace = cluster.namespace("lease");
    namespace.policy("first", &json!({ "podSelector": {} }));
    eventually("somebody writes statuses", || {
        said(&namespace, "first") == "True True 0 1/1"
    });
    let leases = cluster.api::<Lease>(SYSTEM);
    cluster
        .block_on(leases.delete("ebfw-status", &DeleteParams::default()))
        .expect("it is there");
    // Else two agents would write, each without knowing of the other.
    eventually("the lease has a holder again", || {
        let lease = cluster.block_on(leases.get("ebfw-status"));
        let spec = lease.ok().and_then(|lease| lease.spec);
        spec.is_some_and(|spec| spec.holder_identity.is_some())
    });
    namespace.policy("second", &json!({ "podSelector": {} }));
    eventually("somebody writes statuses still", || {
        said(&namespace, "second") == "True True 0 1/1"
    });
}

#[test]
fn the_api_server_refuses_what_the_schema_can_tell() {
    let cluster = cluster();
    let namespace = cluster.namespace("schema");
    for (spec, why) in [
        (json!({ "rules": [] }), "no podSelector"),
        (
            json!({ "podSelector": {}, "rules": [{ "name": "x", "action": "Perhaps", "match": {} }] }),
            "no such action",
        ),
        (
            json!({ "podSelector": {}, "rules": [{ "name": "x", "action": "Deny", "match": { "cidrs": ["10.0.0.0/40"] } }] }),
            "no prefix",
        ),
    ] {
        assert!(namespace.try_policy("refused", &spec).is_err(), "{why}");
    }
}
