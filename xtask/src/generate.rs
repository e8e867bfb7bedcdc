//! `cargo xtask generate`: files in the repository that a program writes, and the check that they are current.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    chart,
    command::{self, note},
    workspace,
};

/// Where each file lies, and what `ebfw` is called with to write it.
const GENERATED: [(&str, &[&str]); 1] = [("docs/policy.schema.json", &["policy", "schema"])];

/// The definitions of the custom resources: what `ebfw policy crds` is asked for, the name of the files.
const CRDS: [(&str, &str); 2] = [
    ("ClusterEgressPolicy", "clusteregresspolicies.yaml"),
    ("EgressPolicy", "egresspolicies.yaml"),
];
/// A document that carries the reference of the custom resources, and the marks around it.
const CRD_DOCUMENT: &str = "docs/crds.md";
const BEGIN: &str = "<!-- generated: cargo xtask generate -->\n";
const END: &str = "<!-- end -->\n";

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
        if fs::read_to_string(workspace::root().join(&path)).unwrap_or_default() != content {
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
        fs::write(workspace::root().join(&path), content)
            .with_context(|| format!("failed to write {path}"))?;
        note(&path);
    }
    Ok(())
}

/// Each file with what belongs into it.
fn contents() -> Result<Vec<(String, String)>> {
    let mut contents = Vec::new();
    for (path, arguments) in GENERATED {
        contents.push((path.to_owned(), generate(arguments)?));
    }
    for (kind, file) in CRDS {
        let definition = generate(&["policy", "crds", kind])?;
        contents.push((
            format!("helm/ebfw/templates/crds/{file}"),
            template(&definition)?,
        ));
        contents.push((format!("helm/ebfw/crds/{file}"), definition));
    }
    let reference = generate(&["policy", "crds", "--reference"])?;
    contents.push((
        CRD_DOCUMENT.to_owned(),
        between_marks(&read(CRD_DOCUMENT)?, &reference)?,
    ));
    contents.push((chart::SCHEMA.to_owned(), chart::schema()?));
    contents.push((DOCUMENT.to_owned(), with_files(&read(DOCUMENT)?, read)?));
    Ok(contents)
}

/// The definition as a template of the chart: Helm installs what lies in `crds` once and never upgrades it, so the chart leaves that folder to
/// kubectl (.helmignore) and installs the definitions like everything else. They are never removed, since every policy would go with them.
fn template(definition: &str) -> Result<String> {
    if definition.contains("{{") {
        bail!("a template would read the braces of a definition");
    }
    let annotation = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n";
    if definition.matches("\nmetadata:\n").count() != 1 {
        bail!("a definition has its metadata in an unexpected place");
    }
    let definition = definition.replacen("metadata:\n", annotation, 1);
    Ok(format!(
        "{{{{- if .Values.crds.install }}}}\n{definition}{{{{- end }}}}\n"
    ))
}

/// Replaces what stands between the marks of a document.
fn between_marks(document: &str, text: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .context("the document has no mark")?;
    let (_, after) = rest
        .split_once(END)
        .context("the mark of the document has no end")?;
    Ok(format!("{before}{BEGIN}\n{text}{END}{after}"))
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
