//! What is wrong or doubtful in a policy file, each with its place, and how it is shown.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// Of a longer line of the source only what stands around the place is shown.
const MAX_LINE: usize = 1000;
/// Characters of such a line that are shown before the place, and from it on.
const BEFORE: usize = 40;
const AFTER: usize = 80;
/// Problems that are kept of one file; what comes after is counted only.
pub const MAX_KEPT: usize = 1000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy means something that nobody wants.
    Warning,
    /// The policy may mean something else than its author thinks.
    Note,
}

/// What kind of problem it is; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not YAML.
    Syntax,
    /// The file holds nothing.
    Empty,
    /// More than one document.
    Documents,
    /// Too many bytes or values.
    TooLarge,
    /// Nested too deep.
    TooDeep,
    /// An alias that stands for nothing or for itself.
    Alias,
    /// A YAML tag.
    Tag,
    /// A key that comes twice.
    DuplicateKey,
    /// A field that does not exist.
    UnknownField,
    /// A field that is needed.
    MissingField,
    /// A text where a list is wanted, and so on.
    WrongType,
    /// A field without a value.
    Null,
    /// A list that would match nothing.
    EmptyList,
    /// A value that is not among those allowed.
    BadValue,
    /// A prefix that is none, or has host bits set.
    BadPrefix,
    /// A port or range that is none.
    BadPort,
    /// A domain or cgroup glob that is none.
    BadGlob,
    /// Mutations on the wrong action, missing or malformed.
    Mutations,
    /// A document that is no policy object, or one that comes twice.
    BadObject,
    /// An object of another kind: passed over.
    OtherKind,
    /// What the custom resource's schema or its CEL rules refuse.
    Schema,
    /// More rules than one workload can have.
    TooManyRules,
    /// More problems than are kept.
    MoreErrors,
    /// A rule that an earlier one covers.
    Shadowed,
    /// A rule that matches nothing.
    NeverMatches,
    /// A rule that needs a fact that cannot become known.
    Opaque,
    /// A name that looks as if the names below it were meant as well.
    BareDomain,
    /// A Deny by name that has no prefixes beside it.
    DenyByName,
    /// A glob that whoever names a cgroup can satisfy.
    UnanchoredCgroup,
    /// A path prefix in characters that most clients send encoded.
    UnencodedPath,
    /// A star in a path prefix, which stands for itself there.
    StarInPath,
    /// Two rules of one name.
    DuplicateName,
}

impl Code {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Empty => "empty",
            Self::Documents => "documents",
            Self::TooLarge => "too-large",
            Self::TooDeep => "too-deep",
            Self::Alias => "alias",
            Self::Tag => "tag",
            Self::DuplicateKey => "duplicate-key",
            Self::UnknownField => "unknown-field",
            Self::MissingField => "missing-field",
            Self::WrongType => "wrong-type",
            Self::Null => "null",
            Self::EmptyList => "empty-list",
            Self::BadValue => "bad-value",
            Self::BadPrefix => "bad-prefix",
            Self::BadPort => "bad-port",
            Self::BadGlob => "bad-glob",
            Self::Mutations => "mutations",
            Self::BadObject => "bad-object",
            Self::OtherKind => "other-kind",
            Self::Schema => "schema",
            Self::TooManyRules => "too-many-rules",
            Self::MoreErrors => "more-errors",
            Self::Shadowed => "shadowed",
            Self::NeverMatches => "never-matches",
            Self::Opaque => "opaque",
            Self::BareDomain => "bare-domain",
            Self::DenyByName => "deny-by-name",
            Self::UnanchoredCgroup => "unanchored-cgroup",
            Self::UnencodedPath => "unencoded-path",
            Self::StarInPath => "star-in-path",
            Self::DuplicateName => "duplicate-name",
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the source that it covers.
    pub bytes: Range<usize>,
}

impl Place {
    /// The start of the file.
    pub const START: Self = Self {
        line: 1,
        column: 1,
        bytes: 0..0,
    };
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the source that it covers.
    pub span: Range<usize>,
    /// The way to it in an object, such as `spec.rules[2].match.cidrs[0]`; only of objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A problem of `severity` at `place`.
    #[must_use]
    pub fn new(severity: Severity, code: Code, message: impl Into<String>, place: Place) -> Self {
        let Place {
            line,
            column,
            bytes,
        } = place;
        Self {
            severity,
            code,
            message: message.into(),
            line,
            column,
            span: bytes,
            field: None,
            hint: None,
        }
    }

    /// An error at `place`.
    #[must_use]
    pub fn error(code: Code, message: impl Into<String>, place: Place) -> Self {
        Self::new(Severity::Error, code, message, place)
    }

    /// With the way to it in its object.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..self
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// `LINE:COLUMN: error[CODE]: MESSAGE (HINT)`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(
            f,
            "{}:{}: {severity}[{}]: {}",
            self.line,
            self.column,
            self.code.as_str(),
            self.message
        )?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Problems as they are found: a multiple of what is shown is kept, the rest counted, so that a hostile file costs no memory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) kept: Vec<Diagnostic>,
    pub(crate) more: usize,
}

