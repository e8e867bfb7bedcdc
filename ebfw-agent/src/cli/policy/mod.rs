//! `ebfw policy …`: offline work with policy files and manifests. No kernel, no privileges, no cluster.

mod crds;
mod format;
mod judge;
mod lint;
mod source;
mod test;
mod verdict;

use clap::{Args, Subcommand};

use self::{crds::CrdsArgs, format::FormatArgs, lint::LintArgs, test::TestArgs};
use super::{help, output};
use crate::{config::Output, exit::Exit};

/// What can be done with policy files and manifests.
#[derive(Clone, Debug, Subcommand)]
#[command(after_help = help::POLICY)]
pub(super) enum PolicyCommand {
    /// Say what a policy does with flows
    #[command(after_help = help::POLICY_TEST)]
    Test(TestArgs),
    /// Find rules that mean something else than they look, or nothing
    #[command(after_help = help::POLICY_LINT)]
    Lint(LintArgs),
    /// Format policy files and manifests
    #[command(after_help = help::POLICY_FMT)]
    Fmt(FormatArgs),
    /// Print the JSON Schema of the policy file, so that editors complete it
    #[command(after_help = help::POLICY_SCHEMA)]
    Schema,
    /// Print the definitions of the custom resources, for kubectl apply
    #[command(after_help = help::POLICY_CRDS)]
    Crds(CrdsArgs),
}

/// The flag that chooses the form of what is printed.
#[derive(Clone, Copy, Debug, Args)]
struct OutputFlag {
    /// Form of what is printed
    #[arg(short, long, value_enum, default_value = "text", value_name = "WORD")]
    output: Output,
}

pub(super) fn main(command: PolicyCommand) -> anyhow::Result<Exit> {
    match command {
        PolicyCommand::Test(args) => test::main(args),
        PolicyCommand::Lint(args) => lint::main(&args),
        PolicyCommand::Fmt(args) => format::main(&args),
        PolicyCommand::Crds(args) => crds::main(args),
        PolicyCommand::Schema => {
            let schema = serde_json::to_string_pretty(&ebfw_policy::spec::schema())?;
            output::print(&format!("{schema}\n"))?;
            Ok(Exit::SUCCESS)
        }
    }
}
