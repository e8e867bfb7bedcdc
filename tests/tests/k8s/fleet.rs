//! Many agents: what a change of policy costs the API server, and how long it takes until the status says that all have it.

use std::{
    env,
    time::{Duration, Instant},
};

use ebfw_agent::{cluster, status::Digest};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use tokio::{runtime::Runtime, sync::watch};

use super::cluster::{Cluster, SYSTEM, cluster, eventually};

/// What the names of simulated nodes begin with.
const PREFIX: &str = "simulated-";

/// How many there are; `EBFW_TEST_FLEET` has a number for those who have time.
fn size() -> usize {
    let given = env::var("EBFW_TEST_FLEET").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// An agent without a kernel: it watches, reports and waits for its turn to write statuses as a real one does.
async fn agent(client: kube::Client, number: usize) {
    let node = format!("{PREFIX}{number}");
    let cluster = cluster::Cluster::new(client, SYSTEM, &node);
    let mut policies = cluster.policies();
    let (programmed, reports) = watch::channel(None);
    cluster.report(&policies, reports);
    while policies.changed().await.is_ok() {
        let objects = policies.borrow_and_update().objects.clone();
        if objects.is_complete() {
            let digest = Some(Digest::of(&objects.versions()));
            programmed.send_if_modified(|last| {
                let differs = *last != digest;
                *last = digest;
                differs
            });
        }
    }
}

fn leases(cluster: &Cluster) -> Vec<Lease> {
    let api = cluster.api::<Lease>(SYSTEM);
    let list = cluster.block_on(api.list(&ListParams::default()));
    let all = list.map(|list| list.items).unwrap_or_default();
    let simulated = |lease: &Lease| {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        name.starts_with(&format!("ebfw-node-{PREFIX}"))
    };
    all.into_iter().filter(simulated).collect()
}

#[test]
fn the_status_counts_every_node_of_a_large_cluster() {
    let cluster = cluster();
    let namespace = cluster.namespace("fleet");
    let size = size();
    let selector = json!({ "podSelector": {} });
    namespace.policy("spreads", &selector);
    let begun = Instant::now();
    // Their own, with which everything that they started ends.
    let agents = Runtime::new().expect("a runtime can be built");
    for number in 0..size {
        agents.spawn(agent(cluster.client.clone(), number));
    }
    let nodes = || {
        let object = namespace.read_policy("spreads");
        object.data["status"]["nodes"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    // The real one counts as well.
    let whole = format!("{0}/{0}", size + 1);
    eventually("every agent has reported", || nodes() == whole);
    eprintln!("{size} agents are up after {:?}", begun.elapsed());

    for change in 1..=3 {
        let before = namespace.read_policy("spreads");
        let generation = before.metadata.generation.unwrap_or_default();
        let begun = Instant::now();
        namespace.policy("spreads", &json!({ "podSelector": {}, "priority": change }));
        let mut writes = 0;
        let mut last = before.metadata.resource_version;
        eventually("every agent has the change", || {
            let object = namespace.read_policy("spreads");
            writes += usize::from(object.metadata.resource_version != last);
            last.clone_from(&object.metadata.resource_version);
            let status = &object.data["status"];
            let programmed = &status["conditions"][1];
            status["observedGeneration"] == generation + 1
                && programmed["status"] == "True"
                && status["nodes"] == whole.as_str()
        });
        eprintln!(
            "a change was programmed on {} nodes after {:?}, with at most {} writes to the policy seen and one lease a node",
            size + 1,
            begun.elapsed(),
            writes
        );
    }
    agents.shutdown_background();
    let api = cluster.api::<Lease>(SYSTEM);
    for lease in leases(&cluster) {
        let name = lease.metadata.name.unwrap_or_default();
        let _ = cluster.block_on(api.delete(&name, &DeleteParams::default()));
    }
    eventually("the nodes that went are not counted", || nodes() == "1/1");
    assert!(begun.elapsed() < Duration::from_secs(600));
}
