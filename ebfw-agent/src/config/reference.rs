//! The reference of the settings in Markdown, as `docs/configuration.md` carries it.

use std::fmt::Write;

use super::setting::{Empty, Group, SETTINGS, Setting, Values};

/// One table a group.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        table(&mut text, group).expect("a String takes everything");
    }
    text
}

fn table(text: &mut String, group: Group) -> std::fmt::Result {
    writeln!(text, "### {}\n", group.heading())?;
    writeln!(text, "| variable | flag | values | default | |")?;
    writeln!(text, "|---|---|---|---|---|")?;
    for row in SETTINGS.iter().filter(|row| row.group == group) {
        let Setting {
            variable,
            flag,
            default,
            help,
            ..
        } = row;
        writeln!(
            text,
            "| `{variable}` | `--{flag}` | {} | {default} | {help} |",
            values(row)
        )?;
    }
    writeln!(text)
}

fn values(row: &Setting) -> String {
    let values = match row.values {
        Values::Boolean => "boolean".to_owned(),
        Values::Words(_) | Values::Text { .. } => row.allowed(),
    };
    match row.empty {
        Empty::Unset => values,
        Empty::Disables => format!("{values} (the variable too)"),
    }
}
