//! What `ebfw exec` says at its end: which destinations were refused and which allowed, by which rule, how often.
//! It is a sink for events; it keeps sums, not events, and a bounded number of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::IpAddr,
};

use anstyle::Style;
use serde::Serialize;

use crate::events::{
    Colour, Event, Printable,
    event::{Action, Flow, Kind, Mode, Protocol, Reason},
    sink::{Sink, Unwritten},
    text::{DEFAULT_RULE, Destination, action_style},
};

/// Rows that are kept apart; flows beyond are counted in the totals alone. A scan of ports must not eat the memory.
const MAX_ROWS: usize = 10_000;
/// Names of commands that are kept for a row.
const MAX_COMMANDS: usize = 8;

/// Sums of events.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: BTreeMap<Key, Row>,
    totals: Totals,
    /// A Deny was seen that was not carried out.
    lenient: Option<Mode>,
    beyond: u64,
}

/// What makes events one row; in the order in which rows are shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    verdict: Verdict,
    destination: Option<IpAddr>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    rule: Option<Printable>,
    reason: Option<Reason>,
}

/// Denied first, what was only observed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ruled(Action),
    Observed,
}

#[derive(Clone, Debug, Default)]
struct Row {
    count: u64,
    commands: BTreeSet<Printable>,
}

/// How many flows there were of each verdict, those that were left out as repetitions included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Denied.
    pub deny: u64,
    /// Held.
    pub held: u64,
    /// Allowed.
    pub allow: u64,
    /// Allowed by a Modify rule.
    pub modify: u64,
    /// Not evaluated.
    pub observed: u64,
}

impl Report {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `event` to the sums. What is no flow (a question, a request) has no row.
    pub fn add(&mut self, event: &Event) {
        let Event {
            at: _,
            subject,
            process,
            pod: _,
            cgroup: _,
            ruling,
            suppressed,
        } = event;
        // A question is no flow of its own: the packet that carries it is judged, or passes unjudged, by itself.
        if subject.kind() == Kind::Dns {
            return;
        }
        let Some(&Flow {
            source: _,
            source_port: _,
            destination,
            port,
            protocol,
        }) = subject.flow()
        else {
            return;
        };
        let verdict = ruling
            .as_ref()
            .map_or(Verdict::Observed, |ruling| Verdict::Ruled(ruling.action));
        let count = 1 + u64::from(*suppressed);
        *self.totals.of(verdict) += count;
        if let Some(ruling) = ruling
            && ruling.action == Action::Deny
            && ruling.mode != Mode::Enforce
        {
            self.lenient = Some(ruling.mode);
        }
        let key = Key {
            verdict,
            destination,
            port,
            protocol,
            rule: ruling.as_ref().and_then(|ruling| ruling.rule.clone()),
            reason: ruling.as_ref().map(|ruling| ruling.reason),
        };
        if self.rows.len() == MAX_ROWS && !self.rows.contains_key(&key) {
            self.beyond += count;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.count += count;
        if let Some(comm) = process.as_ref().and_then(|process| process.comm.as_ref())
            && row.commands.len() < MAX_COMMANDS
        {
            row.commands.insert(comm.clone());
        }
    }

    /// Adds flows that the kernel's rate limit left out and no event told of: to the row of the same flows, or to one without a rule.
    pub fn add_left_out(
        &mut self,
        destination: IpAddr,
        port: Option<u16>,
        protocol: u8,
        denied: bool,
        count: u64,
    ) {
        let protocol = Protocol(protocol);
        let same = |key: &&Key| {
            let is_deny = key.verdict == Verdict::Ruled(Action::Deny);
            (key.destination, key.port, key.protocol) == (Some(destination), port, Some(protocol))
                && is_deny == denied
        };
        let key = self.rows.keys().find(same).cloned().unwrap_or(Key {
            verdict: if denied {
                Verdict::Ruled(Action::Deny)
            } else {
                Verdict::Observed
            },
            destination: Some(destination),
            port,
            protocol: Some(protocol),
            rule: None,
            reason: None,
        });
        *self.totals.of(key.verdict) += count;
        self.rows.entry(key).or_default().count += count;
    }

    /// The sums over all rows.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// An aligned table for people and a line with the totals. `lost` events are missing from it.
    #[must_use]
    pub fn table(&self, lost: u64, colour: Colour) -> String {
        let mut out = String::new();
        self.write_table(&mut out, lost, colour)
            .expect("writing to a String does not fail");
        out
    }

    fn write_table(&self, out: &mut String, lost: u64, colour: Colour) -> fmt::Result {
        if self.rows.is_empty() {
            out.push_str(if lost == 0 {
                "ebfw: the command opened no connection\n"
            } else {
                "ebfw: no connection was seen\n"
            });
        } else {
            let lines: Vec<[String; 6]> = self.sorted().map(|(key, row)| cells(key, row)).collect();
            let widths = std::array::from_fn(|column| {
                lines
                    .iter()
                    .map(|line| line[column].chars().count())
                    .chain([HEADINGS[column].len()])
                    .max()
                    .unwrap_or_default()
            });
            write_line(out, &HEADINGS, &widths, Style::new())?;
            for ((key, _), line) in self.sorted().zip(&lines) {
                write_line(
                    out,
                    &line.each_ref().map(String::as_str),
                    &widths,
                    style(key.verdict, colour),
                )?;
            }
            let Totals {
                deny,
                held,
                allow,
                modify,
                observed,
            } = self.totals;
            write!(out, "\nebfw: {deny} denied, {allow} allowed")?;
            for (count, word) in [
                (held, "held"),
                (modify, "allowed by Modify"),
                (observed, "not evaluated"),
            ] {
                if count > 0 {
                    write!(out, ", {count} {word}")?;
                }
            }
            out.push('\n');
        }
        if let Some(mode) = self.lenient {
            writeln!(
                out,
                "ebfw: mode {}: what is denied was let through",
                mode.name()
            )?;
        }
        if self.beyond > 0 {
            writeln!(
                out,
                "ebfw: {} flows beyond the first {MAX_ROWS} rows are in the totals only",
                self.beyond
            )?;
        }
        if lost > 0 {
            writeln!(
                out,
                "ebfw: {lost} events were lost, so the report is not complete"
            )?;
        }
        Ok(())
    }

    /// The same as one JSON object, with a line feed at its end.
    #[must_use]
    pub fn json(&self, lost: u64) -> String {
        let flows = self
            .sorted()
            .map(|(key, row)| FlowObject::new(key, row))
            .collect();
        let document = Document {
            flows,
            totals: self.totals,
            beyond: self.beyond,
            lost,
        };
        let mut text =
            serde_json::to_string(&document).expect("strings and numbers have a JSON form");
        text.push('\n');
        text
    }

    /// Rows by verdict, then the most frequent first.
    fn sorted(&self) -> impl Iterator<Item = (&Key, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(key, row)| (key.verdict, std::cmp::Reverse(row.count)));
        rows.into_iter()
    }
}

