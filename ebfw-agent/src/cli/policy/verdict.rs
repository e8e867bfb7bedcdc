//! How a judged flow is printed: one line of text or one JSON object, and the reasons below it or in it.

use std::io::{self, Write};

use ebfw_policy::{
    evaluate::{Decision, Judgement},
    explain::Explanation,
    policy::Action,
};
use serde::Serialize;

use super::judge::{Explained, Joined, Judged, Why};

/// Column of the rule in the text: the longest action and two blanks.
const ACTION_WIDTH: usize = 8;

/// `ACTION  rule=NAME  FLOW`, and a line for each rule that is explained.
pub(super) fn write_text(
    out: &mut impl Write,
    judged: &Judged,
    explained: &Explained<'_>,
) -> io::Result<()> {
    let action = title(judged.decision);
    let line = format!(
        "{action:<ACTION_WIDTH$}rule={}  {}",
        rule_or_why(judged),
        judged.question.text
    );
    write!(out, "{}", line.trim_end())?;
    match (judged.as_expected(), judged.question.flow.expect()) {
        (Some(false), Some(expected)) => writeln!(out, "  expected={}", title(expected))?,
        _ => writeln!(out)?,
    }
    let Explained { objects, rules } = explained;
    for object in objects {
        let Joined {
            object,
            priority,
            default,
        } = object;
        let default = action_title(*default);
        writeln!(
            out,
            "  from  {object}  priority={priority}  default={default}"
        )?;
    }
    let words: Vec<String> = rules.iter().map(|rule| in_words(rule.judgement)).collect();
    let width = words.iter().map(String::len).max().unwrap_or(0);
    for (rule, words) in rules.iter().zip(&words) {
        let (name, action) = (&rule.rule.name, action_title(rule.rule.action));
        writeln!(
            out,
            "  {:>4}  {words:<width$}  {action:<ACTION_WIDTH$}{name}",
            rule.index + 1
        )?;
    }
    Ok(())
}

/// One JSON object on a line.
pub(super) fn write_json(
    out: &mut impl Write,
    judged: &Judged,
    explained: &Explained<'_>,
) -> anyhow::Result<()> {
    let object = serde_json::to_string(&Object::new(judged, explained))?;
    writeln!(out, "{object}")?;
    Ok(())
}

fn title(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "Allow",
        Decision::Deny => "Deny",
        Decision::Modify => "Modify",
        Decision::Held => "Held",
    }
}

pub(super) fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
        Decision::Modify => "modify",
        Decision::Held => "held",
    }
}

fn action_title(action: Action) -> &'static str {
    title(action.into())
}

/// The rule's name, or in parentheses why there is none.
fn rule_or_why(judged: &Judged) -> &str {
    match &judged.rule {
        Some(name) => name,
        None => match judged.why {
            Why::Loopback => "(loopback)",
            Why::Ungoverned => "(ungoverned)",
            Why::Ambiguous => "(ambiguous)",
            Why::Rule | Why::Opaque | Why::Default | Why::Waiting(_) => "(default)",
        },
    }
}

fn in_words(judgement: Judgement) -> String {
    match judgement {
        Judgement::Yes => "yes".to_owned(),
        Judgement::YesOpaque(dimension) => format!("yes, {} opaque", dimension.field()),
        Judgement::No(dimension) => format!("no, {}", dimension.field()),
        Judgement::NoOpaque(dimension) => format!("no, {} opaque", dimension.field()),
        Judgement::NotYet(dimension) => format!("not known yet, {}", dimension.field()),
    }
}

#[derive(Serialize)]
struct Object<'j> {
    action: &'static str,
    rule: Option<&'j str>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    opaque: &'j [String],
    flow: &'j str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_expected: Option<bool>,
    #[serde(skip_serializing_if = "<[Joined]>::is_empty")]
    policies: &'j [Joined],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<ExplainedRule<'j>>,
}

#[derive(Serialize)]
struct ExplainedRule<'j> {
    name: &'j str,
    action: &'static str,
    matches: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimension: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    opaque: bool,
}

impl<'j> Object<'j> {
    fn new(judged: &'j Judged, explained: &'j Explained<'_>) -> Self {
        let Judged {
            question,
            decision,
            rule,
            why,
            opaque,
        } = judged;
        let (reason, waiting_for) = match why {
            Why::Rule => ("rule", None),
            Why::Opaque => ("opaque", None),
            Why::Default => ("default", None),
            Why::Loopback => ("loopback", None),
            Why::Ungoverned => ("ungoverned", None),
            Why::Waiting(dimension) => ("waiting", Some(dimension.field())),
            Why::Ambiguous => ("ambiguous", None),
        };
        Self {
            action: word(*decision),
            rule: rule.as_deref(),
            reason,
            waiting_for,
            opaque,
            flow: &question.text,
            expect: question.flow.expect().map(word),
            as_expected: judged.as_expected(),
            policies: &explained.objects,
            rules: explained.rules.iter().map(ExplainedRule::new).collect(),
        }
    }
}

impl<'j> ExplainedRule<'j> {
    fn new(explanation: &'j Explanation<'_>) -> Self {
        let (matches, dimension, opaque) = match explanation.judgement {
            Judgement::Yes => ("yes", None, false),
            Judgement::YesOpaque(dimension) => ("yes", Some(dimension), true),
            Judgement::No(dimension) => ("no", Some(dimension), false),
            Judgement::NoOpaque(dimension) => ("no", Some(dimension), true),
            Judgement::NotYet(dimension) => ("not-yet", Some(dimension), false),
        };
        Self {
            name: &explanation.rule.name,
            action: word(explanation.rule.action.into()),
            matches,
            dimension: dimension.map(ebfw_policy::evaluate::Dimension::field),
            opaque,
        }
    }
}
