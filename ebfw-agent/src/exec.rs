//! `ebfw exec`: runs a command in a cgroup of its own under a policy, and reports what was allowed and refused.
//!
//! Nothing is pinned. The programs are attached for as long as the command's cgroup exists, so that the command stays governed where `ebfw` is
//! killed. What the command leaves running is ended with it, since nobody would answer for it any more.

mod signals;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv6Addr},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command as StdCommand, ExitStatus},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ebfw_common::abi::{self, verdict};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::process::{Child, Command};

use self::signals::Signals;
use crate::{
    answers,
    cli::{ExecMode, ExecOptions, is_closed_pipe},
    config::{Mode, Output, UnknownWorkload},
    enforcer::{Enforcer, Scope, Terms},
    events::{
        Colour, Filter, Inspection,
        pipeline::{self, Stages},
        sink::{Format, Lines},
    },
    exit::Exit,
    host::{
        cgroup::{CgroupPath, Hierarchy, OwnedCgroup},
        privileges,
        resolvers::Source,
        signals::Held,
        tree::Tree,
    },
    metrics::Metrics,
    policy_file::{self, Loaded},
    report::Report,
    workload::Rulebook,
};

/// What the cgroups of commands are called, before the process id of their `ebfw`.
const PREFIX: &str = "ebfw-exec-";
/// How long the last events may take.
const DRAIN: Duration = Duration::from_secs(2);
/// How long processes that are left over may take to die.
const REAP: Duration = Duration::from_secs(5);
/// Exit codes of shells: the command was found but could not be run, or was not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the command; returns its exit code, or 128 plus the signal that ended it.
///
/// # Errors
///
/// Where the policy is bad, the host is not able, or the command cannot be started under the policy.
pub fn exec(options: &ExecOptions) -> anyhow::Result<Exit> {
    // Before anything is made that would be left behind.
    let held = Signals::hold()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(options, held))
}

async fn run(options: &ExecOptions, held: Held) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen(held)?;
    let Loaded { policy, .. } = policy_file::load(&options.policy)?;
    let hierarchy = privileges::check(None)?.hierarchy;
    let destination = Destination::open(options)?;
    let own = hierarchy.own()?;
    hierarchy.remove_leftovers(&own, PREFIX);
    let name = format!("{PREFIX}{}", std::process::id());
    let cgroup = signals.guard(|| hierarchy.create(&own, &name))?;
    let terms = Terms {
        mode: Some(match options.mode {
            ExecMode::Enforce => Mode::Enforce,
            ExecMode::Log => Mode::Log,
        }),
        unknown: UnknownWorkload::Drop,
        learn_special: false,
        inspect: abi::inspect::OFF,
    };
    let metrics = Arc::new(Metrics::new(terms.event_mode()));
    let tree = Arc::new(Tree::start(hierarchy.clone(), cgroup.path().clone())?);
    let scope = Scope {
        hierarchy: hierarchy.clone(),
        root: cgroup.path().clone(),
        tree: Arc::clone(&tree),
        own: None,
        // The command's own cgroup has no services.
        services: Vec::new(),
    };
    let selects_pods = policy.pod_selector.is_some();
    let rules = Some(Rulebook::File(Arc::new(policy)));
    let mut enforcer = Enforcer::load(
        None,
        terms,
        scope,
        rules,
        Source::Host,
        Arc::clone(&metrics),
    )?;
    enforcer.enforce().await?;
    if selects_pods {
        tracing::warn!(
            "the policy selects pods by podSelector, and a command is in no pod: nothing is refused"
        );
    }
    let mut events = enforcer.events()?;
    let mut names = enforcer.name_events()?;
    let (intake, raw) = pipeline::queue(pipeline::QUEUE, Arc::clone(&metrics));
    let stages = Stages {
        workloads: tree,
        rules: enforcer.rule_names(),
        filter: Filter::new(Vec::new(), Vec::new()),
        inspection: Inspection::NOTHING,
        sink: (Report::new(), event_lines(options)?),
        metrics: Arc::clone(&metrics),
    };
    let pipeline = pipeline::spawn(stages, raw)?;
    let (answers, learner) = enforcer.answers()?;
    let reader = answers::Reader::new(learner, Arc::clone(&metrics));
    let told = intake.clone();
    let reading = tokio::spawn(reader.run(answers, move |event| told.offer_name(event)));
    enforcer.attach_for_life()?;

    signals.commit();
    let mut child = match spawn(options, &cgroup) {
        Ok(child) => child,
        Err(error) => {
            let _ = cgroup.remove();
            return Err(error);
        }
    };
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => pass_on(&child, signal),
            done = events.drain(|bytes| intake.offer(bytes)) => done?,
            done = names.drain(|bytes| intake.offer_name(bytes)) => done?,
            demand = enforcer.demand() => enforcer.answer(demand?).await,
        }
    };
    end_leftovers(&hierarchy, cgroup.path()).await;
    reading.abort();
    events.take(|bytes| intake.offer(bytes));
    names.take(|bytes| intake.offer_name(bytes));
    drop(intake);
    let exit = exit_of(status);
    let reported = async {
        let (mut report, _) = pipeline.drain(DRAIN).await?;
        add_left_out(&mut report, &mut enforcer)?;
        destination.write(options.output, &report, metrics.events_lost())
    };
    let reported = reported.await;
    drop(enforcer);
    // Says so itself where the cgroup cannot be removed.
    drop(cgroup);
    Ok(match reported {
        Err(error) if !is_closed_pipe(&error) => {
            tracing::error!("{error:#}");
            // The command's code stands for more than its report.
            if exit == Exit::SUCCESS {
                Exit::FAILURE
            } else {
                exit
            }
        }
        Ok(()) | Err(_) => exit,
    })
}

