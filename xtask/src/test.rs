//! `cargo xtask test`: everything that the tests need, then all of them.
//! Says aloud what this machine cannot test; in CI that is a failure and not a remark.

use anyhow::Result;
use clap::{Args, ValueEnum};
use ebfw_test_need::REQUIRE_KERNEL;

use crate::{
    build,
    command::{self, note, step},
    lab,
    setup::{self, KERNEL_PROGRAMS, Need, Program, TLS_CLIENTS},
    workspace,
};

/// Which tests.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Only these: `crd` are those of the custom resources and the chart with an API server alone, `k8s` are the tests on a Kubernetes cluster, which it starts and takes away
    suite: Option<Suite>,
    /// With `k8s`: leave the cluster for another look
    #[arg(long)]
    keep: bool,
    /// Filter and arguments of the test programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Tests that are not run with all the others.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// The custom resources and the chart, against an API server.
    Crd,
    /// On a cluster.
    K8s,
}

/// Builds and runs them.
pub(crate) fn run(options: &Options) -> Result<()> {
    match options.suite {
        Some(Suite::Crd) => lab::test_definitions(&options.arguments),
        Some(Suite::K8s) => lab::test(&options.arguments, options.keep),
        None => all(options),
    }
}

fn all(options: &Options) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[
        Need::Program(Program::Curl),
        Need::Program(Program::Dig),
        Need::Program(Program::Ip),
        Need::Program(Program::Nft),
    ])?;
    if setup::is_root() {
        for program in TLS_CLIENTS {
            // Without one its tests say so, or fail where all have to run.
            if let Err(error) = setup::ensure(&[Need::Program(program)]) {
                note(format_args!("{error:#}"));
            }
        }
    }
    build::kernel_programs(&[])?;
    build::host(&build::Options::default())?;

    step("tests");
    let mut test = command::cargo();
    test.args(["test", "--workspace", "--no-fail-fast"])
        .current_dir(workspace::root());
    if ebfw_test_need::all_have_to_run() {
        note("what cannot be tested here is a failure");
    } else if !setup::is_root() {
        note("NOT ROOT: no test here can load kernel programs, and those that would are skipped");
        note(format_args!(
            "run as root for all of them; {REQUIRE_KERNEL}=1 turns each skipped test into a failure"
        ));
    }
    if !options.arguments.is_empty() {
        test.arg("--").args(&options.arguments);
    }
    command::run(&mut test)
}
