//! Exit codes, and how an error finds its own.

use std::{fmt, process::ExitCode};

use crate::{config::Refused, host::privileges::Unable};

/// What the process says to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// All is well.
    pub const SUCCESS: Self = Self(0);
    /// A bad policy, a file that is not formatted, or any other failure.
    pub const FAILURE: Self = Self(1);
    /// The command line, the configuration or a flow is wrong.
    pub const USAGE: Self = Self(2);
    /// The machine is not able: capability, cgroup v2, kernel.
    pub const NOT_ABLE: Self = Self(3);
    /// `expect=` did not hold, or lint found something.
    pub const FINDINGS: Self = Self(3);

    /// The code that `error` asks for: that of the first cause that has one, else a failure.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        if has::<Unable>(error) || has::<NotAble>(error) {
            Self::NOT_ABLE
        } else if has::<Usage>(error) || has::<Refused>(error) {
            Self::USAGE
        } else {
            Self::FAILURE
        }
    }
}

/// Whether a cause, or a context around one, is an `E`.
fn has<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.is::<E>() || error.chain().any(|cause| cause.is::<E>())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// The caller asked for something that cannot be: exit code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The machine cannot do what was asked, and what its operator can do about it: exit code 3.
///
/// Works as an error of its own and as `anyhow` context around the system's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAble(pub String);

impl fmt::Display for NotAble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAble {}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn an_error_finds_its_exit_code_wherever_the_mark_is() {
        let io = || io::Error::other("denied");
        let not_able = || NotAble("run as root".into());
        for (error, expected, why) in [
            (anyhow!("plain"), Exit::FAILURE, "no mark"),
            (anyhow!(not_able()), Exit::NOT_ABLE, "the error itself"),
            (
                anyhow!(io()).context(not_able()),
                Exit::NOT_ABLE,
                "a context around the cause",
            ),
            (
                anyhow!(not_able()).context("failed to start"),
                Exit::NOT_ABLE,
                "below a context",
            ),
            (
                Err::<(), _>(io())
                    .context(not_able())
                    .context("failed to start")
                    .unwrap_err(),
                Exit::NOT_ABLE,
                "a context below a context",
            ),
            (anyhow!(Usage("no".into())), Exit::USAGE, "the error itself"),
            (
                anyhow!(Unable {
                    lines: vec!["missing CAP_BPF".into()]
                })
                .context("failed to start"),
                Exit::NOT_ABLE,
                "what the host lacks",
            ),
            (
                anyhow!(Refused {
                    problems: vec![],
                    warnings: vec![]
                }),
                Exit::USAGE,
                "a configuration that is refused",
            ),
            (
                anyhow!(Usage("no".into())).context("flow"),
                Exit::USAGE,
                "below a context",
            ),
        ] {
            assert_eq!(Exit::of(&error), expected, "{error:#}: {why}");
        }
    }
}
