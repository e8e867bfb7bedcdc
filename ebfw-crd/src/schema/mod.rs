//! The definitions of the two kinds as the API server takes them: what the types say, and the limits and CEL rules of [`rules`].
//!
//! Whether a value means something is decided by `ebfw_policy`; the schema refuses what can be refused when an object is written, so that people
//! learn of it at once.

mod offline;
mod reference;
pub mod rules;

pub use offline::Offline;
pub use reference::reference;

use ebfw_policy::object::Kind;
use kube::CustomResourceExt;
use schemars::schema_for;
use serde_json::{Map, Value, json};

use self::rules::{LIMITS, Limit, RULES};
use crate::{ClusterEgressPolicy, ClusterEgressPolicySpec, EgressPolicy, EgressPolicySpec};

/// First line of each file that is written.
const HEADER: &str =
    "# Written by `cargo xtask generate` from the types in ebfw-crd; do not edit.\n";

/// The CustomResourceDefinition of `kind`.
///
/// # Panics
/// A table of [`rules`] names a field that the types do not have; the tests of this crate rule that out.
#[must_use]
pub fn definition(kind: Kind) -> Value {
    let (definition, words) = match kind {
        Kind::EgressPolicy => (EgressPolicy::crd(), schema_for!(EgressPolicySpec)),
        Kind::ClusterEgressPolicy => (
            ClusterEgressPolicy::crd(),
            schema_for!(ClusterEgressPolicySpec),
        ),
    };
    let mut definition = serde_json::to_value(definition).expect("a definition is JSON");
    let schema = schema_mut(&mut definition);
    complete(schema);
    describe(place(schema, "spec"), words.as_value(), words.as_value());
    for Limit { at, key, value } in LIMITS {
        place(schema, at).insert((*key).to_owned(), value.to_json());
    }
    for rule in RULES.iter().filter(|rule| rule.is_for(kind)) {
        let rules = place(schema, rule.at)
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        let rules = rules.as_array_mut().expect("it was made a list");
        rules.push(rule.to_json());
    }
    definition
}

/// The definition as a file.
///
/// # Panics
/// Never: a definition has nothing that YAML cannot say.
#[must_use]
pub fn manifest(kind: Kind) -> String {
    let options = serde_saphyr::ser_options! {
        prefer_block_scalars: false,
    };
    let yaml = serde_saphyr::to_string_with_options(&definition(kind), options)
        .expect("JSON is said in YAML");
    format!("{HEADER}{yaml}")
}

/// The schema of objects in a definition.
fn schema_mut(definition: &mut Value) -> &mut Value {
    &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Makes a schema structural where the types alone do not.
fn complete(schema: &mut Value) {
    for at in [
        "spec.rules[].match.ports[]",
        "spec.rules[].match.protocols[]",
    ] {
        let entry = place(schema, at);
        let description = entry.remove("description");
        *entry = Map::new();
        entry.insert("x-kubernetes-int-or-string".to_owned(), true.into());
        let forms = json!([{ "type": "integer" }, { "type": "string" }]);
        entry.insert("anyOf".to_owned(), forms);
        entry.extend(description.map(|text| ("description".to_owned(), text)));
    }
    // Only policy files select cgroups.
    let fields = place(schema, "spec.rules[].match").get_mut("properties");
    let fields = fields.and_then(Value::as_object_mut);
    fields.expect("a match has fields").remove("cgroups");
    // An empty value that a template left behind must not become "anything": the API server drops null from a field that cannot be null, and puts
    // the default in its place if there is one. Kept, it makes the object invalid.
    keep_null(&mut schema["properties"]["spec"], true);
    for at in ["spec.rules[].match", "spec.rules"] {
        place(schema, at).remove("default");
    }
    let conditions = place(schema, "status.conditions");
    conditions.insert("x-kubernetes-list-type".to_owned(), "map".into());
    conditions.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    if let Some(root) = schema.as_object_mut() {
        root.remove("title");
    }
}

/// Gives each field the words of its own comment, of which the inlining of types lost some, and those of the values that it may have.
/// `words`: the schema of its type as schemars writes it, in the document `whole`.
fn describe(schema: &mut Map<String, Value>, words: &Value, whole: &Value) {
    let Some(own) = resolve(words, whole) else {
        return;
    };
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, field) in fields {
            if let (Some(field), Some(words)) = (field.as_object_mut(), own["properties"].get(name))
            {
                describe(field, words, whole);
                let values = resolve(words, whole).map(values).unwrap_or_default();
                if let Some(text) = words["description"].as_str() {
                    let text = std::iter::once(text.to_owned()).chain(values);
                    let text = text.collect::<Vec<_>>().join("\n");
                    field.insert("description".to_owned(), text.into());
                }
            }
        }
    }
    if let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut) {
        describe(items, &own["items"], whole);
    }
}

/// What a schema is, behind references and `Option`.
fn resolve<'w>(words: &'w Value, whole: &'w Value) -> Option<&'w Value> {
    if let Some(name) = words["$ref"].as_str() {
        return resolve(whole["$defs"].get(name.strip_prefix("#/$defs/")?)?, whole);
    }
    let forms = words["anyOf"].as_array();
    let optional = forms.filter(|forms| forms.iter().any(|form| form["type"] == "null"));
    match optional {
        Some(forms) => resolve(forms.iter().find(|form| form["type"] != "null")?, whole),
        None => Some(words),
    }
}

/// `VALUE: WHAT IT MEANS`, for each value of an enum.
fn values(words: &Value) -> Vec<String> {
    let values = words["oneOf"].as_array().map(Vec::as_slice);
    let value = |form: &Value| {
        Some(format!(
            "{}: {}",
            form["const"].as_str()?,
            form["description"].as_str()?
        ))
    };
    values
        .unwrap_or_default()
        .iter()
        .filter_map(value)
        .collect()
}

/// Lets every optional field below keep an explicit null.
fn keep_null(schema: &mut Value, required: bool) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if !required {
        schema.insert("nullable".to_owned(), true.into());
    }
    let names: Vec<String> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| {
            names
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        })
        .unwrap_or_default();
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, field) in fields {
            keep_null(field, names.contains(name));
        }
    }
    if let Some(items) = schema.get_mut("items") {
        keep_null(items, true);
    }
}

/// The schema at `at`: `spec.rules[].match.cidrs[]` are the entries of `cidrs`, `spec.podSelector.matchLabels{}` the values of the map.
fn place<'s>(schema: &'s mut Value, at: &str) -> &'s mut Map<String, Value> {
    fn descend<'s>(schema: &'s mut Value, at: &str) -> Option<&'s mut Map<String, Value>> {
        let mut place = schema;
        for step in at.split('.') {
            let name = step.trim_end_matches("[]").trim_end_matches("{}");
            place = place.get_mut("properties")?.get_mut(name)?;
            place = match &step[name.len()..] {
                "" => place,
                "[]" => place.get_mut("items")?,
                "{}" => place.get_mut("additionalProperties")?,
                _ => return None,
            };
        }
        place.as_object_mut()
    }
    descend(schema, at).unwrap_or_else(|| panic!("the schema has no `{at}`"))
}

#[cfg(test)]
mod tests;
