//! Any YAML file as plain values that know their places, read as policies are: for files beside them, such as the agent's configuration.

use ipnet::IpNet;

use crate::{
    check,
    diagnostics::{Code, Diagnostic, Diagnostics, Found, Place},
    yaml::{self, Documents, NodeId, Tree},
};

/// A value and where it stands.
#[derive(Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// The key of a mapping and where it stands.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

/// What YAML knows of values.
#[derive(Debug)]
pub enum Value {
    /// Nothing, or a word for it.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number without quotes; which one nobody has asked yet.
    Number,
    /// Any other text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping; no key comes twice.
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "a boolean",
            Self::Number => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// The one document of `source`; an empty file is [`Value::Null`]. Adds to `problems` what is wrong with single keys, such as one that comes
/// twice: what was read without them can still be looked at for more.
///
/// # Errors
/// What is no YAML, with the problems so far.
pub fn read(source: &str, problems: &mut Vec<Diagnostic>) -> Result<Node, Diagnostics> {
    let mut found = Found::default();
    match yaml::read(source, Documents::One, &mut found) {
        Ok(tree) => {
            let root = node(&tree, tree.root(), &mut found);
            problems.extend(Diagnostics::from(found));
            Ok(root)
        }
        Err(error) if error.code == Code::Empty => Ok(Node {
            value: Value::Null,
            place: Place::START,
        }),
        Err(error) => Err(found.ended_by(error)),
    }
}

/// A prefix as policies read it, host bits kept: an address, `/` and a length, of which no number begins with a zero.
#[must_use]
pub fn prefix(text: &str) -> Option<IpNet> {
    check::address_and_length(text)
}

fn node(tree: &Tree<'_>, id: NodeId, problems: &mut Found) -> Node {
    let value = match tree.value(id) {
        yaml::Value::Scalar { text, plain: true } => plain(text),
        yaml::Value::Scalar { text, plain: false } => Value::Text(text.to_string()),
        yaml::Value::List(items) => Value::List(
            items
                .iter()
                .map(|item| node(tree, *item, problems))
                .collect(),
        ),
        yaml::Value::Map(pairs) => {
            let mut entries = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                let key = name(tree, *key, problems);
                entries.extend(key.map(|key| (key, node(tree, *value, problems))));
            }
            Value::Map(entries)
        }
    };
    Node {
        value,
        place: tree.place(id),
    }
}

fn name(tree: &Tree<'_>, id: NodeId, problems: &mut Found) -> Option<Key> {
    let place = tree.place(id);
    match tree.value(id) {
        yaml::Value::Scalar { text, .. } => Some(Key {
            name: text.to_string(),
            place,
        }),
        yaml::Value::List(_) | yaml::Value::Map(_) => {
            problems.push(|| Diagnostic::error(Code::WrongType, "a field name is wanted", place));
            None
        }
    }
}

/// A text without quotes, by the core schema of YAML 1.2.
fn plain(text: &str) -> Value {
    match yaml::truth(text) {
        Some(truth) => Value::Boolean(truth),
        None if yaml::is_null(text) => Value::Null,
        None if yaml::is_number(text) => Value::Number,
        None => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_yaml_takes_them_for() {
        for (text, expected) in [
            ("", "nothing"),
            ("# nothing", "nothing"),
            ("~", "nothing"),
            ("'~'", "a text"),
            ("true", "a boolean"),
            ("yes", "a text"),
            ("5", "a number"),
            ("-1.5e3", "a number"),
            ("0x1f", "a number"),
            (".inf", "a number"),
            ("-.Inf", "a number"),
            (".NaN", "a number"),
            ("0o17", "a number"),
            ("0o9", "a text"),
            ("0x", "a text"),
            ("-0x1f", "a text"),
            ("+.5E-3", "a number"),
            ("5.", "a number"),
            (".", "a text"),
            ("--5", "a text"),
            ("1e", "a text"),
            ("1_000", "a text"),
            ("infinity", "a text"),
            ("'5'", "a text"),
            ("1.2.3.4", "a text"),
            ("10.0.0.0/8", "a text"),
            ("nan", "a text"),
            ("[a]", "a list"),
            ("a: b", "a mapping"),
        ] {
            let mut problems = Vec::new();
            let read = read(text, &mut problems).unwrap();
            assert_eq!(read.value.kind(), expected, "{text}");
            assert!(problems.is_empty(), "{text}: {problems:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        for (text, code, line) in [
            ("a: 1\nb: [", Code::Syntax, 2),
            ("a: 1\nb: *c", Code::Syntax, 2),
            ("a: 1\n---\nb: 2", Code::Documents, 2),
            ("a: 1\na: 2", Code::DuplicateKey, 2),
            ("a: 1\n[b]: 2", Code::WrongType, 2),
        ] {
            let mut problems = Vec::new();
            let ended = read(text, &mut problems).err();
            problems.extend(ended.into_iter().flatten());
            let told: Vec<_> = problems.iter().map(|one| (one.code, one.line)).collect();
            assert_eq!(told, [(code, line)], "{text}");
        }
    }
}
