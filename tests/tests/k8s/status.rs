//! What the status of a policy says, and what a broken one does.

use serde_json::{Value, json};

use super::{
    cluster::{OUTSIDE, OwnNamespace, Server, cluster, deny, eventually, rollout},
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
