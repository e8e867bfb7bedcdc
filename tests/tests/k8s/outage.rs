//! The API server goes away and comes back.

use std::{env, fs, path::PathBuf, process::Command, thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::cluster::{OUTSIDE, Server, cluster, eventually};

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
struct Away;

impl Away {
    fn begin() -> Self {
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
    let deny = json!({
        "podSelector": { "matchLabels": { "tier": "web" } },
        "rules": [{ "name": "no", "action": "Deny", "match": { "cidrs": [format!("{}/32", OUTSIDE[0])] } }],
    });
    namespace.policy("deny", &deny);
    let pod = namespace.pod("pod", &json!({ "tier": "web" }));
    eventually("the policy is in force", || {
        pod.connect(denied.address).is_refused()
    });
    let before = denied.accepted();
    {
        let _away = Away::begin();
        let until = std::time::Instant::now() + outage();
        let mut restarts = 0;
        while std::time::Instant::now() < until {
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
    eventually("the API server is back", || {
        namespace.try_policy("deny", &deny).is_ok()
    });
    pod.label(&json!({ "tier": "db" }));
    eventually("a change after that is seen", || {
        pod.connect(denied.address).is_made()
    });
    let late = namespace.pod("late", &json!({ "tier": "web" }));
    eventually("a new pod is known", || {
        late.connect(denied.address).is_refused()
    });
}
