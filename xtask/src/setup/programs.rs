//! Programs of the operating system: found in PATH, else installed with apt where that is possible.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::command::{self, note};

/// A program that tests, the demo, the lab or the virtual machines call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    BoringSsl,
    Bridge,
    Conntrack,
    Containerd,
    Curl,
    CurlOfNss,
    Dig,
    Dnsmasq,
    Etcd,
    Git,
    Go,
    Ip,
    Iptables,
    Java,
    Nft,
    Node,
    OpenSsl,
    Pip,
    Python,
    Qemu,
    Runc,
    StaticOpenSsl,
    Wget,
    Xz,
}

/// Where Debian puts what connects containers to networks.
const NETWORK_PLUGINS: &str = "/usr/lib/cni";

/// Where Debian puts libraries.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Programs and libraries with which the probes inside TLS are tried.
pub(crate) const TLS_CLIENTS: [Program; 12] = [
    Program::BoringSsl,
    Program::Curl,
    Program::CurlOfNss,
    Program::Git,
    Program::Go,
    Program::Java,
    Program::Node,
    Program::OpenSsl,
    Program::Pip,
    Program::Python,
    Program::StaticOpenSsl,
    Program::Wget,
];

impl Program {
    /// What it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BoringSsl => "bssl-tool",
            Self::Bridge => "bridge",
            Self::Conntrack => "conntrack",
            Self::Containerd => "containerd",
            Self::Curl => "curl",
            Self::CurlOfNss => "libcurl-nss.so.4",
            Self::Dig => "dig",
            Self::Dnsmasq => "dnsmasq",
            Self::Etcd => "etcd",
            Self::Git => "git",
            Self::Go => "go",
            Self::Ip => "ip",
            Self::Iptables => "iptables",
            Self::Java => "java",
            Self::Nft => "nft",
            Self::Node => "node",
            Self::OpenSsl => "openssl",
            Self::Pip => "pip3",
            Self::Python => "python3",
            Self::Qemu => "qemu-system-x86_64",
            Self::Runc => "runc",
            Self::StaticOpenSsl => "libssl.a",
            Self::Wget => "wget",
            Self::Xz => "xz",
        }
    }

    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Bridge => "`cargo xtask lab` connects its pods with it",
            Self::Conntrack | Self::Iptables => "`cargo xtask lab`: services of the cluster",
            Self::Containerd | Self::Runc => "`cargo xtask lab` runs containers",
            Self::Curl => "the demo puts a real client under a policy",
            Self::Dig => "a test resolves names with it",
            Self::Dnsmasq => "`cargo xtask bench names` compares with it",
            Self::Etcd => "`cargo xtask lab` keeps the cluster's objects in it",
            Self::BoringSsl
            | Self::CurlOfNss
            | Self::Git
            | Self::Go
            | Self::Java
            | Self::Node
            | Self::Pip
            | Self::Python
            | Self::StaticOpenSsl
            | Self::Wget => "the tests look inside the TLS of real programs",
            Self::Ip => "the demo, the lab and the tests make network namespaces",
            Self::Nft => "a test rewrites addresses as Docker does",
            Self::OpenSsl => "tests put it under a policy, and need its certificates",
            Self::Qemu => "`cargo xtask vm` boots old and new kernels",
            Self::Xz => "the modules of those kernels are compressed",
        }
    }

    pub(super) fn found(self) -> Option<String> {
        let path = match self {
            // Another program of that name belongs to iproute2.
            Self::Bridge => {
                Some(Path::new(NETWORK_PLUGINS).join("bridge")).filter(|path| path.is_file())
            }
            Self::CurlOfNss | Self::StaticOpenSsl => {
                Some(Path::new(LIBRARIES).join(self.name())).filter(|path| path.is_file())
            }
            // Of the same Python that the tests use.
            Self::Pip => {
                Some(Path::new("/usr/bin").join(self.name())).filter(|path| path.is_file())
            }
            _ => command::find(self.name()),
        };
        path.map(|path| path.display().to_string())
    }

    pub(super) fn install(self) -> Result<()> {
        let package = match self {
            Self::BoringSsl => "android-boringssl",
            Self::Bridge => "containernetworking-plugins",
            Self::Conntrack => "conntrack",
            Self::Containerd => "containerd",
            Self::Curl => "curl",
            Self::CurlOfNss => "libcurl3-nss",
            Self::Dig => "bind9-dnsutils",
            Self::Dnsmasq => "dnsmasq-base",
            Self::Etcd => "etcd-server",
            Self::Git => "git",
            Self::Go => "golang-go",
            Self::Ip => "iproute2",
            Self::Iptables => "iptables",
            // It compiles a program of one file by itself.
            Self::Java => "default-jre-headless",
            Self::Nft => "nftables",
            Self::Node => "nodejs",
            Self::OpenSsl => "openssl",
            Self::Pip => "python3-pip",
            Self::Python => "python3",
            Self::Qemu => "qemu-system-x86",
            Self::Runc => "runc",
            Self::StaticOpenSsl => "libssl-dev",
            Self::Wget => "wget",
            Self::Xz => "xz-utils",
        };
        let name = self.name();
        if command::find("apt-get").is_none() {
            bail!("there is no apt-get: install {name} with the package manager of this machine");
        }
        if !is_root() {
            bail!(
                "only root installs packages: run `sudo apt-get install --no-install-recommends {package}`"
            );
        }
        if !command::succeeds(Command::new("apt-get").args(["--simulate", "install", package])) {
            note("the package lists are missing or too old");
            command::run(Command::new("apt-get").args(["-qq", "update"]))?;
        }
        command::run(
            Command::new("apt-get")
                .args([
                    "-qq",
                    "--yes",
                    "--no-install-recommends",
                    "install",
                    package,
                ])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    }
}

/// The owner of this process's folder in /proc is who runs it.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
