//! Time to read and check a policy file of 10,000 rules, what of it the YAML reader takes before any of it is kept, and time to read
//! and compile a plain block list of as many rules.

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ebfw_policy::{
    compile::{Names, Tables, compile},
    parse_policy,
    policy::MAX_RULES,
    workload::{PodFacts, Workload},
};
use serde_saphyr::granit_parser::Parser;

/// Rules of the file, spread over namespaces so that no workload has too many.
const RULES: usize = 10_000;
/// Namespaces of a block list of as many rules: a workload has [`MAX_RULES`] at most.
const NAMESPACES: usize = 4;

fn policy() -> String {
    let mut file = String::from("defaultAction: Deny\nrules:\n");
    for at in 0..RULES {
        let (namespace, a, b) = (at % 100, at / 256 % 256, at % 256);
        write!(
            file,
            "  - name: rule-{at}\n    action: Allow\n    match:\n      pod:\n        namespace: team-{namespace}\n      \
             cidrs: [\"10.{a}.{b}.0/24\"]\n      domains: [\"*.service-{at}.example.com\"]\n      ports: [443, \"8000-8080\"]\n"
        )
        .expect("writing to a String cannot fail");
    }
    file
}

fn parse(c: &mut Criterion) {
    let file = policy();
    let mut group = c.benchmark_group("parse");
    group
        .throughput(Throughput::Bytes(file.len() as u64))
        .sample_size(30);
    group.bench_function("10,000 rules", |bencher| {
        bencher.iter(|| parse_policy(black_box(&file)).expect("the file is valid"))
    });
    group.bench_function("10,000 rules, the reader's events alone", |bencher| {
        bencher.iter(|| {
            Parser::new_from_str(black_box(&file))
                .map(|event| event.expect("the file is valid"))
                .filter(|(event, _)| event.is_node())
                .count()
        });
    });
    group.finish();
}

/// A generated block list: each rule has one prefix, or one name and a port. Without namespaces every rule is every workload's.
fn block_list(rules: usize, namespaces: usize) -> String {
    let mut file = String::from("defaultAction: Allow\nrules:\n");
    for at in 0..rules {
        let (a, b) = (at / 256 % 256, at % 256);
        let pod = if namespaces == 0 {
            String::new()
        } else {
            format!("      pod: {{namespace: team-{}}}\n", at % namespaces)
        };
        let what = if at % 2 == 0 {
            format!("cidrs: [203.{a}.{b}.0/24]")
        } else {
            format!("domains: [host-{at}.example.com]\n      ports: [443]")
        };
        write!(
            file,
            "  - name: block-{at}\n    action: Deny\n    match:\n{pod}      {what}\n"
        )
        .expect("writing to a String cannot fail");
    }
    file
}

fn pod(namespace: usize) -> Workload {
    Workload {
        pod: Some(PodFacts {
            namespace: format!("team-{namespace}"),
            ..PodFacts::default()
        }),
        ..Workload::default()
    }
}

/// From the words of the file to the tables of every workload.
fn tables(file: &str, workloads: &[Workload]) -> Vec<Tables> {
    let policy = parse_policy(file).expect("the file is valid");
    let names = Names::compile_lists(policy.domain_lists()).expect("the names fit");
    workloads
        .iter()
        .map(|workload| {
            let ruleset = policy.select(workload).expect("the rules are not too many");
            compile(&ruleset.expect("the policy governs all"), &names).expect("the tables fit")
        })
        .collect()
}

fn parse_and_compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse and compile a block list");
    group.sample_size(30);
    for (name, rules, namespaces) in [
        ("10,000 rules over 4 namespaces", RULES, NAMESPACES),
        ("4,096 rules for every workload", MAX_RULES, 0),
    ] {
        let file = block_list(rules, namespaces);
        let workloads: Vec<_> = (0..namespaces.max(1)).map(pod).collect();
        let compiled = tables(&file, &workloads);
        let held: u32 = compiled.iter().map(|tables| tables.header().rules).sum();
        assert_eq!(held as usize, rules, "every rule is some workload's");
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| tables(black_box(&file), &workloads))
        });
    }
    group.finish();
}

criterion_group!(benches, parse, parse_and_compile);
criterion_main!(benches);
