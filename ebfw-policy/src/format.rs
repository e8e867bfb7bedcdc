//! One layout for every policy file and policy object: two spaces, block mappings, short lists in brackets, comments where they were.
//!
//! Order and words stay the author's. The result is read again and compared, so that formatting can neither change a policy nor lose a comment.

use std::ops::Range;

use crate::{
    check::{Violation, is_object, parse_manifests, parse_policy, to_json},
    diagnostics::{Code, Diagnostic, Diagnostics, Found, Place},
    object::Kind,
    yaml::{self, Comment, Documents, NodeId, Tree, Value},
};

/// Columns up to which a list stays on one line.
const WIDTH: usize = 100;

/// Formats a policy file.
///
/// # Errors
/// The errors of an invalid policy; or what in a valid one cannot be formatted without loss (anchors and aliases).
pub fn format_policy(source: &str) -> Result<String, Diagnostics> {
    let policy = parse_policy(source)?;
    let formatted = format(source, Documents::One)?;
    match parse_policy(&formatted) {
        Ok(kept) if kept == policy => Ok(formatted),
        _ => Err(changed()),
    }
}

/// Formats the policy objects of a file of manifests; objects of other kinds stay as they are. `schema` as in [`parse_manifests`].
///
/// # Errors
/// As [`format_policy`], of any object.
pub fn format_manifests(
    source: &str,
    schema: &dyn Fn(Kind, &serde_json::Value) -> Vec<Violation>,
) -> Result<String, Diagnostics> {
    parse_manifests(source, schema)?;
    let formatted = format(source, Documents::Many)?;
    if objects(source) == objects(&formatted) {
        Ok(formatted)
    } else {
        Err(changed())
    }
}

fn format(source: &str, documents: Documents) -> Result<String, Diagnostics> {
    let refuse = |problem| Diagnostics::new(vec![problem]);
    let tree = yaml::read(source, documents, &mut Found::default()).map_err(refuse)?;
    if let Some(place) = tree.first_anchor() {
        let problem = Diagnostic::error(
            Code::Alias,
            "anchors and aliases would be lost by formatting",
            place.clone(),
        );
        return Err(refuse(
            problem.with_hint("write the value out where it is used"),
        ));
    }
    let comments = yaml::comments(source).map_err(refuse)?;
    let mut writer = Writer {
        tree: &tree,
        source,
        comments: &comments,
        next: 0,
        done: 0,
        out: String::new(),
    };
    match documents {
        Documents::One => writer.document(tree.root(), usize::MAX),
        Documents::Many => writer.documents(),
    }
    let formatted = writer.out;
    match yaml::comments(&formatted) {
        Ok(kept) if texts(&kept) == texts(&comments) => Ok(formatted),
        _ => Err(changed()),
    }
}

fn changed() -> Diagnostics {
    let message = "this file cannot be formatted without changing what it says";
    let problem = Diagnostic::error(Code::Syntax, message, Place::START);
    Diagnostics::new(vec![problem.with_hint("it is valid and stays as it is")])
}

/// What an API server would get of each document; `None` of what is no YAML.
fn objects(source: &str) -> Option<Vec<serde_json::Value>> {
    let tree = yaml::read(source, Documents::Many, &mut Found::default()).ok()?;
    let values = tree.roots().map(|root| to_json(&tree, root));
    Some(values.filter(|value| !value.is_null()).collect())
}

fn texts<'c>(comments: &'c [Comment<'_>]) -> Vec<&'c str> {
    comments
        .iter()
        .map(|comment| comment.text.trim_end())
        .collect()
}

struct Writer<'t, 'a> {
    tree: &'t Tree<'a>,
    source: &'a str,
    comments: &'t [Comment<'a>],
    /// The first comment that is not written yet.
    next: usize,
    /// Up to where the source is written.
    done: usize,
    out: String,
}

