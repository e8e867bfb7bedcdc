//! `cargo xtask vm`: the tests of the kernel side on real kernels, old and new, in virtual machines.
//! Emulated where the machine lends no virtualisation, so slow, and the same everywhere.

mod borrowed;
mod cpio;
mod guest;
mod initrd;
mod kernels;
mod modules;
mod programs;

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    command::{note, step},
    interrupt::Interrupted,
    setup::{self, KERNEL_PROGRAMS, Need, Program},
    side_by_side,
};
use borrowed::Borrowed;
use guest::{Outcome, Show};
use kernels::{Kernel, Series};
use programs::TestProgram;

/// Which kernels, which tests.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kernel series, or `all` [default: the oldest and the newest; of the tests, those between get the one that loads the programs]
    #[arg(long, value_delimiter = ',', value_parser = kernels::parse)]
    kernel: Vec<kernels::Choice>,
    /// Test targets of `ebfw-tests` and `ebfw-agent` [default: all that need nothing but a kernel]
    #[arg(long = "test", value_delimiter = ',')]
    tests: Vec<String>,
    /// Environment of the tests
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Give a kernel this many seconds
    #[arg(long, default_value_t = 1200)]
    seconds: u64,
    /// Memory of a machine in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Machines side by side [default: as many as there are processors and memory for]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Run each test program this many times, to hunt what fails now and then
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Build the test programs and fetch the kernels, and stop there
    #[arg(long)]
    no_run: bool,
    /// How QEMU runs the guest
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Arguments of the test programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A kernel, and the tests that it gets.
#[derive(Debug, PartialEq)]
struct Boot {
    series: Series,
    tests: Vec<String>,
}

impl Options {
    /// What is booted, in the order in which it begins.
    fn boots(&self) -> Vec<Boot> {
        let boots = |kernels: &[Series], tests: &[String]| -> Vec<Boot> {
            let boot = |&series| Boot {
                series,
                tests: tests.to_vec(),
            };
            kernels.iter().map(boot).collect()
        };
        let tests = if self.tests.is_empty() {
            programs::DEFAULT.map(str::to_owned).to_vec()
        } else {
            self.tests.clone()
        };
        if !self.kernel.is_empty() {
            return boots(&kernels::chosen(&self.kernel), &tests);
        }
        let mut all = boots(&kernels::ends(), &tests);
        // Who asks for a test asks where kernels differ most.
        if self.tests.is_empty() && self.arguments.is_empty() {
            all.extend(boots(kernels::between(), &[programs::LOADS.to_owned()]));
        }
        all
    }
}

/// Boots each kernel, runs the tests there and fails if any failed anywhere.
pub(crate) fn run(options: &Options) -> Result<()> {
    let boots = options.boots();
    let parts = prepare(&boots)?;
    if options.no_run {
        return Ok(());
    }
    let ends = boot_all(options, &boots, &parts)?;
    step("virtual machines");
    for end in &ends {
        note(format_args!(
            "{:28} {}, {} s",
            end.release,
            end.outcome,
            end.took.as_secs()
        ));
    }
    let failed = ends.iter().filter(|end| !end.passed()).count();
    if failed > 0 {
        bail!("the tests failed on {failed} of {} kernels", ends.len());
    }
    Ok(())
}

/// Runs one test of one target on every kernel of the matrix and returns what it printed there, by the kernel's release.
pub(crate) fn on_all_kernels(target: &str, test: &str) -> Result<Vec<(String, String)>> {
    let options = Options {
        kernel: vec![kernels::Choice::All],
        tests: vec![target.to_owned()],
        environment: Vec::new(),
        seconds: 1200,
        memory: 1536,
        jobs: None,
        repeat: 1,
        no_run: false,
        accel: "tcg".to_owned(),
        arguments: vec![test.to_owned(), "--nocapture".to_owned()],
    };
    let boots = options.boots();
    let parts = prepare(&boots)?;
    let ends = boot_all(&options, &boots, &parts)?;
    let (passed, failed): (Vec<_>, Vec<_>) = ends.into_iter().partition(End::passed);
    if !failed.is_empty() {
        let failed: Vec<_> = failed
            .iter()
            .map(|end| format!("{} ({})", end.release, end.outcome))
            .collect();
        bail!("{test} failed on {}", failed.join(", "));
    }
    let printed = passed.into_iter().map(|end| (end.release, end.printed));
    Ok(printed.collect())
}

/// How a boot ended.
struct End {
    release: String,
    outcome: Outcome,
    took: Duration,
    printed: String,
}

impl End {
    fn passed(&self) -> bool {
        self.outcome == Outcome::Exit(0)
    }
}

/// What guests are made of.
struct Parts {
    /// In the order of the boots.
    kernels: Vec<Kernel>,
    programs: Vec<TestProgram>,
    borrowed: Vec<Borrowed>,
}

