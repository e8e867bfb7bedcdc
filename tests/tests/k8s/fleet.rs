//! Many agents: what a change of policy costs the API server, and how long it takes until the status says that all have it.

use std::{
    collections::BTreeMap,
    env, fmt,
    process::Command,
    thread,
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

/// What the API server has done, by its own counters: writes of each resource, and messages of its watches.
struct Cost(BTreeMap<String, f64>);

impl Cost {
    const COUNTED: [&str; 2] = ["apiserver_request_total", "apiserver_watch_events_total"];
    const GROUPS: [&str; 3] = ["coordination.k8s.io", "ebfw.dvrkn.com", "events.k8s.io"];

    /// Since it started.
    fn so_far() -> Self {
        let mut kubectl = Command::new("kubectl");
        let output = kubectl.args(["get", "--raw", "/metrics"]).output();
        let text = output.expect("kubectl starts").stdout;
        let text = String::from_utf8_lossy(&text);
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once('{') else {
                continue;
            };
            let Some((labels, value)) = rest.rsplit_once("} ") else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let resource = label("resource").unwrap_or_default();
            let group = label("group").unwrap_or_default();
            if !Self::COUNTED.contains(&name) || !Self::GROUPS.contains(&group) {
                continue;
            }
            let what = match label("verb") {
                None => format!("messages of watches: {resource}"),
                Some(verb @ ("PATCH" | "POST" | "PUT" | "APPLY" | "DELETE")) => {
                    let subresource = label("subresource").unwrap_or_default();
                    format!("{verb} {resource} {subresource}")
                        .trim_end()
                        .to_owned()
                }
                Some(_) => continue,
            };
            *counts.entry(what).or_default() += value.parse().unwrap_or(0.0);
        }
        Self(counts)
    }

    fn since(&self, before: &Self) -> Self {
        let difference = |(what, now): (&String, &f64)| {
            let more = now - before.0.get(what).copied().unwrap_or_default();
            (more > 0.0).then(|| (what.clone(), more))
        };
        Self(self.0.iter().filter_map(difference).collect())
    }

    fn of(&self, what: &str) -> f64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self
            .0
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        f.write_str(&all.join(", "))
    }
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
        let cost = Cost::so_far();
        let begun = Instant::now();
        namespace.policy("spreads", &json!({ "podSelector": {}, "priority": change }));
        eventually("every agent has the change", || {
            let object = namespace.read_policy("spreads");
            let status = &object.data["status"];
            let programmed = &status["conditions"][1];
            status["observedGeneration"] == generation + 1
                && programmed["status"] == "True"
                && status["nodes"] == whole.as_str()
        });
        let took = begun.elapsed();
        let cost = Cost::so_far().since(&cost);
        eprintln!(
            "a change was programmed on {} nodes after {took:?}: {cost}",
            size + 1
        );
        let statuses = cost.of("PATCH egresspolicies status");
        // The first and the last, and counts in between that have their pauses.
        let most = 3.0 + took.as_secs_f64() / 5.0;
        assert!((1.0..=most).contains(&statuses), "{cost}");
    }
    if env::var_os("EBFW_TEST_FLEET").is_some() {
        let (cost, rest) = (Cost::so_far(), Duration::from_secs(120));
        thread::sleep(rest);
        let cost = Cost::so_far().since(&cost);
        eprintln!("in the {rest:?} after that: {cost}");
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
