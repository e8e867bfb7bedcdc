//! A long list of rules, read in pieces side by side: the same reader, on parts of the file that begin with an item each.
//!
//! Only ever answers what reading the file as a whole would: a cut inside of a quoted text or of brackets leaves the piece before it
//! unclosed, and whatever is not plain (an error, an anchor, a second document, something behind the list) is left to the reader of wholes.

use std::{num::NonZero, ops::Range, thread};

use crate::diagnostics::Found;

use super::{Builder, Documents, MAX_DEPTH, MAX_NODES, Node, NodeId, Tree, Value, fill};

/// Files below this are read as a whole in a few milliseconds.
const FROM_BYTES: usize = 64 << 10;
/// Pieces at most; the rest of reading a policy is not parallel.
const MOST: usize = 4;
/// The line before the list.
const KEY: &str = "rules:";

/// Reads `source`, if it is one that can be cut and there is a processor for a second piece.
pub(super) fn read(source: &str) -> Option<Tree<'_>> {
    let pieces = thread::available_parallelism().map_or(1, NonZero::get);
    if source.len() < FROM_BYTES || pieces < 2 {
        return None;
    }
    read_in(source, pieces.min(MOST))
}

/// As [`read`], in so many pieces at most.
pub(super) fn read_in(source: &str, pieces: usize) -> Option<Tree<'_>> {
    let cut = Cut::new(source, pieces)?;
    let read = |part: &Part| piece(source.get(part.bytes.clone())?, part);
    let (head, mut lists) = thread::scope(|scope| {
        let later: Vec<_> = (cut.lists.iter().skip(1))
            .map(|part| scope.spawn(move || read(part)))
            .collect();
        let head = read(&cut.head)?;
        let mut lists = vec![read(cut.lists.first()?)?];
        for piece in later {
            lists.push(piece.join().ok()??);
        }
        Some((head, lists))
    })?;
    if cut.is_flush {
        begin_at_first_item(lists.first_mut()?)?;
    }
    join(head, lists)
}

/// What one reader reads.
#[derive(Debug, PartialEq)]
struct Part {
    bytes: Range<usize>,
    /// Lines before it.
    lines: u32,
    /// Collections around it.
    depth: usize,
}

/// Where a file is cut.
struct Cut {
    /// Whether the items stand below the key, and not further in.
    is_flush: bool,
    head: Part,
    lists: Vec<Part>,
}

impl Cut {
    /// Cuts `source` where it is a mapping in block style whose last value is a list in block style.
    fn new(source: &str, pieces: usize) -> Option<Self> {
        // A lone carriage return is a line for YAML.
        if source.contains('\r') {
            return None;
        }
        let size = source.len().div_ceil(pieces);
        let mut head = None;
        let mut indent = None;
        let mut starts: Vec<(usize, u32)> = Vec::new();
        let mut at = 0;
        for (number, line) in (0..).zip(source.split_inclusive('\n')) {
            let start = at;
            at += line.len();
            if head.is_none() {
                if line.trim_end() == KEY {
                    head = Some(at);
                }
                continue;
            }
            let text = line.trim_start_matches(' ');
            if text.trim_end().is_empty() || text.starts_with('#') {
                continue;
            }
            let column = line.len() - text.len();
            let is_item = text.starts_with("- ") || text.trim_end() == "-";
            if indent.is_none() && !is_item {
                return None;
            }
            let indent = *indent.get_or_insert(column);
            if column < indent || (column == indent && !is_item) {
                return None;
            }
            let is_due = match starts.last() {
                None => true,
                Some((last, _)) => start - last >= size,
            };
            if column == indent && is_due {
                starts.push((start, number));
            }
        }
        let head_end = head?;
        if starts.len() < 2 {
            return None;
        }
        // With the next item's indent, where the reader of wholes sees the item before it end.
        let indent = indent?;
        let ends = (starts.iter().skip(1).map(|(start, _)| start + indent)).chain([source.len()]);
        Some(Self {
            is_flush: indent == 0,
            head: Part {
                bytes: 0..head_end,
                lines: 0,
                depth: 0,
            },
            lists: (starts.iter().zip(ends))
                .map(|((start, lines), end)| Part {
                    bytes: *start..end,
                    lines: *lines,
                    depth: 1,
                })
                .collect(),
        })
    }
}

