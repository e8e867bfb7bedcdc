//! `ebfw policy crds`: the definitions of the custom resources that this build understands.

use clap::{Args, ValueEnum};
use ebfw_crd::schema;
use ebfw_policy::object;

use crate::{cli::output, exit::Exit};

#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct CrdsArgs {
    /// One kind only
    #[arg(value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Print the reference of limits and rules in Markdown instead
    #[arg(long, hide = true)]
    reference: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(name = "ClusterEgressPolicy", alias = "cegp")]
    ClusterEgressPolicy,
    #[value(name = "EgressPolicy", alias = "egp")]
    EgressPolicy,
}

impl From<Kind> for object::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::ClusterEgressPolicy => Self::ClusterEgressPolicy,
            Kind::EgressPolicy => Self::EgressPolicy,
        }
    }
}

pub(super) fn main(args: CrdsArgs) -> anyhow::Result<Exit> {
    let CrdsArgs { kind, reference } = args;
    let kinds = kind.map_or_else(|| object::Kind::ALL.to_vec(), |kind| vec![kind.into()]);
    let documents: Vec<String> = kinds.into_iter().map(schema::manifest).collect();
    let text = match reference {
        true => schema::reference(),
        false => documents.join("---\n"),
    };
    output::print(&text)?;
    Ok(Exit::SUCCESS)
}
