//! `cargo xtask lab`: a real Kubernetes cluster of one node on this machine, in namespaces and cgroups of its own, without a container
//! engine. Nothing of it is left after `down`.

mod certificates;
mod cgroups;
mod configuration;
mod definitions;
mod images;
mod life;
mod network;
mod node;
mod place;
mod programs;
mod runc;
mod source;
mod sysctls;
mod test;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

pub(crate) use definitions::run as test_definitions;
pub(crate) use runc::Options as RuncOptions;
pub(crate) use test::run as test;

use crate::{
    command::{self, note, step},
    interrupt::Interrupted,
    setup::{self, Need, Program, is_root},
};

const ROOTS: &str = "cgroups";
const SYSCTLS: &str = "sysctls";
/// What the cluster needs of the machine.
const NEEDS: [Need; 7] = [
    Need::Program(Program::Bridge),
    Need::Program(Program::Conntrack),
    Need::Program(Program::Containerd),
    Need::Program(Program::Etcd),
    Need::Program(Program::Ip),
    Need::Program(Program::Iptables),
    Need::Program(Program::Runc),
];

/// What to do with the lab.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    act: Act,
}

#[derive(Clone, Debug, Subcommand)]
enum Act {
    /// Start the cluster
    Up,
    /// Take it away, and all that belongs to it
    Down,
    /// Say whether it is there and how it is
    Status,
    /// Run a program on the node, as its root and the cluster's administrator
    Run {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Find, unpack or build the cluster's programs, and say where they are
    Programs,
    /// Load a container image from an archive
    Load {
        /// The archive
        image: PathBuf,
    },
    /// Start the API server that was stopped, on the node
    #[command(hide = true)]
    StartApi,
}

/// Does it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.act {
        Act::Up => up().map(|()| ExitCode::SUCCESS),
        Act::Down => down().map(|()| ExitCode::SUCCESS),
        Act::Status => status(),
        Act::Run { command } => {
            let [program, arguments @ ..] = &**command else {
                bail!("no program is named");
            };
            let status = inside(program)?.args(arguments).status();
            let status = status.with_context(|| format!("failed to start {program}"))?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        Act::Programs => programs::show().map(|()| ExitCode::SUCCESS),
        Act::Load { image } => load(image).map(|()| ExitCode::SUCCESS),
        Act::StartApi => {
            let pki = place::pki().display().to_string();
            node::api(&pki).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// The node's first process and its parent, as `up` calls them.
pub(crate) fn enter() -> Result<()> {
    node::enter()
}

/// See [`enter`].
pub(crate) fn become_node() -> Result<()> {
    node::run()
}

/// What containerd calls as runc.
pub(crate) fn become_runc(options: &RuncOptions) -> Result<()> {
    runc::run(options)
}

/// Starts the cluster; does nothing where it runs.
pub(crate) fn up() -> Result<()> {
    if !is_root() {
        bail!("a cluster needs namespaces, cgroups and mounts: run this as root");
    }
    if life::node().is_some() {
        step("the lab is up");
        return Ok(());
    }
    setup::ensure(&NEEDS)?;
    let interrupted = Interrupted::watch()?;
    let begun = Instant::now();
    down()?;
    let started = start(&interrupted, begun);
    if started.is_err() {
        logs();
        if let Err(error) = down() {
            note(format_args!("{error:#}"));
        }
    }
    started
}

fn start(interrupted: &Interrupted, begun: Instant) -> Result<()> {
    let lap = |what: &str| {
        note(format_args!(
            "{:5.1} s  {what}",
            begun.elapsed().as_secs_f64()
        ))
    };
    let state = place::state();
    fs::create_dir_all(state).with_context(|| format!("failed to create {}", state.display()))?;
    programs::provide(&place::bin())?;
    let images = images::provide(&place::bin())?;
    lap("programs and images");
    step("a cluster of one node");
    let own = env::current_exe().context("failed to find this program")?;
    fs::copy(&own, place::in_state("xtask")).context("failed to copy this program")?;
    sysctls::keep(&place::in_state(SYSCTLS))?;
    let roots = cgroups::roots()?;
    let list: Vec<_> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    fs::write(place::in_state(ROOTS), list.join("\n"))
        .context("failed to write the cgroups down")?;
    cgroups::create(&roots)?;
    network::create()?;
    certificates::create(&place::pki())?;
    node::make_folders()?;
    lap("network, cgroups, certificates");

    let log = fs::File::create(place::in_state("node.log")).context("failed to make a log")?;
    let mut node = Command::new(place::in_state("xtask"))
        .arg("lab-enter")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("failed to share the log")?)
        .stderr(log)
        .spawn()
        .context("failed to start the node")?;
    let mut wait = |what: &str, within: u64, holds: &dyn Fn() -> bool| -> Result<()> {
        let until = Instant::now() + Duration::from_secs(within);
        while !holds() {
            interrupted.check()?;
            if let Some(status) = node.try_wait().context("failed to look after the node")? {
                bail!("the node ended with {status} before: {what}");
            }
            if Instant::now() > until {
                bail!("not within {within} s: {what}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        lap(what);
        Ok(())
    };
    wait("the node's first process runs", 20, &|| {
        life::node().is_some()
    })?;
    wait("the API server is ready", 60, &|| {
        kubectl(&["get", "--raw", "/readyz"])
    })?;
    wait("containerd answers", 30, &|| {
        inside("ctr").is_ok_and(|mut ctr| command::succeeds(ctr.arg("version")))
    })?;
    for image in &images {
        load(image)?;
    }
    wait("the node is registered", 60, &|| {
        kubectl(&["get", "node", place::NODE])
    })?;
    wait("the node is ready", 60, &|| {
        let node = format!("node/{}", place::NODE);
        kubectl(&["wait", "--for=condition=Ready", &node, "--timeout=5s"])
    })?;
    wait("pods have an account", 60, &|| {
        kubectl(&["get", "serviceaccount", "default"])
    })?;
    let manifest = crate::workspace::root().join("xtask/lab/coredns.yaml");
    let apply = inside("kubectl")?
        .args(["apply", "-f"])
        .arg(&manifest)
        .stdout(Stdio::null())
        .status();
    if !apply.context("failed to start kubectl")?.success() {
        bail!("the cluster DNS cannot be set up");
    }
    wait("the cluster DNS is ready", 60, &|| {
        kubectl(&[
            "--namespace=kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=5s",
        ])
    })?;
    step(format_args!("the lab is up: {}", place::STATE));
    note("cargo xtask lab run -- kubectl get pods --all-namespaces");
    Ok(())
}

/// Takes everything away that `up` made, whatever of it is there.
pub(crate) fn down() -> Result<()> {
    let state = place::state();
    let anything = state.exists() || !network::present().is_empty();
    if !anything {
        return Ok(());
    }
    if !is_root() {
        bail!("only root takes the lab away");
    }
    step("taking the lab away");
    life::end()?;
    sysctls::put_back(&place::in_state(SYSCTLS))?;
    network::remove()?;
    cgroups::remove(&kept_roots().unwrap_or_default())?;
    node::remove_folders()?;
    fs::remove_dir_all(state).with_context(|| format!("failed to remove {}", state.display()))
}

/// Exits with 3 where there is no lab, as `systemctl status` does for what does not run.
fn status() -> Result<ExitCode> {
    let Some(pid) = life::node() else {
        let left = place::state().exists() || !network::present().is_empty();
        note(if left {
            "the lab is down, and something of it is left: `cargo xtask lab down`"
        } else {
            "the lab is down"
        });
        return Ok(ExitCode::from(3));
    };
    note(format_args!("the lab is up, its first process is {pid}"));
    let status = inside("kubectl")?
        .args(["get", "nodes,pods", "--all-namespaces", "--output=wide"])
        .status()
        .context("failed to start kubectl")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The cgroups that `up` made.
fn kept_roots() -> Result<Vec<PathBuf>> {
    let list = fs::read_to_string(place::in_state(ROOTS)).context("failed to read the cgroups")?;
    Ok(list.lines().map(PathBuf::from).collect())
}

/// A command in the namespaces of the node, as its root and the cluster's administrator.
fn inside(program: &str) -> Result<Command> {
    enter_node(program, "--net")
}

/// As [`inside`], but with the network of what lies outside of the cluster.
fn beside(program: &str) -> Result<Command> {
    let namespace = Path::new("/run/netns").join(place::OUTSIDE_NAMESPACE);
    enter_node(program, &format!("--net={}", namespace.display()))
}

fn enter_node(program: &str, network: &str) -> Result<Command> {
    let pid = life::node().context("the lab is down: `cargo xtask lab up`")?;
    let mut command = Command::new("nsenter");
    let mut path = place::bin().into_os_string();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:");
    path.push(env::var_os("PATH").unwrap_or_default());
    command
        .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", network])
        .arg(format!("--target={pid}"))
        .arg("--")
        .arg(program)
        .env("PATH", path)
        .env("KUBECONFIG", place::pki().join("admin.kubeconfig"));
    Ok(command)
}

fn kubectl(arguments: &[&str]) -> bool {
    inside("kubectl").is_ok_and(|mut kubectl| command::succeeds(kubectl.args(arguments)))
}

/// Loads an image into the node's containerd.
pub(crate) fn load(image: &Path) -> Result<()> {
    let image =
        fs::canonicalize(image).with_context(|| format!("failed to find {}", image.display()))?;
    command::output(
        inside("ctr")?
            .args(["--namespace=k8s.io", "images", "import"])
            .arg(&image),
    )
    .map(drop)
}

/// The end of each log, for whoever has to find out why the cluster did not come up.
fn logs() {
    let Ok(entries) = fs::read_dir(place::state()) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        note(format_args!("{}:", path.display()));
        for line in &lines[lines.len().saturating_sub(8)..] {
            note(format_args!("  {line}"));
        }
    }
}
