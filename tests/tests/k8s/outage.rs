//! The API server goes away and comes back.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    cluster::{Cluster, OUTSIDE, Server, cluster, deny, eventually},
    node::node_connects,
};

/// How long it is away. `EBFW_TEST_OUTAGE` has seconds for those who have time.
fn outage() -> Duration {
    let given = env::var("EBFW_TEST_OUTAGE").ok();
    Duration::from_secs(given.and_then(|text| text.parse().ok()).unwrap_or(10))
}

fn in_lab(name: &str) -> PathBuf {
    PathBuf::from(env::var_os("EBFW_TEST_LAB").expect("xtask names the lab")).join(name)
}

fn api_server() -> Pid {
    let text =
        fs::read_to_string(in_lab("pids/kube-apiserver")).expect("the lab says its processes");
    Pid::from_raw(text.trim().parse().expect("it is a number"))
}

/// The API server is away as long as this value lives.
pub(crate) struct Away;

impl Away {
    pub(crate) fn begin() -> Self {
        kill(api_server(), Signal::SIGKILL).expect("the API server runs");
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        // On the node, where its address is.
        let status = Command::new("nsenter")
            .args(["--net=/proc/1/ns/net", "--"])
            .arg(in_lab("xtask"))
            .args(["lab", "start-api"])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the API server does not come back"
        );
    }
}

#[test]
fn what_is_known_stays_while_the_api_server_is_away_and_nothing_is_missed() {
    let cluster = cluster();
    let namespace = cluster.namespace("outage");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let deny = deny(OUTSIDE[0], &json!({ "matchLabels": { "tier": "web" } }));
    namespace.policy("deny", &deny);
    let pod = namespace.pod("pod", &json!({ "tier": "web" }));
    eventually("the policy is in force", || {
        pod.connect(denied.address).is_refused()
    });
    let before = denied.accepted();
    {
        let _away = Away::begin();
        let until = Instant::now() + outage();
        let mut restarts = 0;
        while Instant::now() < until {
            assert!(pod.connect(denied.address).is_refused(), "still denied");
            assert!(pod.connect(allowed.address).is_made(), "still allowed");
            if restarts < 2 {
                // Its container ends, and kubelet starts another, which is in another cgroup of the same pod.
                pod.order("exit");
                restarts += 1;
                eventually("the container is back", || pod.order("first").is_some());
            }
            thread::yield_now();
        }
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
    let back = Instant::now();
    eventually("the API server is back", || {
        namespace.try_policy("deny", &deny).is_ok()
    });
    pod.label(&json!({ "tier": "db" }));
    eventually("a change after that is seen", || {
        pod.connect(denied.address).is_made()
    });
    let (took, away) = (back.elapsed(), outage());
    eprintln!("{took:?} after {away:?} without an API server a change is enforced");
    // An eighth of the outage, and the pause of the one who writes; much more for a busy machine.
    assert!(took < away / 8 + Duration::from_secs(20), "{took:?}");
    let late = namespace.pod("late", &json!({ "tier": "web" }));
    eventually("a new pod is known", || {
        late.connect(denied.address).is_refused()
    });
}

/// The processes of the node whose command line holds `text`.
pub(crate) fn processes(text: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("the node has its own");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let means = |number: &i32| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .contains(text)
    };
    numbers.filter(means).map(Pid::from_raw).collect()
}

/// Ends the agent and waits for the one that kubelet starts in its place.
fn replace_agent(cluster: &Cluster, signal: Signal) {
    let agents = processes("ebfw run");
    assert_eq!(agents.len(), 1, "one agent");
    kill(agents[0], signal).expect("it runs");
    eventually("kubelet starts another agent", || {
        let now = processes("ebfw run");
        now.len() == 1 && now != agents && cluster.agent_says("/readyz").is_some()
    });
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_away_leaves_all_as_it_is() {
    let cluster = cluster();
    let namespace = cluster.namespace("alone");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let deny = |address| deny(address, &json!({}));
    // The file says the opposite: who has heard of no object, and finds those of an earlier agent, must not take it.
    let file =
        tempfile("rules:\n  - {name: other, action: Deny, match: {cidrs: [10.99.0.3/32]}}\n");
    cluster.helm(&["--set-file", &format!("policy.file={}", file.display())]);
    namespace.policy("deny", &deny(OUTSIDE[0]));
    let pod = namespace.pod("pod", &json!({}));
    eventually("the policy is in force", || {
        pod.connect(denied.address).is_refused()
    });
    let before = denied.accepted();
    {
        let _away = Away::begin();
        replace_agent(&cluster, Signal::SIGKILL);
        let waits = || {
            let says = cluster.agent_says("/readyz").unwrap_or_default();
            says.contains("pending: policies heard of from the API server")
        };
        eventually("it waits for policies", waits);
        let begun = Instant::now();
        // Longer than it waits for anything.
        while begun.elapsed() < Duration::from_secs(25) {
            assert!(pod.connect(denied.address).is_refused(), "still denied");
            assert!(pod.connect(allowed.address).is_made(), "still allowed");
            assert!(waits(), "it goes on waiting");
        }
        let healthy = cluster.agent_says("/healthz").expect("it answers");
        assert!(healthy.starts_with("HTTP/1.0 200"), "{healthy}");
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
    eventually("the agent is ready", || {
        cluster
            .agent_says("/readyz")
            .is_some_and(|says| says.contains(" 200 "))
    });
    let log = cluster.agent_log(100_000);
    assert!(
        log.contains("waiting for the API server to tell the policies"),
        "{log}"
    );
    namespace.policy("deny", &deny(OUTSIDE[1]));
    eventually("a change is seen", || {
        pod.connect(denied.address).is_made() && pod.connect(allowed.address).is_refused()
    });
    cluster.helm(&[]);
}

#[test]
fn the_file_in_reserve_holds_where_nothing_is_in_force_and_the_api_server_is_away() {
    let cluster = cluster();
    let namespace = cluster.namespace("reserve");
    let (by_object, by_file) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let file =
        tempfile("rules:\n  - {name: other, action: Deny, match: {cidrs: [10.99.0.3/32]}}\n");
    // What is left of an agent that is told to end goes with it.
    cluster.helm(&[
        "--set-file",
        &format!("policy.file={}", file.display()),
        "--set=onExit=open",
    ]);
    let pod = namespace.pod("pod", &json!({}));
    namespace.policy("deny", &deny(OUTSIDE[0], &json!({})));
    eventually("the object is in force", || {
        pod.connect(by_object.address).is_refused()
    });
    assert!(node_connects(by_file.address), "the file is not");
    {
        let _away = Away::begin();
        replace_agent(&cluster, Signal::SIGTERM);
        eventually("the file is in force", || !node_connects(by_file.address));
        assert!(node_connects(by_object.address), "only the file");
    }
    eventually("the object is in force again", || {
        let pod = |to| pod.try_connect(to);
        node_connects(by_file.address)
            && pod(by_object.address).is_some_and(|outcome| outcome.is_refused())
            && pod(by_file.address).is_some_and(|outcome| outcome.is_made())
    });
    let log = cluster.agent_log(100_000);
    assert!(
        log.contains("the policy file is in force until there are"),
        "{log}"
    );
    cluster.helm(&[]);
}

/// A file that helm can read.
fn tempfile(text: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("ebfw-k8s-{}.yaml", std::process::id()));
    fs::write(&path, text).expect("there is a folder for it");
    path
}
