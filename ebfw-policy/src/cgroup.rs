//! Cgroup paths and the globs that select them (SEMANTICS 3, `cgroups`).
//!
//! Paths are relative to the cgroup v2 root. A glob means a cgroup and everything below it, so that nesting does not lead out of a rule.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::OnceLock,
};

use globset::{GlobBuilder, GlobMatcher};

/// Characters of a glob at most; the kernel's paths are no longer.
pub const MAX_GLOB: usize = 4096;

/// A cgroup: `/`, or `/a/b` without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(Box<str>);

impl CgroupPath {
    /// `None` unless `path` begins with `/` and has no `.` or `..`.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        let elements = path.strip_prefix('/')?;
        let mut clean = String::with_capacity(path.len());
        for element in elements.split('/').filter(|element| !element.is_empty()) {
            if element == "." || element == ".." {
                return None;
            }
            clean.push('/');
            clean.push_str(element);
        }
        if clean.is_empty() {
            clean.push('/');
        }
        Some(Self(clean.into()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn elements(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|element| !element.is_empty())
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no cgroup glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// Not absolute.
    #[error("a cgroup glob begins with `/`: the path below the cgroup v2 root")]
    NotAbsolute,
    /// Longer than a path.
    #[error("longer than {MAX_GLOB} characters")]
    TooLong,
    /// `//`, `.` or `..`.
    #[error("`{0}` is no element of a cgroup path")]
    Element(Box<str>),
    /// `a**`.
    #[error("`**` stands alone between slashes (`{0}`)")]
    Recursive(Box<str>),
    /// Not a glob.
    #[error("`{0}` is not a glob: {1}")]
    Glob(Box<str>, Box<str>),
}

/// One entry of `cgroups`.
#[derive(Clone, Debug)]
pub struct CgroupGlob {
    text: Box<str>,
    elements: Vec<Element>,
}

/// What stands between two slashes of a glob.
#[derive(Clone, Debug)]
enum Element {
    Literal(Box<str>),
    Glob(Box<str>, OnceLock<GlobMatcher>),
    AnyDepth,
}

impl Element {
    fn new(text: &str) -> Result<Self, CgroupError> {
        if text == "**" {
            return Ok(Self::AnyDepth);
        }
        if matches!(text, "" | "." | "..") {
            return Err(CgroupError::Element(text.into()));
        }
        if text.contains("**") {
            return Err(CgroupError::Recursive(text.into()));
        }
        if !text.contains(['*', '?', '[', ']', '{', '}', '\\']) {
            return Ok(Self::Literal(text.into()));
        }
        let nested = text.split('{').skip(1).any(|group| !group.contains('}'));
        if nested {
            return Err(CgroupError::Glob(
                text.into(),
                "`{…}` must close before the next `{` or `/`".into(),
            ));
        }
        element_glob(text)
            .map_err(|error| CgroupError::Glob(text.into(), error.kind().to_string().into()))?;
        Ok(Self::Glob(text.into(), OnceLock::new()))
    }

    /// Whether the element means this one name; `**` is handled by the caller.
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(text) => **text == *name,
            Self::Glob(text, matcher) => matcher
                .get_or_init(|| {
                    element_glob(text)
                        .expect("the glob was built when it was made")
                        .compile_matcher()
                })
                .is_match(name),
            Self::AnyDepth => true,
        }
    }
}

fn element_glob(text: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
}

/// How far a glob got along a path.
enum Reach {
    /// It means the path or an ancestor.
    Whole,
    /// It may mean something below the path.
    Below,
    /// It means nothing at the path or below.
    Nothing,
}

impl CgroupGlob {
    /// Reads an entry of `cgroups`.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, CgroupError> {
        let inner = text.strip_prefix('/').ok_or(CgroupError::NotAbsolute)?;
        if text.len() > MAX_GLOB {
            return Err(CgroupError::TooLong);
        }
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let elements = if inner.is_empty() {
            Vec::new()
        } else {
            inner
                .split('/')
                .map(Element::new)
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            text: format!("/{inner}").into(),
            elements,
        })
    }

    /// Whether the glob means `path` or one of its ancestors.
    #[must_use]
    pub fn matches(&self, path: &CgroupPath) -> bool {
        matches!(self.reach(path), Reach::Whole)
    }

    /// Whether the glob does not mean `path`, but could mean a cgroup below it.
    #[must_use]
    pub fn may_match_below(&self, path: &CgroupPath) -> bool {
        matches!(self.reach(path), Reach::Below)
    }

    /// The glob in its canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the glob begins with `**`: whoever can make a cgroup can then name it so that it matches.
    #[must_use]
    pub fn is_unanchored(&self) -> bool {
        matches!(self.elements.first(), Some(Element::AnyDepth))
    }

    /// Walks the path with the set of places in the glob that it can be at; `**` at the end wants one element at least,
    /// except in `/**`, which means every cgroup.
    fn reach(&self, path: &CgroupPath) -> Reach {
        let end = self.elements.len();
        if self
            .elements
            .iter()
            .all(|element| matches!(element, Element::AnyDepth))
        {
            return Reach::Whole;
        }
        let mut at = vec![false; end + 1];
        at[0] = true;
        self.skip_recursive(&mut at);
        for name in path.elements() {
            let mut next = vec![false; end + 1];
            for (place, element) in self
                .elements
                .iter()
                .enumerate()
                .filter(|(place, _)| at[*place])
            {
                if matches!(element, Element::AnyDepth) {
                    next[place] = true;
                    next[end] |= place + 1 == end;
                } else if element.matches(name) {
                    next[place + 1] = true;
                }
            }
            at = next;
            self.skip_recursive(&mut at);
            if at[end] {
                return Reach::Whole;
            }
        }
        if at.contains(&true) {
            Reach::Below
        } else {
            Reach::Nothing
        }
    }

    /// A `**` that is not the last element may stand for nothing.
    fn skip_recursive(&self, at: &mut [bool]) {
        for place in 0..self.elements.len().saturating_sub(1) {
            if at[place] && matches!(self.elements[place], Element::AnyDepth) {
                at[place + 1] = true;
            }
        }
    }
}

impl PartialEq for CgroupGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CgroupGlob {}

impl Hash for CgroupGlob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for CgroupGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
