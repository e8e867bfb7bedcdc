//! Two network namespaces with a cable between them; both go with their owner.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result};

use crate::command::{self, note};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "ebfw-demo-";

/// A network namespace with a name.
pub(super) struct Namespace(String);

/// The client's and the servers' side.
pub(super) struct Pair {
    pub(super) client: Namespace,
    pub(super) servers: Namespace,
}

impl Pair {
    pub(super) fn new(client: Ipv4Addr, servers: &[Ipv4Addr]) -> Result<Self> {
        remove_orphans();
        let pair = Self {
            client: Namespace::new("client")?,
            servers: Namespace::new("servers")?,
        };
        let (a, b) = (&pair.client.0, &pair.servers.0);
        ip(&[
            "link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b,
        ])?;
        let addresses = [(a, client)]
            .into_iter()
            .chain(servers.iter().map(|server| (b, *server)));
        for (namespace, address) in addresses {
            ip(&[
                "-n",
                namespace,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "cable",
            ])?;
        }
        for namespace in [a, b] {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "link", "set", "cable", "up"])?;
        }
        Ok(pair)
    }
}

impl Namespace {
    fn new(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }

    /// The file that stands for it.
    pub(super) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.0]) {
            note(format_args!("{error:#}"));
        }
    }
}

/// A command that runs what is added to it in a namespace, and otherwise in the world as it is.
pub(super) fn enter(namespace: &Namespace) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.path().display()))
        .arg("--");
    command
}

/// Takes away what a killed demo had to leave.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner) else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            drop(command::output(
                Command::new("ip").args(["netns", "delete"]).arg(&name),
            ));
        }
    }
}

/// The process that a namespace's name tells.
fn owner(name: &str) -> Option<&str> {
    let (owner, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    owner
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(owner)
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::output(Command::new("ip").args(arguments))
        .map(drop)
        .context("the demo needs network namespaces of its own")
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_names_that_a_demo_gave_have_an_owner() {
        let cases = [
            ("ebfw-demo-12-client", Some("12")),
            ("ebfw-demo-..-client", None),
            ("ebfw-demo-12", None),
            ("other-12-client", None),
        ];
        for (name, expected) in cases {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
