//! `cargo xtask image`: the agent as a container image, a static binary and nothing else, packed without a container engine.

mod archive;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

pub(crate) use archive::{Entry, Image};

use crate::{
    build,
    command::{note, step},
    setup::{self, KERNEL_PROGRAMS, Need},
    workspace,
};

/// The name under which the agent's image is known.
pub(crate) const AGENT: &str = "ghcr.io/dvrkn/ebfw";

/// What to build.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Name and tag of the image [default: ghcr.io/dvrkn/ebfw:VERSION]
    #[arg(long)]
    name: Option<String>,
    /// The archive to write [default: ebfw-image.tar in the target directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build with optimisation
    #[arg(long)]
    release: bool,
}

/// Builds the image and says where it lies.
pub(crate) fn run(options: &Options) -> Result<()> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format!("{AGENT}:{}", env!("CARGO_PKG_VERSION")),
    };
    let output = match &options.output {
        Some(output) => output.clone(),
        None => workspace::target_dir()?.join("ebfw-image.tar"),
    };
    let digest = agent(&name, options.release, &output)?;
    note(format_args!("{name} {digest}: {}", output.display()));
    note(format_args!(
        "import it with `ctr -n k8s.io images import {}`",
        output.display()
    ));
    Ok(())
}

/// Builds the agent, packs it and returns the image's digest.
pub(crate) fn agent(name: &str, release: bool, output: &std::path::Path) -> Result<String> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::StaticTarget])?;
    build::kernel_programs(&[])?;
    let binary = build::host(&build::Options {
        release,
        features: Vec::new(),
        without_libraries: true,
    })?;
    step("image");
    Image {
        name,
        entries: vec![Entry {
            from: &binary,
            to: "ebfw",
        }],
        entrypoint: &["/ebfw"],
        arguments: &["run"],
    }
    .write(output)
}
