//! What the configuration makes of flags, variables and the filter file.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt};

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn flags(pairs: &[(Key, &str)]) -> Flags {
    pairs
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect()
}

fn given(pairs: &[(&str, &str)]) -> Result<Loaded<Config>, Refused> {
    load(&Flags::new(), &variables(pairs))
}

fn config(pairs: &[(&str, &str)]) -> Config {
    given(pairs).unwrap().value
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    given(pairs).unwrap_err().to_string()
}

#[test]
fn nothing_given_means_the_defaults() {
    let Loaded { value, warnings } = given(&[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(
        value,
        Config {
            filter_file: None,
            cgroup: None,
            exclude: Exclude::default(),
            dns: Dns::default(),
            node_name: None,
            log: value.log.clone(),
            output: Output::Text,
            inspect: Inspect {
                claims: true,
                redact: true,
                paths: true,
                headers: false,
                body: false,
                body_limit: 4096,
                responses: false,
            },
            metrics: Some(ListenAddr::Every(9090)),
            enforcement: Enforcement::Off,
            unknown_workload: UnknownWorkload::Drop,
            pinning: Pinning::On,
            pin_dir: "/sys/fs/bpf/ebfw".into(),
            on_exit: OnExit::Open,
        }
    );
    assert_eq!(value.log.to_string(), "info");
}

#[test]
fn every_variable_sets_what_it_names() {
    let config = config(&[
        ("EBFW_CGROUP", "/sys/fs/cgroup/a"),
        ("EBFW_NODE_NAME", "node-1"),
        ("EBFW_LOG", "debug"),
        ("EBFW_OUTPUT", "json"),
        ("EBFW_INSPECT", "no"),
        ("EBFW_REDACT", "off"),
        ("EBFW_INSPECT_PATHS", "false"),
        ("EBFW_INSPECT_HEADERS", "1"),
        ("EBFW_INSPECT_BODY", "Yes"),
        ("EBFW_BODY_LIMIT", "65536"),
        ("EBFW_INSPECT_RESPONSES", "on"),
        ("EBFW_METRICS_ADDR", "127.0.0.1:1"),
        ("EBFW_ENFORCE_MODE", "enforce"),
        ("EBFW_POLICY_SOURCE", "file"),
        ("EBFW_POLICY", "policy.yaml"),
        ("EBFW_ENFORCE_DRY_RUN", "on"),
        ("EBFW_UNKNOWN_WORKLOAD", "allow"),
        ("EBFW_DNS_RESOLVERS", "192.0.2.2,192.0.2.1"),
        ("EBFW_PIN", "on"),
        ("EBFW_PIN_DIR", "/sys/fs/bpf/b"),
        ("EBFW_ON_EXIT", "open"),
    ]);
    assert_eq!(
        config.to_string(),
        "mode=dry-run policy=\"policy.yaml\" cgroup=\"/sys/fs/cgroup/a\" unknown_workload=allow pin=on \
         pin_dir=\"/sys/fs/bpf/b\" on_exit=open output=json inspect=false inspect_paths=false inspect_headers=true \
         inspect_body=true body_limit=65536 inspect_responses=true redact=false metrics=127.0.0.1:1 node=node-1 dns_resolvers=192.0.2.1,192.0.2.2 dns_learn_special=false \
         exclude_cidrs=10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8 \
         exclude_domain_suffixes=cluster.local,svc,in-addr.arpa log=debug"
    );
}

#[test]
fn a_bad_value_is_refused_with_name_value_and_what_is_allowed() {
    for (name, value, allowed, why) in [
        (
            "EBFW_ENFORCE_MODE",
            "enforced",
            "off, log, enforce",
            "must not mean off",
        ),
        (
            "EBFW_ENFORCE_MODE",
            "Enforce",
            "off, log, enforce",
            "words are exact",
        ),
        ("EBFW_OUTPUT", "yaml", "text, json", "no such form"),
        ("EBFW_POLICY_SOURCE", "files", "file, crd", "no such source"),
        ("EBFW_ON_EXIT", "close", "keep, open", "no such word"),
        ("EBFW_PIN", "true", "on, off", "not a boolean"),
        (
            "EBFW_DNS_RESOLVERS",
            "192.0.2.1:53",
            "IP addresses, several with commas, at most 256",
            "a port",
        ),
        (
            "EBFW_UNKNOWN_WORKLOAD",
            "deny",
            "drop, allow",
            "no such word",
        ),
        (
            "EBFW_INSPECT_PATHS",
            "maybe",
            "true, false, 1, 0, t, f, yes, no, on, off",
            "no boolean",
        ),
        (
            "EBFW_INSPECT_HEADERS",
            "2",
            "true, false, 1, 0, t, f, yes, no, on, off",
            "no boolean",
        ),
        (
            "EBFW_INSPECT_BODY",
            " ",
            "true, false, 1, 0, t, f, yes, no, on, off",
            "no boolean",
        ),
        (
            "EBFW_BODY_LIMIT",
            "0",
            "a number of bytes, 1 to 65536",
            "nothing is not a beginning",
        ),
        (
            "EBFW_BODY_LIMIT",
            "65537",
            "a number of bytes, 1 to 65536",
            "one too many",
        ),
        (
            "EBFW_BODY_LIMIT",
            "4KiB",
            "a number of bytes, 1 to 65536",
            "a unit",
        ),
        (
            "EBFW_ENFORCE_DRY_RUN",
            "y",
            "true, false, 1, 0, t, f, yes, no, on, off",
            "no boolean",
        ),
        (
            "EBFW_METRICS_ADDR",
            "9090",
            ":PORT, IPV4:PORT, [IPV6]:PORT, localhost:PORT, or empty to disable",
            "no address",
        ),
        (
            "EBFW_CGROUP",
            "system.slice",
            "an absolute path",
            "relative",
        ),
        ("EBFW_PIN_DIR", "bpf", "an absolute path", "relative"),
        (
            "EBFW_NODE_NAME",
            "a b",
            "one word of printable characters, at most 253 bytes",
            "two words",
        ),
        (
            "EBFW_LOG",
            "ebfw=loud",
            "error, warn, info, debug, trace, off, or TARGET=LEVEL, several with commas",
            "no level",
        ),
    ] {
        let expected = format!("{name}={value} is not valid, allowed: {allowed}");
        assert_eq!(refusal(&[(name, value)]), expected, "{why}");
    }
}

#[test]
fn a_bad_flag_is_named_as_a_flag() {
    let refused = load(&flags(&[(Key::EnforceMode, "on")]), &Variables::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "--enforce-mode=on is not valid, allowed: off, log, enforce"
    );
}

#[test]
fn a_value_cannot_forge_the_message() {
    let text = refusal(&[("EBFW_OUTPUT", "json\n\u{1b}[2Jok")]);
    assert_eq!(
        text,
        "EBFW_OUTPUT=json\\n\\u{1b}[2Jok is not valid, allowed: text, json"
    );
}

#[test]
fn a_value_that_is_no_text_is_refused() {
    let variables = vec![("EBFW_POLICY".into(), OsString::from_vec(vec![0xff]))];
    let refused = load(&Flags::new(), &variables).unwrap_err();
    assert_eq!(refused.to_string(), "EBFW_POLICY=\"\\xFF\" is not UTF-8");
}

#[test]
fn all_problems_are_reported_at_once_with_the_warnings() {
    let refused = given(&[
        ("EBFW_OUTPUT", "xml"),
        ("EBFW_ENFORCE_MODE", "log"),
        ("EBFW_POLCY", "policy.yaml"),
        ("EBFW_PIN_DIR", "x"),
    ])
    .unwrap_err();
    assert_eq!(refused.problems.len(), 3, "{refused}");
    let warning = "unknown variable EBFW_POLCY is ignored, the nearest known one is EBFW_POLICY";
    assert_eq!(
        refused.warnings,
        [warning],
        "the mistyped name is why no policy is known"
    );
}

#[test]
fn an_empty_variable_is_not_set_except_where_empty_disables() {
    for setting in SETTINGS {
        let config = config(&[(setting.variable, "")]);
        if setting.key == Key::MetricsAddr {
            assert_eq!(config.metrics, None);
        } else {
            assert_eq!(config, self::config(&[]), "{}", setting.variable);
        }
    }
}

#[test]
fn an_empty_flag_is_a_value() {
    let load = |key| load(&flags(&[(key, "")]), &Variables::new());
    assert_eq!(load(Key::MetricsAddr).unwrap().value.metrics, None);
    assert_eq!(
        load(Key::Output).unwrap_err().to_string(),
        "--output= is not valid, allowed: text, json"
    );
    assert_eq!(
        load(Key::Policy).unwrap_err().to_string(),
        "--policy= is not valid, allowed: the path of a file"
    );
}

#[test]
fn a_flag_beats_a_variable_and_a_variable_beats_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.yaml");
    fs::write(&file, "cgroup: /from/file\n").unwrap();
    let file = file.to_str().unwrap();
    let from_file = [("EBFW_CONFIG", file)];
    let from_variable = [("EBFW_CONFIG", file), ("EBFW_CGROUP", "/from/variable")];
    let from_flag = flags(&[(Key::Cgroup, "/from/flag")]);
    for (flags, variables_given, expected, why) in [
        (Flags::new(), &[][..], None, "the default is the whole node"),
        (
            Flags::new(),
            &from_file[..],
            Some("/from/file"),
            "the file beats the default",
        ),
        (
            Flags::new(),
            &from_variable[..],
            Some("/from/variable"),
            "the variable beats the file",
        ),
        (
            from_flag,
            &from_variable[..],
            Some("/from/flag"),
            "the flag beats all",
        ),
    ] {
        let config = load(&flags, &variables(variables_given)).unwrap().value;
        assert_eq!(config.cgroup, expected.map(PathBuf::from), "{why}");
    }
}

#[test]
fn a_bad_variable_under_a_good_flag_is_a_warning() {
    let loaded = load(
        &flags(&[
            (Key::Output, "json"),
            (Key::MetricsAddr, ":1"),
            (Key::Pin, "off"),
        ]),
        &variables(&[
            ("EBFW_OUTPUT", "xml"),
            ("EBFW_METRICS_ADDR", ""),
            ("EBFW_PIN", "on"),
        ]),
    );
    let loaded = loaded.unwrap();
    assert_eq!(loaded.value.output, Output::Json);
    let warning = "EBFW_OUTPUT=xml is not valid, allowed: text, json; --output counts instead";
    assert_eq!(loaded.warnings, [warning], "and not of what is allowed");
}

#[test]
fn a_filter_file_that_cannot_be_read_is_refused() {
    let text = refusal(&[("EBFW_CONFIG", "/nonexistent/filter.yaml")]);
    let expected = "EBFW_CONFIG: failed to read /nonexistent/filter.yaml: No such file or directory (os error 2)";
    assert_eq!(text, expected);
}

#[test]
fn enforcement_needs_a_policy() {
    for mode in ["log", "enforce"] {
        let expected = format!(
            "EBFW_ENFORCE_MODE={mode} needs a policy: name its file with EBFW_POLICY or --policy"
        );
        assert_eq!(refusal(&[("EBFW_ENFORCE_MODE", mode)]), expected);
        assert_eq!(
            refusal(&[("EBFW_ENFORCE_MODE", mode), ("EBFW_POLICY", "")]),
            expected
        );
    }
}

#[test]
fn policies_come_from_the_cluster_with_a_file_in_reserve_or_without() {
    let crd = [("EBFW_POLICY_SOURCE", "crd"), ("EBFW_ENFORCE_MODE", "log")];
    for (policy, fallback, line) in [
        (None, None, "mode=log policy_source=crd cgroup"),
        (
            Some(("EBFW_POLICY", "p")),
            Some("p"),
            "mode=log policy_source=crd policy=\"p\" cgroup",
        ),
    ] {
        let pairs: Vec<_> = crd.into_iter().chain(policy).collect();
        let Loaded { value, warnings } = given(&pairs).unwrap();
        let source = PolicyOrigin::Objects {
            fallback: fallback.map(PathBuf::from),
        };
        let mode = Mode::Log;
        assert_eq!(value.enforcement, Enforcement::Policy { mode, source });
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(value.to_string().starts_with(line), "{value}");
    }
}

#[test]
fn what_has_no_effect_is_a_warning() {
    for (pairs, expected, why) in [
        (
            &[("EBFW_POLICY", "p")][..],
            "EBFW_POLICY is not evaluated: the mode is off; \
             set EBFW_ENFORCE_MODE or --enforce-mode to log or enforce",
            "a policy that nobody evaluates",
        ),
        (
            &[("EBFW_ENFORCE_DRY_RUN", "true")][..],
            "EBFW_ENFORCE_DRY_RUN has no effect with mode off: it modifies enforce",
            "a dry run of nothing",
        ),
        (
            &[
                ("EBFW_ENFORCE_DRY_RUN", "1"),
                ("EBFW_ENFORCE_MODE", "log"),
                ("EBFW_POLICY", "p"),
            ][..],
            "EBFW_ENFORCE_DRY_RUN has no effect with mode log: it modifies enforce",
            "log refuses nothing anyway",
        ),
        (
            &[("EBFW_ENFORCEMODE", "enforce")][..],
            "unknown variable EBFW_ENFORCEMODE is ignored, the nearest known one is EBFW_ENFORCE_MODE",
            "a typing error",
        ),
        (
            &[("EBFW_", "")][..],
            "unknown variable EBFW_ is ignored, the nearest known one is EBFW_LOG",
            "an empty name is unknown too",
        ),
    ] {
        assert_eq!(given(pairs).unwrap().warnings, [expected], "{why}");
    }
    let others = [
        ("PATH", "/bin"),
        ("ebfw_output", "x"),
        ("MY_EBFW_OUTPUT", "x"),
    ];
    assert_eq!(
        given(&others).unwrap().warnings,
        [""; 0],
        "other names are not ours"
    );
}

#[test]
fn what_stays_follows_the_mode_unless_it_is_said() {
    let enforce = [("EBFW_ENFORCE_MODE", "enforce"), ("EBFW_POLICY", "p")];
    let log = [("EBFW_ENFORCE_MODE", "log"), ("EBFW_POLICY", "p")];
    for (base, extra, expected, why) in [
        (
            &enforce[..],
            None,
            OnExit::Keep,
            "what is refused stays refused",
        ),
        (&log[..], None, OnExit::Open, "nothing is refused"),
        (&[][..], None, OnExit::Open, "nothing is evaluated"),
        (
            &enforce[..],
            Some(("EBFW_ON_EXIT", "open")),
            OnExit::Open,
            "the operator says so",
        ),
        (
            &log[..],
            Some(("EBFW_ON_EXIT", "keep")),
            OnExit::Keep,
            "the operator says so",
        ),
        (
            &enforce[..],
            Some(("EBFW_PIN", "off")),
            OnExit::Open,
            "what is not pinned cannot stay",
        ),
    ] {
        let pairs: Vec<_> = base.iter().copied().chain(extra).collect();
        assert_eq!(config(&pairs).on_exit, expected, "{why}");
    }
}

#[test]
fn keeping_what_is_not_pinned_is_refused() {
    assert_eq!(
        refusal(&[("EBFW_ON_EXIT", "keep"), ("EBFW_PIN", "off")]),
        "EBFW_ON_EXIT=keep and EBFW_PIN=off exclude each other: only what is pinned can stay"
    );
}

#[test]
fn detach_asks_for_nothing_that_it_does_not_need() {
    let broken = variables(&[
        ("EBFW_ENFORCE_MODE", "enforced"),
        ("EBFW_PIN_DIR", "/sys/fs/bpf/x"),
    ]);
    let Loaded { value, warnings } = load_detach(&Flags::new(), &broken).unwrap();
    assert_eq!(value.pin_dir, PathBuf::from("/sys/fs/bpf/x"));
    assert_eq!(warnings, [""; 0]);
    assert!(load_detach(&Flags::new(), &variables(&[("EBFW_PIN_DIR", "x")])).is_err());
}

#[test]
fn a_list_without_entries_is_shown_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.yaml");
    fs::write(&file, "exclude: {cidrs: [], domainSuffixes: []}\n").unwrap();
    let line = config(&[("EBFW_CONFIG", file.to_str().unwrap())]).to_string();
    assert!(
        line.contains("exclude_cidrs=none exclude_domain_suffixes=none"),
        "{line}"
    );
    assert!(!line.contains('\n'), "one line: {line}");
}

#[test]
fn resolvers_that_are_set_outside_override_those_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.yaml");
    fs::write(&file, "dns: {resolvers: [192.0.2.1], learnSpecial: true}\n").unwrap();
    let file = ("EBFW_CONFIG", file.to_str().unwrap());
    let resolvers = |pairs: &[(&str, &str)]| {
        let dns = config(pairs).dns;
        assert!(dns.learn_special);
        let texts = dns.resolvers.unwrap();
        texts.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(resolvers(&[file]), ["192.0.2.1"]);
    assert_eq!(
        resolvers(&[file, ("EBFW_DNS_RESOLVERS", "2001:db8::1")]),
        ["2001:db8::1"]
    );
    assert_eq!(
        config(&[("EBFW_DNS_RESOLVERS", "")]).dns,
        Dns::default(),
        "empty is not set"
    );
}
