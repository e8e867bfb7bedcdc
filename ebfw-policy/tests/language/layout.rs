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
fn what_would_be_lost_is_refused() {
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