/// Reads one part, if there is nothing about it that concerns others; places count from the file's beginning.
fn piece<'a>(source: &'a str, part: &Part) -> Option<Vec<Node<'a>>> {
    let mut problems = Found::default();
    let mut builder = Builder::new(
        source,
        Documents::One,
        MAX_DEPTH - part.depth,
        &mut problems,
    );
    fill(source, &mut builder).ok()?;
    let Builder {
        mut nodes,
        root,
        anchors,
        block_scalars,
        ..
    } = builder;
    // Duplicate keys say where they stand: the reader of wholes does that.
    if !problems.is_empty()
        || root != Some(NodeId(0))
        || !anchors.is_empty()
        // Where a text in block style ends depends on what follows.
        || block_scalars
    {
        return None;
    }
    let bytes = u32::try_from(part.bytes.start).ok()?;
    for node in &mut nodes {
        node.spot.line += part.lines;
        node.spot.start += bytes;
        node.spot.end += bytes;
    }
    Some(nodes)
}

/// A list that is not indented begins, for the reader of wholes, where its first item does.
fn begin_at_first_item(nodes: &mut [Node<'_>]) -> Option<()> {
    let [list, item, ..] = nodes else { return None };
    let is_empty = matches!(&item.value, Value::Scalar { text, .. } if text.is_empty());
    if is_empty || item.spot.line != list.spot.line {
        return None;
    }
    list.spot.column = item.spot.column;
    list.spot.start = item.spot.start;
    Some(())
}

/// Puts the lists, joined to one, into the place of the head's last value.
fn join<'a>(mut nodes: Vec<Node<'a>>, lists: Vec<Vec<Node<'a>>>) -> Option<Tree<'a>> {
    let last = nodes.len().checked_sub(1)?;
    let Value::Map(pairs) = &nodes.first()?.value else {
        return None;
    };
    let (key, value) = *pairs.last()?;
    let is_key = matches!(
        &nodes[key.0 as usize].value,
        Value::Scalar { text, plain: true } if text == KEY.trim_end_matches(':')
    );
    let is_open = matches!(nodes[value.0 as usize].value, Value::Scalar { .. });
    if !is_key || !is_open || value.0 as usize != last {
        return None;
    }
    nodes.pop();
    let mut items = Vec::new();
    let mut weight = 1;
    nodes.reserve(lists.iter().map(Vec::len).sum());
    for (number, piece) in lists.into_iter().enumerate() {
        let mut piece = piece.into_iter();
        let mut list = piece.next()?;
        let Value::List(own) = &mut list.value else {
            return None;
        };
        // The list's own node is the first piece's.
        let offset = u32::try_from(nodes.len()).ok()? - u32::from(number > 0);
        items.extend(own.drain(..).map(|id| NodeId(id.0 + offset)));
        weight += list.weight - 1;
        if number == 0 {
            nodes.push(list);
        } else {
            nodes[last].spot.end = list.spot.end;
        }
        nodes.extend(piece.map(|mut node| {
            match &mut node.value {
                Value::Scalar { .. } => {}
                Value::List(ids) => ids.iter_mut().for_each(|id| id.0 += offset),
                Value::Map(pairs) => pairs.iter_mut().for_each(|(key, value)| {
                    key.0 += offset;
                    value.0 += offset;
                }),
            }
            node
        }));
    }
    nodes[last].value = Value::List(items);
    nodes[last].weight = weight;
    let end = nodes[last].spot.end;
    let root = nodes.first_mut()?;
    root.spot.end = root.spot.end.max(end);
    root.weight += weight - 1;
    if nodes.len() > MAX_NODES {
        return None;
    }
    Some(Tree {
        nodes,
        root: NodeId(0),
        further: Vec::new(),
        starts: Vec::new(),
        anchor: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use fastrand::Rng;

    use super::{super::read_whole, *};

    /// Reads in pieces, if it can be, and compares with the whole. Whether it could.
    fn agrees(source: &str) -> bool {
        let mut problems = Found::default();
        let whole = read_whole(source, Documents::One, &mut problems);
        let mut cut = false;
        for pieces in [2, 3, 4, 1000] {
            let Some(tree) = read_in(source, pieces) else {
                continue;
            };
            cut = true;
            assert!(problems.is_empty(), "{source}");
            assert_eq!(
                Some(&tree),
                whole.as_ref().ok(),
                "{pieces} pieces of {source}"
            );
        }
        cut
    }

    #[test]
    fn pieces_make_the_same_tree_as_the_whole() {
        for source in [
            "defaultAction: Deny\nrules:\n  - name: a\n    ports: [1, 2]\n  - name: b\n  - c\n",
            "rules:\n- name: a\n- name: b\n",
            "rules:\n- name: a\n- name: b",
            "---\nrules: \n\n# one\n  - {a: b}\n# two\n\n  - [c, 'd']\n\n\n",
            "rules:\n  -\n    name: a\n  -\n    name: b\n",
            "rules:\n  - e\n    f\n  - g\n",
            "x:\n  - a\nrules:\n  - - a\n    - b\n  - c: \n    - d\n    - e\n",
            "rules:\n  - \"a\n    b\"\n  - 'c\n\n    d'\n  - é: ü # ß\n  - x\n",
        ] {
            assert!(agrees(source), "not cut: {source}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_reader_of_wholes() {
        for source in [
            "",
            "\u{feff}rules:\n  - a\n  - b\n",
            "rules:\n  - |\n    a\n    - b\n  - >-\n    c\n\n    d\n  - e\n    f\n",
            "rules: []\n",
            "rules:\n",
            "rules:\n  - a\n",
            "rules:\n  - a\n  - b\ndefaultAction: Deny\n",
            "rules:\n  - a\n  - b\nrules:\n  - c\n  - d\n",
            "rules:\n  - &x a\n  - *x\n",
            "rules:\n  - *x\n  - b\n",
            "rules:\n  - {a: 1, a: 2}\n  - b\n",
            "rules:\n  - !t a\n  - b\n",
            "rules:\n  - 'a\n  - b'\n",
            "rules:\n  - [a,\n  - b]\n  - c\n",
            "rules:\n  - {a: b,\n  - c}\n",
            "rules:\r\n  - a\r\n  - b\r\n",
            "rules:\n-\n  a\n- b\n",
            "rules:\n- a\n- b\n---\nrules: []\n",
            "rules:\n- a\n- b\n...\n",
            "rules:\n- a\n-b: c\n- d\n",
            "rules:\n  - a\n b: c\n  - d\n",
            "rules:\n  - a\n  b: c\n",
            "'\nrules:\n  - a\n  - b\n'\n",
            "{a:\nrules:\n  - a\n  - b\n}\n",
            "a: |\nrules:\n  - a\n\t- b\n  - c\n",
            "- x\nrules:\n  - a\n  - b\n",
        ] {
            assert!(!agrees(source), "cut: {source}");
        }
    }

    /// The limit counts what is around a piece.
    #[test]
    fn what_is_too_deep_for_the_whole_is_too_deep_for_a_piece() {
        for depth in MAX_DEPTH - 4..MAX_DEPTH + 3 {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            agrees(&format!("rules:\n  - a\n  - {open}{close}\n"));
            let nested = "- ".repeat(depth);
            agrees(&format!("rules:\n  - a\n  {nested}b\n"));
        }
    }

    /// Lines that look like others at wrong places: whatever is read in pieces is what the whole is.
    #[test]
    fn random_lines_make_the_same_tree_or_none() {
        const LINES: [&str; 22] = [
            "- a", "- b: c", "-", "d: e", "f:", "\"", "'", "[", "]", "{", "}", "|", ">", "# x", "",
            "- \"g", "- 'h", "- [i", "- {j: k", "- l: |", "rules:", "...",
        ];
        let mut cut = 0;
        for seed in 0..5_000 {
            let mut rng = Rng::with_seed(seed);
            let mut source = String::new();
            if rng.bool() {
                source.push_str("a: b\n");
            }
            source.push_str("rules:\n");
            let base = rng.usize(0..3);
            for _ in 0..rng.usize(2..9) {
                let indent = if rng.u8(0..3) > 0 {
                    base
                } else {
                    rng.usize(0..6)
                };
                let line = if rng.u8(0..3) > 0 {
                    LINES[rng.usize(0..2)]
                } else {
                    LINES[rng.usize(0..LINES.len())]
                };
                writeln!(source, "{:indent$}{line}", "").unwrap();
            }
            cut += u32::from(agrees(&source));
        }
        assert!(cut > 300, "{cut} of 5000 files were cut");
    }
}
