//! What probes cost the programs that are looked into: `SSL_write` of a real libssl, a hundred bytes a call, without a probe, with one at
//! the function's entry, and with one where the agent puts it; by both ways to attach.
//!
//! All in one run, in interleaved rounds; the figure is the median, the spread is the distance of the quartiles. The library is a copy, so that
//! nobody else runs into the probes; records go nowhere, so that only `SSL_write` is measured. Beyond the first 4,000 a second, writes
//! are over the limit of the workload and not copied any more: what is measured is mostly the trap. A second table has the first ones. What
//! it costs to judge requests comes after it, see [`judged`]; with `-- judged` that alone.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

mod judged;

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebfw_agent::{
    host::cgroup::{CgroupPath, Hierarchy},
    probes::trial::{Placement, Trial, Way},
};
use ebfw_common::plaintext::RECORDS_PER_SECOND;
use ebfw_tests::tls::{self, Connection, Library};
use nix::time::{ClockId, clock_gettime};

/// Interleaved rounds; odd, so that the median is a measurement.
const ROUNDS: usize = 9;
/// Writes of one round.
const WRITES: u32 = 20_000;
/// Writes of one round that stay below the limit, whatever part of a second has gone.
const COPIED: u32 = RECORDS_PER_SECOND / 2;
/// Bytes of one write.
const BYTES: usize = 100;
/// A probe where the agent puts it may cost at most this part of one at the entry, where the entry is single-stepped.
const LIMIT: f64 = 0.8;

/// One line of the table.
struct Case {
    name: String,
    probe: Option<(usize, Placement)>,
    /// Nanoseconds a call: all writes, and those that are copied.
    samples: [Vec<f64>; 2],
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let only_judged = match arguments[..] {
        [judged::VICTIM, library, folder, version] => {
            return judged::victim(Path::new(library), Path::new(folder), version);
        }
        ["judged"] => true,
        [] => false,
        _ => anyhow::bail!("bench-probes [judged]: nothing else"),
    };
    ensure!(
        nix::unistd::geteuid().is_root(),
        "loading kernel programs needs root"
    );
    let folder = env::temp_dir().join(format!("ebfw-bench-probes-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = if only_judged {
        Ok(())
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { measure(&folder) })
    };
    let measured = measured.and_then(|()| judged::measure(&folder));
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path) -> Result<()> {
    let copy = folder.join("libssl.so.3");
    fs::copy(tls::library().context("there is no libssl")?, &copy)?;
    tls::make_certificate(folder)?;
    let library = Library::load(&copy)?;
    let connection = library.connect(folder);
    let hierarchy = Hierarchy::find()?;
    let everything = hierarchy.directory(&CgroupPath::top());
    let mut trials = Vec::new();
    let mut cases = vec![case("without a probe".into(), None)];
    for way in [Way::Multi, Way::Perf] {
        match Trial::load(&everything, way) {
            Ok(trial) => {
                for placement in [Placement::Entry, Placement::Chosen] {
                    let place = match placement {
                        Placement::Entry => "at the entry",
                        Placement::Chosen => "chosen",
                    };
                    cases.push(case(
                        format!("{way:?}, {place}"),
                        Some((trials.len(), placement)),
                    ));
                }
                trials.push(trial);
            }
            Err(error) => println!("not measured: {way:?}: {error}"),
        }
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            round(case, &mut trials, &copy, &connection)?;
        }
    }
    show(&mut cases)
}

fn case(name: String, probe: Option<(usize, Placement)>) -> Case {
    Case {
        name,
        probe,
        samples: [Vec::new(), Vec::new()],
    }
}

fn round(
    case: &mut Case,
    trials: &mut [Trial],
    library: &Path,
    connection: &Connection<'_>,
) -> Result<()> {
    let links = match case.probe {
        Some((trial, placement)) => Some(trials[trial].attach(library, placement)?),
        None => None,
    };
    fresh_second()?;
    let bytes = [b'x'; BYTES];
    for (samples, count) in [(1, COPIED), (0, WRITES)] {
        case.samples[samples].push(calls(count, || connection.write(&bytes))?);
    }
    drop(links);
    for trial in trials {
        trial.take(|_| ());
    }
    Ok(())
}

/// Waits for a fresh second, in which nothing has been copied yet.
fn fresh_second() -> Result<()> {
    let start = now(ClockId::CLOCK_BOOTTIME)?.as_secs();
    while now(ClockId::CLOCK_BOOTTIME)?.as_secs() == start {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Nanoseconds of processor time a call: other programs on this machine do not count.
fn calls(count: u32, mut call: impl FnMut()) -> Result<f64> {
    let start = now(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    for _ in 0..count {
        call();
    }
    let taken = now(ClockId::CLOCK_THREAD_CPUTIME_ID)? - start;
    Ok(taken.as_secs_f64() * 1e9 / f64::from(count))
}

/// The median, and the distance of the quartiles.
fn median_and_spread(samples: &mut [f64]) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples[samples.len() * part / 4];
    (at(2), at(3) - at(1))
}

fn now(clock: ClockId) -> Result<Duration> {
    Ok(clock_gettime(clock)?.into())
}

fn show(cases: &mut [Case]) -> Result<()> {
    let mut costs = Vec::new();
    for (index, what) in [(0, "all writes"), (1, "writes that are copied")] {
        println!(
            "\n{what:<26} {:>10} {:>9} {:>8} {:>11}",
            "calls/s", "ns a call", "spread", "the probe"
        );
        let mut bare = None;
        for case in &mut *cases {
            let (median, spread) = median_and_spread(&mut case.samples[index]);
            let cost = median - *bare.get_or_insert(median);
            println!(
                "{:<26} {:>10.0} {median:>9.0} {spread:>8.0} {cost:>8.0} ns",
                case.name,
                1e9 / median
            );
            if index == 0 {
                costs.push(cost);
            }
        }
    }
    if let [_, entry, chosen, ..] = costs[..] {
        println!(
            "\na probe where the agent puts it costs {:.2} of one at the entry",
            chosen / entry
        );
        ensure!(chosen <= entry * LIMIT, "more than {LIMIT}");
    }
    Ok(())
}
