//! `ebfw exec`: runs a command in a cgroup of its own under a policy, and reports what was allowed and refused.
//!
//! Nothing is pinned. What the command leaves running is ended with it, since nobody would govern it any more.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv6Addr},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
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
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{
    answers,
    cli::{ExecMode, ExecOptions},
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

/// How long the last events may take.
const DRAIN: Duration = Duration::from_secs(2);
/// How long processes that are left over may take to die.
const REAP: Duration = Duration::from_secs(5);
/// Exit codes of shells: the command was found but could not be run, or was not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What ends `ebfw exec` before its command runs, and is the command's business after that.
const PASSED_ON: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// Runs the command; returns its exit code, or 128 plus the signal that ended it.
///
/// # Errors
///
/// Where the policy is bad, the host is not able, or the command cannot be started under the policy.
pub fn exec(options: &ExecOptions) -> anyhow::Result<Exit> {
    // Before there are other threads.
    let held = Held::back(&PASSED_ON)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(options, held))
}

async fn run(options: &ExecOptions, held: Held) -> anyhow::Result<Exit> {
    let Loaded { policy, .. } = policy_file::load(&options.policy)?;
    let hierarchy = privileges::check(None)?.hierarchy;
    let cgroup = hierarchy.create(
        &hierarchy.own()?,
        &format!("ebfw-exec-{}", std::process::id()),
    )?;
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
    enforcer.attach()?;

    // Before the command runs: who sees that it does may send one at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    if let Some(signal) = held.take()? {
        // There is no command yet that could do anything else about it.
        cgroup.remove()?;
        return Ok(ended_by(signal as i32));
    }
    held.let_through()?;
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
            _ = terminate.recv() => pass_on(&child, Signal::SIGTERM),
            _ = hang_up.recv() => pass_on(&child, Signal::SIGHUP),
            _ = interrupt.recv() => pass_on_unless_heard(&child, Signal::SIGINT),
            _ = quit.recv() => pass_on_unless_heard(&child, Signal::SIGQUIT),
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
    let (mut report, _) = pipeline.drain(DRAIN).await?;
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
    write_report(options, &report, metrics.events_lost())?;
    drop(enforcer);
    cgroup.remove()?;
    Ok(exit_of(status))
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
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // The child may have ended this instant; then there is nobody to tell.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Passes on what a terminal's keys send, unless they sent it: then the command has it as well, and decides.
fn pass_on_unless_heard(child: &Child, signal: Signal) {
    let foreground = File::open("/dev/tty").and_then(|terminal| Ok(tcgetpgrp(terminal)?));
    if foreground.ok() != Some(getpgrp()) {
        pass_on(child, signal);
    }
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
                "ending {} processes that the command left running: no policy would govern them",
                left.len()
            );
        }
        for pid in left.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn write_report(options: &ExecOptions, report: &Report, lost: u64) -> anyhow::Result<()> {
    let colour = if options.report.is_none() {
        colour()
    } else {
        Colour::Never
    };
    let text = match options.output {
        Output::Text => report.table(lost, colour),
        Output::Json => report.json(lost),
    };
    let text = if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    };
    match &options.report {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
        }
        None => io::stderr()
            .write_all(text.as_bytes())
            .context("failed to write the report"),
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit(u8::try_from(code).unwrap_or(Exit::FAILURE.0)),
        (None, Some(signal)) => ended_by(signal),
        (None, None) => Exit::FAILURE,
    }
}

/// 128 plus the signal, as shells say it.
fn ended_by(signal: i32) -> Exit {
    u8::try_from(128 + signal).map_or(Exit::FAILURE, Exit)
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
