//! Reads YAML into a tree in which every node knows its place. The only module that knows the YAML library.
//!
//! It knows nothing of policies. What could exhaust memory or time is refused here: size, depth, aliases that multiply.

mod pieces;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, hash_map::Entry},
    ops::Range,
};

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::diagnostics::{Code, Diagnostic, Found, Place};

/// Bytes of a file at most.
pub const MAX_BYTES: usize = 16 << 20;
/// Collections inside each other at most; a policy needs seven.
pub const MAX_DEPTH: usize = 32;
/// Values of a file at most, those that an alias stands for counted at every alias.
pub const MAX_NODES: usize = 4_000_000;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

/// What a node is.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// Text, and whether it stands there without quotes.
    Scalar { text: Cow<'a, str>, plain: bool },
    /// A list.
    List(Vec<NodeId>),
    /// A mapping; keys may be anything, but no key comes twice.
    Map(Vec<(NodeId, NodeId)>),
}

/// Whether a scalar without quotes stands for nothing (YAML 1.2.2, 10.3.2).
pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The truth value that a scalar without quotes is (YAML 1.2.2, 10.3.2).
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Whether a scalar without quotes is a number (YAML 1.2.2, 10.3.2).
pub(crate) fn is_number(text: &str) -> bool {
    let all = |text: &str, base| !text.is_empty() && text.chars().all(|c| c.is_digit(base));
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, 8);
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(text, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent = exponent.map(|text| text.strip_prefix(['-', '+']).unwrap_or(text));
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", after)) => all(after, 10),
        Some((before, after)) => all(before, 10) && (after.is_empty() || all(after, 10)),
        None => all(mantissa, 10),
    };
    is_mantissa && exponent.is_none_or(|exponent| all(exponent, 10))
}

#[derive(Debug, PartialEq)]
struct Node<'a> {
    value: Value<'a>,
    spot: Spot,
    /// Nodes at and below this one, aliases followed; [`MAX_NODES`] at most.
    weight: u32,
}

/// A [`Place`] in half the room: there is one for every node.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spot {
    line: u32,
    column: u32,
    start: u32,
    end: u32,
}

impl Spot {
    /// Of what was never text.
    const NOWHERE: Self = Self {
        line: 0,
        column: 0,
        start: 0,
        end: 0,
    };

    fn new(span: &Span) -> Self {
        let Place {
            line,
            column,
            bytes,
        } = place(span);
        let small = |number: usize| u32::try_from(number).expect("a file has 16 MiB at most");
        Self {
            line: small(line),
            column: small(column),
            start: small(bytes.start),
            end: small(bytes.end),
        }
    }

    fn place(self) -> Place {
        Place {
            line: self.line as usize,
            column: self.column as usize,
            bytes: self.start as usize..self.end as usize,
        }
    }
}

/// A document.
#[derive(Debug, PartialEq)]
pub(crate) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
    /// The documents after the first.
    further: Vec<NodeId>,
    /// Where each document begins; only if there may be many.
    starts: Vec<usize>,
    anchor: Option<Place>,
}

impl<'a> Tree<'a> {
    pub(crate) fn root(&self) -> NodeId {
        self.root
    }

