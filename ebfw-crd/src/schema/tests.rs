use super::*;

/// Every schema below the root, with the way to it.
fn all<'s>(schema: &'s Value, at: String, found: &mut Vec<(String, &'s Value)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        all(field, format!("{at}.{name}"), found);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(schema) = schema.get(key) {
            all(schema, format!("{at}{mark}"), found);
        }
    }
    found.push((at, schema));
}

fn schemas(kind: Kind, look: impl Fn(&str, &Value)) {
    let mut definition = definition(kind);
    let schema = schema_mut(&mut definition);
    let mut found = Vec::new();
    all(schema, String::new(), &mut found);
    assert!(found.len() > 40, "{} schemas", found.len());
    for (at, schema) in found {
        look(&at, schema);
    }
}

#[test]
fn every_field_is_explained() {
    for kind in Kind::ALL {
        schemas(kind, |at, schema| {
            if !at.ends_with("[]") && !at.ends_with("{}") && !at.is_empty() {
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(text.len() > 10, "{at} has no description: {schema}");
            }
        });
    }
}

#[test]
fn what_costs_something_is_bounded() {
    for kind in Kind::ALL {
        schemas(kind, |at, schema| {
            if !at.starts_with(".spec") {
                return;
            }
            match schema["type"].as_str() {
                Some("array") => assert!(schema["maxItems"].is_number(), "{at}"),
                Some("object") if schema.get("additionalProperties").is_some() => {
                    assert!(schema["maxProperties"].is_number(), "{at}");
                }
                Some("string") => assert!(
                    schema["maxLength"].is_number()
                        || schema["enum"].is_array()
                        || at.ends_with("{}"),
                    "{at}"
                ),
                _ => {}
            }
        });
    }
}

#[test]
fn no_optional_field_turns_null_into_anything() {
    schemas(Kind::ClusterEgressPolicy, |at, schema| {
        let optional = at.starts_with(".spec.rules[].match.") && !at.ends_with([']', '}']);
        let required = at.ends_with(".key") || at.ends_with(".operator");
        if optional && !required {
            assert_eq!(schema["nullable"], true, "{at}");
        }
    });
}

#[test]
fn enum_values_are_explained_with_their_field() {
    let mut definition = definition(Kind::EgressPolicy);
    let schema = schema_mut(&mut definition);
    let text = place(schema, "spec.domainMatch")["description"].to_string();
    assert!(text.contains("Glob when absent"), "{text}");
    assert!(text.contains("Suffix: Both mean the name"), "{text}");
}

#[test]
fn the_kinds_have_the_fields_of_a_policy_file_and_their_own() {
    let names = |schema: &Value| -> Vec<String> {
        let fields = schema["properties"].as_object().unwrap();
        let mut names: Vec<String> = fields.keys().cloned().collect();
        names.sort();
        names
    };
    let file = ebfw_policy::spec::schema();
    for (kind, own) in [
        (Kind::EgressPolicy, &["priority"][..]),
        (Kind::ClusterEgressPolicy, &["priority", "scope"]),
    ] {
        let mut definition = definition(kind);
        let spec = &schema_mut(&mut definition)["properties"]["spec"];
        let mut wanted = names(&file);
        wanted.extend(own.iter().map(|name| (*name).to_owned()));
        wanted.sort();
        assert_eq!(names(spec), wanted, "{kind:?}");
    }
}
