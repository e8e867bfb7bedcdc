//! Raw events in, lines out, and every one that does not arrive is counted.

use std::{
    io::{self, Write},
    sync::{Condvar, Mutex},
};

use ebfw_common::abi::{FlowEvent, NameEvent, name_outcome, verdict};
use zerocopy::IntoBytes;

use super::*;
use crate::events::{
    Colour, Printable,
    annotate::RuleName,
    event::{Action, Mode},
    samples::{kernel_event, name_event},
    sink::{Format, Lines},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Cgroup 42 is a service, no other is known.
struct Host;

impl Workloads for Host {
    fn owner(&self, cgroup_id: u64) -> Option<Owner> {
        (cgroup_id == 42).then(|| Owner::Cgroup(Printable::from("/web.service")))
    }
}

/// Rule 1 of every ruleset is `web`.
struct Names;

impl RuleNames for Names {
    fn rule(&self, _: u32, index: u16) -> Option<RuleName> {
        (index == 1).then(|| RuleName {
            name: "web".into(),
            action: Action::Allow,
        })
    }
}

fn stages<S>(sink: S, metrics: &Arc<Metrics>) -> Stages<Host, Names, S> {
    let filter = Filter::new(vec!["10.0.0.0/8".parse().unwrap()], Vec::new());
    Stages {
        workloads: Host,
        rules: Names,
        filter,
        inspection: Inspection::NOTHING,
        sink,
        metrics: Arc::clone(metrics),
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(Mode::Enforce))
}

fn text<W: Write>(out: W) -> Lines<W> {
    Lines::new(out, Format::Text(Colour::Never))
}

fn with(change: impl FnOnce(&mut FlowEvent)) -> FlowEvent {
    let mut event = kernel_event();
    change(&mut event);
    event
}

fn sample(metrics: &Metrics, series: &str) -> u64 {
    let all = metrics.encode();
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix(series))
        .unwrap_or_else(|| panic!("no {series} in\n{all}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn an_event_goes_through_every_stage_and_is_counted() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let pipeline = spawn(stages(text(Vec::new()), &metrics), raw).unwrap();

    intake.offer(kernel_event().as_bytes());
    intake.offer(with(|e| e.cgroup_id = 7).as_bytes());
    intake.offer(with(|e| e.rule = 2).as_bytes());
    intake.offer(
        with(|e| e.destination = ebfw_common::abi::Address::mapped([10, 0, 0, 1])).as_bytes(),
    );
    intake.offer(b"nonsense");
    let lines = pipeline.drain(PATIENCE).await.unwrap().into_inner();

    let flow = "CONNECT  10.42.0.9 -> 93.184.216.34:443";
    assert_eq!(
        String::from_utf8(lines).unwrap(),
        format!(
            "{flow}  action=Allow rule=web  pid=4711 comm=curl  cgroup=/web.service\n\
             {flow}  action=Allow rule=web  pid=4711 comm=curl\n\
             {flow}  action=Allow  pid=4711 comm=curl  cgroup=/web.service\n"
        )
    );
    for (series, value) in [
        (r#"ebfw_events_total{kind="connect"}"#, 3),
        (r#"ebfw_filtered_total{kind="connect"}"#, 1),
        (r#"ebfw_attribution_total{result="cgroup"}"#, 2),
        (r#"ebfw_attribution_total{result="miss"}"#, 1),
        (r#"ebfw_events_lost_total{stage="decode"}"#, 1),
        ("ebfw_rule_names_unknown_total", 1),
        (r#"ebfw_events_lost_total{stage="queue"}"#, 0),
        (r#"ebfw_events_lost_total{stage="output"}"#, 0),
    ] {
        assert_eq!(sample(&metrics, series), value, "{series}");
    }
}

#[tokio::test]
async fn questions_are_events_and_answers_are_not() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let stages = Stages {
        filter: Filter::new(Vec::new(), vec!["svc".into()]),
        ..stages(text(Vec::new()), &metrics)
    };
    let pipeline = spawn(stages, raw).unwrap();
    let asked = |change: fn(&mut NameEvent)| {
        let mut event = name_event();
        change(&mut event);
        intake.offer_name(event.as_bytes());
    };
    asked(|_| {});
    asked(|event| event.length = 3);
    asked(|event| event.question[..9].copy_from_slice(b"\x03svc\0\0\x01\0\x01"));
    asked(|event| event.outcome = name_outcome::LEARNED);
    asked(|event| event.outcome = name_outcome::SPECIAL);
    asked(|event| event.outcome = name_outcome::UNREADABLE);
    asked(|event| event.outcome = name_outcome::UNASKED);
    asked(|event| event.outcome = name_outcome::FULL);
    asked(|event| event.outcome = 200);
    // Of the other kind: neither is taken for the other.
    intake.offer(name_event().as_bytes());
    intake.offer_name(kernel_event().as_bytes());
    let lines = pipeline.drain(PATIENCE).await.unwrap().into_inner();

    assert_eq!(
        String::from_utf8(lines).unwrap(),
        "DNS      10.42.0.9 ? example.com (AAAA)  cgroup=/web.service\n\
         DNS      10.42.0.9 ? (unreadable) (?)  cgroup=/web.service\n"
    );
    for (series, value) in [
        (r#"ebfw_events_total{kind="dns"}"#, 2),
        (r#"ebfw_filtered_total{kind="dns"}"#, 1),
        (r#"ebfw_events_lost_total{stage="decode"}"#, 3),
    ] {
        assert_eq!(sample(&metrics, series), value, "{series}");
    }
}

#[tokio::test]
async fn the_event_of_a_denied_flow_is_shown_whatever_the_filter_says() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let pipeline = spawn(stages(text(Vec::new()), &metrics), raw).unwrap();
    for mode in 0..3 {
        let denied = with(|e| {
            e.destination = ebfw_common::abi::Address::mapped([10, 0, 0, 1]);
            (e.verdict, e.mode) = (verdict::DENY, mode);
        });
        intake.offer(denied.as_bytes());
    }
    let lines = String::from_utf8(pipeline.drain(PATIENCE).await.unwrap().into_inner()).unwrap();
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.contains("-> 10.0.0.1:443  action=Deny"))
            .count(),
        3,
        "{lines}"
    );
}

#[tokio::test]
async fn lines_are_written_as_soon_as_nothing_waits() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let (reader, writer) = io::pipe().unwrap();
    let pipeline = spawn(stages(text(writer), &metrics), raw).unwrap();
    intake.offer(kernel_event().as_bytes());
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(reader), &mut line).unwrap();
        line
    });
    let line = tokio::time::timeout(PATIENCE, line)
        .await
        .expect("the line comes without a drain")
        .unwrap();
    assert!(line.starts_with("CONNECT  ") && line.ends_with('\n'));
    pipeline.drain(PATIENCE).await.unwrap();
}

/// Takes nothing until it is opened.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<(Mutex<bool>, Condvar)>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Gate {
    fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let open = self.open.0.lock().unwrap();
        drop(self.open.1.wait_while(open, |open| !*open).unwrap());
        self.taken.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_lost_below_the_capacity_and_everything_above_it_is_counted() {
    const CAPACITY: usize = 100;
    const OFFERED: usize = 250;
    let metrics = metrics();
    let (intake, raw) = queue(CAPACITY, Arc::clone(&metrics));
    for _ in 0..OFFERED {
        intake.offer(kernel_event().as_bytes());
    }
    let pipeline = spawn(stages(text(Vec::new()), &metrics), raw).unwrap();
    let lines = pipeline.drain(PATIENCE).await.unwrap().into_inner();
    assert_eq!(
        lines.iter().filter(|byte| **byte == b'\n').count(),
        CAPACITY
    );
    assert_eq!(
        sample(&metrics, r#"ebfw_events_lost_total{stage="queue"}"#),
        (OFFERED - CAPACITY) as u64
    );
}

#[tokio::test]
async fn a_stalled_reader_holds_up_neither_the_intake_nor_the_end() {
    let metrics = metrics();
    let gate = Gate::default();
    let (intake, raw) = queue(8, Arc::clone(&metrics));
    let pipeline = spawn(stages(text(gate.clone()), &metrics), raw).unwrap();
    for _ in 0..10_000 {
        intake.offer(kernel_event().as_bytes());
    }
    assert!(sample(&metrics, r#"ebfw_events_lost_total{stage="queue"}"#) > 0);
    let limit = Duration::from_millis(20);
    assert_eq!(
        pipeline.drain(limit).await.err(),
        Some(DrainError::Timeout(limit))
    );
    gate.open();
}

#[tokio::test]
async fn a_reader_that_went_away_ends_the_output_and_nothing_else() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let pipeline = spawn(stages(text(writer), &metrics), raw).unwrap();
    for _ in 0..5 {
        intake.offer(kernel_event().as_bytes());
    }
    pipeline.drain(PATIENCE).await.unwrap();
    assert_eq!(
        sample(&metrics, r#"ebfw_events_lost_total{stage="output"}"#),
        5
    );
    assert_eq!(sample(&metrics, r#"ebfw_events_total{kind="connect"}"#), 5);
}

#[tokio::test]
async fn what_is_offered_after_the_end_is_counted_as_lost() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    spawn(stages(text(Vec::new()), &metrics), raw)
        .unwrap()
        .drain(PATIENCE)
        .await
        .unwrap();
    intake.offer(kernel_event().as_bytes());
    assert_eq!(
        sample(&metrics, r#"ebfw_events_lost_total{stage="queue"}"#),
        1
    );
}

#[tokio::test]
async fn the_pipeline_ends_by_itself_when_no_intake_is_left() {
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let pipeline = spawn(stages(text(Vec::new()), &metrics), raw).unwrap();
    intake.offer(kernel_event().as_bytes());
    drop(intake);
    let lines = pipeline.done.await.unwrap().into_inner();
    assert!(lines.ends_with(b"\n"));
    drop(pipeline.stop);
}

#[tokio::test]
async fn a_panic_in_a_stage_is_told_and_hangs_nobody() {
    struct Broken;
    impl Sink for Broken {
        fn write(&mut self, _: &Event) -> Result<(), Unwritten> {
            panic!("this panic belongs to the test");
        }

        fn flush(&mut self) -> Result<(), Unwritten> {
            Ok(())
        }
    }
    let metrics = metrics();
    let (intake, raw) = queue(16, Arc::clone(&metrics));
    let pipeline = spawn(stages(Broken, &metrics), raw).unwrap();
    intake.offer(kernel_event().as_bytes());
    assert_eq!(
        pipeline.drain(PATIENCE).await.err(),
        Some(DrainError::Panicked)
    );
}
