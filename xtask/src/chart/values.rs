//! The values of the chart. The comments become the schema that editors and Helm show.

use std::{collections::BTreeMap, num::NonZeroU16};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! octets {
    () => {
        r"((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
    };
}
macro_rules! address6 {
    () => {
        r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*"
    };
}
/// An address; what is none within its alphabet the agent refuses, as it does host bits behind a prefix.
const ADDRESS: &str = concat!("^(", octets!(), "|", address6!(), ")$");
/// A prefix, its length within its family's.
const PREFIX: &str = concat!(
    "^(",
    octets!(),
    "/(3[0-2]|[12]?[0-9])|",
    address6!(),
    "/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$"
);
/// A name, with or without outer dots.
const SUFFIX: &str = r"^\.?[-A-Za-z0-9_]+(\.[-A-Za-z0-9_]+)*\.?$";

/// A capability as Kubernetes calls it, without `CAP_`.
const CAPABILITY: &str = "^([ABD-Z]|C[B-Z]|CA[A-OQ-Z])[A-Z_]*$";
/// Registry and name of an image.
const REPOSITORY: &str = r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$";
/// A tag, or none.
const TAG: &str = "^([A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$";

/// An object of Kubernetes that the chart hands on as it is.
type Raw = Map<String, Value>;
type Labels = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Values {
    /// Values that a parent chart sets for all of its charts.
    #[serde(default, skip_serializing)]
    #[schemars(default)]
    #[expect(dead_code, reason = "Helm puts it into the values of every chart")]
    global: Raw,
    /// What the policies do.
    mode: Mode,
    policy: Policy,
    /// What happens to packets of a container that the agent has not looked at yet.
    unknown_workload: UnknownWorkload,
    /// What stays when an agent ends; empty: keep with mode enforce, open otherwise.
    on_exit: OnExit,
    /// Whether the agent destroys sockets of denied flows in the pods' network namespaces, for which it needs SYS_ADMIN.
    destroy_sockets: bool,
    /// Whether the agent looks into the pods' programs for their TLS libraries, for which it needs the node's process ids and SYS_PTRACE.
    inside_tls: bool,
    dns: Dns,
    events: Events,
    /// What the agent logs about itself: error, warn, info, debug, trace, off, or TARGET=LEVEL, several with commas.
    #[schemars(length(min = 1))]
    log: String,
    metrics: Metrics,
    crds: Crds,
    image: Image,
    /// Secrets with which the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_pull_secrets: Option<Vec<PullSecret>>,
    /// Name of the chart in names and labels.
    name_override: String,
    /// Name of all objects.
    fullname_override: String,
    service_account: ServiceAccount,
    rbac: Rbac,
    host_paths: HostPaths,
    /// Capabilities beyond BPF, PERFMON and NET_ADMIN, without `CAP_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(regex(pattern = CAPABILITY)))]
    extra_capabilities: Option<Vec<String>>,
    /// Environment variables beside those that the other values set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extra_env: Option<Vec<Variable>>,
    /// Requests and limits of the agent's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resources: Option<Raw>,
    /// Taints in spite of which the agent runs on a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tolerations: Option<Vec<Raw>>,
    /// Labels of the nodes on which it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_selector: Option<Labels>,
    /// Further requirements on nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity: Option<Raw>,
    /// The pods' priority class.
    #[schemars(length(min = 1))]
    priority_class_name: String,
    /// How the DaemonSet is updated.
    update_strategy: UpdateStrategy,
    /// Seconds that an agent has to end.
    termination_grace_period_seconds: u32,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_annotations: Option<Labels>,
    /// Labels of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_labels: Option<Labels>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Nothing is evaluated.
    Off,
    /// Denied flows are reported and pass.
    Log,
    /// As enforce, with the drop switched off in the kernel.
    DryRun,
    /// Denied flows are refused.
    Enforce,
}

