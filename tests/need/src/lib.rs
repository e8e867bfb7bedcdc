//! What a test needs of the machine that runs it. Without it the test is skipped, loudly; where all tests have to run, it fails.
//!
//! All have to run in CI (`CI=true`) and with `EBFW_REQUIRE_KERNEL=1`; the latter has the last word.

mod program;

pub use program::{found, program, tool};

use std::{
    env,
    io::{self, Write as _},
    thread,
};

/// Makes tests fail where they would be skipped for want of privileges or of a kernel that can do it.
pub const REQUIRE_KERNEL: &str = "EBFW_REQUIRE_KERNEL";

/// Set in guests that run whole programs of tests: what any kernel says alike is tested on the machine itself.
pub const ANY_KERNEL_ELSEWHERE: &str = "EBFW_ANY_KERNEL_ELSEWHERE";

/// Whether the calling test is root and can run.
///
/// # Panics
///
/// Where it is not and all tests have to run.
#[must_use]
pub fn root() -> bool {
    met(nix::unistd::geteuid().is_root(), "root")
}

/// Whether the calling test has what it needs and can run.
///
/// # Panics
///
/// Where it has not and all tests have to run.
#[must_use]
pub fn met(is_met: bool, need: &str) -> bool {
    if !is_met {
        // The test harness calls the thread of a test by the test's name.
        let test = thread::current().name().unwrap_or("a test").to_owned();
        assert!(!all_have_to_run(), "{test} needs {need}, and has to run");
        not_run(&format!("{test}: needs {need}"));
    }
    is_met
}

/// Says what was not tested, past the harness, which keeps to itself what tests print that succeed.
pub fn not_run(what: &str) {
    let _ = writeln!(io::stderr(), "NOT RUN: {what}");
}

/// Whether the calling test is left to the machine itself, as tests are in guests that are about what no kernel decides (`what`): guests are
/// slow, and there for their kernels. Said past the harness. Who names tests gets them in guests too.
#[must_use]
pub fn left_to_the_machine(what: &str) -> bool {
    let is_left = env::var_os(ANY_KERNEL_ELSEWHERE).is_some();
    if is_left {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(
            io::stderr(),
            "LEFT TO THE MACHINE ITSELF: {test}: no kernel decides {what}"
        );
    }
    is_left
}

/// Whether no test may be skipped.
#[must_use]
pub fn all_have_to_run() -> bool {
    let value = |name| env::var(name).ok();
    is_required(value("CI").as_deref(), value(REQUIRE_KERNEL).as_deref())
}

/// CI asks for all tests; the variable itself has the last word.
fn is_required(ci: Option<&str>, require: Option<&str>) -> bool {
    require
        .or(ci)
        .is_some_and(|value| !matches!(value, "" | "0" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_turns_skipped_tests_into_failures() {
        for (ci, require, expected, why) in [
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
        ] {
            assert_eq!(is_required(ci, require), expected, "{why}");
        }
    }

    #[test]
    fn what_is_met_is_no_reason_to_skip() {
        assert!(met(true, "nothing"));
    }
}
