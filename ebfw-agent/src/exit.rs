//! Exit codes, and how an error finds its own.

use std::{error::Error, fmt, process::ExitCode};

use crate::{
    config::Refused,
    datapath::LoadError,
    exec::NotStarted,
    host::{cgroup, privileges::Unable},
};

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
    /// No agent runs that could say how it is.
    pub const NOT_RUNNING: Self = Self(4);
    /// `expect=` did not hold, or lint found something.
    pub const FINDINGS: Self = Self(3);

    /// The code that `error` asks for: that of the outermost cause that has one, else a failure.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::FAILURE)
    }
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if cause.is::<Usage>() || cause.is::<Refused>() {
        Some(Exit::USAGE)
    } else if cause.is::<Unable>() {
        Some(Exit::NOT_ABLE)
    } else if let Some(error) = cause.downcast_ref::<NotStarted>() {
        Some(error.exit())
    } else if let Some(error) = cause.downcast_ref() {
        Some(of_cgroup(error))
    } else {
        cause.downcast_ref().map(of_load)
    }
}

fn of_cgroup(error: &cgroup::Error) -> Exit {
    match error {
        cgroup::Error::Climbs { .. } | cgroup::Error::TooDeep { .. } => Exit::USAGE,
        cgroup::Error::NotMounted
        | cgroup::Error::NoSuchCgroup { .. }
        | cgroup::Error::OwnNotVisible { .. }
        | cgroup::Error::Io { .. } => Exit::NOT_ABLE,
    }
}

fn of_load(error: &LoadError) -> Exit {
    match error {
        LoadError::Load(_) | LoadError::Program { .. } | LoadError::Map { .. } => Exit::NOT_ABLE,
        LoadError::NoPrograms | LoadError::Io { .. } => Exit::FAILURE,
    }
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

impl Error for Usage {}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_finds_its_exit_code_wherever_its_cause_is() {
        let unable = || Unable {
            lines: vec!["missing CAP_BPF".into()],
        };
        let climbs = || cgroup::Error::Climbs {
            configured: "/..".into(),
            mount: "/sys".into(),
        };
        for (error, expected, why) in [
            (anyhow!("plain"), Exit::FAILURE, "nothing asks for another"),
            (
                anyhow!(io::Error::other("no")),
                Exit::FAILURE,
                "nothing asks for another",
            ),
            (anyhow!(Usage("no".into())), Exit::USAGE, "the error itself"),
            (
                anyhow!(Usage("no".into())).context("flow"),
                Exit::USAGE,
                "below a context",
            ),
            (
                anyhow!(Refused {
                    problems: vec![],
                    warnings: vec![]
                }),
                Exit::USAGE,
                "a configuration that is refused",
            ),
            (anyhow!(unable()), Exit::NOT_ABLE, "what the host lacks"),
            (
                anyhow!(unable()).context("start"),
                Exit::NOT_ABLE,
                "below a context",
            ),
            (
                anyhow!(cgroup::Error::NotMounted),
                Exit::NOT_ABLE,
                "no cgroup v2",
            ),
            (
                anyhow!(climbs()),
                Exit::USAGE,
                "a path that cannot be meant",
            ),
            (
                anyhow!(LoadError::NoPrograms),
                Exit::FAILURE,
                "the build, not the host",
            ),
        ] {
            assert_eq!(Exit::of(&error), expected, "{error:#}: {why}");
        }
    }
}
