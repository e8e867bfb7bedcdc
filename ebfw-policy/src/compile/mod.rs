//! From the rules of one workload to the tables that the kernel reads (ARCHITECTURE.md, "Tables").
//!
//! For each dimension, every class of values gets the set of rules that it satisfies; `ebfw_common::classify` ANDs the sets.
//! Pure: the agent copies the tables into maps.

mod bitmap;
mod blocks;
mod content;
mod name_index;
pub mod names;
mod ports;
mod prefixes;
mod requests;
#[cfg(test)]
mod tests;
mod view;

use ebfw_common::{
    classify::request,
    layout::{Block, Header, MAX_SHIFT, SUMMARY_SHIFT, header_flag},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::{
    bitmap::{Bitmap, Classes},
    blocks::Blocks,
    content::{NameSets, RequestSets},
    name_index::TooMany,
    ports::{ByteIndex, Overflow, Pages},
    prefixes::Prefixes,
    requests::{Requests, TooLarge},
};
pub use self::{
    name_index::{NameClasses, NoNames},
    names::{Names, NamesError},
    view::View,
};
use crate::{
    policy::{AnyOf, MAX_RULES, Match, Protocol},
    ruleset::{Ruleset, TooManyRules},
};

/// Prefixes with their classes.
pub type ClassOf<P> = Vec<(P, u32)>;

/// A compiled ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Block 0 is the [`Header`].
    pub blocks: Vec<Block>,
    /// Class of each IPv4 prefix, for the longest match.
    pub v4: ClassOf<Ipv4Net>,
    /// Class of each IPv6 prefix, for the longest match.
    pub v6: ClassOf<Ipv6Net>,
}

/// Why a ruleset has no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A ruleset that was not built by [`crate::policy::Policy`].
    #[error(transparent)]
    TooManyRules(#[from] TooManyRules),
    /// Port ranges overlap in too many ways.
    #[error(
        "the ports and protocols of the rules for one workload fall into more than 65536 groups; use fewer or coarser port ranges"
    )]
    TooManyPortClasses,
    /// Domains overlap in too many ways.
    #[error(
        "the domains of the rules for one workload overlap in more than 65536 ways; use fewer or coarser patterns"
    )]
    TooManyNameClasses,
    /// Methods and path prefixes need too much memory.
    #[error(
        "the methods and path prefixes of the rules for one workload need more than {} MiB of kernel memory; use fewer or shorter ones",
        names::MAX_BYTES >> 20
    )]
    LargeRequests,
}

impl From<Overflow> for CompileError {
    fn from(Overflow: Overflow) -> Self {
        Self::TooManyPortClasses
    }
}

impl From<TooMany> for CompileError {
    fn from(TooMany: TooMany) -> Self {
        Self::TooManyNameClasses
    }
}

impl From<TooLarge> for CompileError {
    fn from(TooLarge: TooLarge) -> Self {
        Self::LargeRequests
    }
}

impl Tables {
    /// The shape of the ruleset.
    #[must_use]
    pub fn header(&self) -> &Header {
        Header::of(&self.blocks[0])
    }

    /// The shape of the ruleset, for what is only known when it is loaded.
    #[must_use]
    pub fn header_mut(&mut self) -> &mut Header {
        Header::of_mut(&mut self.blocks[0])
    }

