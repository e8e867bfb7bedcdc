//! `cargo xtask test`: everything that the tests need, then all of them.
//! Says aloud what this machine cannot test; in CI that is a failure and not a remark.

use std::env;

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    command::{self, note, step},
    setup::{self, KERNEL_PROGRAMS, Need, Program},
    workspace,
};

/// Makes tests fail where they would be skipped for want of privileges or of a kernel that can do it.
const REQUIRE_KERNEL: &str = "EBFW_REQUIRE_KERNEL";

/// Which tests.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Filter and arguments of the test programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds and runs them.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::Program(Program::Curl), Need::Program(Program::Ip)])?;
    build::kernel_programs(&[])?;
    build::host(&build::Options::default())?;

    step("tests");
    let mut test = command::cargo();
    test.args(["test", "--workspace", "--no-fail-fast"])
        .current_dir(workspace::root());
    if required(
        env::var("CI").ok().as_deref(),
        env::var(REQUIRE_KERNEL).ok().as_deref(),
    ) {
        note("what cannot be tested here is a failure");
        test.env(REQUIRE_KERNEL, "1");
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

/// CI asks for all tests; the variable itself has the last word.
fn required(ci: Option<&str>, require: Option<&str>) -> bool {
    match require {
        Some(value) => !matches!(value, "" | "0" | "false"),
        None => ci.is_some_and(|value| !matches!(value, "" | "0" | "false")),
    }
}

#[cfg(test)]
mod tests {
    use super::required;

    #[test]
    fn only_a_clear_word_turns_skipped_tests_into_failures() {
        let cases = [
            (None, None, false, "a developer's machine"),
            (Some("true"), None, true, "CI"),
            (Some("false"), None, false, "CI, denied"),
            (Some(""), None, false, "CI, empty"),
            (None, Some("1"), true, "asked for"),
            (
                Some("true"),
                Some("0"),
                false,
                "the variable has the last word",
            ),
        ];
        for (ci, require, expected, why) in cases {
            assert_eq!(required(ci, require), expected, "{why}");
        }
    }
}
