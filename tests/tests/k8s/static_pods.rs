//! Pods that kubelet has from a file: the API server knows them by objects with other uids, and later than they run.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::json;

use super::{
    cluster::{OUTSIDE, OwnNamespace, Server, cluster, deny, eventually},
    identity::{events, identity},
    pod::pod_spec,
};

/// Where the lab's kubelet looks for pods.
const FOLDER: &str = "/etc/kubernetes/manifests";
/// Kubelet appends it to their names.
pub(crate) const NODE: &str = "lab-node";

/// A static pod that goes with its value.
pub(crate) struct StaticPod(PathBuf);

impl StaticPod {
    /// One that connects to `first` before anything else.
    pub(crate) fn start(namespace: &OwnNamespace<'_>, name: &str, first: SocketAddr) -> Self {
        Self::with_uid(namespace, name, first, None)
    }

    /// As [`StaticPod::start`], with a uid in the manifest.
    fn with_uid(
        namespace: &OwnNamespace<'_>,
        name: &str,
        first: SocketAddr,
        uid: Option<&str>,
    ) -> Self {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace.name,
                "labels": { "static": "yes" },
                "uid": uid,
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
    // Kubelet gives one a hash, and OpenShift's installer writes a uid into the manifest.
    let own = "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26";
    let _manifests = [
        StaticPod::start(&namespace, "hash", denied.address),
        StaticPod::with_uid(&namespace, "own", denied.address, Some(own)),
    ];
    for name in ["hash", "own"] {
        let pod = namespace.running_pod(&format!("{name}-{NODE}"));
        assert!(
            pod.first().is_refused(),
            "{name}, its first connection: {:?}",
            pod.first()
        );
        assert!(pod.connect(denied.address).is_refused(), "{name}");
        assert!(pod.connect(allowed.address).is_made(), "{name}");
        let expected = identity(&pod.object());
        eventually("its events name the object", || {
            events(&cluster, &pod.name)
                .iter()
                .any(|event| event["kind"] == "connect" && event["pod"] == expected)
        });
    }
    assert!(
        twin.connect(denied.address).is_made(),
        "a pod that is not meant"
    );
}
