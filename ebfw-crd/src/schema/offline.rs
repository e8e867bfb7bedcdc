//! What the API server would say of an object, without one: the CEL rules by kube-cel, the limits here.
//!
//! Types and patterns are not looked at again: `ebfw_policy` is stricter there.

use std::fmt;

use ebfw_policy::{Violation, object::Kind};
use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

use super::{definition, schema_mut};

/// Lengths and counts that a schema limits.
const LIMITS: [(&str, Bound); 5] = [
    ("maxItems", Bound::Most),
    ("maxProperties", Bound::Most),
    ("maxLength", Bound::Most),
    ("maximum", Bound::Most),
    ("minimum", Bound::Least),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Least,
    Most,
}

/// The schemas of both kinds, made ready.
pub struct Offline {
    cluster: Schema,
    namespaced: Schema,
    validator: Validator,
}

struct Schema {
    schema: Value,
    compiled: CompiledSchema,
}

impl Offline {
    /// Compiles every rule.
    ///
    /// # Panics
    /// A rule is no CEL, which the tests of this crate rule out.
    #[must_use]
    pub fn new() -> Self {
        let schema = |kind| {
            let mut definition = definition(kind);
            let schema = schema_mut(&mut definition).take();
            let compiled = compile_schema(&schema);
            let errors = compiled.compilation_errors();
            assert!(errors.is_empty(), "a rule is no CEL: {errors:?}");
            Schema { schema, compiled }
        };
        Self {
            cluster: schema(Kind::ClusterEgressPolicy),
            namespaced: schema(Kind::EgressPolicy),
            validator: Validator::new(),
        }
    }

    /// What the schema of `kind` refuses in `object`, which is the whole object with its metadata.
    #[must_use]
    pub fn violations(&self, kind: Kind, object: &Value) -> Vec<Violation> {
        let Schema { schema, compiled } = match kind {
            Kind::ClusterEgressPolicy => &self.cluster,
            Kind::EgressPolicy => &self.namespaced,
        };
        let mut violations = Vec::new();
        bounds(schema, object, &mut String::new(), &mut violations);
        // As the API server: rules are not asked about what is too large for them.
        if !violations.is_empty() {
            return violations;
        }
        if let Err(errors) = self.validator.validate_compiled(compiled, object, None) {
            violations.extend(errors.into_vec().into_iter().map(|error| Violation {
                field: error.field_path,
                message: error.message,
            }));
        }
        violations
    }
}

impl Default for Offline {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offline").finish_non_exhaustive()
    }
}

/// Whether lengths and numbers are within the limits of the schema, at and below `value`.
fn bounds(schema: &Value, value: &Value, path: &mut String, found: &mut Vec<Violation>) {
    for (key, bound) in LIMITS {
        let Some(limit) = schema.get(key).and_then(Value::as_f64) else {
            continue;
        };
        let Some((size, what)) = size(key, value) else {
            continue;
        };
        let (broken, word) = match bound {
            Bound::Most => (size > limit, "at most"),
            Bound::Least => (size < limit, "at least"),
        };
        if broken {
            found.push(Violation {
                field: path.clone(),
                message: format!("{size}{what}, {word} {limit} are possible"),
            });
        }
    }
    let length = path.len();
    match value {
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{at}]"));
                    bounds(schema, item, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let own = schema.get("properties").and_then(|own| own.get(name));
                let Some(schema) = own.or_else(|| schema.get("additionalProperties")) else {
                    continue;
                };
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                bounds(schema, field, path, found);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The number that a limit is about, and what it counts.
fn size(key: &str, value: &Value) -> Option<(f64, &'static str)> {
    let count = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
    match (key, value) {
        ("maxItems", Value::Array(items)) => Some((count(items.len()), " entries")),
        ("maxProperties", Value::Object(fields)) => Some((count(fields.len()), " entries")),
        ("maxLength", Value::String(text)) => Some((count(text.chars().count()), " characters")),
        ("maximum" | "minimum", Value::Number(number)) => Some((number.as_f64()?, "")),
        _ => None,
    }
}