impl Sink for Report {
    fn write(&mut self, event: &Event) -> Result<(), Unwritten> {
        self.add(event);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Unwritten> {
        Ok(())
    }
}

impl Totals {
    fn of(&mut self, verdict: Verdict) -> &mut u64 {
        match verdict {
            Verdict::Ruled(Action::Deny) => &mut self.deny,
            Verdict::Ruled(Action::Held) => &mut self.held,
            Verdict::Ruled(Action::Allow) => &mut self.allow,
            Verdict::Ruled(Action::Modify) => &mut self.modify,
            Verdict::Observed => &mut self.observed,
        }
    }
}

const HEADINGS: [&str; 6] = [
    "ACTION",
    "DESTINATION",
    "PROTOCOL",
    "RULE",
    "COUNT",
    "COMMAND",
];
/// Numbers stand at the right of their column.
const COUNT_COLUMN: usize = 4;

fn cells(key: &Key, row: &Row) -> [String; 6] {
    let action = match key.verdict {
        Verdict::Ruled(action) => action.title(),
        Verdict::Observed => "-",
    };
    let commands: Vec<_> = row.commands.iter().map(Printable::as_str).collect();
    [
        action.into(),
        Destination(key.destination, key.port).to_string(),
        key.protocol
            .map_or_else(|| "?".into(), |protocol| protocol.to_string()),
        rule(key),
        row.count.to_string(),
        commands.join(", "),
    ]
}

/// The rule's name, else in brackets why it was decided without one.
fn rule(key: &Key) -> String {
    match (&key.rule, key.reason) {
        (Some(rule), _) => rule.to_string(),
        (None, Some(Reason::Rule)) => "(unknown)".into(),
        (None, Some(reason)) => format!("({})", reason.name()),
        (None, None) => "-".into(),
    }
}

fn write_line(
    out: &mut String,
    cells: &[&str; 6],
    widths: &[usize; 6],
    style: Style,
) -> fmt::Result {
    let mut line = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = if column == 0 { "" } else { "  " };
        match column {
            0 => write!(line, "{style}{cell:<width$}{style:#}")?,
            COUNT_COLUMN => write!(line, "{gap}{cell:>width$}")?,
            _ => write!(line, "{gap}{cell:<width$}")?,
        }
    }
    writeln!(out, "{}", line.trim_end())
}

fn style(verdict: Verdict, colour: Colour) -> Style {
    match (colour, verdict) {
        (Colour::Never, _) | (_, Verdict::Observed) => Style::new(),
        (Colour::Ansi, Verdict::Ruled(action)) => action_style(action),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    flows: Vec<FlowObject<'a>>,
    totals: Totals,
    /// Flows in the totals without a row.
    beyond: u64,
    lost: u64,
}

/// Keys as in events.
#[derive(Serialize)]
struct FlowObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    count: u64,
    comms: &'a BTreeSet<Printable>,
}

impl<'a> FlowObject<'a> {
    fn new(key: &'a Key, row: &'a Row) -> Self {
        let Key {
            verdict,
            destination,
            port,
            protocol,
            rule,
            reason,
        } = key;
        Self {
            action: match verdict {
                Verdict::Ruled(action) => Some(action.name()),
                Verdict::Observed => None,
            },
            dst: *destination,
            port: *port,
            protocol: protocol.map(|protocol| protocol.to_string()),
            rule: match reason {
                Some(Reason::Default) => Some(DEFAULT_RULE),
                _ => rule.as_ref().map(Printable::as_str),
            },
            reason: reason.map(Reason::name),
            count: row.count,
            comms: &row.commands,
        }
    }
}

#[cfg(test)]
mod tests;
