//! The API server goes away and comes back, or is slow.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    cluster::{Cluster, OUTSIDE, OwnNamespace, Server, cluster, deny, eventually},
    etcd,
    node::{Traffic, node_connects},
    pod::Pod,
    static_pods::StaticPod,
    witness::Witness,
};

/// How long it is away.
const OUTAGE: Duration = Duration::from_secs(60);
/// Between two looks at what should not change.
const PAUSE: Duration = Duration::from_millis(10);

fn in_lab(name: &str) -> PathBuf {
    PathBuf::from(env::var_os("EBFW_TEST_LAB").expect("xtask names the lab")).join(name)
}

/// A program of the cluster.
fn program(name: &str) -> Pid {
    let text = fs::read_to_string(in_lab("pids").join(name)).expect("the lab says its processes");
    Pid::from_raw(text.trim().parse().expect("it is a number"))
}

/// The API server is away as long as this value lives.
struct Away {
    halted: Vec<Pid>,
}

impl Away {
    fn begin() -> Self {
        kill(program("kube-apiserver"), Signal::SIGKILL).expect("the API server runs");
        let mut away = Self { halted: Vec::new() };
        for name in ["kube-scheduler", "kube-controller-manager"] {
            away.halt(name);
        }
        away
    }

    /// Halts a program of the cluster until the API server is back. Each that asks for it in vain waits longer and longer, in the end a minute, and then
    /// the tests wait for it: one that was halted looks again at once.
    fn halt(&mut self, name: &str) {
        let program = program(name);
        kill(program, Signal::SIGSTOP).expect("it runs");
        self.halted.push(program);
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
        for program in &self.halted {
            let _ = kill(*program, Signal::SIGCONT);
        }
        assert!(
            status.is_ok_and(|status| status.success()),
            "the API server does not come back"
        );
    }
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

/// Ends the agent, as the kernel does where memory is short, and waits for the one that kubelet starts in its place.
fn replace_agent(cluster: &Cluster) {
    let agents = processes("ebfw run");
    assert_eq!(agents.len(), 1, "one agent");
    kill(agents[0], Signal::SIGKILL).expect("it runs");
    eventually("kubelet starts another agent", || {
        let now = processes("ebfw run");
        now.len() == 1 && now != agents && cluster.agent_says("/readyz").is_some()
    });
}

/// Whether an agent of the node has said so, by the logs that kubelet keeps: the API server may be away.
pub(crate) fn agent_said(words: &str) -> bool {
    let found = Command::new("grep")
        .args(["--recursive", "--quiet", "--fixed-strings", words])
        .args(
            fs::read_dir("/var/log/pods")
                .into_iter()
                .flatten()
                .filter_map(|entry| {
                    let path = entry.ok()?.path();
                    path.to_str()?.contains("ebfw-system_ebfw-").then_some(path)
                }),
        )
        .status();
    found.is_ok_and(|status| status.success())
}

fn packets_of_unknown_pods(cluster: &Cluster) -> u64 {
    cluster
        .metric("ebfw_packets_dropped_total{reason=\"pending\"}")
        .expect("the agent tells")
}

/// Starts a pod that the API server has not told of, and waits until it has tried to get out.
fn unknown_pod(namespace: &OwnNamespace<'_>, server: &Server) -> StaticPod {
    let before = (
        packets_of_unknown_pods(namespace.cluster),
        server.accepted(),
    );
    let pod = StaticPod::start(namespace, "unknown", server.address);
    eventually("its first packets are judged", || {
        let now = (
            packets_of_unknown_pods(namespace.cluster),
            server.accepted(),
        );
        now.0 > before.0 || now.1 > before.1
    });
    pod
}

/// One outage of a minute, during which all happens that may happen then.
#[test]
fn what_is_known_stays_for_a_minute_without_an_api_server_and_nothing_is_missed() {
    let cluster = cluster();
    let namespace = cluster.namespace("outage");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let web = json!({ "tier": "web" });
    let policy = deny(OUTSIDE[0], &json!({ "matchLabels": web }));
    namespace.policy("deny", &policy);
    namespace.policy(
        "goes",
        &deny(OUTSIDE[1], &json!({ "matchLabels": { "test": "goes" } })),
    );
    let [steady, restarted] = ["steady", "restarted"].map(|name| namespace.pod(name, &web));
    let freed = namespace.pod("freed", &json!({ "test": "goes" }));
    for (pod, server) in [
        (&steady, &denied),
        (&restarted, &denied),
        (&freed, &allowed),
    ] {
        eventually("the policies are in force", || {
            pod.connect(server.address).is_refused()
        });
    }
    let witness = Witness::start(&cluster);
    witness.lose_token();
    let before = denied.accepted();
    let right = |pod: &Pod<'_>| {
        let (denied, allowed) = (pod.connect(denied.address), pod.connect(allowed.address));
        assert!(denied.is_refused(), "still denied: {denied:?}");
        assert!(allowed.is_made(), "still allowed: {allowed:?}");
    };
    let unknown = Server::start(OUTSIDE[1]);
    {
        let mut away = Away::begin();
        let begun = Instant::now();
        let traffic = || {
            let mut tries = 0;
            while begun.elapsed() < OUTAGE {
                right(&steady);
                tries += 1;
                thread::sleep(PAUSE);
            }
            tries
        };
        let manifest = thread::scope(|scope| {
            let traffic = scope.spawn(traffic);
            etcd::delete_and_compact(&format!(
                "/registry/ebfw.dvrkn.com/egresspolicies/{}/goes",
                namespace.name
            ));
            // Its container ends, and kubelet starts another, which is in another cgroup of the same pod.
            let restart = || {
                restarted.order("exit");
                eventually("the container is back", || {
                    restarted.order("first").is_some()
                });
                right(&restarted);
            };
            restart();
            let manifest = unknown_pod(&namespace, &unknown);
            replace_agent(&cluster);
            // The second time kubelet waits longer.
            restart();
            away.halt("kubelet");
            waits_for_policies(&cluster);
            right(&restarted);
            let tries = traffic.join().expect("every verdict is right");
            eprintln!(
                "{tries} connections of each kind in {:?} without an API server",
                begun.elapsed()
            );
            manifest
        });
        assert!(waits(&cluster), "it goes on waiting");
        assert_eq!(unknown.accepted(), 0, "nobody told of that pod");
        drop(manifest);
    }
    assert_eq!(denied.accepted(), before, "somebody came through");
    let back = Instant::now();
    eventually("a policy that was deleted meanwhile is gone", || {
        freed.connect(allowed.address).is_made()
    });
    eventually("the agent is ready", || {
        let says = cluster.agent_says("/readyz");
        says.is_some_and(|says| says.contains(" 200 "))
    });
    steady.label(&json!({ "tier": "db" }));
    eventually("a change after that is seen", || {
        steady.connect(denied.address).is_made()
    });
    let took = back.elapsed();
    eprintln!("{took:?} after {OUTAGE:?} without an API server a change is enforced");
    // An eighth of the outage, and the pause of the one who writes; much more for a busy machine.
    assert!(took < OUTAGE / 8 + Duration::from_secs(20), "{took:?}");
    let late = namespace.pod("late", &web);
    eventually("a new pod is known", || {
        late.connect(denied.address).is_refused()
    });
    witness.has_seen(&namespace, &[("deny", true), ("goes", false)], &steady);
}

