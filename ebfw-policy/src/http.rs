//! Methods and paths of HTTP requests as rules compare them (SEMANTICS 3, `methods` and `pathPrefix`).
//!
//! Paths are taken as a server would: query off, unreserved characters decoded, `//`, `/./` and `/../` resolved.

use std::fmt;

use ebfw_common::request::{MAX_METHOD, MAX_PATH_PREFIX};

/// The method of a rule or of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(Box<str>);

impl Method {
    /// The policy's entry, upper-cased; `None` if it is no token of RFC 9110 or longer than [`MAX_METHOD`].
    #[must_use]
    pub fn from_policy(text: &str) -> Option<Self> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        (!text.is_empty() && text.len() <= MAX_METHOD && text.bytes().all(token))
            .then(|| Self(text.to_ascii_uppercase().into()))
    }

    /// The method as a request has it, unchanged.
    #[must_use]
    pub fn from_request(text: &str) -> Self {
        Self(text.into())
    }

    /// The method.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request's path in its normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestPath(Box<str>);

impl RequestPath {
    /// Takes the path of a request target, query included.
    #[must_use]
    pub fn new(target: &str) -> Self {
        let path = target.split('?').next().unwrap_or(target);
        if path.starts_with('/') {
            Self(normalise(path).into())
        } else {
            Self(path.into())
        }
    }

    /// The path in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `pathPrefix` of a rule: whole elements from the start of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

impl PathPrefix {
    /// `None` unless `text` begins with `/`, has neither query nor fragment and, in its normal form, [`MAX_PATH_PREFIX`] bytes at most.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if !text.starts_with('/') || text.contains(['?', '#']) {
            return None;
        }
        let normal = normalise(text);
        let prefix = normal.trim_end_matches('/');
        (prefix.len() <= MAX_PATH_PREFIX).then(|| Self(prefix.into()))
    }

    /// The prefix in its normal form, without a slash at the end: empty for `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix as a client sends it that encodes what RFC 3986 has it encode; `None` where that is the prefix itself.
    #[must_use]
    pub fn encoded(&self) -> Option<String> {
        // `pchar`, the slash between elements, and the sign of what is encoded already.
        let passes = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
        if self.0.bytes().all(passes) {
            return None;
        }
        let mut encoded = String::with_capacity(self.0.len() + 8);
        for byte in self.0.bytes() {
            if passes(byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
        Some(encoded)
    }

    /// Whether `path` lies at or below the prefix.
    #[must_use]
    pub fn matches(&self, path: &RequestPath) -> bool {
        path.0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether every path that `other` matches is matched by this prefix.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

fn normalise(path: &str) -> String {
    let decoded = decode_unreserved(path);
    let mut elements: Vec<&str> = Vec::new();
    for element in decoded.split('/') {
        match element {
            "" | "." => {}
            ".." => {
                elements.pop();
            }
            name => elements.push(name),
        }
    }
    let directory = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    let mut clean = String::with_capacity(decoded.len());
    for element in &elements {
        clean.push('/');
        clean.push_str(element);
    }
    if directory || clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// RFC 3986, 6.2.2: encoded unreserved characters are those characters; other escapes are written in upper case.
fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let escape = rest
            .get(at + 1..at + 3)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            Some(byte) => {
                decoded.push_str(&format!("%{byte:02X}"));
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}
