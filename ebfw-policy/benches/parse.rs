//! Time to read and check a policy file of 10,000 rules, and what of it the YAML reader takes before any of it is kept.

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ebfw_policy::parse_policy;
use serde_saphyr::granit_parser::Parser;

/// Rules of the file, spread over namespaces so that no workload has too many.
const RULES: usize = 10_000;

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

criterion_group!(benches, parse);
criterion_main!(benches);
