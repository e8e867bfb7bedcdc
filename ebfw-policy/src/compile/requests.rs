//! Methods and path prefixes of one ruleset as one automaton, which `ebfw_common::request` walks (SEMANTICS 3).
//!
//! A tree of the texts, a state a byte. What a state decides where a path leaves the tree are the rules of the prefixes that ended before,
//! each at the end of an element.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    bitmap::{Bitmap, Classes},
    names::{Limit, Merged, Next, cells_of},
};
use crate::policy::Rule;

/// Classes of methods, and of paths, at most: a packed number of 16 bits holds one, and one that is none.
const MAX_CLASSES: usize = 0xffff;

/// The automaton does not fit.
pub(super) struct TooLarge;

/// Nodes of a tree at most; each takes a word of a ruleset's blocks or more.
const MAX_NODES: usize = 1 << 20;

impl From<Limit> for TooLarge {
    fn from(_: Limit) -> Self {
        Self
    }
}

/// Methods and paths of one ruleset.
pub(super) struct Requests {
    pub(super) cells: Vec<u32>,
    pub(super) methods: Table,
    pub(super) paths: Table,
}

/// The classes of methods or of paths.
pub(super) struct Table {
    /// Where the walk begins.
    pub(super) root: u32,
    /// The rules of each class; class 0 are the rules that ask for none.
    pub(super) classes: Classes,
}

/// The rules that name a text.
type ByText<'a> = IndexMap<&'a str, Vec<usize>, FxBuildHasher>;

pub(super) fn compile(rules: &[Arc<Rule>], words: usize) -> Result<Requests, TooLarge> {
    let (mut methods, mut paths) = (ByText::default(), ByText::default());
    let (mut any_method, mut any_path) = (Bitmap::empty(words), Bitmap::empty(words));
    for (index, rule) in rules.iter().enumerate() {
        match rule.matches.methods.entries() {
            Some(entries) => entries
                .iter()
                .for_each(|method| methods.entry(method.as_str()).or_default().push(index)),
            None => any_method.insert(index),
        }
        match &rule.matches.path_prefix {
            Some(prefix) => paths.entry(prefix.as_str()).or_default().push(index),
            None => any_path.insert(index),
        }
    }
    let mut states = Vec::new();
    let (method_root, methods) = Tree::of(&methods)?.states(&any_method, End::Text, &mut states)?;
    let (path_root, paths) = Tree::of(&paths)?.states(&any_path, End::Element, &mut states)?;
    let (cells, bases) = cells_of(&states, ebfw_common::names::exact)?;
    Ok(Requests {
        cells,
        methods: Table {
            root: bases[method_root],
            classes: methods,
        },
        paths: Table {
            root: bases[path_root],
            classes: paths,
        },
    })
}

/// Where a text ends: what it means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// At the end of what is walked over.
    Text,
    /// At the end of any of its elements.
    Element,
}

/// The texts byte by byte. A node comes behind its parent.
struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

#[derive(Default)]
struct Node<'a> {
    children: Vec<(u8, u32)>,
    /// The rules of the text that ends here.
    rules: &'a [usize],
}

impl<'a> Tree<'a> {
    fn of(texts: &'a ByText<'_>) -> Result<Self, TooLarge> {
        let mut nodes = vec![Node::default()];
        let mut edges: FxHashMap<(u32, u8), u32> = FxHashMap::default();
        for (text, rules) in texts {
            let mut at = 0;
            for byte in text.bytes() {
                at = *edges.entry((at, byte)).or_insert_with(|| {
                    let next = nodes.len() as u32;
                    nodes[at as usize].children.push((byte, next));
                    nodes.push(Node::default());
                    next
                });
            }
            nodes[at as usize].rules = rules;
            if nodes.len() > MAX_NODES {
                return Err(TooLarge);
            }
        }
        Ok(Self { nodes })
    }

    /// Adds the states of the tree. Says which is the first, and what rules the classes are.
    fn states(
        mut self,
        none: &Bitmap,
        end: End,
        states: &mut Vec<Merged>,
    ) -> Result<(usize, Classes), TooLarge> {
        let root = states.len();
        let mut classes = Classes::new();
        // What is decided where the tree is left, apart from what ends at the node itself.
        let mut before = vec![0; self.nodes.len()];
        before[0] = number(&mut classes, none)?;
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            let outside = before[at];
            let here = if node.rules.is_empty() {
                match end {
                    End::Text => 0,
                    End::Element => outside,
                }
            } else {
                let set = classes
                    .set(outside as usize)
                    .with(node.rules.iter().copied());
                number(&mut classes, &set)?
            };
            node.children.sort_unstable();
            let mut edges = Vec::with_capacity(node.children.len() + 1);
            for &(byte, child) in &node.children {
                edges.push((byte, Next::State(root as u32 + child)));
                before[child as usize] = match end {
                    End::Element if byte == b'/' => here,
                    End::Element | End::Text => outside,
                };
            }
            if end == End::Element
                && here != outside
                && let Err(place) = edges.binary_search_by_key(&b'/', |(byte, _)| *byte)
            {
                edges.insert(place, (b'/', Next::Decided(here)));
            }
            states.push(Merged {
                class: here,
                default: Next::Decided(outside),
                edges: edges.into(),
            });
        }
        Ok((root, classes))
    }
}

fn number(classes: &mut Classes, set: &Bitmap) -> Result<u32, TooLarge> {
    match classes.number(set) {
        class if class < MAX_CLASSES => Ok(class as u32),
        _ => Err(TooLarge),
    }
}
