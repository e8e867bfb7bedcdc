//! Policies for whole nodes, pods in the node's network, and agents that are replaced.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    cluster::{
        OUTSIDE, OwnNamespace, PATIENCE, SYSTEM, Server, cluster, deny, eventually, helm, rollout,
    },
    outage::{agent_said, an_outage_with_other_settings},
    pod::{Outcome, Pod},
};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The Service of the API server, which is on the node.
const API: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Whether a process of the node that is in no pod reaches `to`.
pub(crate) fn node_connects(to: SocketAddr) -> bool {
    let target = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    let mut shell = Command::new("nsenter");
    shell.args(["--net=/proc/1/ns/net", "--cgroup=/proc/1/ns/cgroup"]);
    shell.args([
        "--",
        "sh",
        "-c",
        "echo $$ > /sys/fs/cgroup/cgroup.procs; exec bash -c \"$0\"",
        &target,
    ]);
    let output = shell.output().expect("the node has a shell");
    output.status.success()
}

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
        "rules": [
            { "name": "cluster", "action": "Allow", "match": { "cidrs": ["10.88.0.0/16", "10.96.0.0/16"] } },
            // The API server, the agent and kubelet.
            { "name": "node", "action": "Allow", "match": { "cidrs": [format!("{NODE}/32")], "ports": [6443, 9487, 10250] } },
        ],
    });
    let policy = cluster.cluster_policy("lockdown", &lockdown);
    eventually("pods are locked in", || {
        before.connect(server.address).is_refused()
    });
    let direct = || node_connects(server.address);
    assert!(!direct(), "processes of the node are locked in as well");
    // kubelet, containerd, the API server and the cluster's DNS do their work.
    let after = namespace.pod("after", &json!({}));
    assert_eq!(after.resolve("outside.test"), OUTSIDE[0].to_string());
    assert!(after.connect(server.address).is_refused());
    // From the node to a server on the node, whose answer goes to a port that no rule names, and by another address than the question came by.
    assert!(node_connects(SocketAddr::from((API, 443))), "a Service");
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

/// A policy, a pod of it, a server that it may not reach and one that it may.
pub(crate) struct Traffic<'a> {
    pub(crate) pod: Pod<'a>,
    pub(crate) denied: Server,
    pub(crate) allowed: Server,
}

impl<'a> Traffic<'a> {
    pub(crate) fn start(namespace: &'a OwnNamespace<'a>) -> Self {
        let (denied, allowed) = (Server::start(OUTSIDE[0]), Server::start(OUTSIDE[1]));
        namespace.policy("deny", &deny(OUTSIDE[0], &json!({})));
        let pod = namespace.pod("pod", &json!({}));
        eventually("it is in force", || {
            pod.connect(denied.address).is_refused()
        });
        Self {
            pod,
            denied,
            allowed,
        }
    }

    /// Connects until `change` is through; every verdict has to be right.
    pub(crate) fn go_on_during(&self, what: &str, mut change: Child) {
        self.go_on_until(what, || {
            let status = change.try_wait().expect("it is a child")?;
            assert!(status.success(), "{what}: {status}");
            Some(())
        });
    }

    /// As [`Traffic::go_on_during`], until something is there.
    fn go_on_until(&self, what: &str, mut there: impl FnMut() -> Option<()>) {
        let before = self.denied.accepted();
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut tries = 0;
        while there().is_none() {
            let (denied, allowed) = (
                self.pod.connect(self.denied.address),
                self.pod.connect(self.allowed.address),
            );
            assert!(
                denied.is_refused(),
                "still denied during {what}: {denied:?}"
            );
            let Outcome::Made(took) = allowed else {
                panic!("still allowed during {what}: {allowed:?}");
            };
            slowest = slowest.max(took);
            tries += 1;
            assert!(begun.elapsed() < PATIENCE, "{what} does not end");
        }
        assert_eq!(self.denied.accepted(), before, "somebody came through");
        let took = begun.elapsed();
        eprintln!(
            "{tries} connections of each kind during {what}, {took:?}; the slowest that is allowed took {slowest:?}"
        );
    }
}

/// Applies the release's manifest as Helm does, with this instead of the node's name, if anything.
fn apply_with_node_name(name: Option<&str>) {
    let mut helm = Command::new("helm");
    helm.args(["--namespace", SYSTEM, "get", "manifest", "ebfw"]);
    let manifest = helm.output().expect("helm starts").stdout;
    let mut manifest = String::from_utf8(manifest).expect("a manifest is text");
    if let Some(name) = name {
        let own =
            "valueFrom:\n                fieldRef:\n                  fieldPath: spec.nodeName";
        assert!(manifest.contains(own), "{manifest}");
        manifest = manifest.replace(own, &format!("value: {name}"));
    }
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["apply", "--server-side", "--field-manager=helm", "-f", "-"]);
    kubectl.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut kubectl = kubectl.spawn().expect("kubectl starts");
    let mut stdin = kubectl.stdin.take().expect("it is a pipe");
    stdin.write_all(manifest.as_bytes()).expect("kubectl reads");
    drop(stdin);
    assert!(kubectl.wait().is_ok_and(|status| status.success()));
}

