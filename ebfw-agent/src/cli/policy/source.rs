//! A policy file with its text, and how its problems reach the terminal.

use std::{fmt, path::Path};

use anstream::{AutoStream, ColorChoice};
use ebfw_policy::{diagnostics::Diagnostics, policy::Policy};

use crate::input::Input;

/// The text of a policy file.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// A policy file that is refused; shows every problem with its line.
#[derive(Debug)]
pub(super) struct BadPolicy {
    rendered: String,
    name: String,
    problems: usize,
}

impl Source {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let input = Input::from_argument(path);
        Ok(Self {
            name: input.name(),
            text: input.read()?,
        })
    }

    pub(super) fn policy(&self) -> Result<Policy, BadPolicy> {
        ebfw_policy::parse_policy(&self.text).map_err(|problems| self.refused(&problems))
    }

    pub(super) fn refused(&self, problems: &Diagnostics) -> BadPolicy {
        let colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
        BadPolicy {
            rendered: problems.render(&self.name, &self.text, colours),
            name: self.name.clone(),
            problems: problems.len(),
        }
    }
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rendered,
            name,
            problems,
        } = self;
        let noun = if *problems == 1 { "error" } else { "errors" };
        write!(f, "{name} has {problems} {noun}\n{rendered}")
    }
}

impl std::error::Error for BadPolicy {}
