//! Formatting: one layout, the same policy, no comment lost.

use ebfw_policy::format_policy;

use crate::policy;

#[test]
fn a_file_gets_the_one_layout_and_keeps_its_comments() {
    let file = "# head\n\ndefaultAction:   Deny   # trailing\nrules:   # after a key\n# about a\n\n\n- name: a\n  # inside\n  action: \"Allow\"\n  \
                match: {domains: [a.example.com, # first\n       'b.example.com'], ports: [443, 8000-8001]} # end\n\
                - {name: b, action: Deny, match: {ports: [25]}} # b\n-\n  name: c\n  action: Deny\n  match:\n    domains:\n      - x.org # x\n      \
                - github.com\n    cidrs:\n      - 10.0.0.0/8\n      - 11.0.0.0/8\n\n# tail\n";
    let want = "# head\n\ndefaultAction: Deny  # trailing\nrules:  # after a key\n  # about a\n\n  - name: a\n    # inside\n    action: \"Allow\"\n    \
                match:\n      domains:\n        - a.example.com  # first\n        - 'b.example.com'\n      ports: [443, 8000-8001]  # end\n\
                \x20 - name: b\n    action: Deny\n    match:\n      ports: [25]  # b\n  - name: c\n    action: Deny\n    match:\n      domains:\n        \
                - x.org  # x\n        - github.com\n      cidrs: [10.0.0.0/8, 11.0.0.0/8]\n\n# tail\n";
    let formatted = format_policy(file).unwrap();
    assert_eq!(formatted, want);
    assert_eq!(
        format_policy(&formatted).unwrap(),
        formatted,
        "a second time changes nothing"
    );
    assert_eq!(policy(&formatted), policy(file));
}

#[test]
fn every_way_to_write_a_value_survives() {
    let files = [
        "{}",
        "# only this\n{}\n# and this",
        "rules: []",
        "podSelector: {}\nrules: [{action: Deny, match: {}}]",
        "---\nrules: []\n...\n",
        "rules:\n- action: Deny\n  name: |\n    a\n  match:\n    domains: [\n      a.example, b.example\n    ]\n".trim_end_matches('x'),
        "rules:\n- action: Deny\n  name: >-\n    two\n    words\n",
        "rules:\n- action: Deny\n  name: plain\n    over lines\n",
        "rules:\n- action: Deny\n  name: \"es\\tcaped \\u00e9\"\n".trim_end(),
        "rules:\n- action: Deny\n  name: it's, [odd] {name}\n",
        "rules:\n- action: Deny\n  name: 'a # b'   # c\n",
        "? rules\n: - action: Deny\n",
        "rules:\r\n  - action: Deny # crlf\r\n    match:\r\n      ports: [25]\r\n",
        "rules: [{action: Deny, match: {pod: {matchExpressions: [{key: a, operator: In, values: [x, y]}]}}}]",
        "rules:\n- action: Modify\n  mutations:\n  # why\n  - {type: SetHeader, header: x, value: 'a: b'} # what\n",
    ];
    for file in files {
        let Ok(before) = ebfw_policy::parse_policy(file) else {
            continue;
        };
        let formatted = format_policy(file).unwrap_or_else(|problem| panic!("{file}\n{problem}"));
        assert_eq!(policy(&formatted), before, "{file}\n{formatted}");
        assert_eq!(format_policy(&formatted).unwrap(), formatted, "{file}");
        assert_eq!(
            formatted.matches('#').count(),
            file.matches('#').count(),
            "{file}\n{formatted}"
        );
    }
}

#[test]
fn a_long_list_is_broken_into_lines() {
    let ports: Vec<_> = (1000..1040).map(|port| port.to_string()).collect();
    let formatted = format_policy(&format!(
        "rules: [{{action: Deny, match: {{ports: [{}]}}}}]",
        ports.join(", ")
    ))
    .unwrap();
    assert!(
        formatted.contains("      ports:\n        - 1000\n        - 1001\n"),
        "{formatted}"
    );
    assert!(formatted.lines().all(|line| line.len() <= 100));
}

#[test]
fn objects_of_a_file_are_formatted_and_those_of_other_kinds_stay() {
    let file = "---\n# first\napiVersion: ebfw.dvrkn.com/v1\nkind:   EgressPolicy\nmetadata: {name: a, namespace: shop, labels: {x: \"1\"}} # of a\nspec:\n    podSelector: {}\n    rules:\n    - {action: Deny, match: {ports: [25]}}\n\
                # end of a\n--- # the map\napiVersion: v1\nkind: ConfigMap\nmetadata:   {name: c}\ndata:\n  text: |\n    # no comment\n      ---\n    b   \n# after c\n---\n\n---\nkind: ClusterEgressPolicy\n# version\napiVersion: ebfw.dvrkn.com/v1\nmetadata:   {name: d}\nspec: {podSelector: {matchLabels: {a: b}}}\n...\n# tail\n";
    let want = "# first\napiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata:\n  name: a\n  namespace: shop\n  labels:\n    x: \"1\"  # of a\nspec:\n  podSelector: {}\n  rules:\n    - action: Deny\n      match:\n        ports: [25]\n\
                # end of a\n--- # the map\napiVersion: v1\nkind: ConfigMap\nmetadata:   {name: c}\ndata:\n  text: |\n    # no comment\n      ---\n    b   \n# after c\n---\n\n---\nkind: ClusterEgressPolicy\n# version\napiVersion: ebfw.dvrkn.com/v1\nmetadata:\n  name: d\nspec:\n  podSelector:\n    matchLabels:\n      a: b\n# tail\n";
    let format = |file: &str| ebfw_policy::format_manifests(file, &|_, _| Vec::new());
    let formatted = format(file).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(formatted, want);
    assert_eq!(format(&formatted).unwrap(), formatted, "a second time");
    for file in [
        include_str!("../../../examples/crds/shop.yaml"),
        include_str!("../../../examples/crds/baseline.yaml"),
        include_str!("../../../examples/crds/lockdown.yaml"),
    ] {
        let formatted = format(file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(formatted, file, "the examples are formatted");
    }
}

#[test]
fn what_would_be_lost_is_refused() {
    let manifests = "apiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {name: a}\nspec: &s {podSelector: {}}\n---\napiVersion: ebfw.dvrkn.com/v1\nkind: EgressPolicy\nmetadata: {name: b}\nspec: {podSelector: {}}\n";
    let refused = ebfw_policy::format_manifests(manifests, &|_, _| Vec::new()).unwrap_err();
    assert!(
        refused.to_string().contains("4:10: error[alias]: anchors"),
        "{refused}"
    );

    let anchors = "rules:\n- {action: Deny, match: {ports: &p [25]}}\n- {action: Allow, match: {ports: *p}}\n";
    assert!(
        format_policy(anchors)
            .unwrap_err()
            .to_string()
            .contains("anchors")
    );
    assert!(
        format_policy("rulez: []")
            .unwrap_err()
            .to_string()
            .contains("unknown field")
    );
}
