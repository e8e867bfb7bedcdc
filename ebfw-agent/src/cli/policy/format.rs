//! `ebfw policy fmt`: one form for policy files and manifests, in place, on standard output, or as a check.

use std::{
    cell::LazyCell,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, ensure};
use clap::{Args, ValueHint};
use ebfw_crd::schema::Offline;

use super::source::{self, Source};
use crate::{
    cli::output::{Stdout, Unheard},
    exit::Exit,
    input::Input,
};

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct FormatArgs {
    /// Policy files, manifests, or directories of them, rewritten in place; `-` is standard input, written to standard output
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    /// Change nothing; name the files that are not formatted, and exit with 1 if there is any
    #[arg(long, conflicts_with = "stdout")]
    check: bool,
    /// Write to standard output instead of into the files
    #[arg(long)]
    stdout: bool,
}

pub(super) fn main(args: &FormatArgs) -> anyhow::Result<Exit> {
    let mut out = Unheard::new(Stdout::lock());
    let mut worst = Exit::SUCCESS;
    let schema: LazyCell<Offline> = LazyCell::new(Offline::new);
    for path in &source::files(&args.files, source::WRITTEN)? {
        match format(args, path, &schema, &mut out) {
            Ok(Exit::SUCCESS) => {}
            Ok(exit) => worst = exit,
            Err(error) => {
                crate::cli::complain(&format!("{error:#}"));
                worst = Exit::FAILURE;
            }
        }
    }
    out.flush()?;
    Ok(worst)
}

fn format(
    args: &FormatArgs,
    path: &Path,
    schema: &LazyCell<Offline>,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    ensure!(
        args.stdout || !is_json(path),
        "{} is JSON by its name, and formatting writes YAML: use --stdout, or give it another name",
        path.display()
    );
    let source = Source::read(path)?;
    let formatted = source
        .formatted(schema)
        .map_err(|problems| source.refused(&problems))?;
    if args.check {
        if formatted == source.text {
            return Ok(Exit::SUCCESS);
        }
        writeln!(out, "{} is not formatted", source.name)?;
        return Ok(Exit::FAILURE);
    }
    match Input::from_argument(path) {
        Input::Path(path) if !args.stdout => {
            if formatted != source.text {
                replace(&path, &formatted)
                    .with_context(|| format!("failed to write {}", path.display()))?;
            }
        }
        Input::Path(_) | Input::Stdin => out.write_all(formatted.as_bytes())?,
    }
    Ok(Exit::SUCCESS)
}

fn is_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Replaces the file in one step, since an agent may follow it: it sees the old text or the new,
/// never half of one. Permissions stay, a symbolic link goes on pointing where it did.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", process::id()));
    let temporary = target.with_file_name(name);
    let written = fs::write(&temporary, text)
        .and_then(|()| fs::set_permissions(&temporary, fs::metadata(&target)?.permissions()))
        .and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        drop(fs::remove_file(&temporary));
    }
    written
}
