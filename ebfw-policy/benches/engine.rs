//! Flows a second through the engine with 100 rules, for flows that the last rules decide or none.

use std::{fmt::Write, hint::black_box, net::Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ebfw_policy::{
    domain::Name,
    facts::{Claim, Facts},
    parse_policy,
    policy::Protocol,
    ruleset::Ruleset,
    workload::Workload,
};

fn ruleset() -> Ruleset {
    let mut file = String::from("defaultAction: Deny\nrules:\n");
    for at in 0..100 {
        let matches = match at % 5 {
            0 => format!(
                "domains: [service-{at}.example.com, '*.service-{at}.example.net'], ports: [443]"
            ),
            1 => format!("cidrs: [10.{at}.0.0/16, '2001:db8:{at}::/48'], ports: [443, 8000-8999]"),
            2 => format!("cidrs: [203.0.{at}.0/24], protocols: [TCP]"),
            3 => format!("domains: ['api-?.zone{at}.example.*'], ports: [443, 80]"),
            _ => format!(
                "ports: [{}, {}], protocols: [TCP, UDP]",
                2000 + at,
                3000 + at
            ),
        };
        writeln!(
            file,
            "  - {{name: rule-{at}, action: Allow, match: {{{matches}}}}}"
        )
        .expect("writing to a String cannot fail");
    }
    let policy = parse_policy(&file).expect("the file is valid");
    policy
        .select(&Workload::default())
        .expect("100 rules fit")
        .expect("it governs every workload")
}

fn flows() -> Vec<Facts> {
    let flow = |at: u8| {
        let name = Name::new(&format!("host-{at}.example.org"));
        Facts::default()
            .with_protocol(Protocol::TCP)
            .with_dst(Ipv4Addr::new(198, 51, 100, at).into())
            .with_port(443)
            .with_resolved(vec![name.clone()])
            .with_claim(Claim::Name(name))
    };
    (0..64).map(flow).collect()
}

fn engine(c: &mut Criterion) {
    let (ruleset, flows) = (ruleset(), flows());
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(flows.len() as u64));
    group.bench_function("64 flows, 100 rules, none matches", |bencher| {
        bencher.iter(|| {
            flows
                .iter()
                .map(|flow| black_box(ruleset.evaluate(flow)).opaque.len())
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