/// Where policies come from.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    /// Objects of the cluster, or a file.
    source: Source,
    /// The text of a policy file. With source crd it holds while the cluster has no custom resources of ebfw.
    file: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// EgressPolicy and ClusterEgressPolicy objects.
    Crd,
    /// `policy.file`.
    File,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum UnknownWorkload {
    /// They are dropped: late, not refused.
    Drop,
    /// They pass.
    Allow,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnExit {
    /// Keep with mode enforce, open otherwise.
    #[serde(rename = "")]
    Unset,
    /// The programs go on with the last policy.
    Keep,
    /// Nothing.
    Open,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateStrategy {
    /// How agents are replaced: one after the other, or as pods are deleted by hand.
    r#type: UpdateType,
    /// With RollingUpdate: how many at a time. `null` with OnDelete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rolling_update: Option<Raw>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
enum UpdateType {
    RollingUpdate,
    OnDelete,
}

/// From which answers names are learned.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dns {
    /// Addresses of trusted resolvers; empty: the node's and the cluster's.
    #[schemars(inner(regex(pattern = ADDRESS)))]
    resolvers: Vec<String>,
    /// Whether names of special addresses are learned too.
    learn_special: bool,
}

/// What the agent reports.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Events {
    /// Form of the events on standard output.
    output: Output,
    /// Flows without events.
    exclude: Exclude,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Output {
    /// One JSON object a line.
    Json,
    /// One line of text.
    Text,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exclude {
    /// Prefixes of destinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(regex(pattern = PREFIX)))]
    cidrs: Option<Vec<String>>,
    /// Names, and those below them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(regex(pattern = SUFFIX)))]
    domain_suffixes: Option<Vec<String>>,
}

/// What Prometheus and Grafana get.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metrics {
    /// Port of /metrics, /healthz and /readyz on the node.
    port: NonZeroU16,
    pod_monitor: PodMonitor,
    prometheus_rule: PrometheusRule,
    dashboard: Dashboard,
}

/// A PodMonitor of the Prometheus Operator.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodMonitor {
    /// Whether there is one.
    enabled: bool,
    /// How often agents are scraped.
    #[schemars(regex(pattern = r"^([0-9]+(ms|[smhd]))+$"))]
    interval: String,
    /// Labels by which Prometheus finds it.
    labels: Labels,
}

/// Alerts of the Prometheus Operator.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrometheusRule {
    /// Whether there are some.
    enabled: bool,
    /// Labels by which Prometheus finds them.
    labels: Labels,
}

/// A ConfigMap with a dashboard for Grafana.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dashboard {
    /// Whether there is one.
    enabled: bool,
    /// Labels by which Grafana's sidecar finds it.
    labels: Labels,
    /// Annotations, such as the folder.
    annotations: Labels,
}

/// The definitions of the custom resources.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Crds {
    /// Whether the chart installs and upgrades them.
    install: bool,
}

/// The agent's image.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    /// Registry and name.
    #[schemars(regex(pattern = REPOSITORY))]
    repository: String,
    /// Empty: the version of the chart's application.
    #[schemars(regex(pattern = TAG))]
    tag: String,
    /// `sha256:…`; beats the tag.
    #[schemars(regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    digest: String,
    /// When it is pulled.
    pull_policy: PullPolicy,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A secret of the release's namespace.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PullSecret {
    /// Its name.
    #[schemars(length(min = 1))]
    name: String,
}

/// A variable and its value, or `valueFrom`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Variable {
    /// Its name.
    #[schemars(length(min = 1))]
    name: String,
    /// Its value, which is text: numbers and truth values in quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_from: Option<Raw>,
}

/// The agent's account with the API server.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceAccount {
    /// Whether the chart makes it.
    create: bool,
    /// Empty: the name of the release.
    name: String,
    /// Its annotations.
    annotations: Labels,
}

/// What the account may do.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rbac {
    /// Whether the chart makes roles and bindings.
    create: bool,
}

/// Where the node has what the agent needs.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HostPaths {
    /// The cgroup v2 hierarchy.
    #[schemars(regex(pattern = "^/"))]
    cgroup: String,
    /// A bpf file system.
    #[schemars(regex(pattern = "^/"))]
    bpffs: String,
    /// The network namespaces of the pods, as the container runtime names them.
    #[schemars(regex(pattern = "^/"))]
    netns: String,
}
