//! New pods: nothing leaves before their pod is known.

use std::{env, time::Duration};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as PodObject};
use serde_json::{Value, json};

use super::{
    cluster::{OUTSIDE, Server, cluster, deny, eventually},
    identity::{events, in_container},
    pod::{Outcome, pod_spec},
};

/// Pods of one kind that start at the same time, and half as many of another. `EBFW_TEST_PODS` has a number for those who have time.
fn at_once() -> usize {
    let given = env::var("EBFW_TEST_PODS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(50)
}

#[test]
fn no_first_connection_of_fifty_pods_at_once_is_unchecked() {
    let cluster = cluster();
    let namespace = cluster.namespace("start");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    namespace.policy(
        "closed-but-for-friends",
        &json!({
            "podSelector": {},
            "defaultAction": "Deny",
            "rules": [{
                "name": "friends",
                "action": "Allow",
                "match": { "pod": { "labels": { "friend": "yes" } }, "cidrs": [format!("{}/32", OUTSIDE[1])] },
            }],
        }),
    );
    let probe = namespace.pod("probe", &json!({}));
    eventually("the policy is in force", || {
        probe.connect(denied.address).is_refused()
    });
    let workloads = || cluster.metric("ebfw_workloads").expect("the agent tells");
    let before = denied.accepted();
    let at_once = at_once();

    let name = |kind: &str, number: usize| format!("{kind}-{number}");
    for number in 0..at_once {
        let target = denied.address.to_string();
        namespace.request_pod(&name("stranger", number), &json!({}), &["first", &target]);
        if number % 2 == 0 {
            let target = allowed.address.to_string();
            let labels = json!({ "friend": "yes" });
            namespace.request_pod(&name("friend", number), &labels, &["first", &target]);
        }
    }
    for number in 0..at_once {
        let first = namespace.running_pod(&name("stranger", number)).first();
        assert!(first.is_refused(), "stranger {number}: {first:?}");
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
    let mut delays: Vec<Duration> = (0..at_once)
        .step_by(2)
        .map(|number| {
            let first = namespace.running_pod(&name("friend", number)).first();
            let Outcome::Made(delay) = first else {
                panic!("friend {number}: {first:?}");
            };
            delay
        })
        .collect();
    let many = workloads();
    // The probe is one as well.
    let own = u64::try_from(at_once + delays.len() + 1).expect("a node has so many");
    assert!(many >= own, "{many} with {own} pods");
    delays.sort_unstable();
    let at = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    eprintln!(
        "the first connection of {} new pods took {:?} (p50), {:?} (p99)",
        delays.len(),
        at(50),
        at(99)
    );
    drop(probe);
    drop(namespace);
    // No policy is left, and so nothing is governed.
    eventually("nothing of the pods is left in the kernel", || {
        workloads() == 0
    });
}

/// In a namespace whose pods may do the least that there is.
#[test]
fn what_init_containers_do_first_is_judged_and_attributed() {
    let cluster = cluster();
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let namespace = cluster.labelled_namespace("init", &labels);
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    namespace.policy("deny", &deny(OUTSIDE[0], &json!({})));
    let [no, yes] = [&denied, &allowed].map(|server| server.address.to_string());
    let mut spec = pod_spec(&["serve", "8001"], false);
    let container = |name: &str, arguments: &[&str]| {
        let mut container = spec["containers"][0].clone();
        container["name"] = json!(name);
        container["args"] = json!(arguments);
        container["securityContext"] = json!({
            "runAsNonRoot": true,
            "runAsUser": 1000,
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        container
    };
    // One that runs before all others, and one that goes on beside them.
    let mut beside = container("beside", &["first", &no]);
    beside["restartPolicy"] = json!("Always");
    let before = container("before", &["once", &no, &yes]);
    let only = container("only", &["serve", "8001"]);
    spec["containers"] = json!([only]);
    spec["initContainers"] = json!([before, beside]);
    namespace.request_of("pod", &json!({}), &spec);
    let pod = namespace.running_pod("pod");
    assert!(pod.first().is_refused(), "{:?}", pod.first());
    let log = namespace.log_of("pod", "before");
    let outcomes: Vec<Outcome> = log.lines().map(Outcome::read).collect();
    assert!(
        matches!(&outcomes[..], [no, yes] if no.is_refused() && yes.is_made()),
        "{log}"
    );
    assert_eq!((denied.accepted(), allowed.accepted()), (0, 1));
    let mut object = pod.object();
    let containers = |object: &PodObject| -> Option<Vec<ContainerStatus>> {
        let all = object.status.as_ref()?.init_container_statuses.clone()?;
        let told = all.iter().all(|container| container.container_id.is_some());
        (told && all.len() == 2).then_some(all)
    };
    eventually("the API server has been told of both", || {
        object = pod.object();
        containers(&object).is_some()
    });
    for container in &containers(&object).expect("the loop ended because of it") {
        let expected = in_container(&object, container);
        let denied = |event: &&Value| event["kind"] == "connect" && event["action"] == "deny";
        eventually("its event names the container", || {
            let events = events(&cluster, "pod");
            events
                .iter()
                .filter(denied)
                .any(|event| event["pod"] == expected)
        });
    }
}
