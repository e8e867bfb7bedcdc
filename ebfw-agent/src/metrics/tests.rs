//! The text that a scraper gets, the counters of the kernel in it, and the table in `docs/metrics.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fs,
    path::PathBuf,
    sync::Mutex,
};

use ebfw_common::abi::Counter as Kernel;

use super::*;

/// Counters as the test sets them; `None` cannot be read.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Option<Counters>>>);

impl Fake {
    fn set(&self, values: &[(Kernel, u64)]) {
        let mut counters = Counters::default();
        for (counter, value) in values {
            counters[*counter as usize] = *value;
        }
        *self.0.lock().unwrap() = Some(counters);
    }
}

impl KernelCounters for Fake {
    fn read(&self) -> Result<Counters, Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap().ok_or_else(|| "no map".into())
    }
}

fn watched(values: &[(Kernel, u64)]) -> (Metrics, Fake) {
    let (metrics, kernel) = (Metrics::new(Mode::DryRun), Fake::default());
    kernel.set(values);
    metrics.watch_kernel(Arc::new(kernel.clone()));
    (metrics, kernel)
}

fn samples(metrics: &Metrics) -> BTreeMap<String, String> {
    let text = metrics.encode();
    let sample = |line: &str| {
        line.rsplit_once(' ')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn assert_samples(metrics: &Metrics, expected: &[(&str, u64)]) {
    let samples = samples(metrics);
    for (series, value) in expected {
        assert_eq!(
            samples.get(*series),
            Some(&value.to_string()),
            "{series} in {samples:#?}"
        );
    }
}

#[test]
fn what_the_agent_counts_is_there() {
    let metrics = Metrics::new(Mode::Enforce);
    metrics.event(Kind::Connect);
    metrics.filtered(Kind::Dns);
    metrics.attributed(Attribution::Hit);
    metrics.lost(Lost::Queue, 3);
    metrics.rule_unknown();
    metrics.reloaded(Reload::Refused);
    metrics.destroyed(Destroyed::Done, 2);
    metrics.answer_read(Reading::Learned);
    metrics.set_policy_rules(20);
    metrics.set_workloads(5);
    let build = format!(
        "ebfw_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_samples(
        &metrics,
        &[
            (r#"ebfw_events_total{kind="connect"}"#, 1),
            (r#"ebfw_events_total{kind="https"}"#, 0),
            (r#"ebfw_filtered_total{kind="dns"}"#, 1),
            (r#"ebfw_attribution_total{result="hit"}"#, 1),
            (r#"ebfw_attribution_total{result="miss"}"#, 0),
            (r#"ebfw_events_lost_total{stage="queue"}"#, 3),
            (r#"ebfw_events_lost_total{stage="ring"}"#, 0),
            ("ebfw_rule_names_unknown_total", 1),
            (r#"ebfw_policy_reloads_total{result="refused"}"#, 1),
            (r#"ebfw_sockets_destroyed_total{result="done"}"#, 2),
            (r#"ebfw_answers_read_total{result="learned"}"#, 1),
            (r#"ebfw_answers_read_total{result="unreadable"}"#, 0),
            ("ebfw_policy_rules", 20),
            ("ebfw_workloads", 5),
            (r#"ebfw_mode{mode="enforce"}"#, 1),
            (r#"ebfw_mode{mode="log"}"#, 0),
            (build.as_str(), 1),
        ],
    );
}

#[test]
fn the_counters_of_the_kernel_are_read_at_each_scrape() {
    let (metrics, kernel) = watched(&[]);
    kernel.set(&[
        (Kernel::PacketDropped, 10),
        (Kernel::PendingDropped, 3),
        (Kernel::CallRefused, 4),
        (Kernel::EventSuppressed, 5),
        (Kernel::EventLost, 6),
        (Kernel::RequestLost, 7),
        (Kernel::Malformed, 8),
        (Kernel::SourceRouted, 9),
        (Kernel::TableError, 11),
        (Kernel::Reply, 12),
        (Kernel::SocketStateFull, 13),
        (Kernel::NameLearned, 14),
        (Kernel::NameUnasked, 15),
        (Kernel::NameUnreadable, 16),
        (Kernel::NameFull, 17),
        (Kernel::NameSpecial, 18),
        (Kernel::Resolver, 19),
        (Kernel::NameEventLost, 20),
        (Kernel::AnswerHeld, 21),
        (Kernel::AnswerLost, 22),
    ]);
    metrics.lost(Lost::Decode, 2);
    assert_eq!(metrics.events_lost(), 28);
    assert_samples(
        &metrics,
        &[
            (r#"ebfw_packets_dropped_total{reason="policy"}"#, 10),
            (r#"ebfw_packets_dropped_total{reason="pending"}"#, 3),
            (r#"ebfw_packets_irregular_total{reason="malformed"}"#, 8),
            (r#"ebfw_packets_irregular_total{reason="source-route"}"#, 9),
            ("ebfw_calls_refused_total", 4),
            ("ebfw_events_suppressed_total", 5),
            (r#"ebfw_events_lost_total{stage="ring"}"#, 26),
            (r#"ebfw_events_lost_total{stage="decode"}"#, 2),
            ("ebfw_requests_lost_total", 7),
            ("ebfw_table_errors_total", 11),
            ("ebfw_replies_total", 12),
            ("ebfw_socket_state_failures_total", 13),
            ("ebfw_names_learned_total", 14),
            (r#"ebfw_names_refused_total{reason="unasked"}"#, 15),
            (r#"ebfw_names_refused_total{reason="unreadable"}"#, 16),
            (r#"ebfw_names_refused_total{reason="full"}"#, 17),
            (r#"ebfw_names_refused_total{reason="special"}"#, 18),
            ("ebfw_resolver_packets_total", 19),
            ("ebfw_answers_held_total", 21),
            ("ebfw_answer_pieces_lost_total", 22),
        ],
    );
}

#[test]
fn decisions_before_the_agent_came_are_not_counted_in_its_mode() {
    let (metrics, kernel) = watched(&[(Kernel::DecisionDeny, 100), (Kernel::DecisionAllow, 7)]);
    let deny = r#"ebfw_enforcement_decisions_total{action="deny",mode="dry-run"}"#;
    let allow = r#"ebfw_enforcement_decisions_total{action="allow",mode="dry-run"}"#;
    assert_samples(&metrics, &[(deny, 0), (allow, 0)]);
    kernel.set(&[(Kernel::DecisionDeny, 103), (Kernel::DecisionAllow, 7)]);
    assert_samples(&metrics, &[(deny, 3), (allow, 0)]);
    kernel.set(&[(Kernel::DecisionDeny, 2)]);
    assert_samples(&metrics, &[(deny, 2)]);
}

#[test]
fn counters_that_cannot_be_read_are_left_out_and_that_is_counted() {
    let (metrics, kernel) = watched(&[(Kernel::Reply, 12)]);
    *kernel.0.lock().unwrap() = None;
    let first = samples(&metrics);
    assert!(
        !first.contains_key("ebfw_replies_total"),
        "a value that is not known is absent, not 0"
    );
    assert!(
        first.contains_key(r#"ebfw_events_lost_total{stage="queue"}"#),
        "what the agent knows is there"
    );
    assert_samples(&metrics, &[("ebfw_scrape_errors_total", 2)]);
}

#[test]
fn the_text_is_well_formed() {
    let (metrics, _) = watched(&[]);
    let text = metrics.encode();
    let mut described = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(described.insert(current), "{current} is described twice");
            assert!(rest.ends_with('.') && !rest.ends_with(".."), "{line}");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current), "{line} stands below {current}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("_total_total"));
}

/// The table of `docs/metrics.md`, made from what a scrape returns.
fn table() -> String {
    let (metrics, _) = watched(&[]);
    let text = metrics.encode();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (family, help) = line.split_once(' ').unwrap();
        let kind = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {family} ")))
            .unwrap();
        let name = match kind {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            _ => family.to_owned(),
        };
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (label, value) in text
            .lines()
            .filter_map(|line| line.strip_prefix(&name)?.strip_prefix('{'))
            .flat_map(labels_of)
        {
            labels.entry(label).or_default().insert(value);
        }
        rows.insert(
            name.clone(),
            format!("| `{name}` | {kind} | {} | {help} |\n", describe(&labels)),
        );
    }
    format!(
        "| metric | type | labels | meaning |\n|---|---|---|---|\n{}",
        rows.into_values().collect::<String>()
    )
}

/// `a="b",c="d"} 0` as pairs.
fn labels_of(series: &str) -> Vec<(String, String)> {
    let inside = series.split('}').next().unwrap();
    inside
        .split(',')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(label, value)| (label.into(), value.trim_matches('"').into()))
        .collect()
}

fn describe(labels: &BTreeMap<String, BTreeSet<String>>) -> String {
    let describe = |(label, values): (&String, &BTreeSet<String>)| {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        match label.as_str() {
            "version" => "`version`".to_owned(),
            "mode" if values.len() == 1 => "`mode`".to_owned(),
            _ => format!("`{label}`: {}", values.join(", ")),
        }
    };
    labels.iter().map(describe).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_table_in_the_docs_is_the_one_that_the_code_makes() {
    const BEGIN: &str = "<!-- generated: BLESS=1 cargo test -p ebfw-agent metrics -->\n";
    const END: &str = "<!-- end -->\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let docs = fs::read_to_string(&path).unwrap();
    let (before, rest) = docs
        .split_once(BEGIN)
        .expect("the docs mark where the table begins");
    let (written, after) = rest
        .split_once(END)
        .expect("the docs mark where the table ends");
    if env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(written, table(), "write it anew with BLESS=1");
}
