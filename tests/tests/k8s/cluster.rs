//! The cluster with the agent in it, as the chart installs it; one for all tests, which take turns.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ebfw_crd::object;
use ebfw_policy::object::Kind;
use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Where the chart is installed.
pub(crate) const SYSTEM: &str = "ebfw-system";
/// The tests' own address, and another of the outside.
pub(crate) const OUTSIDE: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 3)];
/// The same over IPv6.
pub(crate) const OUTSIDE6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 3),
];
/// Where the agent tells its metrics.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), 9487);
/// How long a cluster on a busy machine may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster, for the test that has its turn.
pub(crate) struct Cluster {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    namespaces: AtomicUsize,
}

/// Waits for the test's turn. The first one installs the agent.
pub(crate) fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(Cluster::install()));
    cluster.lock().unwrap_or_else(|failed| {
        // A test that failed leaves objects of its own namespace, and perhaps the chart with other values or gone.
        let installed = failed.into_inner();
        cluster.clear_poison();
        installed.helm(&[]);
        installed
    })
}

impl Cluster {
    fn install() -> Self {
        let runtime = Runtime::new().expect("a runtime can be built");
        let client = runtime
            .block_on(Client::try_default())
            .expect("KUBECONFIG names the cluster: run `cargo xtask test k8s`");
        let cluster = Self {
            runtime,
            client,
            namespaces: AtomicUsize::new(0),
        };
        cluster.helm(&[]);
        cluster
    }

    /// Installs the chart, or changes what is installed, and waits until the agent is ready.
    pub(crate) fn helm(&self, values: &[&str]) {
        let output = helm(values).output().expect("helm starts");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr) + &*self.agent_log(40)
        );
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The last lines of the agent: its log and its events.
    pub(crate) fn agent_log(&self, lines: i64) -> String {
        let pods: Api<PodObject> = self.api(SYSTEM);
        self.block_on(async {
            let Ok(list) = pods.list(&ListParams::default()).await else {
                return String::new();
            };
            let mut text = String::new();
            for pod in list {
                let name = pod.metadata.name.unwrap_or_default();
                let parameters = LogParams {
                    tail_lines: Some(lines),
                    ..LogParams::default()
                };
                text += &pods.logs(&name, &parameters).await.unwrap_or_default();
            }
            text
        })
    }

    /// What the agent says at `path`, head and body; `None` where none listens.
    pub(crate) fn agent_says(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&METRICS, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// A metric of the agent that has no labels.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let text = self.agent_says("/metrics")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse().ok()
    }

    /// A namespace of the test's own; what is in it goes with it.
    pub(crate) fn namespace(&self, name: &str) -> OwnNamespace<'_> {
        self.labelled_namespace(name, &json!({}))
    }

    /// As [`Cluster::namespace`], with labels.
    pub(crate) fn labelled_namespace(&self, name: &str, labels: &Value) -> OwnNamespace<'_> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{number}", std::process::id());
        let namespace = json!({ "metadata": { "name": name, "labels": labels } });
        let namespace: Namespace = serde_json::from_value(namespace).expect("it is one");
        let api: Api<Namespace> = Api::all(self.client.clone());
        self.block_on(api.create(&PostParams::default(), &namespace))
            .expect("an administrator makes namespaces");
        let account = || {
            let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = self.api(&name);
            self.block_on(api.get("default")).is_ok()
        };
        eventually("the namespace has an account for pods", account);
        OwnNamespace {
            cluster: self,
            name,
        }
    }

    /// Makes a cluster policy, or changes it.
    pub(crate) fn cluster_policy(&self, name: &str, spec: &Value) -> OwnPolicy<'_> {
        let resource = object::resource(Kind::ClusterEgressPolicy);
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        put(self, &api, Kind::ClusterEgressPolicy, name, spec)
            .unwrap_or_else(|error| panic!("{name} is refused: {error}"));
        OwnPolicy {
            cluster: self,
            api,
            name: name.to_owned(),
        }
    }
}

/// A namespace that goes with its value.
pub(crate) struct OwnNamespace<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: String,
}

impl OwnNamespace<'_> {
    fn policies(&self) -> Api<DynamicObject> {
        let resource = object::resource(Kind::EgressPolicy);
        Api::namespaced_with(self.cluster.client.clone(), &self.name, &resource)
    }

    /// Makes a policy of the namespace, or changes it.
    pub(crate) fn try_policy(&self, name: &str, spec: &Value) -> kube::Result<DynamicObject> {
        put(
            self.cluster,
            &self.policies(),
            Kind::EgressPolicy,
            name,
            spec,
        )
    }

    /// As [`OwnNamespace::try_policy`], which must go well.
    pub(crate) fn policy(&self, name: &str, spec: &Value) {
        let put = self.try_policy(name, spec);
        put.unwrap_or_else(|error| panic!("{name} is refused: {error}"));
    }

    /// Its policy, as it is now.
    pub(crate) fn read_policy(&self, name: &str) -> DynamicObject {
        self.cluster
            .block_on(self.policies().get(name))
            .expect("the policy is there")
    }

    pub(crate) fn delete_policy(&self, name: &str) {
        let deleted = self
            .cluster
            .block_on(self.policies().delete(name, &DeleteParams::default()));
        deleted.expect("the policy is there");
    }
}