/// Builds the test programs, and fetches all else.
fn prepare(boots: &[Boot]) -> Result<Parts> {
    setup::ensure(&KERNEL_PROGRAMS)?;
    setup::ensure(&[Need::Program(Program::Qemu), Need::Program(Program::Xz)])?;
    build::kernel_programs(&[])?;
    let tests: BTreeSet<&String> = boots.iter().flat_map(|boot| &boot.tests).collect();
    let tests: Vec<String> = tests.into_iter().cloned().collect();
    let kernels = boots.iter().map(|boot| kernels::fetch(boot.series));
    Ok(Parts {
        kernels: kernels.collect::<Result<_>>()?,
        programs: programs::build(&tests)?,
        borrowed: borrowed::find()?,
    })
}

/// Boots each kernel, some side by side. The ends are in the order of the boots.
fn boot_all(options: &Options, boots: &[Boot], parts: &Parts) -> Result<Vec<End>> {
    let interrupted = Interrupted::watch()?;
    let workers = machines(options, boots.len());
    let show = if workers > 1 { Show::Later } else { Show::Live };
    if show == Show::Later {
        note(format_args!(
            "{workers} machines side by side; each shows what its tests print when it has ended"
        ));
    }
    let boot = |at: usize| -> Result<End> {
        let job = initrd::Job {
            programs: &programs::only(&parts.programs, &boots[at].tests),
            borrowed: &parts.borrowed,
            environment: &options.environment,
            arguments: &options.arguments,
            repeat: options.repeat,
        };
        let machine = guest::Machine {
            memory: options.memory,
            accel: &options.accel,
            limit: Duration::from_secs(options.seconds),
            interrupted: &interrupted,
            show,
        };
        one(&parts.kernels[at], &job, &machine)
    };
    side_by_side::run(workers, boots.len(), boot)
        .into_iter()
        .collect()
}

/// One boot, from its first word to its last.
fn one(kernel: &Kernel, job: &initrd::Job<'_>, machine: &guest::Machine<'_>) -> Result<End> {
    let release = &kernel.release;
    machine.interrupted.check()?;
    match machine.show {
        Show::Live => step(format_args!("kernel {release}")),
        Show::Later => note(format_args!("{release}: boots")),
    }
    let start = Instant::now();
    let (outcome, printed) = guest::boot(kernel, &initrd::build(kernel, job)?, machine)?;
    let took = start.elapsed();
    let mut said = String::new();
    if machine.show == Show::Later {
        said = format!("==> kernel {release}\n{printed}");
    }
    // In one piece, so that another machine's words cannot come between.
    eprintln!("{said}    {release}: {outcome}, {} s", took.as_secs());
    Ok(End {
        release: release.clone(),
        outcome,
        took,
        printed,
    })
}

/// How many machines run at once: an emulated one keeps a processor busy, and all of its memory may be used.
fn machines(options: &Options, boots: usize) -> usize {
    let asked = options.jobs.map(NonZeroUsize::get).unwrap_or_else(|| {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        side_by_side::processors().min(machines_in(&memory, options.memory))
    });
    asked.min(boots).max(1)
}

/// How many machines with so many MiB fit into what /proc/meminfo says is available.
fn machines_in(meminfo: &str, each: u32) -> usize {
    let available = meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()
        })
        .and_then(|kib| kib.parse::<usize>().ok());
    available.unwrap_or_default() / 1024 / (each as usize).max(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn boots(arguments: &[&str]) -> Vec<String> {
        let line = Line::try_parse_from([&["vm"], arguments].concat()).unwrap();
        let boots = line.options.boots().into_iter();
        boots
            .map(|boot| format!("{} {}", boot.series, boot.tests.join("+")))
            .collect()
    }

    #[test]
    fn every_kernel_is_tried_and_those_at_the_ends_get_all_tests() {
        let all = programs::DEFAULT.join("+");
        let expected = [
            format!("5.10 {all}"),
            format!("7.3 {all}"),
            "6.1 datapath".into(),
            "6.12 datapath".into(),
            "6.18 datapath".into(),
        ];
        assert_eq!(boots(&[]), expected);
    }

    #[test]
    fn who_asks_gets_what_is_asked_for() {
        let all = programs::DEFAULT.join("+");
        assert_eq!(boots(&["--kernel", "6.1"]), [format!("6.1 {all}")]);
        assert_eq!(boots(&["--kernel", "all"]).len(), 5);
        assert_eq!(
            boots(&["--test", "live", "--", "names"]),
            ["5.10 live", "7.3 live"]
        );
        assert_eq!(
            boots(&["--", "names"]),
            [format!("5.10 {all}"), format!("7.3 {all}")]
        );
    }

    #[test]
    fn machines_share_the_memory_that_is_there() {
        let meminfo = "MemTotal: 24684092 kB\nMemAvailable:   9000000 kB\n";
        assert_eq!(machines_in(meminfo, 4096), 2);
        assert_eq!(machines_in(meminfo, 16384), 0, "one runs all the same");
        assert_eq!(machines_in("", 4096), 0);
    }
}
