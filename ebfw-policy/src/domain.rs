//! Names and the patterns that match them (SEMANTICS 3, `domains`).
//!
//! A pattern is sorted by shape when it is made, so that nearly all of them are compared without a regular expression.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::OnceLock,
};

use globset::{GlobBuilder, GlobMatcher};

/// The longest name that DNS can carry.
pub const MAX_NAME: usize = 253;
/// The longest label of one.
const MAX_LABEL: usize = 63;

/// A name as it is compared: lower case, without the trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// Takes `text` as a client or a resolver writes it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(
            text.strip_suffix('.')
                .unwrap_or(text)
                .to_ascii_lowercase()
                .into(),
        )
    }

    /// The name in its compared form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the entries of `domains` are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DomainMatch {
    /// `example.com` is that name, `*.example.com` every name below it.
    #[default]
    Glob,
    /// Both mean the name and everything below it.
    Suffix,
}

/// Why a text is no domain pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Nothing is left of it.
    #[error("a domain must not be empty")]
    Empty,
    /// Longer than a name can be.
    #[error("longer than the {MAX_NAME} characters of a DNS name")]
    TooLong,
    /// `*.` and its like.
    #[error("`{0}` has an empty label")]
    EmptyLabel(Box<str>),
    /// A character beyond ASCII.
    #[error("`{0}` is not ASCII; names are compared in their A-label form (`xn--…`)")]
    NotAscii(Box<str>),
    /// A character that no name has.
    #[error("`{1}` cannot stand in a domain (`{0}`)")]
    Character(Box<str>, char),
    /// `**`, which elsewhere means what `*` means here.
    #[error("`**` in `{0}` would mean two characters or more")]
    DoubleStar(Box<str>),
    /// An address.
    #[error("`{0}` is an address, not a name")]
    Address(Box<str>),
    /// Not a glob.
    #[error("`{0}` is not a glob: {1}")]
    Glob(Box<str>, Box<str>),
}

/// One entry of `domains`.
#[derive(Clone, Debug)]
pub struct DomainPattern {
    text: Box<str>,
    shape: Shape,
    below: bool,
}

/// A pattern taken apart, for the automaton of all patterns.
#[derive(Clone, Debug)]
pub(crate) enum Form<'a> {
    /// Every name.
    Any,
    /// The name alone.
    Exact(&'a str),
    /// A longer name that ends in the text.
    Below(&'a str),
    /// A regular expression over the bytes of the whole name, in which `.` is any byte.
    Regex(String),
}

/// How a pattern is compared.
#[derive(Clone, Debug)]
enum Shape {
    /// `*`.
    Any,
    /// The text itself.
    Exact,
    /// `*.` before the text: a longer name that ends in it (the text begins with the dot).
    Below,
    /// Anything else.
    Glob(NameGlob),
}

/// A glob that is compiled when it is first needed.
#[derive(Clone, Debug)]
struct NameGlob {
    /// Bytes at its start and at its end that every name has which it means: they spare most names the regular expression.
    head: usize,
    tail: usize,
    matcher: OnceLock<GlobMatcher>,
}

impl NameGlob {
    fn new(text: &str) -> Self {
        let head = text.find(META).unwrap_or(text.len());
        let tail = text.rfind(META).map_or(0, |at| text.len() - at - 1);
        Self {
            head,
            tail,
            matcher: OnceLock::new(),
        }
    }

    #[inline]
    fn matches(&self, text: &str, name: &str) -> bool {
        let (name_bytes, text_bytes) = (name.as_bytes(), text.as_bytes());
        let compile = || {
            translate(text)
                .expect("the pattern was translated when it was made")
                .compile_matcher()
        };
        name_bytes.starts_with(&text_bytes[..self.head])
            && name_bytes.ends_with(&text_bytes[text.len() - self.tail..])
            && self.matcher.get_or_init(compile).is_match(name)
    }
}

impl DomainPattern {
    /// Reads an entry of `domains`.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn new(text: &str, mode: DomainMatch) -> Result<Self, DomainError> {
        let written = text;
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        check(written, &text)?;
        let suffix = mode == DomainMatch::Suffix;
        if text == "*" {
            return Ok(Self {
                text: "*".into(),
                shape: Shape::Any,
                below: false,
            });
        }
        let core = if suffix {
            text.strip_prefix("*.").unwrap_or(&text)
        } else {
            &text
        };
        if !core.contains(META) {
            return Ok(Self {
                text: core.into(),
                shape: Shape::Exact,
                below: suffix,
            });
        }
        if let Some(rest) = core
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.') && !rest.contains(META))
        {
            return Ok(Self {
                text: rest.into(),
                shape: Shape::Below,
                below: suffix,
            });
        }
        translate(core).map_err(|why| DomainError::Glob(written.into(), why.into()))?;
        Ok(Self {
            text: core.into(),
            shape: Shape::Glob(NameGlob::new(core)),
            below: suffix,
        })
    }

    /// Whether the pattern means `name`.
    #[inline]
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        let name = name.as_str();
        self.matches_whole(name)
            || self.below
                && name
                    .match_indices('.')
                    .any(|(at, _)| at > 0 && self.matches_whole(&name[at + 1..]))
    }

    #[inline]
    fn matches_whole(&self, name: &str) -> bool {
        match &self.shape {
            Shape::Any => !name.is_empty(),
            Shape::Exact => *name == *self.text,
            Shape::Below => name.len() > self.text.len() && name.ends_with(&*self.text),
            Shape::Glob(glob) => glob.matches(&self.text, name),
        }
    }

    /// A label that no DNS name has, because it is longer than 63 characters (RFC 1035, 2.3.4).
    pub(crate) fn long_label(&self) -> Option<&str> {
        self.text
            .split('.')
            .find(|label| label.len() > MAX_LABEL && !label.contains(META))
    }

    /// What the pattern means.
    pub(crate) fn form(&self) -> Form<'_> {
        match self.shape {
            Shape::Any => Form::Any,
            Shape::Exact => Form::Exact(&self.text),
            Shape::Below => Form::Below(&self.text),
            Shape::Glob(_) => Form::Regex(
                translate(&self.text)
                    .expect("the pattern was translated when it was made")
                    .regex()
                    .to_owned(),
            ),
        }
    }

    /// Whether the pattern also means every name below those of its form.
    pub(crate) fn is_suffix(&self) -> bool {
        self.below
    }

    /// The name that the pattern is, if it stands for that one name alone.
    #[must_use]
    pub fn single_name(&self) -> Option<&str> {
        match self.shape {
            Shape::Exact if !self.below => Some(&self.text),
            Shape::Exact | Shape::Any | Shape::Below | Shape::Glob(_) => None,
        }
    }

    /// Whether every name that `other` means is surely meant by this pattern too. `false` may be an unknown.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        match (&self.shape, &other.shape) {
            (Shape::Any, _) => true,
            (_, Shape::Exact) if !other.below => self.matches(&Name(other.text.clone())),
            (Shape::Exact, Shape::Exact) if self.below => {
                other.text == self.text
                    || other
                        .text
                        .strip_suffix(&*self.text)
                        .is_some_and(|head| head.ends_with('.'))
            }
            (Shape::Exact, Shape::Below) if self.below => {
                other.text[1..] == *self.text
                    || other.text[1..]
                        .strip_suffix(&*self.text)
                        .is_some_and(|head| head.ends_with('.'))
            }
            (Shape::Below, Shape::Below) => other.text.ends_with(&*self.text),
            (Shape::Below, Shape::Exact) => {
                other.text.len() > self.text.len() && other.text.ends_with(&*self.text)
            }
            (Shape::Exact | Shape::Below | Shape::Glob(_), _) => false,
        }
    }
}

