//! The reference of limits and rules in Markdown, as `docs/crds.md` carries it.

use std::fmt::Write;

use ebfw_policy::object::Kind;

use super::rules::{CelRule, LIMITS, Limit, LimitValue, RULES};

/// Two tables: what the API server limits, and the CEL rules.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    write(&mut text).expect("a String takes everything");
    text
}

fn write(text: &mut String) -> std::fmt::Result {
    writeln!(text, "### Rules of the API server\n")?;
    writeln!(text, "| at | must hold (CEL) | else |")?;
    writeln!(text, "|---|---|---|")?;
    for CelRule {
        at,
        rule,
        message,
        only,
    } in RULES
    {
        let only = only.map_or_else(String::new, |kind: Kind| {
            format!(" ({} only)", kind.as_str())
        });
        writeln!(text, "| `{at}`{only} | `{}` | {message} |", cell(rule))?;
    }
    writeln!(text, "\n### Limits of the API server\n")?;
    writeln!(text, "| at | keyword | value |")?;
    writeln!(text, "|---|---|---|")?;
    for Limit { at, key, value } in LIMITS {
        let value = match value {
            LimitValue::Number(number) => number.to_string(),
            LimitValue::Pattern(pattern) => format!("`{}`", cell(pattern)),
        };
        writeln!(text, "| `{at}` | {key} | {value} |")?;
    }
    writeln!(text)
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', r"\|")
}
