//! The test programs for the guests: integration tests and `ebfw` itself, without shared libraries.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    command::{self, step},
    workspace,
};

/// The test targets that need nothing but a kernel.
pub(super) const DEFAULT: [&str; 5] = ["differential", "live", "datapath", "stream", "plaintext"];

/// The same C library as in other tests, linked statically: the guest has no libraries.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C target-feature=+crt-static";

/// The packages that have them.
const PACKAGES: [&str; 4] = ["--package", "ebfw-tests", "--package", "ebfw-agent"];

/// A program on its way into a guest.
#[derive(Debug, PartialEq)]
pub(super) struct TestProgram {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Run as a test; the others are there to be called.
    pub(super) is_test: bool,
}

impl TestProgram {
    /// Where it lies in the guest, without the leading slash.
    pub(super) fn guest_path(&self) -> String {
        let folder = if self.is_test { "tests" } else { "usr/bin" };
        format!("{folder}/{}", self.name)
    }
}

/// Builds the tests asked for.
pub(super) fn build(tests: &[String]) -> Result<Vec<TestProgram>> {
    step("test programs for the guests");
    let messages = command::output(
        command::cargo()
            .args(["build", "--profile", "guest", "--target", TARGET])
            .args(["--message-format", "json-render-diagnostics"])
            .args(PACKAGES)
            .args(["--bin", "ebfw"])
            .args(tests.iter().flat_map(|test| ["--test", test.as_str()]))
            .env("RUSTFLAGS", FLAGS)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .current_dir(workspace::root()),
    )?;
    let programs = programs_in(&messages)?;
    for test in tests {
        if !programs
            .iter()
            .any(|program| program.is_test && program.name == *test)
        {
            bail!("there is no test target {test}");
        }
    }
    Ok(programs)
}

/// Reads cargo's messages: test programs of the tests package, and the plain `ebfw`.
fn programs_in(messages: &str) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value =
            serde_json::from_str(line).context("cargo wrote a line that is not JSON")?;
        let Some(path) = message["executable"].as_str() else {
            continue;
        };
        let target = &message["target"];
        let Some(name) = target["name"].as_str() else {
            continue;
        };
        let is_test = target["kind"][0] == "test";
        let is_plain_ebfw = name == "ebfw" && message["profile"]["test"] == false;
        if is_test || is_plain_ebfw {
            programs.push(TestProgram {
                name: name.to_owned(),
                path: path.into(),
                is_test,
            });
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_and_the_agent_go_into_a_guest() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"ebfw_tests"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"ebfw"},"profile":{"test":true},"executable":"/t/ebfw-unit"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"ebfw"},"profile":{"test":false},"executable":"/t/ebfw"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"live"},"profile":{"test":true},"executable":"/t/live-1"}
{"reason":"build-finished","success":true}
"#;
        let paths: Vec<String> = programs_in(messages)
            .unwrap()
            .iter()
            .map(|program| format!("{} {}", program.guest_path(), program.path.display()))
            .collect();
        assert_eq!(paths, ["usr/bin/ebfw /t/ebfw", "tests/live /t/live-1"]);
    }
}