    /// Bytes of all blocks.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.blocks.len() * size_of::<Block>()
    }

    /// Prefixes of both families.
    #[must_use]
    pub fn prefixes(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// Compiles the rules of one workload. `names` must know every pattern of the rules: one that it does not know means no name.
///
/// # Errors
///
/// [`CompileError`] where the ruleset does not fit into the numbers that the kernel reads.
pub fn compile(ruleset: &Ruleset, names: &impl NameClasses) -> Result<Tables, CompileError> {
    let rules = ruleset.rules.len();
    if rules > MAX_RULES {
        return Err(TooManyRules(rules).into());
    }
    let shift = rules.div_ceil(64).max(1).next_power_of_two().ilog2();
    debug_assert!(shift <= MAX_SHIFT, "{MAX_RULES} rules are 64 words");
    let mut compiler = Compiler {
        ruleset,
        words: 1 << shift,
        classes: Classes::new(),
        blocks: Blocks::new(),
    };

    let mut header = Header {
        shift,
        rules: rules as u32,
        ..Header::empty()
    };
    if shift < SUMMARY_SHIFT {
        header.visited = (1 << (1u32 << shift)) - 1;
    }
    header.default_permits = u32::from(ruleset.default.permits());
    header.permits = compiler.permits();
    // Transport first: its class numbers have 16 bits.
    compiler.transport(&mut header)?;
    let (v4, v6) = compiler.addresses(&mut header);
    compiler.by_name(&mut header, names)?;
    compiler.by_request(&mut header)?;
    header.bitmaps = compiler.blocks.push_classes(&compiler.classes, shift);
    for state in [request::PENDING, request::OPAQUE, UNUSED_STATE].map(|state| state as usize) {
        header.method_bitmaps[state] = header.bitmaps;
        header.path_bitmaps[state] = header.bitmaps;
    }
    Ok(Tables {
        blocks: compiler.blocks.finish(header),
        v4,
        v6,
    })
}

/// The state of a request that has no meaning; it is taken as opaque.
const UNUSED_STATE: u32 = request::STATES as u32 - 1;

/// What is shared by the dimensions while a ruleset is compiled.
struct Compiler<'a> {
    ruleset: &'a Ruleset,
    words: usize,
    classes: Classes,
    blocks: Blocks,
}

impl<'a> Compiler<'a> {
    fn matches(&self) -> impl Iterator<Item = (usize, &'a Match)> + use<'a> {
        self.ruleset
            .rules
            .iter()
            .map(|rule| &rule.matches)
            .enumerate()
    }

    /// The set of the rules for which `wanted` holds.
    fn rules_where(&self, wanted: impl Fn(&Match) -> bool) -> Bitmap {
        Bitmap::of(
            self.words,
            self.matches()
                .filter(|(_, rule)| wanted(rule))
                .map(|(index, _)| index),
        )
    }

    fn permits(&mut self) -> u32 {
        let permitting = self
            .ruleset
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.action.permits());
        let set = Bitmap::of(self.words, permitting.map(|(index, _)| index));
        self.blocks.push_bits(set.words())
    }

    /// Port indexes, pages and the protocol index.
    fn transport(&mut self, header: &mut Header) -> Result<(), Overflow> {
        let mut pages = Pages::new();
        let mut known: Vec<(Bitmap, u32)> = Vec::with_capacity(3);
        for (block, protocol) in
            header
                .ports
                .iter_mut()
                .zip([Protocol::TCP, Protocol::UDP, Protocol::SCTP])
        {
            let admitting = self.rules_where(|rule| admits(rule, protocol));
            // Two protocols that no rule tells apart share an index.
            if let Some((_, same)) = known.iter().find(|(set, _)| *set == admitting) {
                *block = *same;
                continue;
            }
            let index = self.port_index(protocol, &mut pages)?;
            *block = self.blocks.push_index(&index);
            known.push((admitting, *block));
        }
        let protocols = self.protocol_index()?;
        header.protocols = self.blocks.push_index(&protocols);
        header.pages = self.blocks.push_indexes(pages.iter());
        Ok(())
    }

    fn port_index(&mut self, protocol: Protocol, pages: &mut Pages) -> Result<ByteIndex, Overflow> {
        let base =
            self.rules_where(|rule| admits(rule, protocol) && rule.ports.entries().is_none());
        let ranges = self
            .matches()
            .filter(|(_, rule)| admits(rule, protocol))
            .filter_map(|(index, rule)| Some((index, rule.ports.entries()?)));
        ports::compile(&base, ranges, &mut self.classes, pages)
    }

    /// Protocol number to class, for packets that show no port: rules with `ports` never match.
    fn protocol_index(&mut self) -> Result<ByteIndex, Overflow> {
        let base = self.rules_where(|rule| {
            rule.ports.entries().is_none() && rule.protocols.entries().is_none()
        });
        let mut named: Vec<(u8, usize)> = Vec::new();
        for (index, rule) in self
            .matches()
            .filter(|(_, rule)| rule.ports.entries().is_none())
        {
            let protocols = rule.protocols.entries().unwrap_or_default();
            named.extend(protocols.iter().map(|protocol| (protocol.0, index)));
        }
        named.sort_unstable();
        let mut class_of = [ports::class_number(&base, &mut self.classes)?; 256];
        for same in named.chunk_by(|(a, _), (b, _)| a == b) {
            let set = base.with(same.iter().map(|(_, rule)| *rule));
            class_of[usize::from(same[0].0)] = ports::class_number(&set, &mut self.classes)?;
        }
        Ok(class_of)
    }

