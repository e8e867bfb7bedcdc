//! Programs of the operating system: found in PATH, else installed with apt where that is possible.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};

use crate::command::{self, note};

/// A program that tests, the demo or the virtual machines call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    Curl,
    Git,
    Go,
    Ip,
    Node,
    OpenSsl,
    Python,
    Qemu,
    Wget,
    Xz,
}

/// Programs with which the probes inside TLS are tried.
pub(crate) const TLS_CLIENTS: [Program; 7] = [
    Program::Curl,
    Program::Git,
    Program::Go,
    Program::Node,
    Program::OpenSsl,
    Program::Python,
    Program::Wget,
];

impl Program {
    /// What it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Git => "git",
            Self::Go => "go",
            Self::Ip => "ip",
            Self::Node => "node",
            Self::OpenSsl => "openssl",
            Self::Python => "python3",
            Self::Qemu => "qemu-system-x86_64",
            Self::Wget => "wget",
            Self::Xz => "xz",
        }
    }

    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Curl => "the demo puts a real client under a policy",
            Self::Git | Self::Go | Self::Node | Self::Python | Self::Wget => {
                "the tests look inside the TLS of real programs"
            }
            Self::OpenSsl => "those tests need a certificate",
            Self::Ip => "the demo and the tests make network namespaces",
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
            Self::Git => "git",
            Self::Go => "golang-go",
            Self::Ip => "iproute2",
            Self::Node => "nodejs",
            Self::OpenSsl => "openssl",
            Self::Python => "python3",
            Self::Qemu => "qemu-system-x86",
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
