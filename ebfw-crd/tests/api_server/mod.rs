//! etcd and kube-apiserver on loopback with a folder of their own; ended when the value goes.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ebfw_test_need as need;

/// How long it may take to start on a machine that has other things to do.
const START: Duration = Duration::from_secs(180);
const TOKEN: &str = "only-for-this-test";

pub(crate) struct ApiServer {
    folder: tempfile::TempDir,
    kubectl: PathBuf,
    port: u16,
    /// The API server before etcd, so that it ends first.
    processes: Vec<Child>,
}

impl ApiServer {
    /// `None`, said loudly, where the machine has no API server.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let program = |name| need::program(name, folder.path());
        let (Some(api), Some(kubectl), Some(etcd), Some(openssl)) = (
            program("kube-apiserver"),
            program("kubectl"),
            program("etcd"),
            program("openssl"),
        ) else {
            let _ = need::found(false, "kube-apiserver, kubectl, etcd and openssl");
            return None;
        };
        let [port, client, peer] = free_ports();
        let key = folder.path().join("service-accounts.key");
        let made = Command::new(openssl)
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "openssl makes a key");
        let tokens = folder.path().join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},test,test,system:masters\n")).unwrap();
        let (client, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let etcd = start(
            Command::new(etcd)
                .arg("--data-dir")
                .arg(folder.path().join("etcd"))
                .args([
                    "--unsafe-no-fsync",
                    "--listen-client-urls",
                    &client,
                    "--advertise-client-urls",
                    &client,
                ])
                .args([
                    "--listen-peer-urls",
                    &peer,
                    "--initial-advertise-peer-urls",
                    &peer,
                ])
                .args(["--initial-cluster", &format!("default={peer}")]),
            &folder.path().join("etcd.log"),
        );
        let api = start(
            Command::new(api)
                .args(["--etcd-servers", &client, "--bind-address", "127.0.0.1"])
                .args(["--secure-port", &port.to_string(), "--cert-dir"])
                .arg(folder.path().join("certificates"))
                .args([
                    "--service-account-issuer",
                    "https://kubernetes.default.svc",
                    "--service-account-key-file",
                ])
                .arg(&key)
                .arg("--service-account-signing-key-file")
                .arg(&key)
                .arg("--token-auth-file")
                .arg(&tokens)
                .args([
                    "--authorization-mode",
                    "AlwaysAllow",
                    "--service-cluster-ip-range",
                    "10.96.0.0/16",
                ])
                .args([
                    "--endpoint-reconciler-type",
                    "none",
                    "--disable-admission-plugins",
                    "ServiceAccount",
                ]),
            &folder.path().join("api.log"),
        );
        let server = Self {
            folder,
            kubectl,
            port,
            processes: vec![api, etcd],
        };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        let until = Instant::now() + START;
        while self.kubectl(&["get", "--raw", "/readyz"], "").is_err() {
            if Instant::now() > until {
                let log =
                    fs::read_to_string(self.folder.path().join("api.log")).unwrap_or_default();
                panic!("the API server does not start:\n{log}");
            }
            // Nothing tells when a server of another program is ready; it is asked.
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What kubectl answers to `input`, or its complaint.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut kubectl = Command::new(&self.kubectl)
            .args(["--server", &format!("https://127.0.0.1:{}", self.port)])
            .args([
                "--token",
                TOKEN,
                "--insecure-skip-tls-verify",
                "--kubeconfig",
                "/dev/null",
                "--cache-dir",
            ])
            .arg(self.folder.path().join("cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that complains before it has read everything closes the pipe.
        let _ = kubectl.stdin.take().unwrap().write_all(input.as_bytes());
        let output = kubectl.wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What Helm says, or its complaint.
    pub(crate) fn helm(&self, program: &Path, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args([
                "--kube-apiserver",
                &format!("https://127.0.0.1:{}", self.port),
            ])
            .args([
                "--kube-token",
                TOKEN,
                "--kube-insecure-skip-tls-verify",
                "--kubeconfig",
                "/dev/null",
            ])
            .args(arguments)
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn start(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
