//! Policies for whole nodes, pods in the node's network, and agents that are replaced.

use std::{net::Ipv4Addr, process::Command, time::Instant};

use serde_json::json;

use super::{
    cluster::{OUTSIDE, PATIENCE, SYSTEM, Server, cluster, eventually},
    pod::Pod,
};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

#[test]
fn a_node_can_be_locked_down_and_still_work() {
    let cluster = cluster();
    let namespace = cluster.namespace("lockdown");
    let server = Server::start(OUTSIDE[0]);
    let before = namespace.pod("before", &json!({}));
    assert!(before.connect(server.address).is_made());
    let lockdown = json!({
        "podSelector": {},
        "scope": "Node",
        "defaultAction": "Deny",
        "rules": [{
            "name": "cluster",
            "action": "Allow",
            "match": { "cidrs": ["10.88.0.0/16", "10.96.0.0/16", format!("{NODE}/32")] },
        }],
    });
    let policy = cluster.cluster_policy("lockdown", &lockdown);
    eventually("pods are locked in", || {
        before.connect(server.address).is_refused()
    });
    let direct = || {
        let target = format!(
            "exec 3<>/dev/tcp/{}/{}",
            server.address.ip(),
            server.address.port()
        );
        let mut shell = Command::new("nsenter");
        shell.args(["--net=/proc/1/ns/net", "--cgroup=/proc/1/ns/cgroup"]);
        shell.args([
            "--",
            "sh",
            "-c",
            "echo $$ > /sys/fs/cgroup/cgroup.procs; exec bash -c \"$0\"",
            &target,
        ]);
        shell
            .output()
            .expect("the node has a shell")
            .status
            .success()
    };
    assert!(!direct(), "processes of the node are locked in as well");
    // kubelet, containerd, the API server and the cluster's DNS do their work.
    let after = namespace.pod("after", &json!({}));
    assert_eq!(after.resolve("outside.test"), OUTSIDE[0].to_string());
    assert!(after.connect(server.address).is_refused());
    drop(policy);
    eventually("the node is open again", || {
        after.connect(server.address).is_made()
    });
    assert!(direct(), "the node as well");
}

#[test]
fn a_pod_in_the_nodes_network_is_a_pod() {
    let cluster = cluster();
    let namespace = cluster.namespace("host-network");
    let server = Server::start(OUTSIDE[0]);
    namespace.request_host_pod("pod", &json!({}));
    let pod: Pod<'_> = namespace.running_pod("pod");
    assert_eq!(pod.address, NODE);
    assert!(pod.connect(server.address).is_made());
    namespace.policy(
        "deny",
        &json!({ "podSelector": {}, "defaultAction": "Deny" }),
    );
    eventually("it is denied", || pod.connect(server.address).is_refused());
}

#[test]
fn no_verdict_is_wrong_while_agents_are_replaced() {
    let cluster = cluster();
    let namespace = cluster.namespace("rollout");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let deny = json!({
        "podSelector": {},
        "rules": [{ "name": "no", "action": "Deny", "match": { "cidrs": [format!("{}/32", OUTSIDE[0])] } }],
    });
    namespace.policy("deny", &deny);
    let pod = namespace.pod("pod", &json!({}));
    eventually("it is in force", || {
        pod.connect(denied.address).is_refused()
    });
    let before = denied.accepted();
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(["--namespace", SYSTEM, "rollout"])
            .args(arguments)
            .arg("daemonset/ebfw");
        kubectl.spawn().expect("kubectl starts")
    };
    for _ in 0..2 {
        assert!(
            kubectl(&["restart"])
                .wait()
                .is_ok_and(|status| status.success())
        );
        let mut rollout = kubectl(&["status", "--timeout=120s"]);
        let begun = Instant::now();
        let mut tries = 0;
        while rollout.try_wait().expect("it is a child").is_none() {
            assert!(pod.connect(denied.address).is_refused(), "still denied");
            assert!(pod.connect(allowed.address).is_made(), "still allowed");
            tries += 1;
            assert!(begun.elapsed() < PATIENCE, "the rollout does not end");
        }
        eprintln!("{tries} connections of each kind while an agent was replaced");
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
}
