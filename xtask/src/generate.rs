//! `cargo xtask generate`: files in the repository that a program writes, and the check that they are current.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command::{self, note},
    workspace,
};

/// Where each file lies, and what `ebfw` is called with to write it.
const GENERATED: [(&str, &[&str]); 1] = [("docs/policy.schema.json", &["policy", "schema"])];

/// A document, and the mark before each code block in it that is the copy of a file.
const DOCUMENT: &str = "README.md";
const MARK: &str = "<!-- file: ";

/// Write or check.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Change nothing, and fail if a file is out of date
    #[arg(long)]
    check: bool,
}

/// Writes the files, or compares them.
pub(crate) fn run(options: Options) -> Result<()> {
    if options.check { check() } else { write() }
}

/// Fails if a file is not what would be written now.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for (path, content) in contents()? {
        if fs::read_to_string(workspace::root().join(path)).unwrap_or_default() != content {
            stale.push(path);
        }
    }
    if !stale.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask generate`",
            stale.join(", ")
        );
    }
    Ok(())
}

fn write() -> Result<()> {
    for (path, content) in contents()? {
        fs::write(workspace::root().join(path), content)
            .with_context(|| format!("failed to write {path}"))?;
        note(path);
    }
    Ok(())
}

/// Each file with what belongs into it.
fn contents() -> Result<Vec<(&'static str, String)>> {
    let mut contents = Vec::new();
    for (path, arguments) in GENERATED {
        contents.push((path, generate(arguments)?));
    }
    contents.push((DOCUMENT, with_files(&read(DOCUMENT)?, read)?));
    Ok(contents)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(path))
        .with_context(|| format!("failed to read {path}"))
}

/// Replaces each marked code block by the file that its mark names.
fn with_files(document: &str, read: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut result = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        result.extend([line, "\n"]);
        let Some(path) = line
            .strip_prefix(MARK)
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        let fence = lines
            .next()
            .filter(|line| line.starts_with("```"))
            .with_context(|| format!("no code block after {line}"))?;
        if !lines.by_ref().any(|line| line == "```") {
            bail!("the code block after {line} has no end");
        }
        result.extend([fence, "\n", &read(path)?, "```\n"]);
    }
    Ok(result)
}

fn generate(arguments: &[&str]) -> Result<String> {
    command::output(
        command::cargo()
            .args([
                "run",
                "--quiet",
                "--package",
                "ebfw-agent",
                "--bin",
                "ebfw",
                "--",
            ])
            .args(arguments)
            .current_dir(workspace::root()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(document: &str) -> Result<String> {
        with_files(document, |path| Ok(format!("content of {path}\n")))
    }

    #[test]
    fn a_marked_block_becomes_the_file() {
        let before =
            "text\n<!-- file: a.yaml -->\n```yaml\nold\nold\n```\n```yaml\nnot marked\n```\n";
        let after = "text\n<!-- file: a.yaml -->\n```yaml\ncontent of a.yaml\n```\n```yaml\nnot marked\n```\n";
        assert_eq!(filled(before).unwrap(), after);
        assert_eq!(
            filled(after).unwrap(),
            after,
            "the second time changes nothing"
        );
    }

    #[test]
    fn a_mark_without_a_block_is_an_error() {
        for document in [
            "<!-- file: a -->\ntext\n",
            "<!-- file: a -->\n```\nno end\n",
            "<!-- file: a -->",
        ] {
            assert!(filled(document).is_err(), "{document}");
        }
    }
}
