//! A ruleset in the words of a policy file, for the output of a failed test.

use std::fmt::{self, Display, Write};

use crate::{policy::AnyOf, ruleset::Ruleset};

/// The ruleset with its first `shown` rules.
#[must_use]
pub fn words(ruleset: &Ruleset, shown: usize) -> String {
    let mut text = String::new();
    write(&mut text, ruleset, shown).expect("a String takes everything");
    text
}

fn write(text: &mut String, ruleset: &Ruleset, shown: usize) -> fmt::Result {
    let Ruleset {
        rules,
        default,
        govern_loopback,
    } = ruleset;
    writeln!(
        text,
        "defaultAction: {default:?}\ngovernLoopback: {govern_loopback}\nrules: # {}",
        rules.len()
    )?;
    for rule in rules.iter().take(shown) {
        let strict = if rule.strict_l7 { " (strictL7)" } else { "" };
        write!(
            text,
            "- {{name: {}, action: {:?}{strict}",
            rule.name, rule.action
        )?;
        let matches = &rule.matches;
        entries(text, "domains", &matches.domains)?;
        entries(text, "cidrs", &matches.cidrs)?;
        entries(text, "ports", &matches.ports)?;
        let numbers = match &matches.protocols {
            AnyOf::Anything => AnyOf::Anything,
            AnyOf::Entries(protocols) => {
                AnyOf::Entries(protocols.iter().map(|protocol| protocol.0).collect())
            }
        };
        entries(text, "protocols", &numbers)?;
        entries(text, "methods", &matches.methods)?;
        if let Some(prefix) = &matches.path_prefix {
            write!(text, ", pathPrefix: {prefix}")?;
        }
        writeln!(text, "}}")?;
    }
    Ok(())
}

fn entries<T: Display>(text: &mut String, field: &str, entries: &AnyOf<T>) -> fmt::Result {
    let AnyOf::Entries(entries) = entries else {
        return Ok(());
    };
    let list: Vec<String> = entries.iter().map(ToString::to_string).collect();
    write!(text, ", {field}: [{}]", list.join(", "))
}