/// All pods of the node would be closed.
#[test]
fn an_agent_that_is_told_another_nodes_name_says_so_and_changes_nothing() {
    let cluster = cluster();
    let namespace = cluster.namespace("name");
    let traffic = Traffic::start(&namespace);
    apply_with_node_name(Some("another"));
    traffic.go_on_until("a start under a wrong name", || {
        agent_said("the agent's own pod is not among the pods of the node").then_some(())
    });
    let says = cluster.agent_says("/readyz").expect("it answers");
    assert!(
        says.contains("pending: pods heard of from the API server"),
        "{says}"
    );
    apply_with_node_name(None);
    let through = rollout(&["status", "--timeout=120s"]).spawn();
    traffic.go_on_during("a rollout", through.expect("kubectl starts"));
}

#[test]
fn no_verdict_is_wrong_during_an_upgrade_and_a_rollback() {
    let cluster = cluster();
    let namespace = cluster.namespace("rollback");
    let traffic = Traffic::start(&namespace);
    let revision = || -> Option<u64> {
        let mut helm = Command::new("helm");
        helm.args(["--namespace", SYSTEM, "status", "ebfw", "--output=json"]);
        let status = helm.output().expect("helm starts").stdout;
        let status: Value = serde_json::from_slice(&status).ok()?;
        status["version"].as_u64()
    };
    let first = revision().expect("the chart is installed").to_string();
    let values = "podAnnotations.rolled=forward,log=debug,unknownWorkload=allow";
    let mut upgrade = helm(&["--set", values]);
    traffic.go_on_during("an upgrade", upgrade.spawn().expect("helm starts"));
    an_outage_with_other_settings(&namespace, &traffic);
    let mut back = Command::new("helm");
    back.args(["--namespace", SYSTEM, "rollback", "ebfw", &first])
        .args(["--wait", "--timeout=120s"]);
    traffic.go_on_during("a rollback", back.spawn().expect("helm starts"));
}

/// What the docs say: off first, then the release.
#[test]
fn nothing_is_attached_after_the_removal_that_is_documented() {
    let pinned = || fs::exists("/sys/fs/bpf/ebfw").expect("the node has a bpf file system");
    let cluster = cluster();
    let namespace = cluster.namespace("removal");
    let traffic = Traffic::start(&namespace);
    assert!(pinned(), "while it enforces");
    cluster.helm(&["--set", "mode=off"]);
    eventually("nothing is denied", || {
        traffic.pod.connect(traffic.denied.address).is_made()
    });
    let mut uninstall = Command::new("helm");
    uninstall.args(["--namespace", SYSTEM, "uninstall", "ebfw"]);
    uninstall.args(["--wait", "--timeout=120s"]);
    assert!(uninstall.status().is_ok_and(|status| status.success()));
    eventually("nothing is pinned", || !pinned());
    // The kernel lets go of programs a moment after their last descriptor is closed.
    eventually("nothing is attached to the node's cgroup", || {
        attached() == 0
    });
    assert!(traffic.pod.connect(traffic.denied.address).is_made());
    assert!(
        namespace
            .try_policy("kept", &json!({ "podSelector": {} }))
            .is_ok(),
        "definitions stay"
    );
    cluster.helm(&[]);
    eventually("it is back", || {
        traffic.pod.connect(traffic.denied.address).is_refused()
    });
    assert!(pinned() && attached() > 0);
}

/// How many programs are attached to the node's root cgroup (`BPF_PROG_QUERY`).
fn attached() -> usize {
    const PROG_QUERY: libc::c_long = 16;
    /// Attach types that there are, and some more: those of other places are refused.
    const TYPES: u32 = 64;
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target: u32,
        attach_type: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let cgroup = fs::File::open("/sys/fs/cgroup").expect("the node has cgroups");
    let target = u32::try_from(cgroup.as_raw_fd()).expect("a descriptor is not negative");
    let count = |attach_type| {
        let mut query = Query {
            target,
            attach_type,
            ..Query::default()
        };
        // SAFETY: the kernel writes within `query` alone: no array of ids is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                PROG_QUERY,
                &raw mut query,
                size_of::<Query>(),
            )
        };
        if result == 0 { query.count as usize } else { 0 }
    };
    (0..TYPES).map(count).sum()
}
