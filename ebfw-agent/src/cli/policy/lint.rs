//! `ebfw policy lint`: what is wrong or doubtful in policy files, with exit codes for CI.

use std::{cell::LazyCell, io::Write, path::PathBuf};

use anstream::{AutoStream, ColorChoice};
use clap::{Args, ValueEnum, ValueHint};
use ebfw_crd::schema::Offline;
use ebfw_policy::{
    Manifests,
    diagnostics::{Diagnostic, Diagnostics, Severity},
};
use serde::Serialize;

use super::{
    OutputFlag,
    source::{self, Source},
};
use crate::{
    cli::output::{Stdout, Unheard},
    config::Output,
    exit::Exit,
};

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct LintArgs {
    /// Policy files, manifests, or directories of them; `-` is standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    /// The least severity that makes the exit code 3
    #[arg(long, value_enum, default_value = "warning", value_name = "WORD")]
    fail_on: FailOn,
    #[command(flatten)]
    form: OutputFlag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Only what makes the policy unusable
    Error,
    /// What nobody wants
    Warning,
    /// What may mean something else than its author thinks
    Note,
    /// Nothing: findings are printed only
    Never,
}

impl FailOn {
    fn covers(self, severity: Severity) -> bool {
        match self {
            Self::Error => severity == Severity::Error,
            Self::Warning => matches!(severity, Severity::Error | Severity::Warning),
            Self::Note => true,
            Self::Never => false,
        }
    }
}

pub(super) fn main(args: &LintArgs) -> anyhow::Result<Exit> {
    let mut out = Unheard::new(Stdout::lock());
    let mut worst = Exit::SUCCESS;
    let schema: LazyCell<Offline> = LazyCell::new(Offline::new);
    for path in &source::files(&args.files, source::READ)? {
        let exit = match Source::read(path) {
            Ok(source) => lint(args, &source, &schema, &mut out)?,
            Err(error) => {
                crate::cli::complain(&format!("{error:#}"));
                Exit::FAILURE
            }
        };
        worst = worse(worst, exit);
    }
    out.flush()?;
    Ok(worst)
}

/// A bad policy outweighs findings, findings outweigh nothing.
fn worse(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::FAILURE, _) | (_, Exit::FAILURE) => Exit::FAILURE,
        (Exit::SUCCESS, other) => other,
        (one, _) => one,
    }
}

/// What is doubtful in a file, or every error of it.
fn findings(source: &Source, schema: &LazyCell<Offline>) -> Result<Diagnostics, Diagnostics> {
    if !source.is_manifest() {
        return ebfw_policy::parse_policy(&source.text).map(|policy| policy.lint(&source.text));
    }
    let Manifests { objects, notes } = source.manifests(schema)?;
    let doubtful = objects
        .iter()
        .map(|object| object.policy().lint(&source.text));
    Ok(std::iter::once(notes).chain(doubtful).collect())
}

fn lint(
    args: &LintArgs,
    source: &Source,
    schema: &LazyCell<Offline>,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (findings, exit) = match findings(source, schema) {
        Err(errors) => (errors, Exit::FAILURE),
        Ok(findings) => {
            let fails = findings
                .iter()
                .any(|finding| args.fail_on.covers(finding.severity));
            (findings, if fails { Exit::FINDINGS } else { Exit::SUCCESS })
        }
    };
    match args.form.output {
        Output::Text => write_text(source, &findings, out)?,
        Output::Json => write_json(source, &findings, out)?,
    }
    Ok(exit)
}

fn write_text(source: &Source, findings: &Diagnostics, out: &mut impl Write) -> anyhow::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let colours = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    writeln!(
        out,
        "{}\n",
        findings.render(&source.name, &source.text, colours)
    )?;
    Ok(())
}

#[derive(Serialize)]
struct Finding<'f> {
    file: &'f str,
    #[serde(flatten)]
    finding: &'f Diagnostic,
}

fn write_json(source: &Source, findings: &Diagnostics, out: &mut impl Write) -> anyhow::Result<()> {
    for finding in findings {
        let file = &source.name;
        let finding = serde_json::to_string(&Finding { file, finding })?;
        writeln!(out, "{finding}")?;
    }
    Ok(())
}
