//! The JSON Schema, by a validator that editors could have: it refuses nothing that the reader accepts, and most of what the reader refuses.

use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use ebfw_policy::{diagnostics::Code, parse_policy, spec};

static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    let added = compiler.add_resource("policy.json", spec::schema());
    added.expect("the schema is one");
    let index = compiler.compile("policy.json", &mut schemas);
    (schemas, index.expect("the schema is one"))
});

/// What the schema says of a file, if that is one value of JSON in YAML.
pub(crate) fn judge(file: &str) -> Option<Result<(), String>> {
    let value: serde_json::Value = serde_saphyr::from_str(file).ok()?;
    let (schemas, index) = &*SCHEMA;
    let verdict = schemas.validate(&value, *index);
    Some(verdict.map_err(|error| error.to_string()))
}

/// Whether a schema can know of an error with this code.
pub(crate) fn can_know(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownField
            | Code::MissingField
            | Code::WrongType
            | Code::Null
            | Code::EmptyList
            | Code::Mutations
            | Code::BadValue
            | Code::BadPort
    )
}

#[test]
fn the_schema_accepts_what_the_reader_accepts() {
    for file in [
        include_str!("../../../examples/policy.yaml"),
        include_str!("../../../examples/demo.yaml"),
        "{}",
        "rules: []",
        "podSelector: {}",
        "podSelector: {matchLabels: {}, matchExpressions: [{key: a/b, operator: In, values: ['', x]}]}",
        "podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [x]}, {key: b, operator: Exists}, {key: c, operator: DoesNotExist}]}",
        "rules: [{action: Deny, match: {}}]",
        "rules: [{name: '  é ', action: 'Deny', match: {pod: {}}}]",
        "rules: [{action: Deny, match: {pod: {namespace: a-b, name: '0', uid: a.b, labels: {a: ''}}}}]",
        "rules: [{action: Deny, match: {ports: [1, 65535, '1', '65535', 1-65535, '80-80']}}]",
        "rules: [{action: Deny, match: {protocols: [0, 255, '0', '255', Tcp, iCMP]}}]",
        "rules: [{action: Deny, match: {cidrs: ['::/0', 0.0.0.0/0, '::ffff:192.0.2.0/120', 'FE80::/10']}}]",
        "rules: [{action: Deny, match: {domains: ['*', a, A., '*.b', '[!a-c]?.{d,e}', _x._tcp.y]}}]",
        "rules: [{action: Deny, match: {cgroups: [/, '/**', '/a\\*/']}}]",
        "rules: [{action: Deny, match: {methods: [get, 'M-SEARCH', \"a'b|c\"], pathPrefix: /}}]",
        "rules: [{action: Modify, mutations: [{type: SetHeader, header: a, value: ''}, {type: AddHeader, header: b, value: \"c\\td\"}, {type: RemoveHeader, header: c}, {type: RewritePath, pathReplace: /}]}]",
    ] {
        parse_policy(file).unwrap_or_else(|problems| panic!("{file}: {problems}"));
        let verdict = judge(file).expect("it is YAML");
        verdict.unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn the_schema_refuses_what_one_field_says_of_another() {
    for file in [
        "rules: [{action: Modify}]",
        "rules: [{action: Modify, mutations: []}]",
        "rules: [{action: Allow, mutations: [{type: RemoveHeader, header: a}]}]",
        "podSelector: {matchExpressions: [{key: a, operator: In}]}",
        "podSelector: {matchExpressions: [{key: a, operator: NotIn}]}",
        "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        "rules: [{action: Deny, match: {pod: {matchExpressions: [{key: a, operator: DoesNotExist, values: [b]}]}}}]",
        "rules: [{action: Modify, mutations: [{type: SetHeader, header: a}]}]",
        "rules: [{action: Modify, mutations: [{type: RemoveHeader, header: a, value: b}]}]",
        "rules: [{action: Modify, mutations: [{type: RewritePath, pathReplace: /, header: a}]}]",
        "rules: [{action: Modify, mutations: [{type: RewritePath}]}]",
    ] {
        assert!(parse_policy(file).is_err(), "{file}");
        assert!(judge(file).expect("it is YAML").is_err(), "{file}");
    }
}
