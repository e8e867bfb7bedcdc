//! Pods that kubelet has from a file: the API server knows them by objects with other uids, and later than they run.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::json;

use super::{
    cluster::{Cluster, OUTSIDE, OwnNamespace, Server, cluster, deny, eventually},
    identity::{events, identity},
    outage::{Away, processes},
    pod::pod_spec,
};

/// Where the lab's kubelet looks for pods.
const FOLDER: &str = "/etc/kubernetes/manifests";
/// Kubelet appends it to their names.
const NODE: &str = "lab-node";

/// A static pod that goes with its value.
struct StaticPod(PathBuf);

impl StaticPod {
    /// One that connects to `first` before anything else.
    fn start(namespace: &OwnNamespace<'_>, name: &str, first: SocketAddr) -> Self {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace.name,
                "labels": { "static": "yes" },
            },
            "spec": pod_spec(&["first", &first.to_string()], false),
        });
        let path = PathBuf::from(FOLDER).join(format!("{}-{name}.json", namespace.name));
        fs::write(&path, pod.to_string()).expect("kubelet has a folder for it");
        Self(path)
    }
}

impl Drop for StaticPod {
    fn drop(&mut self) {
        // What is left goes with the lab.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_static_pod_is_known_by_the_object_that_mirrors_it() {
    let cluster = cluster();
    let namespace = cluster.namespace("static");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let policy = deny(OUTSIDE[0], &json!({ "matchLabels": { "static": "yes" } }));
    namespace.policy("deny", &policy);
    let twin = namespace.pod("twin", &json!({}));
    let _manifest = StaticPod::start(&namespace, "pod", denied.address);
    let pod = namespace.running_pod(&format!("pod-{NODE}"));
    assert!(
        pod.first().is_refused(),
        "its first connection: {:?}",
        pod.first()
    );
    assert!(pod.connect(denied.address).is_refused());
    assert!(pod.connect(allowed.address).is_made());
    assert!(
        twin.connect(denied.address).is_made(),
        "a pod that is not meant"
    );
    let expected = identity(&pod.object());
    eventually("its events name the object", || {
        events(&cluster, &pod.name)
            .iter()
            .any(|event| event["kind"] == "connect" && event["pod"] == expected)
    });
}

/// Whether a pod that the API server has not told of gets out.
fn unknown_pod_gets_out(cluster: &Cluster, setting: &str) -> bool {
    cluster.helm(&["--set", &format!("unknownWorkload={setting}")]);
    let namespace = cluster.namespace("unknown");
    let server = Server::start(OUTSIDE[0]);
    // Where there is no policy at all, nobody needs to know of a pod.
    namespace.policy("some", &deny(OUTSIDE[1], &json!({})));
    let (other, known) = (
        Server::start(OUTSIDE[1]),
        namespace.pod("known", &json!({})),
    );
    eventually("a policy is in force", || {
        known.connect(other.address).is_refused()
    });
    let dropped = || {
        cluster
            .metric("ebfw_packets_dropped_total{reason=\"pending\"}")
            .expect("the agent tells")
    };
    let before = dropped();
    let got_out = {
        let _away = Away::begin();
        let _manifest = StaticPod::start(&namespace, "pod", server.address);
        let words = format!("first {}", server.address);
        eventually("kubelet starts it without an API server", || {
            !processes(&words).is_empty()
        });
        eventually("its first packets are judged", || {
            server.accepted() > 0 || dropped() > before
        });
        server.accepted() > 0
    };
    // Whoever was held back comes through as soon as the pod is known: no policy denies it.
    if !got_out {
        let _manifest = StaticPod::start(&namespace, "pod", server.address);
        eventually("it is known", || server.accepted() > 0);
    }
    got_out
}

#[test]
fn a_pod_that_nobody_told_of_gets_out_only_where_the_settings_say_so() {
    let cluster = cluster();
    assert!(unknown_pod_gets_out(&cluster, "allow"));
    assert!(
        !unknown_pod_gets_out(&cluster, "drop"),
        "{}",
        cluster.agent_log(400)
    );
    cluster.helm(&[]);
}
