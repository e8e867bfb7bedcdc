//! What is said of policy objects without an API server: each row of the table with the field that is wrong.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests as well"
)]

mod support;

use ebfw_crd::schema::{Offline, rules::RULES};
use ebfw_policy::{Manifests, diagnostics::Diagnostics, object::PolicyObject, parse_manifests};
use support::{Case, cases};

fn read(case: &Case, schema: &Offline) -> Result<Manifests, Diagnostics> {
    let text = serde_json::to_string(&case.object()).unwrap();
    parse_manifests(&text, &|kind, object| schema.violations(kind, object))
}

#[test]
fn each_object_is_accepted_or_refused_at_its_field() {
    let schema = Offline::new();
    for case in cases() {
        let why = &case.why;
        match (read(&case, &schema), &case.refused) {
            (Ok(manifests), None) => assert_eq!(manifests.objects.len(), 1, "{why}"),
            (Err(problems), Some(field)) => {
                let fields: Vec<_> = problems.iter().filter_map(|p| p.field.as_deref()).collect();
                assert!(
                    fields.contains(&field.as_str()),
                    "{why}: {fields:?}\n{problems}"
                );
            }
            (Ok(_), Some(field)) => panic!("{why}: accepted, but {field} is wrong"),
            (Err(problems), None) => panic!("{why}: {problems}"),
        }
    }
}

/// As the agent reads objects: without the schema, which the API server has applied.
#[test]
fn the_agent_alone_refuses_what_it_must_not_take() {
    for case in cases() {
        let object = case.object();
        let id = match case.kind() {
            ebfw_policy::object::Kind::EgressPolicy => {
                ebfw_policy::object::ObjectId::namespaced("default", "case")
            }
            ebfw_policy::object::Kind::ClusterEgressPolicy => {
                ebfw_policy::object::ObjectId::cluster("case")
            }
        };
        let read = PolicyObject::from_json(id, &object["spec"]);
        match (&read, &case.refused) {
            (Ok(_), None) => {}
            (Err(rejection), Some(field)) => {
                let text = rejection.to_string();
                assert!(text.contains(&format!("{field}: ")), "{}: {text}", case.why);
            }
            _ => panic!("{}: {read:?}", case.why),
        }
    }
}

#[test]
fn each_rule_of_the_schema_says_its_message() {
    let schema = Offline::new();
    let mut said: Vec<(String, String)> = Vec::new();
    for case in cases() {
        let violations = schema.violations(case.kind(), &case.object());
        let rule = RULES
            .iter()
            .find(|rule| Some(rule.message) == case.says.as_deref());
        match rule {
            Some(rule) => assert!(
                violations
                    .iter()
                    .any(|violation| violation.message == rule.message),
                "{}: {violations:?}",
                case.why
            ),
            None if case.refused.is_none() || case.later => {
                assert_eq!(violations, [], "{}", case.why);
            }
            None => {}
        }
        said.extend(
            violations
                .into_iter()
                .map(|violation| (place(&violation.field), violation.message)),
        );
    }
    for rule in RULES {
        let pair = (rule.at.to_owned(), rule.message.to_owned());
        assert!(
            said.contains(&pair),
            "no object of the table breaks {rule:?}"
        );
    }
}

/// `spec.rules[0].match.cidrs[1]` as the tables name it: `spec.rules[].match.cidrs[]`.
fn place(field: &str) -> String {
    field.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn what_is_too_large_is_refused_before_rules_are_asked() {
    let schema = Offline::new();
    let rules: Vec<_> = (0..300)
        .map(|_| serde_json::json!({ "action": "Deny" }))
        .collect();
    let object = serde_json::json!({
        "apiVersion": "ebfw.dvrkn.com/v1", "kind": "EgressPolicy", "metadata": { "name": "many" },
        "spec": { "podSelector": {}, "rules": rules },
    });
    let text = serde_json::to_string(&object).unwrap();
    let problems =
        parse_manifests(&text, &|kind, object| schema.violations(kind, object)).unwrap_err();
    let text = problems.to_string();
    assert!(
        text.contains("300 entries, at most 256 are possible"),
        "{text}"
    );
    assert_eq!(
        problems.iter().next().unwrap().field.as_deref(),
        Some("spec.rules")
    );
}
