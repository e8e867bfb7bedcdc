//! The agent's own watches in this process, with a token that becomes void: what they see before and after an outage, without a restart.

use std::{fs, path::PathBuf};

use ebfw_agent::{
    cluster::{self, Policies},
    pods::Pods,
};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::AuthInfo,
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    cluster::{Cluster, OwnNamespace, SYSTEM, eventually, in_lab},
    pod::Pod,
    static_pods::NODE,
};

/// A token is void without the object that it is bound to.
const BOUND: &str = "witness";

/// It watches as the agent does, by the agent's account and a token in a file, as kubelet writes it.
pub(crate) struct Witness<'a> {
    cluster: &'a Cluster,
    file: PathBuf,
    first: String,
    policies: watch::Receiver<Policies>,
    pods: watch::Receiver<Pods>,
}

impl<'a> Witness<'a> {
    pub(crate) fn start(cluster: &'a Cluster) -> Self {
        let secret = json!({ "metadata": { "name": BOUND } });
        let secret: Secret = serde_json::from_value(secret).expect("it is one");
        let secrets: Api<Secret> = cluster.api(SYSTEM);
        cluster
            .block_on(secrets.create(&PostParams::default(), &secret))
            .expect("an administrator makes secrets");
        let reference = json!({ "apiVersion": "v1", "kind": "Secret", "name": BOUND });
        let first = token(
            cluster,
            &json!({ "audiences": [], "boundObjectRef": reference }),
        );
        let file = in_lab("token");
        fs::write(&file, &first).expect("there is a folder for it");
        let client = client(
            cluster,
            AuthInfo {
                token_file: Some(file.display().to_string()),
                ..AuthInfo::default()
            },
        );
        let (policies, pods) = cluster.block_on(async {
            let watches = cluster::Cluster::new(client, SYSTEM, NODE);
            (watches.policies(), watches.pods())
        });
        let witness = Self {
            cluster,
            file,
            first,
            policies,
            pods,
        };
        eventually("the witness sees what there is", || {
            witness.policies.borrow().objects.is_complete() && witness.pods.borrow().is_synced()
        });
        witness
    }

    /// Its token will be void, and another is in its place.
    pub(crate) fn lose_token(&self) {
        let secrets: Api<Secret> = self.cluster.api(SYSTEM);
        self.cluster
            .block_on(secrets.delete(BOUND, &DeleteParams::default()))
            .expect("it is there");
        fs::write(&self.file, token(self.cluster, &json!({ "audiences": [] })))
            .expect("the file is there");
    }

    /// It has seen what is there now: these policies, and the labels of a pod.
    pub(crate) fn has_seen(
        &self,
        namespace: &OwnNamespace<'_>,
        expected: &[(&str, bool)],
        pod: &Pod<'_>,
    ) {
        let auth = AuthInfo {
            token: Some(self.first.clone().into()),
            ..AuthInfo::default()
        };
        let old: Api<ServiceAccount> = Api::namespaced(client(self.cluster, auth), SYSTEM);
        let refused = self
            .cluster
            .block_on(old.list(&kube::api::ListParams::default()));
        assert!(
            matches!(&refused, Err(kube::Error::Api(status)) if status.code == 401),
            "the first token is void: {refused:?}"
        );
        let knows = |name: &str| {
            let policies = self.policies.borrow();
            policies
                .objects
                .iter()
                .any(|(id, _)| id.namespace() == Some(namespace.name.as_str()) && id.name() == name)
        };
        eventually("the witness sees the policies that are there now", || {
            expected.iter().all(|(name, there)| knows(name) == *there)
        });
        let metadata = pod.object().metadata;
        let (uid, labels) = (
            metadata.uid.unwrap_or_default(),
            metadata.labels.unwrap_or_default(),
        );
        eventually("and the pods", || {
            let pods = self.pods.borrow();
            pods.get(&uid).is_some_and(|facts| facts.labels == labels)
        });
    }
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        // What is left goes with the lab.
        let _ = fs::remove_file(&self.file);
        let secrets: Api<Secret> = self.cluster.api(SYSTEM);
        let _ = self
            .cluster
            .block_on(secrets.delete(BOUND, &DeleteParams::default()));
    }
}

/// A token of the agent's account.
fn token(cluster: &Cluster, spec: &serde_json::Value) -> String {
    let request = json!({ "spec": spec });
    let request: TokenRequest = serde_json::from_value(request).expect("it is one");
    let accounts: Api<ServiceAccount> = cluster.api(SYSTEM);
    let made =
        cluster.block_on(accounts.create_token_request("ebfw", &PostParams::default(), &request));
    let status = made.expect("an administrator makes tokens").status;
    status.expect("the API server fills it in").token
}

/// By other means than the administrator's.
fn client(cluster: &Cluster, auth: AuthInfo) -> Client {
    cluster.block_on(async {
        let mut config = Config::infer().await.expect("KUBECONFIG names the cluster");
        config.auth_info = auth;
        Client::try_from(config).expect("the configuration is complete")
    })
}