impl PartialEq for DomainPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
            && self.below == other.below
            && std::mem::discriminant(&self.shape) == std::mem::discriminant(&other.shape)
    }
}

impl Eq for DomainPattern {}

impl Hash for DomainPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.below.hash(state);
    }
}

/// The pattern in words that [`DomainPattern::new`] takes with [`DomainMatch::Glob`], or an entry of both forms.
impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shape {
            Shape::Below => write!(f, "*{}", self.text),
            Shape::Any | Shape::Exact | Shape::Glob(_) => f.write_str(&self.text),
        }
    }
}

/// Characters that make a text more than a plain name.
const META: [char; 6] = ['*', '?', '[', ']', '{', '}'];

fn check(written: &str, text: &str) -> Result<(), DomainError> {
    if text.is_empty() {
        return Err(if written.is_empty() {
            DomainError::Empty
        } else {
            DomainError::EmptyLabel(written.into())
        });
    }
    if text.len() > MAX_NAME {
        return Err(DomainError::TooLong);
    }
    if !text.is_ascii() {
        return Err(DomainError::NotAscii(written.into()));
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(DomainError::Address(written.into()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.,!^".contains(c) || META.contains(&c);
    if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
        return Err(DomainError::Character(written.into(), bad));
    }
    if text.starts_with('.')
        || text.contains("..")
        || text == "*."
        || written.ends_with("..")
        || written == "*."
    {
        return Err(DomainError::EmptyLabel(written.into()));
    }
    if text.contains("**") {
        return Err(DomainError::DoubleStar(written.into()));
    }
    let grouped = text.contains(META);
    if let Some(bad) = text.chars().find(|&c| ",!^".contains(c) && !grouped) {
        return Err(DomainError::Character(written.into(), bad));
    }
    Ok(())
}

/// The pattern in globset's words: `*` is one character at least, so it becomes `?*`.
fn translate(pattern: &str) -> Result<globset::Glob, String> {
    let mut glob = String::with_capacity(pattern.len() + 8);
    let (mut class, mut group) = (false, false);
    for (at, c) in pattern.char_indices() {
        match c {
            '[' => class = true,
            ']' => class = false,
            '{' if !class && group => return Err("groups cannot be nested".into()),
            '{' if !class => group = true,
            '}' if !class => group = false,
            ',' if !class && !group => {
                return Err("`,` outside of `{…}`; write one entry for each name".into());
            }
            '*' if !class => glob.push('?'),
            _ => {}
        }
        if group
            && !class
            && matches!(
                (c, pattern[at + 1..].chars().next()),
                ('{' | ',', Some(',' | '}'))
            )
        {
            return Err("an alternative of `{…}` is empty".into());
        }
        glob.push(c);
    }
    GlobBuilder::new(&glob)
        .literal_separator(false)
        .backslash_escape(false)
        .build()
        .map_err(|error| error.kind().to_string())
}