    fn addresses(&mut self, header: &mut Header) -> (ClassOf<Ipv4Net>, ClassOf<Ipv6Net>) {
        let anywhere = self.rules_where(|rule| rule.cidrs.entries().is_none());
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, rule) in self.matches() {
            for prefix in rule.cidrs.entries().unwrap_or_default() {
                match prefix {
                    IpNet::V4(prefix) => v4.push((*prefix, index)),
                    IpNet::V6(prefix) => v6.push((*prefix, index)),
                }
            }
        }
        let Prefixes {
            default,
            classes: v4,
        } = prefixes::compile(v4, &anywhere, &mut self.classes);
        header.v4_default = default;
        let Prefixes {
            default,
            classes: v6,
        } = prefixes::compile(v6, &anywhere, &mut self.classes);
        header.v6_default = default;
        if !v4.is_empty() {
            header.flags |= header_flag::V4;
        }
        if !v6.is_empty() {
            header.flags |= header_flag::V6;
        }
        (v4, v6)
    }

    fn by_name(&mut self, header: &mut Header, names: &impl NameClasses) -> Result<(), TooMany> {
        let Some(NameSets {
            pending,
            pending_yes,
            said,
        }) = content::names(&self.ruleset.rules, self.words)
        else {
            return Ok(());
        };
        header.flags |= header_flag::NAMES;
        let [pending, pending_yes, said, all] =
            [&pending, &pending_yes, &said, &self.all()].map(|set| self.number(set));
        header.names_always = [pending, said, said, said];
        header.names_certain = [pending_yes, all, all, all];
        let name_index::Index {
            classes,
            top,
            pages,
            bitmaps,
        } = name_index::compile(&self.ruleset.rules, self.words, names)?;
        header.name_classes = classes;
        header.name_index = self.blocks.push_indexes(top.iter());
        header.name_pages = self.blocks.push_indexes(pages.iter());
        header.name_bitmaps = self.blocks.push_classes(&bitmaps, header.shift);
        Ok(())
    }

    fn by_request(&mut self, header: &mut Header) -> Result<(), TooLarge> {
        let Some(RequestSets {
            pending_yes,
            opaque,
        }) = content::requests(&self.ruleset.rules, self.words)
        else {
            return Ok(());
        };
        let Requests {
            cells,
            methods,
            paths,
        } = requests::compile(&self.ruleset.rules, self.words)?;
        header.flags |= header_flag::REQUESTS;
        let [pending_yes, opaque, all] =
            [&pending_yes, &opaque, &self.all()].map(|set| self.number(set));
        // While no request was made all rules may match.
        header.requests_certain = [pending_yes, all, all, all];
        header.method_classes = [all, opaque, 0, opaque];
        header.path_classes = [all, all, 0, all];
        header.methods = methods.classes.len();
        header.paths = paths.classes.len();
        header.method_root = methods.root;
        header.path_root = paths.root;
        let shift = header.shift;
        header.method_bitmaps[request::KNOWN as usize] =
            self.blocks.push_classes(&methods.classes, shift);
        header.path_bitmaps[request::KNOWN as usize] =
            self.blocks.push_classes(&paths.classes, shift);
        header.cells = self.blocks.push_cells(&cells);
        Ok(())
    }

    /// The set of all rules.
    fn all(&self) -> Bitmap {
        Bitmap::of(self.words, 0..self.ruleset.rules.len())
    }

    fn number(&mut self, set: &Bitmap) -> u32 {
        u32::try_from(self.classes.number(set)).expect("fewer than 2^32 classes fit into memory")
    }
}

fn admits(rule: &Match, protocol: Protocol) -> bool {
    match &rule.protocols {
        AnyOf::Anything => true,
        AnyOf::Entries(protocols) => protocols.contains(&protocol),
    }
}
