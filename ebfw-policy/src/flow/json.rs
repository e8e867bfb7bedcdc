//! A flow as one JSON object: the same keys, labels as an object, names as a list or separated by commas.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{Flow, FlowError};

/// The members of an object in order, duplicates kept; those of `labels` stand among them as `label.KEY`.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "labels" {
                let Members(labels) = map.next_value::<Option<_>>()?.unwrap_or_default();
                let labels = labels.into_iter();
                members.extend(labels.map(|(label, value)| (format!("label.{label}"), value)));
            } else {
                members.push((key, map.next_value()?));
            }
        }
        Ok(members)
    }
}

/// Reads one line. A member that is `null` or an empty text (no label's) is absent, as writers that never leave members out have it.
pub(super) fn parse(line: &str) -> Result<Flow, FlowError> {
    let Members(members) = serde_json::from_str(line).map_err(|error| not_json(&error))?;
    let mut flow = Flow::default();
    for (key, value) in members {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            (key, Value::String(text)) if text.is_empty() && !key.starts_with("label.") => {}
            ("resolved", Value::Array(names)) if names.is_empty() => {}
            ("resolved", Value::Array(names)) => {
                let names = names
                    .into_iter()
                    .map(|name| text(&key, name))
                    .collect::<Result<Vec<_>, _>>()?;
                flow.set(&key, &names.join(","))?;
            }
            (_, value) => {
                let value = text(&key, value)?;
                flow.set(&key, &value)?;
            }
        }
    }
    if flow == Flow::default() {
        Err(FlowError::Empty)
    } else {
        Ok(flow)
    }
}

/// Says the column alone: which line it is only the caller knows.
fn not_json(error: &serde_json::Error) -> FlowError {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = said.strip_suffix(&place).unwrap_or(&said);
    FlowError::Json(format!("{what} at column {}", error.column()))
}

fn text(key: &str, value: Value) -> Result<String, FlowError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        value @ (Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(wrong(key, &value, "a text or a number is wanted"))
        }
    }
}

fn wrong(key: &str, value: &Value, wanted: &'static str) -> FlowError {
    FlowError::BadValue {
        key: key.escape_debug().to_string(),
        value: value.to_string(),
        wanted,
    }
}
