//! Events as lines for people. The first part of each line is an interface that scripts read; what was added since stands behind it.
//! No character of an event reaches the output unescaped: every string is [`super::Printable`].

use std::{
    borrow::Cow,
    fmt::{self, Display},
    net::IpAddr,
};

use anstyle::{AnsiColor, Style};

use super::{
    Printable,
    event::{
        Action, Body, Event, Flow, Kind, Mode, Outcome, Pod, Process, Protocol, Reason, Request,
        Ruling, Subject,
    },
};

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// With escape sequences for a terminal.
    Ansi,
}

/// What stands before a header: as deep as the request it belongs to.
const HEADER_INDENT: &str = "           ";

/// An event with its lines as [`Display`]; the last line has no line feed.
#[derive(Debug)]
pub struct Text<'a> {
    event: &'a Event,
    colour: Colour,
}

impl<'a> Text<'a> {
    /// `event` in `colour`.
    #[must_use]
    pub fn new(event: &'a Event, colour: Colour) -> Self {
        Self { event, colour }
    }

    fn paint(&self, style: Style, text: impl Display) -> Painted<impl Display> {
        Painted {
            style: if self.colour == Colour::Ansi {
                style
            } else {
                Style::new()
            },
            text,
        }
    }

    fn ruling(&self, f: &mut fmt::Formatter<'_>, ruling: &Ruling) -> fmt::Result {
        let action = self.paint(action_style(ruling.action), ruling.action.title());
        write!(f, "  action={action}")?;
        if let Some(rule) = rule_name(ruling) {
            write!(f, " rule={rule}")?;
        }
        Ok(())
    }

    fn additions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event {
            at: _,
            subject,
            process,
            pod,
            cgroup,
            ruling,
            suppressed,
        } = self.event;
        if let Some(Ruling {
            action: _,
            rule: _,
            reason,
            mode,
            opaque,
            unresolved,
        }) = ruling
        {
            if *mode != Mode::Enforce {
                write!(f, "  mode={}", mode.name())?;
            }
            if !matches!(reason, Reason::Rule | Reason::Default) {
                write!(f, "  reason={}", reason.name())?;
            }
            if *opaque {
                f.write_str("  opaque")?;
            }
            if *unresolved {
                f.write_str("  unresolved")?;
            }
        }
        if let Subject::Connect { flow } = subject
            && let Some(protocol) = flow.protocol
            && (flow.port.is_none() || protocol != Protocol::TCP)
        {
            write!(f, "  protocol={protocol}")?;
        }
        if subject.is_ech() {
            f.write_str("  ech")?;
        }
        if let Some(status) = subject.request().and_then(|request| request.status) {
            write!(f, "  status={status}")?;
        }
        if let Some((outcome, _)) = subject.outcome()
            && outcome != Outcome::Asked
        {
            write!(f, "  outcome={}", outcome.name())?;
        }
        if let Some(Process { pid, comm }) = process
            && subject.kind() != Kind::Https
        {
            write!(f, "  pid={pid}")?;
            if let Some(comm) = comm {
                write!(f, " comm={}", comm.value())?;
            }
        }
        if let Some(cgroup) = cgroup
            && pod.is_none()
        {
            write!(f, "  cgroup={}", cgroup.value())?;
        }
        if *suppressed > 0 {
            write!(f, "  (+{suppressed} more)")?;
        }
        Ok(())
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.event.subject;
        let kind = self.paint(AnsiColor::Cyan.on_default(), kind_column(subject.kind()));
        write!(f, "{kind}")?;
        match subject {
            Subject::Dns {
                flow,
                name,
                record,
                outcome: _,
                learned: _,
            } => write!(f, "{} ? {} ({})", flow.source, name.word(), record.word())?,
            Subject::Tls { flow, sni, ech: _ } => write!(
                f,
                "{} -> {}  ({})",
                flow.source,
                sni.as_ref().map_or(NAMELESS.into(), Printable::word),
                Destination::from(flow)
            )?,
            Subject::Http { flow, request } => {
                write!(f, "{} -> {}", flow.source, RequestLine(request))?
            }
            Subject::Https { flow, request } => {
                if let Some(Process { pid, comm }) = &self.event.process {
                    let comm = comm
                        .as_ref()
                        .map_or(Cow::Borrowed("?"), |comm| comm.value());
                    write!(f, "[pid={pid} {comm}] ")?;
                }
                write!(f, "{}", RequestLine(request))?;
                if let Some(flow) = flow {
                    write!(f, "  ({})", Destination::from(flow))?;
                }
            }
            Subject::Connect { flow } => {
                write!(f, "{} -> {}", flow.source, Destination::from(flow))?
            }
        }
        if let Some(pod) = self.event.pod.as_ref().and_then(pod_name) {
            write!(f, "  pod={pod}")?;
        }
        if let Some(ruling) = &self.event.ruling {
            self.ruling(f, ruling)?;
        }
        self.additions(f)?;
        for header in subject
            .request()
            .map_or(&[][..], |request| &request.headers)
        {
            write!(f, "\n{HEADER_INDENT}{}: {}", header.name, header.value)?;
        }
        if let Some(body) = subject.request().and_then(|request| request.body.as_ref()) {
            write!(f, "\n{HEADER_INDENT}{}", BodyLine(body))?;
        }
        Ok(())
    }
}

