//! The report against a golden table and a golden object, and its limits.

use super::*;
use crate::events::{
    event::{Process, Ruling, Subject},
    golden::assert_golden,
    samples::{bare, connect_to, curl, flow, ruling},
};

fn by(ruling: Ruling, event: Event) -> Event {
    Event {
        ruling: Some(ruling),
        process: Some(curl()),
        ..event
    }
}

fn denied(event: Event) -> Event {
    by(
        ruling(Action::Deny, None, Reason::Default, Mode::Enforce),
        event,
    )
}

fn allowed(event: Event) -> Event {
    by(
        ruling(
            Action::Allow,
            Some("allow-web"),
            Reason::Rule,
            Mode::Enforce,
        ),
        event,
    )
}

fn report(events: impl IntoIterator<Item = Event>) -> Report {
    let mut report = Report::new();
    for event in events {
        report.write(&event).unwrap();
    }
    report.flush().unwrap();
    report
}

fn mixed() -> Report {
    let wget = Process {
        pid: 9,
        comm: Some("wget\x1b[2J".into()),
    };
    report([
        allowed(connect_to("93.184.216.34", 443)),
        allowed(connect_to("93.184.216.34", 443)),
        allowed(connect_to("2001:db8::1", 443)),
        denied(connect_to("198.51.100.7", 25)),
        Event {
            suppressed: 41,
            process: Some(wget),
            ..denied(connect_to("203.0.113.200", 80))
        },
        denied(connect_to("203.0.113.200", 80)),
        denied(bare(Subject::Connect {
            flow: flow("192.0.2.1", None, 1),
        })),
        by(
            ruling(
                Action::Deny,
                Some("no smtp at all"),
                Reason::Rule,
                Mode::Enforce,
            ),
            connect_to("198.51.100.7", 25),
        ),
        by(
            ruling(Action::Deny, None, Reason::SourceRoute, Mode::Enforce),
            connect_to("198.51.100.7", 25),
        ),
        by(
            ruling(Action::Modify, Some("inject"), Reason::Rule, Mode::Enforce),
            connect_to("198.51.100.8", 80),
        ),
        connect_to("198.51.100.9", 80),
    ])
}

#[test]
fn golden_table() {
    assert_golden("report.txt", &mixed().table(3, Colour::Never));
    assert_golden(
        "report.ansi.txt",
        &mixed().table(0, Colour::Ansi).replace('\x1b', "^["),
    );
}

#[test]
fn golden_report_json() {
    assert_golden("report.json", &mixed().json(3));
}

#[test]
fn suppressed_events_count() {
    let totals = mixed().totals();
    assert_eq!(
        totals,
        Totals {
            deny: 47,
            held: 0,
            allow: 3,
            modify: 1,
            observed: 1
        }
    );
}

#[test]
fn an_empty_report_says_so() {
    assert_eq!(
        report([]).table(0, Colour::Never),
        "ebfw: the command opened no connection\n"
    );
    let json: serde_json::Value = serde_json::from_str(&report([]).json(0)).unwrap();
    assert_eq!(json["flows"], serde_json::json!([]));
}

#[test]
fn an_empty_report_with_losses_does_not_claim_that_nothing_happened() {
    let table = report([]).table(2, Colour::Never);
    assert!(!table.contains("opened no connection"), "{table}");
    assert!(table.contains("2 events were lost"), "{table}");
}

#[test]
fn a_deny_that_was_not_carried_out_is_named_so() {
    for (mode, said) in [
        (Mode::Log, true),
        (Mode::DryRun, true),
        (Mode::Enforce, false),
    ] {
        let table = report([by(
            ruling(Action::Deny, None, Reason::Default, mode),
            connect_to("1.1.1.1", 1),
        )])
        .table(0, Colour::Never);
        assert_eq!(table.contains("was let through"), said, "{table}");
    }
}

#[test]
fn a_scan_of_ports_has_a_bounded_number_of_rows_and_whole_totals() {
    let ports = 1..=u16::try_from(MAX_ROWS + 500).unwrap();
    let report = report(ports.map(|port| denied(connect_to("198.51.100.7", port))));
    assert_eq!(report.rows.len(), MAX_ROWS);
    assert_eq!(report.totals().deny, (MAX_ROWS + 500) as u64);
    assert!(report.table(0, Colour::Never).contains("500 flows beyond"));
}

#[test]
fn only_so_many_commands_are_named() {
    let named = |n: u32| Event {
        process: Some(Process {
            pid: n,
            comm: Some(format!("c{n}").as_str().into()),
        }),
        ..connect_to("1.1.1.1", 1)
    };
    let report = report((1..100).map(named));
    assert_eq!(
        report.rows.values().next().unwrap().commands.len(),
        MAX_COMMANDS
    );
}
