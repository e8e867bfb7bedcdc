//! Pods that do what tests tell them (`tests/pod`).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod as PodObject, Service};
use kube::{
    Api,
    api::{LogParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::cluster::{OwnNamespace, PATIENCE, eventually};

/// Where a pod takes orders.
const ORDERS: u16 = 9000;

/// A pod that runs.
pub(crate) struct Pod<'a> {
    namespace: &'a OwnNamespace<'a>,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

/// What came of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was made, after this time.
    Made(Duration),
    /// It was not, because of this kind of error.
    Failed(String),
}

impl Outcome {
    /// Whether the firewall said no: at once, or by taking the socket away that waited to be judged.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Failed(kind) if kind == "PermissionDenied" || kind == "ConnectionAborted")
    }

    pub(crate) fn is_made(&self) -> bool {
        matches!(self, Self::Made(_))
    }

    /// As a pod tells it.
    pub(crate) fn read(answer: &str) -> Self {
        let words: Vec<&str> = answer.split_whitespace().collect();
        match words[..] {
            ["ok", took] => Self::Made(Duration::from_micros(
                took.parse().expect("a pod says microseconds"),
            )),
            ["failed", kind, ..] => Self::Failed(kind.to_owned()),
            _ => panic!("a pod answered {answer:?}"),
        }
    }
}

impl OwnNamespace<'_> {
    fn pods(&self) -> Api<PodObject> {
        self.cluster.api(&self.name)
    }

    /// Makes a service for the pods with `labels`; a headless one is a name for their addresses.
    pub(crate) fn service(&self, name: &str, labels: &Value, port: u16, headless: bool) {
        self.service_of(name, labels, port, headless, "IPv4");
    }

    /// As [`OwnNamespace::service`], with addresses of a family.
    pub(crate) fn service_of(
        &self,
        name: &str,
        labels: &Value,
        port: u16,
        headless: bool,
        family: &str,
    ) {
        let service = json!({
            "metadata": { "name": name },
            "spec": {
                "ipFamilies": [family],
                "ipFamilyPolicy": "SingleStack",
                "clusterIP": headless.then_some("None"),
                "selector": labels,
                "ports": [{ "port": port }],
            },
        });
        let service: Service = serde_json::from_value(service).expect("it is a service");
        let services: Api<Service> = self.cluster.api(&self.name);
        self.cluster
            .block_on(services.create(&PostParams::default(), &service))
            .expect("an administrator makes services");
    }

    /// Asks for a pod and does not wait for it.
    pub(crate) fn request_pod(&self, name: &str, labels: &Value, arguments: &[&str]) {
        self.request(name, labels, arguments, false);
    }

    /// Asks for a pod in the node's network that takes orders.
    pub(crate) fn request_host_pod(&self, name: &str, labels: &Value) {
        self.request(name, labels, &["obey"], true);
    }

    fn request(&self, name: &str, labels: &Value, arguments: &[&str], host_network: bool) {
        self.request_of(name, labels, &pod_spec(arguments, host_network));
    }

    /// Asks for a pod of any kind.
    pub(crate) fn request_of(&self, name: &str, labels: &Value, spec: &Value) {
        let pod = json!({ "metadata": { "name": name, "labels": labels }, "spec": spec });
        let pod = serde_json::from_value(pod).expect("it is a pod");
        self.cluster
            .block_on(self.pods().create(&PostParams::default(), &pod))
            .expect("an administrator makes pods");
    }

    /// A pod that was asked for, once it takes orders.
    pub(crate) fn running_pod(&self, name: &str) -> Pod<'_> {
        let mut address = None;
        eventually(&format!("{name} has an address"), || {
            let pod = self.cluster.block_on(self.pods().get(name));
            let status = pod.ok().and_then(|pod| pod.status);
            address = status.and_then(|status| status.pod_ip?.parse().ok());
            address.is_some()
        });
        let pod = Pod {
            namespace: self,
            name: name.to_owned(),
            address: address.expect("the loop ended because of it"),
        };
        eventually(&format!("{name} takes orders"), || {
            pod.order("first").is_some()
        });
        pod
    }

    /// What a container of a pod has said.
    pub(crate) fn log_of(&self, pod: &str, container: &str) -> String {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            ..LogParams::default()
        };
        let log = self.cluster.block_on(self.pods().logs(pod, &parameters));
        log.expect("the container has run")
    }

    /// A pod that waits for orders.
    pub(crate) fn pod(&self, name: &str, labels: &Value) -> Pod<'_> {
        self.request_pod(name, labels, &["obey"]);
        self.running_pod(name)
    }
}

/// What a pod of the tests runs.
pub(crate) fn pod_spec(arguments: &[&str], host_network: bool) -> Value {
    json!({
        "hostNetwork": host_network,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "containers": [{
            "name": "pod",
            "image": "lab.ebfw/pod:latest",
            "imagePullPolicy": "Never",
            "args": arguments,
        }],
    })
}

impl Pod<'_> {
    /// Gives an order; `None` where it is not answered.
    pub(crate) fn order(&self, order: &str) -> Option<String> {
        let address = SocketAddr::from((self.address, ORDERS));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        writeln!(stream, "{order}").ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        (!answer.is_empty()).then(|| answer.trim().to_owned())
    }

    /// What became of what the pod did first of all.
    pub(crate) fn first(&self) -> Outcome {
        Outcome::read(&self.order("first").expect("it takes orders"))
    }

    /// Lets the pod connect.
    pub(crate) fn connect(&self, to: SocketAddr) -> Outcome {
        self.try_connect(to).expect("it takes orders")
    }

    /// As [`Pod::connect`]; `None` where the order is not answered, as by a pod that the agent does not know yet.
    pub(crate) fn try_connect(&self, to: SocketAddr) -> Option<Outcome> {
        let answer = self.order(&format!("connect {to} 5000"))?;
        Some(Outcome::read(&answer))
    }

    /// The address that the cluster's DNS has for a name, once it knows it.
    pub(crate) fn address_of(&self, name: &str) -> IpAddr {
        let mut found = None;
        eventually(&format!("the cluster's DNS knows {name}"), || {
            found = self.resolve(name).parse().ok();
            found.is_some()
        });
        found.expect("the loop ended because of it")
    }

    /// Lets the pod resolve a name.
    pub(crate) fn resolve(&self, name: &str) -> String {
        self.order(&format!("resolve {name}"))
            .expect("it takes orders")
    }

    /// Changes its labels.
    pub(crate) fn label(&self, labels: &Value) {
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        let pods = self.namespace.pods();
        self.namespace
            .cluster
            .block_on(pods.patch(&self.name, &PatchParams::default(), &patch))
            .expect("an administrator changes labels");
    }

    /// The object.
    pub(crate) fn object(&self) -> PodObject {
        let pods = self.namespace.pods();
        self.namespace
            .cluster
            .block_on(pods.get(&self.name))
            .expect("the pod is there")
    }
}