struct Painted<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:#}", self.style, self.text, self.style)
    }
}

/// `DST:PORT` with IPv6 in brackets, or `DST` alone; `?` for a packet that could not be read.
pub(crate) struct Destination(pub(crate) Option<IpAddr>, pub(crate) Option<u16>);

impl From<&Flow> for Destination {
    fn from(flow: &Flow) -> Self {
        Self(flow.destination, flow.port)
    }
}

impl Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(Some(IpAddr::V6(address)), _) => write!(f, "[{address}]")?,
            Self(Some(IpAddr::V4(address)), _) => write!(f, "{address}")?,
            Self(None, _) => f.write_str("?")?,
        }
        self.1.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// `METHOD HOST/PATH`.
struct RequestLine<'a>(&'a Request);

impl Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request {
            method,
            host,
            path,
            headers: _,
            body: _,
            status: _,
        } = self.0;
        write!(f, "{} {}", method.word(), host.word())?;
        path.as_ref().map_or(Ok(()), |path| path.word().fmt(f))
    }
}

/// `body (TYPE, N of M bytes, …): TEXT`.
struct BodyLine<'a>(&'a Body);

impl Display for BodyLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Body {
            content_type,
            size,
            captured,
            text,
            truncated,
            redacted,
        } = self.0;
        let unknown = Cow::Borrowed("?");
        let content_type = content_type
            .as_ref()
            .map_or(unknown, |own| own.as_str().into());
        write!(f, "body ({content_type}, ")?;
        match (size, truncated) {
            (Some(size), false) => write!(f, "{size} bytes")?,
            (Some(size), true) => write!(f, "{captured} of {size} bytes")?,
            (None, _) => write!(f, "{captured} bytes and more")?,
        }
        if *redacted {
            f.write_str(", redacted")?;
        }
        f.write_str(")")?;
        text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

/// The kind padded to 8 and a space; `HTTPS` has always stood two spaces before its process.
fn kind_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Dns => "DNS      ",
        Kind::Tls => "TLS      ",
        Kind::Http => "HTTP     ",
        Kind::Https => "HTTPS  ",
        Kind::Connect => "CONNECT  ",
    }
}

/// How a rule is named; `None` where no rule was looked at or its name is not known.
fn rule_name(ruling: &Ruling) -> Option<Cow<'_, str>> {
    match ruling.reason {
        Reason::Default => Some(Cow::Borrowed(DEFAULT_RULE)),
        _ => ruling.rule.as_ref().map(|rule| rule.value()),
    }
}

/// What stands for the name of a TLS client that claims none.
const NAMELESS: &str = "-";

/// The rule's name where no rule matched.
pub(crate) const DEFAULT_RULE: &str = "(default)";

/// `NS/NAME`, or `uid:UID` as long as only the node knows the pod.
fn pod_name(pod: &Pod) -> Option<Cow<'_, str>> {
    match (&pod.namespace, &pod.name, &pod.uid) {
        (Some(namespace), Some(name), _) => {
            Some(Cow::Owned(format!("{}/{}", namespace.word(), name.word())))
        }
        (_, _, Some(uid)) => Some(Cow::Owned(format!("uid:{}", uid.word()))),
        _ => None,
    }
}

/// The colour of an action.
pub(crate) fn action_style(action: Action) -> Style {
    match action {
        Action::Deny => AnsiColor::Red.on_default().bold(),
        Action::Held => AnsiColor::Yellow.on_default(),
        Action::Allow => AnsiColor::Green.on_default(),
        Action::Modify => AnsiColor::Magenta.on_default(),
    }
}
