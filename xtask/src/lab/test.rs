//! `cargo xtask test k8s`: the tests of package `ebfw-tests` that need a cluster, with the agent's image and the chart of this checkout.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{beside, down, life, load, place, up};
use crate::{
    command::{self, note, step},
    image, workspace,
};

/// The image under test.
const IMAGE: &str = "lab.ebfw/ebfw:test";

/// Starts a cluster, unless there is one, tests on it, and takes it away again.
pub(crate) fn run(arguments: &[String], keep: bool) -> Result<()> {
    let found = life::node().is_some();
    let archive = workspace::target_dir()?.join("ebfw-image-test.tar");
    image::agent(IMAGE, false, &archive)?;
    let program = program()?;
    up()?;
    let tested = load(&archive).and_then(|()| {
        step("tests on the cluster");
        // They stand outside of the cluster, and still see the node's files and processes.
        let mut test = beside(&program.display().to_string())?;
        test.args(arguments)
            .env("EBFW_TEST_IMAGE", IMAGE)
            .env("EBFW_TEST_CHART", workspace::root().join("helm/ebfw"))
            .env("EBFW_TEST_LAB", place::STATE);
        command::run(&mut test)
    });
    if keep || found {
        note("the cluster stays: `cargo xtask lab down` takes it away");
        return tested;
    }
    let cleared = down();
    tested.and(cleared)
}

/// Builds the test program and returns its path.
fn program() -> Result<PathBuf> {
    step("the test program");
    let messages = command::output(
        command::cargo()
            .args(["test", "--package", "ebfw-tests", "--test", "k8s"])
            .args([
                "--features",
                "k8s",
                "--no-run",
                "--message-format=json-render-diagnostics",
            ])
            .current_dir(workspace::root()),
    )?;
    let mut built = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "k8s").then_some(())?;
        message["executable"].as_str().map(PathBuf::from)
    });
    let Some(program) = built.next_back() else {
        bail!("cargo built no test program");
    };
    program
        .canonicalize()
        .context("failed to find the test program")
}
