//! `cargo xtask verifier`: writes down how many instructions each kernel's verifier follows in each program, from a run on all kernels.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{command::note, vm, workspace};

const DOCUMENT: &str = "docs/verifier.md";

/// What prints the figures, and fails above the ceiling.
const TARGET: &str = "datapath";
const TEST: &str = "programs_load_and_verdicts_follow_each_policy_in_turn";
/// What stands before each figure.
const MARK: &str = "verified: ";

const HEAD: &str = "# What the verifier follows

Written by `cargo xtask verifier`; do not edit. The kernel refuses a program in which its verifier would follow more than 1,000,000
instructions, and how many it follows differs from kernel to kernel. The test `programs_load_and_verdicts_follow_each_policy_in_turn`
fails above 500,000 on every kernel that tells (5.16 and newer).

";

/// Runs the test on all kernels and writes the document.
pub(crate) fn run() -> Result<()> {
    let kernels: Vec<_> = vm::on_all_kernels(TARGET, TEST)?
        .into_iter()
        .map(|(kernel, printed)| (kernel, figures(&printed)))
        .collect();
    for (kernel, figures) in &kernels {
        ensure!(
            !figures.is_empty(),
            "the test printed no figures on {kernel}"
        );
    }
    fs::write(workspace::root().join(DOCUMENT), document(&kernels))
        .with_context(|| format!("failed to write {DOCUMENT}"))?;
    note(DOCUMENT);
    Ok(())
}

/// Programs with what the verifier followed in them; `None` where the kernel does not tell.
type Figures = Vec<(String, Option<u32>)>;

fn figures(printed: &str) -> Figures {
    let figure = |line: &str| {
        let (_, figure) = line.split_once(MARK)?;
        let (program, count) = figure.trim().split_once(' ')?;
        Some((program.to_owned(), count.parse().ok()))
    };
    printed.lines().filter_map(figure).collect()
}

/// A row a program, a column a kernel.
fn document(kernels: &[(String, Figures)]) -> String {
    let mut programs: Vec<&str> = Vec::new();
    for (program, _) in kernels.iter().flat_map(|(_, figures)| figures) {
        if !programs.contains(&program.as_str()) {
            programs.push(program);
        }
    }
    let releases = kernels.iter().map(|(kernel, _)| kernel.clone());
    let mut rows = vec![
        row("program", releases),
        row("---", kernels.iter().map(|_| "---:".to_owned())),
    ];
    for program in programs {
        let cells = kernels.iter().map(|(_, figures)| {
            match figures.iter().find(|(name, _)| name == program) {
                Some((_, Some(count))) => grouped(*count),
                Some((_, None)) => "not told".to_owned(),
                None => String::new(),
            }
        });
        rows.push(row(&format!("`{program}`"), cells));
    }
    format!("{HEAD}{}\n", rows.join("\n"))
}

fn row(first: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!(" {cell} |")).collect();
    format!("| {first} |{cells}")
}

/// With commas between the thousands.
fn grouped(count: u32) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = (0..digits.len())
        .rev()
        .step_by(3)
        .map(|last| &digits[last.saturating_sub(2)..=last])
        .collect();
    groups.into_iter().rev().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_among_everything_else() {
        let printed = "--- datapath\ntest x ... verified: a 12\nnoise\nverified: b untold\r\nok\n";
        let expected = vec![("a".to_owned(), Some(12)), ("b".to_owned(), None)];
        assert_eq!(figures(printed), expected);
    }

    #[test]
    fn a_program_that_a_kernel_does_not_have_leaves_its_cell_empty() {
        let kernels = [
            ("5.10".to_owned(), vec![("a".to_owned(), None)]),
            (
                "7.3".to_owned(),
                vec![
                    ("a".to_owned(), Some(1_234_567)),
                    ("b".to_owned(), Some(12)),
                ],
            ),
        ];
        let document = document(&kernels);
        let rows = "| program | 5.10 | 7.3 |\n| --- | ---: | ---: |\n| `a` | not told | 1,234,567 |\n| `b` |  | 12 |\n";
        assert!(document.ends_with(rows), "{document}");
    }

    #[test]
    fn thousands_are_grouped() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
        ] {
            assert_eq!(grouped(count), text);
        }
    }
}
