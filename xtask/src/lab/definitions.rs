//! `cargo xtask test crd`: what is tested with an API server alone, the custom resources, and with Helm, the chart.

use std::fs;

use anyhow::{Context as _, Result};

use super::programs;
use crate::{
    command::{self, step},
    setup::{self, Need, Program},
    workspace,
};

/// The tests: arguments of `cargo test`.
const TESTS: [&[&str]; 2] = [
    &["--package", "ebfw-crd"],
    &["--package", "xtask", "--", "chart"],
];

/// Finds or builds the programs and runs the tests. `arguments` go to the test programs.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::ensure(&[Need::Program(Program::Etcd)])?;
    let folder = workspace::target_dir()?.join("lab-programs");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    programs::provide_some(&folder, &["kube", "helm"])?;
    step("custom resources and chart");
    for test in TESTS {
        let split = if test.contains(&"--") {
            &[][..]
        } else {
            &["--"]
        };
        command::run(
            command::cargo()
                .arg("test")
                .args(test)
                .args(split)
                .args(arguments)
                .env("EBFW_LAB_BIN", &folder)
                .env(ebfw_test_need::REQUIRE_KERNEL, "1")
                .current_dir(workspace::root()),
        )?;
    }
    Ok(())
}
