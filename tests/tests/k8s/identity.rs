//! Events say whose flow it was.

use k8s_openapi::api::core::v1::Pod as PodObject;
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, OUTSIDE, Server, cluster, eventually},
    pod::Pod,
};

/// The events of a pod that the agent wrote.
pub(crate) fn events(cluster: &Cluster, pod: &str) -> Vec<Value> {
    let log = cluster.agent_log(5000);
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    events
        .filter(|event: &Value| event["pod"]["name"] == pod)
        .collect()
}

pub(crate) fn identity(object: &PodObject) -> Value {
    let status = object.status.as_ref().expect("it runs");
    let containers = status.container_statuses.as_ref().expect("it runs");
    let container = containers[0].container_id.as_ref().expect("it runs");
    json!({
        "namespace": object.metadata.namespace,
        "name": object.metadata.name,
        "uid": object.metadata.uid,
        "container": container.strip_prefix("containerd://").expect("it is containerd's"),
        "qos": status.qos_class,
        "node": object.spec.as_ref().and_then(|spec| spec.node_name.clone()),
    })
}

#[test]
fn an_event_names_the_pod_and_its_container() {
    let cluster = cluster();
    let namespace = cluster.namespace("identity");
    let server = Server::start(OUTSIDE[0]);
    let pod: Pod<'_> = namespace.pod("talker", &json!({}));
    assert!(pod.connect(server.address).is_made());
    let expected = identity(&pod.object());
    eventually("the event is written", || {
        events(&cluster, "talker")
            .iter()
            .any(|event| event["kind"] == "connect" && event["pod"] == expected)
    });
    pod.resolve("outside.test");
    eventually("its question as well", || {
        events(&cluster, "talker")
            .iter()
            .any(|event| event["kind"] == "dns" && event["pod"] == expected)
    });
}
