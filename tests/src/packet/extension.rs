//! IPv6 extension headers.

/// One extension header, with the lengths as the header states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options: `(length + 1) * 8` bytes.
    HopByHop {
        /// Stated length.
        length: u8,
    },
    /// Destination options: `(length + 1) * 8` bytes.
    DestinationOptions {
        /// Stated length.
        length: u8,
    },
    /// Authentication header: `(length + 2) * 4` bytes (RFC 4302, 2.2).
    Authentication {
        /// Stated length.
        length: u8,
    },
    /// A fragment header at offset 0.
    FirstFragment,
    /// A fragment header at this offset (not 0), in units of 8 bytes.
    LaterFragment {
        /// Offset.
        offset: u16,
    },
    /// A routing header.
    Routing {
        /// 0: source route, 2: mobility, 4: segment routing.
        kind: u8,
    },
}

impl Extension {
    /// The number that announces the header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::HopByHop { .. } => 0,
            Self::DestinationOptions { .. } => 60,
            Self::Authentication { .. } => 51,
            Self::FirstFragment | Self::LaterFragment { .. } => 44,
            Self::Routing { .. } => 43,
        }
    }

    pub(super) fn length(self) -> usize {
        match self {
            Self::HopByHop { length } | Self::DestinationOptions { length } => {
                (usize::from(length) + 1) * 8
            }
            Self::Authentication { length } => (usize::from(length) + 2) * 4,
            Self::FirstFragment | Self::LaterFragment { .. } => 8,
            Self::Routing { .. } => 24,
        }
    }

    /// The header, which announces `next`.
    pub(super) fn bytes(self, next: u8) -> Vec<u8> {
        const MORE_FRAGMENTS: u8 = 1;
        let mut bytes = match self {
            Self::HopByHop { length } | Self::DestinationOptions { length } => vec![next, length],
            Self::Authentication { length } => vec![next, length, 0, 0, 0, 0, 1, 0],
            Self::FirstFragment => vec![next, 0, 0, MORE_FRAGMENTS, 0x12, 0x34, 0x56, 0x78],
            Self::LaterFragment { offset } => {
                let [high, low] = (offset << 3).to_be_bytes();
                vec![next, 0, high, low, 0x12, 0x34, 0x56, 0x78]
            }
            Self::Routing { kind } => vec![next, 2, kind, 1],
        };
        bytes.resize(self.length(), 0);
        bytes
    }
}
