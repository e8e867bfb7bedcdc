//! The cluster's certificates, keys and client configurations: one authority for everything, good for as long as the lab.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::place;

/// Who may do everything.
const ADMINISTRATORS: &str = "system:masters";
const NODES: &str = "system:nodes";

/// Client configurations that are written: file, user, group.
fn clients() -> [(&'static str, String, Option<&'static str>); 5] {
    [
        ("admin", "lab-admin".into(), Some(ADMINISTRATORS)),
        (
            "controller-manager",
            "system:kube-controller-manager".into(),
            None,
        ),
        ("scheduler", "system:kube-scheduler".into(), None),
        ("proxy", "system:kube-proxy".into(), None),
        (
            "kubelet",
            format!("system:node:{}", place::NODE),
            Some(NODES),
        ),
    ]
}

/// Makes them all below `folder`.
pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let authority = Authority::new(folder)?;
    let names = api_names();
    authority.issue("apiserver", "kube-apiserver", None, &names)?;
    authority.issue(
        "apiserver-client",
        "lab-apiserver",
        Some(ADMINISTRATORS),
        &[],
    )?;
    let node = [place::NODE.to_owned(), place::NODE_ADDRESS.to_owned()];
    let node_user = format!("system:node:{}", place::NODE);
    authority.issue("kubelet-serving", &node_user, Some(NODES), &node)?;
    for (name, user, group) in clients() {
        authority.issue(name, &user, group, &[])?;
        let file = folder.join(format!("{name}.kubeconfig"));
        write(&file, &client_configuration(folder, name))?;
    }
    let accounts = KeyPair::generate()?;
    write(&folder.join("accounts.key"), &accounts.serialize_pem())?;
    write(&folder.join("accounts.pub"), &accounts.public_key_pem())
}

/// The names by which the API server is called.
fn api_names() -> Vec<String> {
    let service = format!("kubernetes.default.svc.{}", place::CLUSTER_DOMAIN);
    [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        &service,
        "127.0.0.1",
        place::NODE_ADDRESS,
        place::API_SERVICE,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Who signs.
struct Authority<'a> {
    folder: &'a Path,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(folder: &'a Path) -> Result<Self> {
        let mut params = params("ebfw-lab", None, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write(&folder.join("ca.crt"), &issuer.pem())?;
        write(&folder.join("ca.key"), &issuer.key().serialize_pem())?;
        Ok(Self { folder, issuer })
    }

    /// Writes a key and its certificate. With `names` it is a server's, else a client's.
    fn issue(&self, file: &str, user: &str, group: Option<&str>, names: &[String]) -> Result<()> {
        let mut params = params(user, group, names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![if names.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.folder.join(format!("{file}.crt")), &certificate.pem())?;
        write(
            &self.folder.join(format!("{file}.key")),
            &key.serialize_pem(),
        )
    }
}

fn params(user: &str, group: Option<&str>, names: &[String]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, user);
    params.distinguished_name = subject;
    Ok(params)
}

/// A client configuration that refers to the files beside it.
fn client_configuration(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: v1
kind: Config
current-context: lab
clusters:
  - name: lab
    cluster:
      server: {api}
      certificate-authority: {folder}/ca.crt
users:
  - name: {name}
    user:
      client-certificate: {folder}/{name}.crt
      client-key: {folder}/{name}.key
contexts:
  - name: lab
    context:
      cluster: lab
      user: {name}
",
        api = place::API
    )
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