fn waits(cluster: &Cluster) -> bool {
    let says = cluster.agent_says("/readyz").unwrap_or_default();
    says.contains("pending: policies heard of from the API server")
}

/// The agent that started meanwhile has heard of no object, and finds those of an earlier one in the kernel: it must not take the file.
fn waits_for_policies(cluster: &Cluster) {
    eventually("it waits for policies", || waits(cluster));
    eventually("longer than for anything else", || {
        agent_said("waiting for the API server to tell the policies")
    });
    let healthy = cluster.agent_says("/healthz").expect("it answers");
    assert!(healthy.starts_with("HTTP/1.0 200"), "{healthy}");
}

/// What only settings make different: a pod that nobody has told of gets out with `unknownWorkload: allow`. And where nothing is in force, the file in
/// reserve is.
pub(crate) fn an_outage_with_other_settings(namespace: &OwnNamespace<'_>, traffic: &Traffic<'_>) {
    let cluster = namespace.cluster;
    let (by_object, by_file) = (traffic.denied.address, traffic.allowed.address);
    {
        let mut away = Away::begin();
        let server = Server::start(OUTSIDE[1]);
        let manifest = unknown_pod(namespace, &server);
        assert_eq!(server.accepted(), 1, "nobody needs to tell of a pod");
        drop(manifest);
        assert!(node_connects(by_file), "the file is not in force");
        // The agent holds the programs until it ends: then nothing is in force, and nothing tells of an earlier agent.
        fs::remove_dir_all("/sys/fs/bpf/ebfw").expect("the programs are pinned");
        replace_agent(cluster);
        away.halt("kubelet");
        eventually("the file is in force", || !node_connects(by_file));
        assert!(node_connects(by_object), "only the file");
    }
    eventually("the object is in force again", || {
        let connect = |to| traffic.pod.try_connect(to);
        node_connects(by_file)
            && connect(by_object).is_some_and(|outcome| outcome.is_refused())
            && connect(by_file).is_some_and(|outcome| outcome.is_made())
    });
    assert!(agent_said("the policy file is in force until there are"));
}

/// The API server works a tenth of the time as long as this value lives.
struct Slow<'a>(&'a AtomicBool);

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn a_slow_api_server_makes_changes_late_and_no_verdict_wrong() {
    let cluster = cluster();
    let namespace = cluster.namespace("slow");
    let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
    let policy = |address| deny(address, &json!({}));
    let pod = namespace.pod("pod", &json!({}));
    let (server, slow) = (program("kube-apiserver"), AtomicBool::new(true));
    thread::scope(|scope| {
        scope.spawn(|| {
            for (signal, milliseconds) in [(Signal::SIGSTOP, 450), (Signal::SIGCONT, 50)]
                .into_iter()
                .cycle()
            {
                // It goes on before this ends.
                if !slow.load(Ordering::Relaxed) && signal == Signal::SIGSTOP {
                    return;
                }
                kill(server, signal).expect("the API server runs");
                thread::sleep(Duration::from_millis(milliseconds));
            }
        });
        let _slow = Slow(&slow);
        for (address, first) in [(OUTSIDE[0], true), (OUTSIDE[1], false)] {
            let begun = Instant::now();
            namespace.policy("flip", &policy(address));
            eventually("a change is in force", || {
                pod.connect(denied.address).is_refused() == first
                    && pod.connect(allowed.address).is_refused() != first
            });
            eprintln!(
                "a change through a slow API server took {:?}",
                begun.elapsed()
            );
        }
        namespace.request_pod("late", &json!({}), &["first", &allowed.address.to_string()]);
        let late = namespace.running_pod("late");
        assert!(late.first().is_refused(), "{:?}", late.first());
        assert!(late.connect(denied.address).is_made());
    });
}
