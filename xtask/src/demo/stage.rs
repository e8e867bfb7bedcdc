//! The play itself: without a policy, under the agent, under `ebfw exec`; then the judge.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process,
};

use super::{
    agent::Agent,
    judge::{self, Observed},
    namespace::{Pair, enter},
    server::Server,
};
use crate::{
    command::{note, step},
    interrupt::Interrupted,
    workspace,
};
use anyhow::{Context as _, Result, bail};

/// The policy, as `examples/` has it; the addresses below are those that it names (RFC 5737, documentation).
const POLICY: &str = "examples/demo.yaml";
const ALLOWED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 10), 8080);
const DENIED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 20), 8080);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Plays all acts, and fails if anything was not as it should be.
pub(super) fn play(ebfw: &Path) -> Result<()> {
    let interrupted = Interrupted::watch()?;
    let policy = workspace::root().join(POLICY);

    step("two HTTP servers in a network namespace, a client in another");
    let network = Pair::new(CLIENT, &[*ALLOWED.ip(), *DENIED.ip()])?;
    let allowed = Server::start(&network.servers, ALLOWED, "the allowed server")?;
    let denied = Server::start(&network.servers, DENIED, "the denied server")?;
    note(format_args!("http://{ALLOWED}/ and http://{DENIED}/"));

    step("without a policy both answer");
    let free = [
        curl(&network, None, ALLOWED)?,
        curl(&network, None, DENIED)?,
    ];
    interrupted.check()?;
    let before = [allowed.connections(), denied.connections()];

    step(format_args!(
        "under {POLICY}: `ebfw run` judges a cgroup, curl runs in it, these are the events"
    ));
    show(&policy)?;
    let cgroup = Cgroup::new()?;
    let agent = Agent::start(ebfw, &policy, &cgroup.0, || interrupted.check())?;
    let governed = [
        curl(&network, Some(&cgroup), ALLOWED)?,
        curl(&network, Some(&cgroup), DENIED)?,
    ];
    let events = agent.stop()?;
    interrupted.check()?;

    step("the same by one command: `ebfw exec` runs curl under the policy and reports");
    let executed = exec(&network, ebfw, &policy)?;
    interrupted.check()?;

    let observed = Observed {
        free,
        governed,
        executed,
        connections: [
            allowed.connections() - before[0],
            denied.connections() - before[1],
        ],
        events,
    };
    close(&observed)
}

fn close(observed: &Observed) -> Result<()> {
    let complaints = judge::complaints(observed, ALLOWED, DENIED);
    step("what was seen");
    if complaints.is_empty() {
        for line in summary() {
            note(line);
        }
        return Ok(());
    }
    for complaint in &complaints {
        note(complaint);
    }
    note(format_args!("{observed:?}"));
    bail!("the demo did not go as it should");
}

fn summary() -> [String; 4] {
    [
        format!(
            "{ALLOWED} was reached under the policy, because a rule allows it. {DENIED} was not:"
        ),
        "the kernel answered connect() with EPERM, and the server, which is up, saw no connection."
            .to_owned(),
        format!(
            "Change a rule in {POLICY} and try again; the agent follows a policy file when it changes,"
        ),
        "and `ebfw policy test` tells beforehand what a policy would do.".to_owned(),
    ]
}

fn show(policy: &Path) -> Result<()> {
    let text = fs::read_to_string(policy)
        .with_context(|| format!("failed to read {}", policy.display()))?;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        note(format_args!("| {line}"));
    }
    Ok(())
}

/// Calls a server from the client's namespace, in a cgroup if one is given; the exit status is curl's.
fn curl(network: &Pair, cgroup: Option<&Cgroup>, server: SocketAddrV4) -> Result<Option<i32>> {
    let mut command = enter(&network.client);
    if let Some(cgroup) = cgroup {
        command
            .args(["sh", "-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(&cgroup.0);
    }
    let output = command
        .args(curl_words(&[server]))
        .output()
        .context("failed to start nsenter")?;
    // Shown as a whole: events come while curl writes.
    for line in [output.stdout, output.stderr]
        .iter()
        .flat_map(|text| text.split(|byte| *byte == b'\n'))
    {
        if !line.is_empty() {
            note(String::from_utf8_lossy(line));
        }
    }
    Ok(output.status.code())
}

/// Calls both servers from one curl under `ebfw exec`; its status is curl's, and that is of the last call.
fn exec(network: &Pair, ebfw: &Path, policy: &Path) -> Result<Option<i32>> {
    let mut command = enter(&network.client);
    command
        .arg(ebfw)
        .arg("exec")
        .arg("--policy")
        .arg(policy)
        .arg("--")
        .args(curl_words(&[ALLOWED, DENIED]));
    let status = command.status().context("failed to start nsenter")?;
    Ok(status.code())
}

fn curl_words(servers: &[SocketAddrV4]) -> Vec<String> {
    let words = [
        "curl",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "10",
    ];
    words
        .into_iter()
        .map(str::to_owned)
        .chain(servers.iter().map(|server| format!("http://{server}/")))
        .collect()
}

/// A cgroup that goes with its owner.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts =
            fs::read_to_string("/proc/self/mounts").context("failed to read /proc/self/mounts")?;
        let root = mount_of("cgroup2", &mounts)
            .context("no cgroup v2 is mounted: mount one, or boot with systemd")?;
        let path = Path::new(root).join(format!("ebfw-demo-{}", process::id()));
        fs::create_dir(&path)
            .with_context(|| format!("failed to create the cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            note(format_args!(
                "failed to remove the cgroup {}: {error}",
                self.0.display()
            ));
        }
    }
}

fn mount_of<'a>(kind: &str, mounts: &'a str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == kind).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_v2_is_found_beside_version_1() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        assert_eq!(mount_of("cgroup2", hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_of("cgroup2", "proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn the_policy_names_the_server_that_the_demo_calls_allowed() {
        let policy = fs::read_to_string(workspace::root().join(POLICY)).unwrap();
        assert!(policy.contains(&ALLOWED.ip().to_string()), "{policy}");
        assert!(!policy.contains(&DENIED.ip().to_string()), "{policy}");
    }
}
