//! New pods: nothing leaves before their pod is known.

use std::time::Duration;

use serde_json::json;

use super::cluster::{OUTSIDE, Server, cluster, eventually};

/// Pods of one kind that start at the same time.
const AT_ONCE: usize = 50;

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

    let name = |kind: &str, number: usize| format!("{kind}-{number}");
    for number in 0..AT_ONCE {
        let target = denied.address.to_string();
        namespace.request_pod(&name("stranger", number), &json!({}), &["first", &target]);
        if number % 2 == 0 {
            let target = allowed.address.to_string();
            let labels = json!({ "friend": "yes" });
            namespace.request_pod(&name("friend", number), &labels, &["first", &target]);
        }
    }
    for number in 0..AT_ONCE {
        let first = namespace.running_pod(&name("stranger", number)).first();
        assert!(first.is_refused(), "stranger {number}: {first:?}");
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
    let mut delays: Vec<Duration> = (0..AT_ONCE)
        .step_by(2)
        .map(|number| {
            let first = namespace.running_pod(&name("friend", number)).first();
            let super::pod::Outcome::Made(delay) = first else {
                panic!("friend {number}: {first:?}");
            };
            delay
        })
        .collect();
    let many = workloads();
    // The probe is one as well.
    let own = 76;
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
    eventually("nothing of the pods is left in the kernel", || {
        workloads() <= many - own
    });
}
