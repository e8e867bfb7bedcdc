//! `cargo xtask setup`: installs what is missing, and says for each part what it is for and why it is skipped.
//! The other tasks ask for just what they need; what is there already costs them milliseconds.

mod bpf_linker;
mod cargo_tools;
mod programs;
mod rust_source;

use anyhow::{Context as _, Result, bail};

pub(crate) use programs::{Program, TLS_CLIENTS, is_root};

use crate::command::{note, step};

/// Something that a task needs and a fresh machine may lack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The source of `core`, which is compiled for the kernel's target.
    RustSource,
    /// The linker for kernel programs.
    BpfLinker,
    /// The standard library for programs without shared libraries.
    StaticTarget,
    /// `cargo fmt` and `cargo clippy`.
    Components,
    /// The check of licences, sources and advisories.
    CargoDeny,
    /// `cargo fuzz`.
    CargoFuzz,
    /// A program of the operating system.
    Program(Program),
}

/// What it takes to build the kernel programs.
pub(crate) const KERNEL_PROGRAMS: [Need; 2] = [Need::RustSource, Need::BpfLinker];

const ALL: [Need; 16] = [
    Need::RustSource,
    Need::BpfLinker,
    Need::StaticTarget,
    Need::Components,
    Need::CargoDeny,
    Need::CargoFuzz,
    Need::Program(Program::Curl),
    Need::Program(Program::Git),
    Need::Program(Program::Go),
    Need::Program(Program::Ip),
    Need::Program(Program::Node),
    Need::Program(Program::OpenSsl),
    Need::Program(Program::Python),
    Need::Program(Program::Qemu),
    Need::Program(Program::Wget),
    Need::Program(Program::Xz),
];

/// Installs everything, and explains each part.
pub(crate) fn run() -> Result<()> {
    for need in ALL {
        let name = need.name();
        match need.found() {
            Some(found) => {
                step(format_args!("{name}: skipped, there already ({found})"));
            }
            None => install(need)?,
        }
    }
    step("set up");
    Ok(())
}

/// Installs what is missing of these; silent about the rest.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    needs
        .iter()
        .filter(|need| need.found().is_none())
        .try_for_each(|need| install(*need))
}

fn install(need: Need) -> Result<()> {
    let name = need.name();
    step(format_args!("{name}: installing"));
    note(need.purpose());
    match need {
        Need::RustSource => rust_source::install(),
        Need::BpfLinker => bpf_linker::install(),
        Need::StaticTarget => cargo_tools::install_static_target(),
        Need::Components => cargo_tools::install_components(),
        Need::CargoDeny => cargo_tools::install_deny(),
        Need::CargoFuzz => cargo_tools::install_fuzz(),
        Need::Program(program) => program.install(),
    }
    .with_context(|| format!("failed to install {name}"))?;
    if need.found().is_none() {
        bail!("{name} was installed and is still not usable");
    }
    Ok(())
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::RustSource => "rust-src",
            Self::BpfLinker => "bpf-linker",
            Self::StaticTarget => "musl target",
            Self::Components => "rustfmt and clippy",
            Self::CargoDeny => "cargo-deny",
            Self::CargoFuzz => "cargo-fuzz",
            Self::Program(program) => program.name(),
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::RustSource => {
                "the kernel's target has no compiled standard library: `core` is built from its source"
            }
            Self::BpfLinker => "links the kernel programs and writes their type information (BTF)",
            Self::StaticTarget => {
                "`cargo xtask build --static` makes an `ebfw` without shared libraries"
            }
            Self::Components => "`cargo xtask lint` formats and lints",
            Self::CargoDeny => {
                "`cargo xtask lint` checks licences, sources and advisories of dependencies"
            }
            Self::CargoFuzz => {
                "`cargo xtask fuzz` runs the readers on inputs that nobody thought of"
            }
            Self::Program(program) => program.purpose(),
        }
    }

    /// Where the thing was found, if it is there and works.
    fn found(self) -> Option<String> {
        match self {
            Self::RustSource => rust_source::found(),
            Self::BpfLinker => bpf_linker::found(),
            Self::StaticTarget => cargo_tools::found_static_target(),
            Self::Components => cargo_tools::found_components(),
            Self::CargoDeny => cargo_tools::found_deny(),
            Self::CargoFuzz => cargo_tools::found_fuzz(),
            Self::Program(program) => program.found(),
        }
    }
}