    /// The root of every document.
    pub(crate) fn roots(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.root).chain(self.further.iter().copied())
    }

    /// Where each document begins in the source, with its `---` if it has one.
    pub(crate) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The tree of a JSON value: its nodes have no place in any text.
    pub(crate) fn of_json(value: &'a serde_json::Value) -> Self {
        let mut nodes = Vec::new();
        let root = add_json(&mut nodes, value);
        Self {
            nodes,
            root,
            further: Vec::new(),
            starts: Vec::new(),
            anchor: None,
        }
    }

    /// For each of `wanted` at or below `node` the way to it, such as `rules[2].match.cidrs[0]`; of a key that to its value.
    pub(crate) fn paths(&self, node: NodeId, wanted: &HashSet<NodeId>) -> HashMap<NodeId, String> {
        let mut found = HashMap::new();
        let mut path = String::new();
        self.walk(node, wanted, &mut path, &mut found);
        found
    }

    fn walk(
        &self,
        node: NodeId,
        wanted: &HashSet<NodeId>,
        path: &mut String,
        found: &mut HashMap<NodeId, String>,
    ) {
        let note = |node: NodeId, path: &str, found: &mut HashMap<NodeId, String>| {
            if wanted.contains(&node) {
                found.entry(node).or_insert_with(|| path.to_owned());
            }
        };
        note(node, path, found);
        let length = path.len();
        match self.value(node) {
            Value::Scalar { .. } => {}
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{at}]"));
                    self.walk(*item, wanted, path, found);
                    path.truncate(length);
                }
            }
            Value::Map(pairs) => {
                for (key, value) in pairs {
                    if let Value::Scalar { text, .. } = self.value(*key) {
                        push_key(path, text);
                    }
                    note(*key, path, found);
                    self.walk(*value, wanted, path, found);
                    path.truncate(length);
                }
            }
        }
    }

    pub(crate) fn value(&self, id: NodeId) -> &Value<'a> {
        &self.nodes[id.0 as usize].value
    }

    /// Where the first node with an anchor stands.
    pub(crate) fn first_anchor(&self) -> Option<&Place> {
        self.anchor.as_ref()
    }

    pub(crate) fn place(&self, id: NodeId) -> Place {
        self.nodes[id.0 as usize].spot.place()
    }
}

/// A field as `kubectl explain` and the API server write its way; what is no word stands in brackets.
fn push_key(path: &mut String, key: &str) {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if key.bytes().all(word) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push_str(&format!("[{key}]"));
    }
}

fn add_json<'a>(nodes: &mut Vec<Node<'a>>, value: &'a serde_json::Value) -> NodeId {
    use serde_json::Value as Json;
    let plain = |text: String| Value::Scalar {
        text: text.into(),
        plain: true,
    };
    let value = match value {
        Json::Null => plain("null".to_owned()),
        Json::Bool(flag) => plain(flag.to_string()),
        Json::Number(number) => plain(number.to_string()),
        Json::String(text) => Value::Scalar {
            text: text.into(),
            plain: false,
        },
        Json::Array(items) => Value::List(items.iter().map(|item| add_json(nodes, item)).collect()),
        Json::Object(fields) => {
            let mut pairs = Vec::with_capacity(fields.len());
            for (key, value) in fields {
                let key = add_json_node(
                    nodes,
                    Value::Scalar {
                        text: key.into(),
                        plain: false,
                    },
                );
                pairs.push((key, add_json(nodes, value)));
            }
            Value::Map(pairs)
        }
    };
    add_json_node(nodes, value)
}

fn add_json_node<'a>(nodes: &mut Vec<Node<'a>>, value: Value<'a>) -> NodeId {
    let id = u32::try_from(nodes.len()).expect("an object of the API server has a few megabytes");
    nodes.push(Node {
        value,
        spot: Spot::NOWHERE,
        weight: 1,
    });
    NodeId(id)
}

/// How many documents a source may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Documents {
    /// One: a policy file.
    One,
    /// Any number: manifests.
    Many,
}

/// Reads the documents of `source`.
///
/// # Errors
/// The first error of syntax ends the reading. What can be read past is in `problems`: tags; duplicate keys, of which the first counts; a second
/// document, which is left out.
pub(crate) fn read<'a>(
    source: &'a str,
    documents: Documents,
    problems: &mut Found,
) -> Result<Tree<'a>, Diagnostic> {
    if source.len() > MAX_BYTES {
        let message = format!(
            "the file has {} bytes, {MAX_BYTES} at most are read",
            source.len()
        );
        return Err(Diagnostic::error(Code::TooLarge, message, Place::START));
    }
    if documents == Documents::One
        && let Some(tree) = pieces::read(source)
    {
        return Ok(tree);
    }
    read_whole(source, documents, problems)
}