impl<'t> Writer<'t, '_> {
    fn documents(&mut self) {
        let starts = self.tree.starts();
        let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
        for ((root, start), end) in self.tree.roots().zip(starts).zip(ends) {
            // What stands before the first document is the first document's.
            let start = if self.out.is_empty() {
                self.done
            } else {
                *start
            };
            if is_object(self.tree, root) {
                if !self.out.is_empty() {
                    self.out.push_str("---\n");
                    let mark = self.source[start..].starts_with("---");
                    self.done = start + if mark { 3 } else { 0 };
                }
                self.document(root, end);
            } else {
                self.verbatim(start, end.min(self.source.len()));
            }
        }
    }

    /// Writes a part of the source as it is.
    fn verbatim(&mut self, start: usize, end: usize) {
        self.out.push_str(&self.source[start..end]);
        let later = |comment: &Comment<'_>| comment.bytes.start >= end;
        let passed = self.comments[self.next..].iter().position(later);
        self.next = passed.map_or(self.comments.len(), |passed| self.next + passed);
        self.done = end;
    }

    /// Writes a document with all comments before `end`.
    fn document(&mut self, root: NodeId, end: usize) {
        match self.tree.value(root) {
            Value::Map(pairs) if !pairs.is_empty() => self.map(pairs, 0, false),
            Value::Map(_) | Value::List(_) | Value::Scalar { .. } => {
                let text = self.inline(root);
                self.lead(self.bytes(root).start, 0);
                self.out.push_str(&text);
                self.trail(self.bytes(root).end);
            }
        }
        self.lead(end, 0);
    }

    /// Writes a mapping; its first key goes on the line that is begun if `begun`.
    fn map(&mut self, pairs: &'t [(NodeId, NodeId)], indent: usize, begun: bool) {
        for (at, (key, value)) in pairs.iter().enumerate() {
            if at > 0 || !begun {
                self.lead(self.bytes(*key).start, indent);
                self.indent(indent);
            }
            let name = self.scalar(*key);
            self.out.push_str(&name);
            self.out.push(':');
            self.value(*key, *value, indent, name.len() + 2);
        }
    }

    /// Writes what stands after a key.
    fn value(&mut self, key: NodeId, value: NodeId, indent: usize, used: usize) {
        match self.tree.value(value) {
            Value::Map(pairs) if !pairs.is_empty() => {
                self.trail(self.bytes(key).end);
                self.map(pairs, indent + 2, false);
            }
            Value::List(items) if !self.fits(value, items, indent + used) => {
                self.trail(self.bytes(key).end);
                self.list(items, indent + 2);
            }
            Value::Map(_) | Value::List(_) | Value::Scalar { .. } => {
                let text = self.inline(value);
                self.out.push(' ');
                self.out.push_str(&text);
                self.trail(self.end(value));
            }
        }
    }

    fn list(&mut self, items: &'t [NodeId], indent: usize) {
        for item in items {
            self.lead(self.bytes(*item).start, indent);
            self.indent(indent);
            self.out.push_str("- ");
            match self.tree.value(*item) {
                Value::Map(pairs) if !pairs.is_empty() => self.map(pairs, indent + 2, true),
                Value::Map(_) | Value::List(_) | Value::Scalar { .. } => {
                    let text = self.inline(*item);
                    self.out.push_str(&text);
                    self.trail(self.end(*item));
                }
            }
        }
    }

    /// Whether a list goes on one line: scalars only, no comment among them, short enough.
    fn fits(&self, list: NodeId, items: &[NodeId], used: usize) -> bool {
        let scalars = items
            .iter()
            .all(|item| matches!(self.tree.value(*item), Value::Scalar { .. }));
        let commented = self
            .comments
            .get(self.next)
            .is_some_and(|comment| comment.bytes.start < self.end(list));
        items.is_empty()
            || scalars && !commented && used + self.inline(list).chars().count() <= WIDTH
    }

    /// A value on one line.
    fn inline(&self, node: NodeId) -> String {
        let joined = |parts: Vec<String>| parts.join(", ");
        match self.tree.value(node) {
            Value::Scalar { .. } => self.scalar(node),
            Value::List(items) => format!(
                "[{}]",
                joined(items.iter().map(|item| self.inline(*item)).collect())
            ),
            Value::Map(pairs) => {
                let pair = |(key, value): &(NodeId, NodeId)| {
                    format!("{}: {}", self.scalar(*key), self.inline(*value))
                };
                format!("{{{}}}", joined(pairs.iter().map(pair).collect()))
            }
        }
    }

    /// A scalar as its author wrote it, or in double quotes where that would not survive the new place.
    fn scalar(&self, node: NodeId) -> String {
        let Value::Scalar { text, plain } = self.tree.value(node) else {
            return self.inline(node);
        };
        let written = self.source.get(self.bytes(node)).unwrap_or_default();
        let quoted = written.len() > 1 && (written.starts_with('"') || written.starts_with('\''));
        let safe = !written.contains(['\n', '\r'])
            && (quoted
                || *plain && written == &**text && !written.contains([',', '[', ']', '{', '}']));
        if safe {
            written.to_owned()
        } else {
            serde_json::Value::from(&**text).to_string()
        }
    }

    /// Writes the comments before `at`, each on a line of its own, and one blank line where the source has any.
    fn lead(&mut self, at: usize, indent: usize) {
        while let Some(comment) = self
            .comments
            .get(self.next)
            .filter(|comment| comment.bytes.start < at)
        {
            self.blank(comment.bytes.start);
            self.indent(indent);
            self.out.push_str(comment.text.trim_end());
            self.out.push('\n');
            self.done = comment.bytes.end;
            self.next += 1;
        }
        if at <= self.source.len() {
            self.blank(at);
        }
    }

    /// Ends a line that holds the source up to `end`, with the comment that follows it there.
    fn trail(&mut self, end: usize) {
        self.done = self.done.max(end);
        if let Some(comment) = self.comments.get(self.next) {
            let between = self.source.get(end..comment.bytes.start);
            if between.is_some_and(|between| between.chars().all(|c| " \t,:[]{}".contains(c))) {
                self.out.push_str("  ");
                self.out.push_str(comment.text.trim_end());
                self.done = comment.bytes.end;
                self.next += 1;
            }
        }
        self.out.push('\n');
    }

    fn blank(&mut self, until: usize) {
        let skipped = self.source.get(self.done..until).unwrap_or_default();
        let lines: Vec<&str> = skipped.split('\n').collect();
        let blank = lines.len() > 2
            && lines[1..lines.len() - 1]
                .iter()
                .any(|line| line.trim().is_empty());
        let opened = self.out.ends_with(":\n");
        if blank && !self.out.is_empty() && !opened {
            self.out.push('\n');
        }
    }

    fn indent(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    fn bytes(&self, node: NodeId) -> Range<usize> {
        self.tree.place(node).bytes
    }

    /// Where a value ends: a block list ends with its last item, whatever white space the reader counts to it.
    fn end(&self, node: NodeId) -> usize {
        let bytes = self.bytes(node);
        match self.tree.value(node) {
            Value::List(items) if !self.source[bytes.start..].starts_with('[') => {
                items.last().map_or(bytes.end, |item| self.bytes(*item).end)
            }
            Value::List(_) | Value::Map(_) | Value::Scalar { .. } => bytes.end,
        }
    }
}