impl Found {
    /// Adds a problem; whether it was kept.
    pub(crate) fn push(&mut self, problem: impl FnOnce() -> Diagnostic) -> bool {
        let keeps = self.kept.len() < 2 * MAX_KEPT;
        if keeps {
            self.kept.push(problem());
        } else {
            self.more += 1;
        }
        keeps
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// With the error that ended the reading.
    pub(crate) fn ended_by(mut self, error: Diagnostic) -> Diagnostics {
        self.kept.push(error);
        self.into()
    }
}

impl From<Found> for Diagnostics {
    fn from(found: Found) -> Self {
        Self::with_uncounted(found.kept, found.more)
    }
}

/// The problems of a file in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts `problems` by place and keeps [`MAX_KEPT`] of them, the worst.
    #[must_use]
    pub fn new(problems: Vec<Diagnostic>) -> Self {
        Self::with_uncounted(problems, 0)
    }

    /// As [`Diagnostics::new`], after `dropped` further problems were not even recorded.
    fn with_uncounted(mut problems: Vec<Diagnostic>, dropped: usize) -> Self {
        let by_place = |problem: &Diagnostic| (problem.line, problem.column, problem.severity);
        problems.sort_by_key(by_place);
        let more = problems.len().saturating_sub(MAX_KEPT) + dropped;
        problems.sort_by_key(|problem| problem.severity);
        let left = problems.split_off(problems.len().min(MAX_KEPT));
        problems.sort_by_key(by_place);
        // What was not even recorded are errors; what is left out here is as bad as the worst of it.
        let severity = match (dropped, left.first()) {
            (0, Some(worst)) => worst.severity,
            _ => Severity::Error,
        };
        if let (1.., Some(last)) = (more, problems.last()) {
            let place = Place {
                line: last.line,
                column: last.column,
                bytes: last.span.clone(),
            };
            let message = format!("and {more} more");
            problems.push(Diagnostic::new(severity, Code::MoreErrors, message, place));
        }
        Self(problems)
    }

    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The worst severity, if there is any problem.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.0.iter().map(|problem| problem.severity).min()
    }

    /// Shows every problem with the line of `source` that it stands on; `name` is the file's.
    #[must_use]
    pub fn render(&self, name: &str, source: &str, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let shown: Vec<String> = self
            .0
            .iter()
            .map(|problem| renderer.render(&report(problem, name, source)))
            .collect();
        shown.join("\n\n")
    }
}

/// Those of several passes over one file.
impl FromIterator<Self> for Diagnostics {
    fn from_iter<T: IntoIterator<Item = Self>>(passes: T) -> Self {
        Self::new(passes.into_iter().flat_map(|pass| pass.0).collect())
    }
}

impl IntoIterator for Diagnostics {
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    type Item = Diagnostic;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    type Item = &'a Diagnostic;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

fn report<'a>(problem: &'a Diagnostic, name: &'a str, source: &'a str) -> Vec<Group<'a>> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let (line, span) = excerpt(source, &problem.span);
    let title = level
        .primary_title(&*problem.message)
        .id(problem.code.as_str());
    let group = if line.len() > MAX_LINE {
        let (window, span) = window(line, &span);
        let origin = Origin::path(name)
            .line(problem.line)
            .char_column(problem.column);
        title.element(origin).element(
            Snippet::source(window)
                .line_start(problem.line)
                .annotation(AnnotationKind::Primary.span(span)),
        )
    } else {
        title.element(
            Snippet::source(line)
                .path(name)
                .line_start(problem.line)
                .annotation(AnnotationKind::Primary.span(span)),
        )
    };
    match &problem.hint {
        Some(hint) => vec![group.element(Level::HELP.message(&**hint))],
        None => vec![group],
    }
}

/// The line on which `span` begins, and the part of the span that lies on it. A lone CR ends a line too (YAML 1.2.2, 5.4).
fn excerpt<'a>(source: &'a str, span: &Range<usize>) -> (&'a str, Range<usize>) {
    let (start, end) = (
        source.floor_char_boundary(span.start),
        source.floor_char_boundary(span.end),
    );
    let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
    let to = source[start..]
        .find('\n')
        .map_or(source.len(), |at| start + at);
    let from = source[from..start]
        .rfind('\r')
        .map_or(from, |at| from + at + 1);
    let to = source[start..to].find('\r').map_or(to, |at| start + at);
    let line = &source[from..to];
    let start = start - from;
    let end = end.saturating_sub(from).clamp(start, line.len());
    let end = start + line[start..end].trim_end().len();
    (line, start..end)
}

/// What stands around `span` on a long line, and where the span is in it.
fn window(line: &str, span: &Range<usize>) -> (String, Range<usize>) {
    let (before, after) = line.split_at(span.start);
    let from = before
        .char_indices()
        .rev()
        .take(BEFORE)
        .last()
        .map_or(span.start, |(at, _)| at);
    let to = after
        .char_indices()
        .nth(AFTER)
        .map_or(line.len(), |(at, _)| span.start + at);
    let mark = |cut: bool| if cut { "…" } else { "" };
    let (left, right) = (mark(from > 0), mark(to < line.len()));
    let shift = |at: usize| at.min(to) - from + left.len();
    let text = format!("{left}{}{right}", &line[from..to]);
    (text, shift(span.start)..shift(span.end))
}