fn add_left_out(report: &mut Report, enforcer: &mut Enforcer) -> anyhow::Result<()> {
    for (left, count) in enforcer.left_out()? {
        let destination = IpAddr::V6(Ipv6Addr::from(left.destination)).to_canonical();
        report.add_left_out(
            destination,
            (left.port != 0).then_some(left.port),
            left.protocol,
            left.verdict == verdict::DENY,
            count,
        );
    }
    Ok(())
}

fn event_lines(options: &ExecOptions) -> anyhow::Result<Option<Lines<File>>> {
    if !options.events {
        return Ok(None);
    }
    let format = match options.output {
        Output::Text if colour() == Colour::Ansi => Format::Text(Colour::Ansi),
        Output::Text => Format::Text(Colour::Never),
        Output::Json => Format::Json,
    };
    let stderr = std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned()?;
    Ok(Some(Lines::new(stderr.into(), format)))
}

fn colour() -> Colour {
    if io::stderr().is_terminal()
        && anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
    {
        Colour::Ansi
    } else {
        Colour::Never
    }
}

fn spawn(options: &ExecOptions, cgroup: &OwnedCgroup) -> anyhow::Result<Child> {
    let mut command = StdCommand::new(&options.program);
    command.args(&options.arguments);
    cgroup.confine(&mut command)?;
    let not_started = |source| NotStarted {
        program: PathBuf::from(&options.program),
        source,
    };
    Ok(Command::from(command).spawn().map_err(not_started)?)
}

/// The command could not be run. The exit code is the one that a shell would give.
#[derive(Debug, thiserror::Error)]
#[error("failed to run {}", program.display())]
pub struct NotStarted {
    program: PathBuf,
    source: io::Error,
}

impl NotStarted {
    /// Whether there is no such command, or it cannot be run.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit(if self.source.kind() == io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            CANNOT_RUN
        })
    }
}

fn pass_on(child: &Child, signal: Signal) {
    if matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && has_heard() {
        return;
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // The child may have ended this instant; then there is nobody to tell.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether what a terminal's keys send was sent by them: then the command has it as well, and decides.
fn has_heard() -> bool {
    let foreground = File::open("/dev/tty").and_then(|terminal| Ok(tcgetpgrp(terminal)?));
    foreground.ok() == Some(getpgrp())
}

/// Ends what the command left running in its cgroup.
async fn end_leftovers(hierarchy: &Hierarchy, cgroup: &CgroupPath) {
    let deadline = tokio::time::Instant::now() + REAP;
    let mut told = false;
    loop {
        let left = hierarchy.processes(cgroup, usize::MAX);
        if left.is_empty() || tokio::time::Instant::now() > deadline {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                processes = left.len(),
                "ending what the command left running"
            );
        }
        for pid in left.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where the report goes. Opened before the command runs: who cannot have one hears of it at once.
struct Destination {
    to: Box<dyn Write>,
    name: String,
    colour: Colour,
}

impl Destination {
    fn open(options: &ExecOptions) -> anyhow::Result<Self> {
        let plain = |to: Box<dyn Write>, name: String| Self {
            to,
            name,
            colour: Colour::Never,
        };
        Ok(match options.report.as_deref() {
            None => Self {
                colour: colour(),
                ..plain(Box::new(io::stderr()), "the report".to_owned())
            },
            Some(path) if path == Path::new("-") => {
                plain(Box::new(io::stdout()), "standard output".to_owned())
            }
            Some(path) => {
                let name = path.display().to_string();
                let file =
                    File::create(path).with_context(|| format!("failed to create {name}"))?;
                plain(Box::new(file), name)
            }
        })
    }

    fn write(mut self, form: Output, report: &Report, lost: u64) -> anyhow::Result<()> {
        let mut text = match form {
            Output::Text => report.table(lost, self.colour),
            Output::Json => report.json(lost),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let written = self.to.write_all(text.as_bytes());
        written
            .and_then(|()| self.to.flush())
            .with_context(|| format!("failed to write {}", self.name))
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Exit(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(Exit::FAILURE.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_told_from_one_that_cannot_be_run() {
        for (kind, code) in [
            (io::ErrorKind::NotFound, 127),
            (io::ErrorKind::PermissionDenied, 126),
        ] {
            let error = anyhow::Error::from(NotStarted {
                program: "/nonexistent".into(),
                source: kind.into(),
            });
            assert_eq!(Exit::of(&error), Exit(code), "{error:#}");
            assert!(
                format!("{error:#}").starts_with("failed to run /nonexistent: "),
                "{error:#}"
            );
        }
    }
}
