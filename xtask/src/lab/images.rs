//! The images of the lab's own pods: the cluster DNS, and one program that is the pause of every sandbox and the client and server of tests.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::place;
use crate::{
    build::STATIC_TARGET,
    command::{self, step},
    image::{Entry, Image},
    setup::{self, Need},
    workspace,
};

/// Packs them, and returns the archives.
pub(super) fn provide(bin: &Path) -> Result<Vec<PathBuf>> {
    let pod = pod()?;
    let coredns = bin.join("coredns");
    step("images of the lab");
    let pod_image = place::in_state("pod.tar");
    Image {
        name: place::PAUSE_IMAGE,
        entries: vec![Entry {
            from: &pod,
            to: "pod",
        }],
        entrypoint: &["/pod"],
        arguments: &["pause"],
    }
    .write(&pod_image)?;
    let dns_image = place::in_state("coredns.tar");
    Image {
        name: place::DNS_IMAGE,
        entries: vec![Entry {
            from: &coredns,
            to: "coredns",
        }],
        entrypoint: &["/coredns"],
        arguments: &[],
    }
    .write(&dns_image)?;
    Ok(vec![pod_image, dns_image])
}

/// The program of test pods, without shared libraries.
fn pod() -> Result<PathBuf> {
    setup::ensure(&[Need::StaticTarget])?;
    step("the program of test pods");
    command::run(
        command::cargo()
            .args([
                "build",
                "--release",
                "--package",
                "ebfw-test-pod",
                "--target",
                STATIC_TARGET,
            ])
            .current_dir(workspace::root()),
    )
    .context("failed to build the program of test pods")?;
    Ok(workspace::target_dir()?
        .join(STATIC_TARGET)
        .join("release/ebfw-test-pod"))
}
