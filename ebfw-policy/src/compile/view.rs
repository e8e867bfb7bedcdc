//! Tables as the classifier reads them, without a kernel: tests and fuzzers judge flows with the kernel's own code.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use ebfw_common::{
    abi::Address,
    classify::{self, Flow, Outcome, TableError},
    layout::{Block, Header, header_flag},
    names::NO_CLASS,
    request::{class_of_method, class_of_path},
};
use ipnet::{Ipv4Net, Ipv6Net};

use super::Tables;
use crate::http::{Method, RequestPath};

/// Tables with an index for the longest match, in place of the kernel's tries.
#[derive(Clone, Debug)]
pub struct View<'a> {
    blocks: &'a [Block],
    v4: LongestMatch<Ipv4Net>,
    v6: LongestMatch<Ipv6Net>,
}

impl Tables {
    /// A view of these tables.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            blocks: &self.blocks,
            v4: LongestMatch::new(&self.v4, Ipv4Net::prefix_len),
            v6: LongestMatch::new(&self.v6, Ipv6Net::prefix_len),
        }
    }
}

impl View<'_> {
    /// Judges a flow as the kernel does.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the tables are broken.
    pub fn classify(&self, flow: &Flow) -> Result<Outcome, TableError> {
        let header = Header::of(self.blocks.first().ok_or(TableError)?);
        classify::classify(self, header, flow)
    }

    /// The classes of a request's method and path, as the kernel finds them; what is not given is none that a rule means.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the tables are broken.
    pub fn request(
        &self,
        method: Option<&Method>,
        path: Option<&RequestPath>,
    ) -> Result<(u32, u32), TableError> {
        let header = Header::of(self.blocks.first().ok_or(TableError)?);
        if header.flags & header_flag::REQUESTS == 0 {
            return Ok((NO_CLASS, NO_CLASS));
        }
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let method = method.map_or(Ok(NO_CLASS), |method| {
            let text = method.as_str();
            class_of_method(self, header, text.as_bytes(), length(text))
        })?;
        let path = path.map_or(Ok(NO_CLASS), |path| {
            let text = path.as_str();
            class_of_path(self, header, text.as_bytes(), length(text))
        })?;
        Ok((method, path))
    }
}

impl classify::Tables for View<'_> {
    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(usize::try_from(index).ok()?)
    }

    fn class_v4(&self, address: [u8; 4]) -> Result<Option<u32>, TableError> {
        let address = Ipv4Addr::from(address);
        Ok(self
            .v4
            .find(|length| Ipv4Net::new_assert(address, length).trunc()))
    }

    fn class_v6(&self, address: Address) -> Result<Option<u32>, TableError> {
        let address = Ipv6Addr::from(address);
        Ok(self
            .v6
            .find(|length| Ipv6Net::new_assert(address, length).trunc()))
    }
}

#[derive(Clone, Debug)]
struct LongestMatch<P> {
    /// The lengths that occur, longest first.
    lengths: Vec<u8>,
    classes: HashMap<P, u32>,
}

impl<P: Copy + Eq + Hash> LongestMatch<P> {
    fn new(prefixes: &[(P, u32)], length: impl Fn(&P) -> u8) -> Self {
        let lengths: BTreeSet<u8> = prefixes.iter().map(|(prefix, _)| length(prefix)).collect();
        Self {
            lengths: lengths.into_iter().rev().collect(),
            classes: prefixes.iter().copied().collect(),
        }
    }

    fn find(&self, prefix: impl Fn(u8) -> P) -> Option<u32> {
        self.lengths
            .iter()
            .find_map(|length| self.classes.get(&prefix(*length)).copied())
    }
}