fn read_whole<'a>(
    source: &'a str,
    documents: Documents,
    problems: &mut Found,
) -> Result<Tree<'a>, Diagnostic> {
    let mut builder = Builder::new(source, documents, MAX_DEPTH, problems);
    fill(source, &mut builder)?;
    let Builder {
        nodes,
        root,
        further,
        starts,
        anchor,
        ..
    } = builder;
    let anchor = anchor.map(|id| nodes[id.0 as usize].spot.place());
    match root {
        Some(root) => Ok(Tree {
            nodes,
            root,
            further,
            starts,
            anchor,
        }),
        None => Err(
            Diagnostic::error(Code::Empty, "the file is empty", Place::START)
                .with_hint("a policy needs at least `rules: []` or a `defaultAction`"),
        ),
    }
}

/// Gives the builder every event of `source`.
fn fill<'a>(source: &'a str, builder: &mut Builder<'a, '_>) -> Result<(), Diagnostic> {
    for event in Parser::new_from_str_with_options(source, options(false, builder.max_depth)) {
        let (event, span) = event.map_err(|error| syntax(source, &error))?;
        builder.take(event, &span)?;
        if builder.has_ended {
            break;
        }
    }
    Ok(())
}

/// A comment and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comment<'a> {
    /// With its `#`.
    pub(crate) text: &'a str,
    pub(crate) bytes: Range<usize>,
}

/// The comments of `source`, which must be free of syntax errors.
pub(crate) fn comments(source: &str) -> Result<Vec<Comment<'_>>, Diagnostic> {
    let mut found = Vec::new();
    for event in Parser::new_from_str_with_options(source, options(true, MAX_DEPTH)) {
        let (event, span) = event.map_err(|error| syntax(source, &error))?;
        if let (Event::Comment(..), Some(bytes)) = (&event, span.byte_range()) {
            found.push(Comment {
                text: source.get(bytes.clone()).unwrap_or_default(),
                bytes,
            });
        }
    }
    Ok(found)
}

fn options(comments: bool, depth: usize) -> granit_parser::Options {
    granit_parser::options! {
        disallow_directives: true,
        emit_comments: comments,
        max_buffered_comment_events: MAX_BYTES,
        flow_nesting_limit: depth,
        block_nesting_limit: depth,
    }
}

fn syntax(source: &str, error: &ScanError) -> Diagnostic {
    let mark = error.marker();
    let at = mark.byte_offset().unwrap_or(source.len()).min(source.len());
    let place = Place {
        line: mark.line().max(1),
        column: mark.col() + 1,
        bytes: at..at,
    };
    // The words are the library's; what follows from them for the author is ours.
    let info = error.info();
    let problem = Diagnostic::error(
        Code::Syntax,
        format!("this is not valid YAML: {info}"),
        place,
    );
    if info.contains("tab") {
        problem.with_hint("indent with spaces: YAML takes no tabs there")
    } else if info.contains("recursion limit") {
        problem.with_hint(format!(
            "lists and mappings may stand {MAX_DEPTH} deep inside each other"
        ))
    } else if info.contains("directive") {
        problem.with_hint("leave lines that begin with `%` out")
    } else {
        problem
    }
}

fn place(span: &Span) -> Place {
    let bytes = span.byte_range().unwrap_or(0..0);
    Place {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
        bytes,
    }
}

/// A collection that is being read.
struct Open {
    node: NodeId,
    anchor: usize,
    /// Where its children begin among those of all open collections.
    first_child: usize,
    map: bool,
}

