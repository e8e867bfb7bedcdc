//! The node: a process tree in namespaces of its own, whose first process makes the file systems and the programs of the cluster.
//! Killing that first process ends everything in it, and its mounts go with it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::wait::{WaitStatus, wait},
    unistd::{Pid, setsid},
};

use super::{
    cgroups, configuration,
    place::{self, in_state},
};
use crate::command;

/// Folders that the programs of a node write to and that not every machine has.
const FOLDERS: [&str; 11] = [
    "/etc/cni/net.d",
    "/etc/kubernetes",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];
/// Folders that the lab made on the machine so that something can be mounted there, one a line.
pub(super) const MADE: &str = "made-folders";
const API_WITHIN: Duration = Duration::from_secs(60);

/// Makes what of [`FOLDERS`] is missing, and writes down what that was.
pub(super) fn make_folders() -> Result<()> {
    let mut made = String::new();
    for folder in FOLDERS {
        let missing: Vec<&Path> = Path::new(folder)
            .ancestors()
            .take_while(|path| !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            made = format!("{}\n{made}", path.display());
            fs::write(in_state(MADE), &made).context("failed to write down a folder")?;
            fs::create_dir(path).with_context(|| format!("failed to create {}", path.display()))?;
        }
    }
    Ok(())
}

/// Takes away what [`make_folders`] made.
pub(super) fn remove_folders() -> Result<()> {
    let made = fs::read_to_string(in_state(MADE)).unwrap_or_default();
    for folder in made.lines() {
        match fs::remove_dir(folder) {
            // Another program of the machine has found it useful meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                command::note(format_args!("{folder} stays: not all in it is the lab's"));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {folder}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Becomes the parent of the node's first process, starts it and waits for its end.
pub(super) fn enter() -> Result<()> {
    setsid().context("failed to leave the session")?;
    cgroups::enter(&super::kept_roots()?)?;
    let namespace = Path::new("/run/netns").join(place::NODE_NAMESPACE);
    let namespace = File::open(&namespace)
        .with_context(|| format!("failed to open {}", namespace.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("failed to enter the node's network")?;
    // The mounts are the node's own affair: here /proc has to say who it is.
    unshare(
        CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("failed to make the node's namespaces")?;
    let mut node = Command::new(in_state("xtask"))
        .arg("lab-node")
        .spawn()
        .context("failed to start the node")?;
    super::life::note(node.id())?;
    let status = node.wait().context("failed to wait for the node")?;
    bail!("the node ended with {status}")
}

/// The node's first process: never returns unless the node cannot start.
pub(super) fn run() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("failed to make the node's mounts")?;
    let cgroups = mounts()?;
    nix::unistd::sethostname(place::NODE).context("failed to name the node")?;
    for setting in [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/bridge/bridge-nf-call-iptables",
    ] {
        fs::write(Path::new("/proc/sys").join(setting), "1")
            .with_context(|| format!("failed to set {setting}"))?;
    }
    programs(&cgroups)?;
    // Orphans of the whole node end up here.
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) => ended(pid, &format!("status {status}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended(pid, signal.as_str()),
            Ok(_) => {}
            Err(error) => bail!("nothing is left of the node: {error}"),
        }
    }
}

/// Only the programs that were started here are worth a line.
fn ended(pid: Pid, how: &str) {
    let Ok(files) = fs::read_dir(in_state("pids")) else {
        return;
    };
    for file in files.flatten() {
        if fs::read_to_string(file.path()).is_ok_and(|text| text == pid.to_string()) {
            eprintln!("{} ended: {how}", file.file_name().to_string_lossy());
        }
    }
}

/// What the node's cgroups can do.
struct Cgroups {
    limits: bool,
}

fn mounts() -> Result<Cgroups> {
    mounted(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    mounted(Some("proc"), "/proc", Some("proc"), MsFlags::empty())?;
    umount2("/sys", MntFlags::MNT_DETACH).context("failed to take off /sys")?;
    mounted(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty())?;
    mounted(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        MsFlags::empty(),
    )?;
    mounted(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty())?;
    mounted(None, "/", None, MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    for folder in FOLDERS {
        let own = in_state("root").join(&folder[1..]);
        fs::create_dir_all(&own).with_context(|| format!("failed to create {}", own.display()))?;
        bind(&own, folder)?;
    }
    fs::create_dir_all(place::STATIC_PODS).context("failed to make the folder of static pods")?;
    let resolvers = in_state("resolv.conf");
    write(
        &resolvers,
        &format!("nameserver {}\n", place::OUTSIDE_ADDRESSES[0]),
    )?;
    bind(&resolvers, "/etc/resolv.conf")?;
    let hosts = in_state("hosts");
    write(
        &hosts,
        &format!(
            "127.0.0.1 localhost\n{} {}\n",
            place::NODE_ADDRESS,
            place::NODE
        ),
    )?;
    bind(&hosts, "/etc/hosts")?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
        .context("failed to read the controllers of the node's cgroups")?;
    let wanted = ["cpu", "memory", "pids"];
    let limits = wanted
        .iter()
        .all(|wanted| controllers.split_whitespace().any(|name| name == *wanted));
    Ok(Cgroups { limits })
}

fn mounted(source: Option<&str>, at: &str, kind: Option<&str>, flags: MsFlags) -> Result<()> {
    mount(source, at, kind, flags, None::<&str>).with_context(|| format!("failed to mount {at}"))
}

fn bind(from: &Path, at: &str) -> Result<()> {
    let bound = mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.with_context(|| format!("failed to mount {at}"))
}

fn programs(cgroups: &Cgroups) -> Result<()> {
    let pki = place::pki();
    let pki = pki.to_str().context("the lab's folder has a plain name")?;
    let runtime = runtime(cgroups)?;
    write(
        Path::new("/etc/cni/net.d/10-lab.conflist"),
        &configuration::network(),
    )?;
    let containerd = file("containerd.toml", &configuration::containerd(&runtime))?;
    let resolvers = in_state("resolv.conf").display().to_string();
    let kubelet = file(
        "kubelet.yaml",
        &configuration::kubelet(pki, &resolvers, cgroups.limits),
    )?;
    let proxy = file("proxy.yaml", &configuration::proxy(pki))?;

    start(
        "etcd",
        &[
            "--data-dir",
            &in_state("etcd").display().to_string(),
            "--unsafe-no-fsync",
        ],
    )?;
    start("containerd", &["--config", &containerd])?;
    api(pki)?;
    controllers(pki)?;
    let scheduler = format!("{pki}/scheduler.kubeconfig");
    start(
        "kube-scheduler",
        &[
            "--kubeconfig",
            &scheduler,
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    )?;
    start(
        "kubelet",
        &[
            "--config",
            &kubelet,
            "--kubeconfig",
            &format!("{pki}/kubelet.kubeconfig"),
            "--hostname-override",
            place::NODE,
            "--node-ip",
            &format!("{},{}", place::NODE_ADDRESS, place::NODE_ADDRESS6),
            "--v=2",
        ],
    )?;
    start("kube-proxy", &["--config", &proxy])
}

/// Starts the API server. Also how it comes back after it was stopped: `cargo xtask lab start kube-apiserver`.
pub(super) fn api(pki: &str) -> Result<()> {
    let file = |name: &str| format!("{pki}/{name}");
    start(
        "kube-apiserver",
        &[
            "--etcd-servers=http://127.0.0.1:2379",
            "--advertise-address",
            place::NODE_ADDRESS,
            "--secure-port=6443",
            "--tls-cert-file",
            &file("apiserver.crt"),
            "--tls-private-key-file",
            &file("apiserver.key"),
            "--client-ca-file",
            &file("ca.crt"),
            "--kubelet-client-certificate",
            &file("apiserver-client.crt"),
            "--kubelet-client-key",
            &file("apiserver-client.key"),
            "--kubelet-certificate-authority",
            &file("ca.crt"),
            // The node's name is known to nobody.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-key-file",
            &file("accounts.pub"),
            "--service-account-signing-key-file",
            &file("accounts.key"),
            "--service-account-issuer",
            &format!("https://kubernetes.default.svc.{}", place::CLUSTER_DOMAIN),
            "--service-cluster-ip-range",
            &format!("{},{}", place::SERVICE_NETWORK, place::SERVICE_NETWORK6),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            "--shutdown-delay-duration=0s",
        ],
    )?;
    let until = Instant::now() + API_WITHIN;
    while !ready() {
        if Instant::now() > until {
            bail!(
                "the API server did not become ready: {}",
                in_state("kube-apiserver.log").display()
            );
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn ready() -> bool {
    command::succeeds(
        Command::new(place::bin().join("kubectl"))
            .args(["get", "--raw", "/readyz"])
            .env("KUBECONFIG", place::pki().join("admin.kubeconfig")),
    )
}

fn controllers(pki: &str) -> Result<()> {
    start(
        "kube-controller-manager",
        &[
            "--kubeconfig",
            &format!("{pki}/controller-manager.kubeconfig"),
            "--use-service-account-credentials",
            "--service-account-private-key-file",
            &format!("{pki}/accounts.key"),
            "--root-ca-file",
            &format!("{pki}/ca.crt"),
            "--cluster-signing-cert-file",
            &format!("{pki}/ca.crt"),
            "--cluster-signing-key-file",
            &format!("{pki}/ca.key"),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ],
    )
}

/// runc itself where cgroups can limit; else through `lab-runc`, which asks it for no limits.
fn runtime(cgroups: &Cgroups) -> Result<String> {
    let runc = command::find("runc").context("there is no runc")?;
    if cgroups.limits {
        return Ok(runc.display().to_string());
    }
    let script = in_state("runc");
    let xtask = in_state("xtask");
    write(
        &script,
        &format!(
            "#!/bin/sh\nexec {} lab-runc {} -- \"$@\"\n",
            xtask.display(),
            runc.display()
        ),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .context("failed to make the runtime's script executable")?;
    Ok(script.display().to_string())
}

/// Starts a program of the node with a log of its own.
fn start(name: &str, arguments: &[&str]) -> Result<()> {
    let own = place::bin().join(name);
    let program = if own.exists() {
        own
    } else {
        command::find(name).with_context(|| format!("there is no {name}"))?
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(in_state(&format!("{name}.log")))
        .with_context(|| format!("failed to open the log of {name}"))?;
    let mut path = std::ffi::OsString::from("/usr/local/sbin:/usr/sbin:/sbin:");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("failed to share a log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    let pids = in_state("pids");
    fs::create_dir_all(&pids).context("failed to make the folder of process ids")?;
    write(&pids.join(name), &child.id().to_string())
}

fn file(name: &str, text: &str) -> Result<String> {
    let path: PathBuf = in_state(name);
    write(&path, text)?;
    Ok(path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}
