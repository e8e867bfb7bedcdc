//! Time to compile domain patterns, memory that their automaton takes, and time to find the class of a name.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ebfw_policy::{
    compile::{NameClasses as _, Names},
    domain::{DomainPattern, Name},
    testgen,
};

/// Patterns of one rule.
const LIST: usize = 100;
/// 25 bytes below a pattern.
const NAME_BYTES: usize = 25;
/// What the automaton of 100,000 patterns may take.
const MAX_BYTES: usize = 8 << 20;

fn lists(patterns: &[DomainPattern]) -> Names {
    Names::compile_lists(patterns.chunks(LIST)).expect("they fit")
}

fn apart(patterns: &[DomainPattern]) -> Names {
    Names::compile(patterns).expect("they fit")
}

/// Tells what was built, beside the times.
fn report(what: &str, patterns: usize, names: &Names) {
    let bytes = size_of_val(names.cells());
    eprintln!(
        "{patterns} patterns, {what}: {bytes} bytes of cells, {} classes",
        names.classes().len()
    );
    assert!(bytes < MAX_BYTES, "{bytes} bytes");
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile names");
    group.sample_size(10);
    for number in [10_000, 100_000] {
        let patterns = testgen::domains(number);
        report("in rules of 100", number, &lists(&patterns));
        report("all told apart", number, &apart(&patterns));
        group.bench_with_input(
            BenchmarkId::new("in rules of 100", number),
            &patterns,
            |b, patterns| {
                b.iter(|| lists(black_box(patterns)));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("all told apart", number),
            &patterns,
            |b, patterns| {
                b.iter(|| apart(black_box(patterns)));
            },
        );
    }
    group.finish();
}

fn walk(c: &mut Criterion) {
    let patterns = testgen::domains(100_000);
    let names = lists(&patterns);
    let exact = patterns
        .iter()
        .filter_map(DomainPattern::single_name)
        .find(|name| name.len() == NAME_BYTES)
        .expect("among so many names one is as long");
    let name = Name::new(exact);
    assert_ne!(names.class_of(&name), 0);
    c.bench_function("class of a name of 25 bytes", |bencher| {
        bencher.iter(|| names.class_of(black_box(&name)));
    });
}

criterion_group!(benches, compile, walk);
criterion_main!(benches);
