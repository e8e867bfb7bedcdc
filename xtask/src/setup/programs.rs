//! Programs of the operating system: found in PATH, else installed with apt where that is possible.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};

use crate::command::{self, note};

/// A program that tests, the demo or the virtual machines call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    Curl,
    Dig,
    Dnsmasq,
    Ip,
    Nft,
    Qemu,
    Xz,
}

impl Program {
    /// What it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Dig => "dig",
            Self::Dnsmasq => "dnsmasq",
            Self::Ip => "ip",
            Self::Nft => "nft",
            Self::Qemu => "qemu-system-x86_64",
            Self::Xz => "xz",
        }
    }

    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Curl => "the demo puts a real client under a policy",
            Self::Dig => "a test resolves names with it",
            Self::Dnsmasq => "`cargo xtask bench names` compares with it",
            Self::Ip => "the demo and the tests make network namespaces",
            Self::Nft => "a test rewrites addresses as Docker does",
            Self::Qemu => "`cargo xtask vm` boots old and new kernels",
            Self::Xz => "the modules of those kernels are compressed",
        }
    }

    pub(super) fn found(self) -> Option<String> {
        command::find(self.name()).map(|path| path.display().to_string())
    }

    pub(super) fn install(self) -> Result<()> {
        let package = match self {
            Self::Curl => "curl",
            Self::Dig => "bind9-dnsutils",
            Self::Dnsmasq => "dnsmasq-base",
            Self::Ip => "iproute2",
            Self::Nft => "nftables",
            Self::Qemu => "qemu-system-x86",
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
