//! IPv4 options.

use super::Meaning;

const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const ROUTER_ALERT: u8 = 148;

/// The options of an IPv4 packet and whether they alone refuse it.
#[derive(Clone, Debug)]
pub struct Options {
    bytes: Vec<u8>,
    refusal: Option<Meaning>,
}

impl Options {
    /// No options.
    #[must_use]
    pub fn none() -> Self {
        Self {
            bytes: Vec::new(),
            refusal: None,
        }
    }

    /// Options that change nothing.
    #[must_use]
    pub fn harmless(kind: Harmless) -> Self {
        let bytes = match kind {
            Harmless::NoOperations => vec![NO_OPERATION; 40],
            Harmless::RouterAlert => vec![ROUTER_ALERT, 4, 0, 0],
            Harmless::RecordRoute => [[RECORD_ROUTE, 7, 4, 0], [0; 4]].concat(),
            Harmless::SourceRouteBehindEnd => vec![NO_OPERATION, 0, LOOSE, 7, 4, 198, 51, 100],
        };
        Self {
            bytes,
            refusal: None,
        }
    }

    /// A source route of one hop behind `before` no-operations (at most 33).
    #[must_use]
    pub fn source_route(kind: SourceRoute, before: usize) -> Self {
        let number = match kind {
            SourceRoute::Loose => LOOSE,
            SourceRoute::Strict => STRICT,
        };
        let mut bytes = vec![NO_OPERATION; before];
        bytes.extend([number, 7, 4, 198, 51, 100, 7]);
        Self::padded(bytes, Meaning::SourceRoute)
    }

    /// An option whose length lies.
    #[must_use]
    pub fn broken(kind: Broken) -> Self {
        let bytes = match kind {
            Broken::LengthZero => vec![RECORD_ROUTE, 0, 4, 0],
            Broken::LengthOne => vec![RECORD_ROUTE, 1, 4, 0],
            Broken::PastTheEnd => vec![RECORD_ROUTE, 9, 4, 0, 0, 0, 0, 0],
            Broken::CutOffLength => vec![NO_OPERATION, NO_OPERATION, NO_OPERATION, RECORD_ROUTE],
        };
        Self::padded(bytes, Meaning::Malformed)
    }

    fn padded(mut bytes: Vec<u8>, refusal: Meaning) -> Self {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self {
            bytes,
            refusal: Some(refusal),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn refusal(&self) -> Option<Meaning> {
        self.refusal
    }
}

const LOOSE: u8 = 131;
const STRICT: u8 = 137;

/// Kinds of [`Options::harmless`].
#[derive(Clone, Copy, Debug)]
pub enum Harmless {
    /// Nothing, in all of the 40 bytes.
    NoOperations,
    /// As IGMP sends it.
    RouterAlert,
    /// Room for a hop's address.
    RecordRoute,
    /// A source route that nobody reads, because the list of options has ended.
    SourceRouteBehindEnd,
}

/// Kinds of [`Options::source_route`].
#[derive(Clone, Copy, Debug)]
pub enum SourceRoute {
    /// LSRR.
    Loose,
    /// SSRR.
    Strict,
}

/// Kinds of [`Options::broken`].
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// An option of no bytes.
    LengthZero,
    /// An option shorter than its two fixed bytes.
    LengthOne,
    /// An option that ends behind the header.
    PastTheEnd,
    /// An option whose length byte is not there.
    CutOffLength,
}
