//! Events say whose flow it was.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as PodObject};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, OUTSIDE, Server, cluster, eventually},
    outage::processes,
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
    in_container(object, &containers[0])
}

/// As events of one of its containers have it.
pub(crate) fn in_container(object: &PodObject, container: &ContainerStatus) -> Value {
    let status = object.status.as_ref().expect("it runs");
    let container = container.container_id.as_ref().expect("it runs");
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
    namespace.request_pod(
        "talker",
        &json!({}),
        &["first", &server.address.to_string()],
    );
    let pod = namespace.running_pod("talker");
    assert!(pod.first().is_made());
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
    // As the kernel ends it where memory is short: the pod stays, and its next container is another.
    let running = processes(&format!("first {}", server.address));
    assert_eq!(running.len(), 1, "{running:?}");
    kill(running[0], Signal::SIGKILL).expect("it runs");
    let mut now = expected.clone();
    eventually("another container runs", || {
        let object = pod.object();
        let status = object.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_ref());
        let runs = containers.is_some_and(|all| all[0].restart_count == 1 && all[0].ready);
        if runs {
            now = identity(&object);
        }
        runs
    });
    assert_eq!(now["uid"], expected["uid"]);
    assert_ne!(now["container"], expected["container"]);
    eventually("what that did first is its own", || {
        let events = events(&cluster, "talker");
        let connect = |event: &&Value| event["kind"] == "connect";
        events
            .iter()
            .filter(connect)
            .any(|event| event["pod"] == now)
    });
}
