//! Makes HTTP/2: frames, and blocks of fields in every way in which they can be written.

use std::collections::VecDeque;

use fastrand::Rng;

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const HEADERS: u8 = 1;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 0x20;

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A block in one frame.
pub(crate) fn headers(id: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, block)
}

/// A number with a prefix of `bits` bits, below `flags` (RFC 7541, 5.1).
pub(crate) fn integer(flags: u8, bits: u8, mut number: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if number < most {
        return vec![flags | number as u8];
    }
    let mut bytes = vec![flags | most as u8];
    number -= most;
    while number >= 128 {
        bytes.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A string as it is.
pub(crate) fn plain(text: &[u8]) -> Vec<u8> {
    let mut bytes = integer(0, 7, text.len());
    bytes.extend(text);
    bytes
}

/// A string in the Huffman code.
pub(crate) fn coded(text: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    httlib_huffman::encode(text, &mut code).expect("all bytes have a code");
    let mut bytes = integer(0x80, 7, code.len());
    bytes.extend(code);
    bytes
}

/// A field that does not go into the table, written out.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    [vec![0], plain(name.as_bytes()), plain(value.as_bytes())].concat()
}

/// A field that goes into the table, written out.
pub(crate) fn kept(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], plain(name.as_bytes()), plain(value.as_bytes())].concat()
}

/// The static table (RFC 7541, appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A client's side of the table, which writes each field in one of the ways that are right for it.
pub(crate) struct Writer {
    table: VecDeque<(String, String)>,
    max: usize,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            max: 4096,
        }
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<(String, String)>| -> usize {
            table
                .iter()
                .map(|(name, value)| name.len() + value.len() + 32)
                .sum()
        };
        while size(&self.table) > self.max {
            self.table.pop_back();
        }
    }

    /// Changes the size of the table.
    pub(crate) fn resize(&mut self, max: usize) -> Vec<u8> {
        self.max = max;
        self.evict();
        integer(0x20, 5, max)
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let known = STATIC.iter().copied();
        let own = self
            .table
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        known
            .chain(own)
            .zip(1..)
            .map(|((name, value), index)| (index, name, value))
    }

    fn string(rng: &mut Rng, text: &str) -> Vec<u8> {
        if rng.bool() {
            plain(text.as_bytes())
        } else {
            coded(text.as_bytes())
        }
    }

    /// Writes a field.
    pub(crate) fn field(&mut self, rng: &mut Rng, name: &str, value: &str) -> Vec<u8> {
        let wholes: Vec<_> = self
            .entries()
            .filter(|entry| (entry.1, entry.2) == (name, value))
            .map(|entry| entry.0)
            .collect();
        if !wholes.is_empty() && rng.u8(..4) != 0 {
            return integer(0x80, 7, wholes[rng.usize(..wholes.len())]);
        }
        let names: Vec<_> = self
            .entries()
            .filter(|entry| entry.1 == name)
            .map(|entry| entry.0)
            .collect();
        let index = if names.is_empty() || rng.u8(..4) == 0 {
            0
        } else {
            names[rng.usize(..names.len())]
        };
        let keep = rng.u8(..3) != 0;
        let mut bytes = if keep {
            integer(0x40, 6, index)
        } else {
            integer(if rng.bool() { 0x10 } else { 0 }, 4, index)
        };
        if index == 0 {
            bytes.extend(Self::string(rng, name));
        }
        bytes.extend(Self::string(rng, value));
        if keep {
            self.table.push_front((name.into(), value.into()));
            self.evict();
        }
        bytes
    }

    /// A name of the static table that means nothing here.
    pub(crate) fn other(rng: &mut Rng) -> &'static str {
        loop {
            let (name, _) = STATIC[rng.usize(14..STATIC.len())];
            if name != "host" {
                return name;
            }
        }
    }
}
