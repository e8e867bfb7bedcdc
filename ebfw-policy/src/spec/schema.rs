//! The JSON Schema of a policy file, for editors and for validation elsewhere.
//!
//! It refuses nothing that [`crate::parse_policy`] accepts. What depends on more than one place or cannot be said in a pattern (host bits, reversed
//! ranges, most of globs) is left to the reader.

use ebfw_common::request::MAX_METHOD;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{PolicySpec, pattern};

/// Patterns of texts, by place.
const PATTERNS: [(&str, &str); 19] = [
    ("/$defs/RuleSpec/properties/name", pattern::RULE_NAME),
    ("/$defs/MatchSpec/properties/cgroups/items", "^/"),
    ("/$defs/MatchSpec/properties/domains/items", pattern::DOMAIN),
    ("/$defs/MatchSpec/properties/cidrs/items", pattern::CIDR),
    ("/$defs/MatchSpec/properties/methods/items", pattern::TOKEN),
    ("/$defs/PortSpec/anyOf/1", pattern::PORTS),
    ("/$defs/ProtocolSpec/anyOf/1", pattern::PROTOCOL),
    ("/$defs/PodSpec/properties/namespace", pattern::OBJECT_NAME),
    ("/$defs/PodSpec/properties/name", pattern::OBJECT_NAME),
    ("/$defs/PodSpec/properties/uid", pattern::OBJECT_NAME),
    (
        "/$defs/PodSpec/properties/labels/additionalProperties",
        pattern::LABEL,
    ),
    (
        "/$defs/PodSpec/properties/labels/propertyNames",
        pattern::LABEL_KEY,
    ),
    (
        "/$defs/LabelSelector/properties/matchLabels/additionalProperties",
        pattern::LABEL,
    ),
    (
        "/$defs/LabelSelector/properties/matchLabels/propertyNames",
        pattern::LABEL_KEY,
    ),
    ("/$defs/RequirementSpec/properties/key", pattern::LABEL_KEY),
    (
        "/$defs/RequirementSpec/properties/values/items",
        pattern::LABEL,
    ),
    ("/$defs/MutationSpec/properties/header", pattern::TOKEN),
    ("/$defs/MutationSpec/properties/value", r"^[^\n\r]*$"),
    (
        "/$defs/MutationSpec/properties/pathReplace",
        r"^/[^ \n\r\t]*$",
    ),
];

/// Fields that are needed with some values of another field of the same object and refused with all others: object, field, values, needed.
const CONDITIONS: [(&str, &str, &[&str], &str); 5] = [
    ("RuleSpec", "action", &["Modify"], "mutations"),
    ("RequirementSpec", "operator", &["In", "NotIn"], "values"),
    (
        "MutationSpec",
        "type",
        &["SetHeader", "AddHeader", "RemoveHeader"],
        "header",
    ),
    ("MutationSpec", "type", &["SetHeader", "AddHeader"], "value"),
    ("MutationSpec", "type", &["RewritePath"], "pathReplace"),
];

/// The schema.
///
/// # Panics
/// A table of this module names a place that the types do not have; the tests rule that out.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = generator.into_root_schema_for::<PolicySpec>();
    schema.insert("title".to_owned(), "ebfw egress policy".into());
    let mut schema = schema.to_value();
    refuse_null(&mut schema);
    schema["$defs"]["RuleSpec"]["properties"]["mutations"]["minItems"] = 1.into();
    let methods = &mut schema["$defs"]["MatchSpec"]["properties"]["methods"];
    methods["items"]["maxLength"] = MAX_METHOD.into();
    for (at, pattern) in PATTERNS {
        *place(&mut schema, at) = pattern.into();
    }
    for (object, field, values, needed) in CONDITIONS {
        let condition = json!({
            "if": { "properties": { field: { "enum": values } }, "required": [field] },
            "then": { "required": [needed] },
            "else": { "properties": { needed: false } },
        });
        let object = schema
            .pointer_mut(&format!("/$defs/{object}"))
            .and_then(Value::as_object_mut);
        let conditions = object
            .expect("it is an object of the policy")
            .entry("allOf")
            .or_insert_with(|| json!([]));
        conditions
            .as_array_mut()
            .expect("it was made a list")
            .push(condition);
    }
    schema
}

/// The pattern of what stands at `at`; the names of a map's fields are a schema of their own.
fn place<'s>(schema: &'s mut Value, at: &str) -> &'s mut Value {
    let (at, names) = match at.strip_suffix("/propertyNames") {
        Some(at) => (at, true),
        None => (at, false),
    };
    let place = schema
        .pointer_mut(at)
        .unwrap_or_else(|| panic!("the schema has no `{at}`"));
    match names {
        true => &mut place["propertyNames"]["pattern"],
        false => &mut place["pattern"],
    }
}

/// A field without a value is an error; types in Rust call that optional.
fn refuse_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_mut_slice() {
                    let only = only.take();
                    fields.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(forms)) = fields.get_mut("anyOf") {
                forms.retain(|form| *form != json!({ "type": "null" }));
                if let [only] = forms.as_mut_slice()
                    && let Value::Object(only) = only.take()
                {
                    fields.remove("anyOf");
                    fields.extend(only);
                }
            }
            fields.values_mut().for_each(refuse_null);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