/// The keys of a mapping with their lines; an array as long as they are few.
struct Keys<'t> {
    few: [(&'t str, u32); Keys::FEW],
    used: usize,
    many: Option<HashMap<&'t str, u32>>,
}

impl<'t> Keys<'t> {
    const FEW: usize = 8;

    fn new() -> Self {
        Self {
            few: [("", 0); Keys::FEW],
            used: 0,
            many: None,
        }
    }

    /// The line of the same key, if it was there before.
    fn insert(&mut self, key: &'t str, line: u32) -> Option<u32> {
        let few = &self.few[..self.used];
        if let Some((_, first)) = few.iter().find(|(known, _)| *known == key) {
            return Some(*first);
        }
        if self.used < Self::FEW {
            self.few[self.used] = (key, line);
            self.used += 1;
            return None;
        }
        match self.many.get_or_insert_default().entry(key) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(free) => {
                free.insert(line);
                None
            }
        }
    }
}

struct Builder<'a, 'p> {
    source: &'a str,
    nodes: Vec<Node<'a>>,
    open: Vec<Open>,
    /// The children so far of all open collections, those of the innermost last.
    children: Vec<NodeId>,
    anchors: HashMap<usize, NodeId>,
    root: Option<NodeId>,
    further: Vec<NodeId>,
    starts: Vec<usize>,
    /// The first node with an anchor.
    anchor: Option<NodeId>,
    documents: Documents,
    /// Collections inside each other at most.
    max_depth: usize,
    /// Whether there was a text in block style.
    block_scalars: bool,
    /// Whether what follows is of no interest.
    has_ended: bool,
    problems: &'p mut Found,
}

impl<'a, 'p> Builder<'a, 'p> {
    fn new(
        source: &'a str,
        documents: Documents,
        max_depth: usize,
        problems: &'p mut Found,
    ) -> Self {
        Self {
            source,
            nodes: Vec::with_capacity(source.len() / 8),
            open: Vec::new(),
            children: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            further: Vec::new(),
            starts: Vec::new(),
            anchor: None,
            documents,
            max_depth,
            block_scalars: false,
            has_ended: false,
            problems,
        }
    }

