//! `ebfw policy …`: offline work with policy files.

use clap::Subcommand;

use crate::exit::Exit;

/// What can be done with policy files.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the JSON Schema of the policy file, so that editors complete it
    #[command(after_help = super::help::POLICY_SCHEMA)]
    Schema,
}

pub(super) fn main(command: PolicyCommand) -> anyhow::Result<Exit> {
    match command {
        PolicyCommand::Schema => Ok(Exit::SUCCESS),
    }
}