impl Drop for OwnNamespace<'_> {
    fn drop(&mut self) {
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        // What is left goes with the cluster.
        let _ = self
            .cluster
            .block_on(api.delete(&self.name, &DeleteParams::default()));
    }
}

/// A cluster policy that goes with its value.
pub(crate) struct OwnPolicy<'a> {
    cluster: &'a Cluster,
    api: Api<DynamicObject>,
    name: String,
}

impl Drop for OwnPolicy<'_> {
    fn drop(&mut self) {
        let _ = self
            .cluster
            .block_on(self.api.delete(&self.name, &DeleteParams::default()));
    }
}

/// Something in the lab's folder, which goes with the lab.
pub(crate) fn in_lab(name: &str) -> PathBuf {
    PathBuf::from(env::var_os("EBFW_TEST_LAB").expect("xtask names the lab")).join(name)
}

/// A policy file, in force only where no policy object is to be had: it denies [`OUTSIDE`]'s second address to everybody, which the objects of the
/// tests allow.
fn reserve() -> PathBuf {
    let path = in_lab("reserve.yaml");
    let address = OUTSIDE[1];
    let text =
        format!("rules:\n  - {{name: other, action: Deny, match: {{cidrs: [{address}/32]}}}}\n");
    fs::write(&path, text).expect("there is a folder for it");
    path
}

/// What [`Cluster::helm`] does.
pub(crate) fn helm(values: &[&str]) -> Command {
    let chart = PathBuf::from(env::var_os("EBFW_TEST_CHART").expect("xtask names the chart"));
    let image = env::var("EBFW_TEST_IMAGE").expect("xtask names the image");
    let (repository, tag) = image.rsplit_once(':').expect("an image has a tag");
    let image = format!("image.repository={repository},image.tag={tag},image.pullPolicy=Never");
    let mut helm = Command::new("helm");
    helm.args(["upgrade", "--install", "ebfw"])
        .arg(chart)
        .args(["--namespace", SYSTEM, "--create-namespace"])
        .args(["--wait", "--timeout=120s"])
        .args(["--set", &image, "--set", "mode=enforce"])
        .args([
            "--set-file",
            &format!("policy.file={}", reserve().display()),
        ])
        .args([
            "--set-json",
            "events.exclude={\"cidrs\":[],\"domainSuffixes\":[]}",
        ])
        .args(values);
    helm
}

/// Has the agents replaced (`restart`), or waits until they are (`status`).
pub(crate) fn rollout(arguments: &[&str]) -> Command {
    let mut kubectl = Command::new("kubectl");
    kubectl
        .args(["--namespace", SYSTEM, "rollout"])
        .args(arguments)
        .arg("daemonset/ebfw");
    kubectl
}

/// A policy that denies one address to the pods of `selector`.
pub(crate) fn deny(address: Ipv4Addr, selector: &Value) -> Value {
    json!({
        "podSelector": selector,
        "rules": [{ "name": "no", "action": "Deny", "match": { "cidrs": [format!("{address}/32")] } }],
    })
}

fn put(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    kind: Kind,
    name: &str,
    spec: &Value,
) -> kube::Result<DynamicObject> {
    let object = json!({
        "apiVersion": "ebfw.dvrkn.com/v1",
        "kind": kind.as_str(),
        "metadata": { "name": name },
        "spec": spec,
    });
    let parameters = PatchParams::apply("tests").force();
    cluster.block_on(api.patch(name, &parameters, &Patch::Apply(object)))
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server outside of the cluster that echoes, and counts who came.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(at: impl Into<IpAddr>) -> Self {
        let listener =
            TcpListener::bind((at.into(), 0)).expect("the tests stand outside of the cluster");
        let server = Self {
            address: listener.local_addr().expect("it is bound"),
            accepted: Arc::default(),
            stop: Arc::default(),
        };
        let (accepted, stop) = (Arc::clone(&server.accepted), Arc::clone(&server.stop));
        thread::spawn(move || {
            for peer in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut peer) = peer else { continue };
                accepted.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = peer.read(&mut bytes) {
                        if peer.write_all(&bytes[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    /// How many connections were made to it.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a connection to notice.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}
