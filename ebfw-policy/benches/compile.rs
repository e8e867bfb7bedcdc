//! Time to compile rulesets: 10,000 rules spread over workloads, the largest ruleset with 100,000 prefixes, and rules with domains and paths.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use ebfw_policy::{
    compile::{Names, NoNames, compile},
    http::{Method, PathPrefix},
    policy::{Action, AnyOf, MAX_RULES, Match, PortRange, Position, Rule},
    ruleset::Ruleset,
    testgen::domains,
};
use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net};

/// All rules of the first benchmark, over all workloads.
const RULES: usize = 10_000;
/// Prefixes of the second one.
const PREFIXES: usize = 100_000;

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).expect("it begins above 0 and is not reversed")
}

fn ruleset(rules: impl Iterator<Item = Match>) -> Ruleset {
    let rule = |matches| Rule {
        name: "rule".into(),
        action: Action::Allow,
        matches,
        mutations: Vec::new(),
        strict_l7: false,
        position: Position::default(),
    };
    Ruleset {
        rules: rules.map(|matches| Arc::new(rule(matches))).collect(),
        default: Action::Deny,
        govern_loopback: false,
    }
}

fn prefix(rng: &mut Rng) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::from(rng.u32(..)), rng.u8(12..=32))
        .trunc()
        .into()
}

/// The rules of one of `workloads` workloads.
fn share(rng: &mut Rng, workloads: usize) -> Ruleset {
    ruleset((0..RULES / workloads).map(|_| Match {
        cidrs: AnyOf::Entries(vec![prefix(rng)]),
        ports: AnyOf::Entries(vec![range(443, 443), range(8000, 8080)]),
        ..Match::ANYTHING
    }))
}

fn workloads(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile 10,000 rules");
    group.sample_size(20);
    for workloads in [10, 100, 1000] {
        let mut rng = Rng::with_seed(1);
        let rulesets: Vec<Ruleset> = (0..workloads).map(|_| share(&mut rng, workloads)).collect();
        group.bench_function(format!("over {workloads} workloads"), |bencher| {
            bencher.iter(|| {
                rulesets
                    .iter()
                    .map(|rules| {
                        compile(black_box(rules), &NoNames)
                            .expect("it fits")
                            .blocks
                            .len()
                    })
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

fn largest(c: &mut Criterion) {
    let mut rng = Rng::with_seed(1);
    let rules = ruleset((0..MAX_RULES).map(|at| {
        let number = PREFIXES / MAX_RULES + usize::from(at < PREFIXES % MAX_RULES);
        let first = rng.u16(1..60_000);
        Match {
            cidrs: AnyOf::Entries((0..number).map(|_| prefix(&mut rng)).collect()),
            ports: AnyOf::Entries(vec![range(first, first + rng.u16(0..5000))]),
            ..Match::ANYTHING
        }
    }));
    let mut group = c.benchmark_group("compile the largest ruleset");
    group.sample_size(10);
    group.bench_function("4,096 rules, 100,000 prefixes", |bencher| {
        bencher.iter(|| compile(black_box(&rules), &NoNames).expect("it fits"))
    });
    group.finish();
}

/// The rules of one of `workloads` workloads, each with a domain and a path of its own.
fn spoken(rules: usize, workloads: usize) -> (Vec<Ruleset>, Names) {
    let mut domains = domains(rules).into_iter().enumerate();
    let rulesets: Vec<Ruleset> = (0..workloads)
        .map(|_| {
            ruleset(
                domains
                    .by_ref()
                    .take(rules / workloads)
                    .map(|(at, domain)| {
                        let methods = ["GET", "POST"]
                            .map(|text| Method::from_policy(text).expect("a method"));
                        Match {
                            domains: AnyOf::Entries(vec![domain]),
                            methods: AnyOf::Entries(methods.into()),
                            path_prefix: PathPrefix::new(&format!(
                                "/api/service-{at}/v1/resources"
                            )),
                            ..Match::ANYTHING
                        }
                    }),
            )
        })
        .collect();
    let lists = rulesets
        .iter()
        .flat_map(|ruleset| &ruleset.rules)
        .filter_map(|rule| rule.matches.domains.entries());
    let names = Names::compile_lists(lists).expect("it fits");
    (rulesets, names)
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile rules with domains, methods and paths");
    group.sample_size(10);
    for (rules, workloads) in [(MAX_RULES, 1), (RULES, 10)] {
        let (rulesets, names) = spoken(rules, workloads);
        group.bench_function(format!("{rules} rules, {workloads} workloads"), |bencher| {
            bencher.iter(|| {
                rulesets
                    .iter()
                    .map(|rules| {
                        compile(black_box(rules), &names)
                            .expect("it fits")
                            .blocks
                            .len()
                    })
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, workloads, largest, requests);
criterion_main!(benches);