    fn take(&mut self, event: Event<'a>, span: &Span) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                let plain = style == ScalarStyle::Plain;
                self.block_scalars |= matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let id = self.add(Value::Scalar { text, plain }, span)?;
                self.finish(id, anchor, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(Value::List(Vec::new()), anchor, tag.as_deref(), span)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.begin(Value::Map(Vec::new()), anchor, tag.as_deref(), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(id) => self.finish(*id, 0, span),
                None => Err(Diagnostic::error(
                    Code::Alias,
                    "an alias stands inside of what it stands for",
                    place(span),
                )),
            },
            Event::UnresolvedAlias(name) => Err(Diagnostic::error(
                Code::Alias,
                format!("no anchor `&{name}` comes before this alias"),
                place(span),
            )),
            Event::DocumentStart(..) if self.documents == Documents::Many => {
                // An anchor means something in its own document only.
                self.anchors.clear();
                self.starts.push(place(span).bytes.start);
                Ok(())
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                self.problems.push(|| {
                    Diagnostic::error(Code::Documents, "a file holds one document", place(span))
                        .with_hint("put the second into a file of its own")
                });
                self.has_ended = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, value: Value<'a>, span: &Span) -> Result<NodeId, Diagnostic> {
        let id = u32::try_from(self.nodes.len())
            .ok()
            .filter(|_| self.nodes.len() < MAX_NODES);
        let Some(id) = id else {
            return Err(too_many(span));
        };
        self.nodes.push(Node {
            value,
            spot: Spot::new(span),
            weight: 1,
        });
        Ok(NodeId(id))
    }

    fn begin(
        &mut self,
        value: Value<'a>,
        anchor: usize,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<(), Diagnostic> {
        self.refuse_tag(tag, span);
        if self.open.len() == self.max_depth {
            return Err(Diagnostic::error(
                Code::TooDeep,
                format!("nested deeper than {MAX_DEPTH} levels"),
                place(span),
            ));
        }
        let map = matches!(value, Value::Map(_));
        let node = self.add(value, span)?;
        self.open.push(Open {
            node,
            anchor,
            first_child: self.children.len(),
            map,
        });
        Ok(())
    }

    fn end(&mut self, span: &Span) -> Result<(), Diagnostic> {
        let Some(Open {
            node,
            anchor,
            first_child,
            map,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        let weights = self.children[first_child..]
            .iter()
            .map(|child| u64::from(self.nodes[child.0 as usize].weight));
        let weight = u32::try_from(1 + weights.sum::<u64>())
            .ok()
            .filter(|weight| *weight as usize <= MAX_NODES);
        let Some(weight) = weight else {
            return Err(too_many(span));
        };
        let value = if map {
            Value::Map(self.pairs(first_child))
        } else {
            Value::List(self.children[first_child..].to_vec())
        };
        self.children.truncate(first_child);
        let slot = &mut self.nodes[node.0 as usize];
        slot.value = value;
        slot.weight = weight;
        slot.spot.end = slot.spot.end.max(Spot::new(span).end);
        self.finish(node, anchor, span)
    }

    /// Pairs keys with values; of a key that comes twice the first counts.
    fn pairs(&mut self, first_child: usize) -> Vec<(NodeId, NodeId)> {
        let children = &self.children[first_child..];
        let mut pairs: Vec<(NodeId, NodeId)> = Vec::with_capacity(children.len() / 2);
        let mut seen = Keys::new();
        for (key, value) in children.chunks_exact(2).map(|pair| (pair[0], pair[1])) {
            let node = &self.nodes[key.0 as usize];
            if let Value::Scalar { text, .. } = &node.value
                && let Some(line) = seen.insert(text, node.spot.line)
            {
                self.problems.push(|| {
                    let message = format!("duplicate key `{text}`");
                    let hint = format!("it stands on line {line} already; join the two");
                    Diagnostic::error(Code::DuplicateKey, message, node.spot.place())
                        .with_hint(hint)
                });
                continue;
            }
            pairs.push((key, value));
        }
        pairs
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, span: &Span) {
        if let Some(tag) = tag {
            let source = self.source;
            self.problems.push(|| {
                let tag = tag.original();
                let message = format!("tags such as `{tag}` have no meaning here");
                Diagnostic::error(Code::Tag, message, before(source, &tag, place(span)))
                    .with_hint("write a text in quotes and a number without")
            });
        }
    }

    fn finish(&mut self, id: NodeId, anchor: usize, span: &Span) -> Result<(), Diagnostic> {
        if anchor != 0 {
            self.anchors.insert(anchor, id);
            self.anchor = self.anchor.into_iter().chain([id]).min();
        }
        match self.open.last() {
            Some(_) => self.children.push(id),
            None if self.root.is_none() => self.root = Some(id),
            None if self.documents == Documents::Many => self.further.push(id),
            None => {
                return Err(Diagnostic::error(
                    Code::Documents,
                    "a file holds one document",
                    place(span),
                ));
            }
        }
        Ok(())
    }
}

/// The place of `word` where it is the last before `place` but white space; else `place`.
fn before(source: &str, word: &str, place: Place) -> Place {
    let front = source.get(..place.bytes.start).map(str::trim_end);
    let Some(start) = front
        .and_then(|front| front.strip_suffix(word))
        .map(str::len)
    else {
        return place;
    };
    let between = &source[start..place.bytes.start];
    let lines = between.matches('\n').count();
    let column = match lines {
        // What comes before on a line may be long.
        0 => place.column - between.chars().count(),
        _ => {
            let line = source[..start].rfind('\n').map_or(0, |at| at + 1);
            source[line..start].chars().count() + 1
        }
    };
    Place {
        line: place.line - lines,
        column,
        bytes: start..start + word.len(),
    }
}

fn too_many(span: &Span) -> Diagnostic {
    Diagnostic::error(
        Code::TooLarge,
        format!("more than {MAX_NODES} values, aliases counted at every use"),
        place(span),
    )
}
