//! The agent: puts the pieces together, then lets changes flow from their sources to the kernel and events from the kernel to the output.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use ebfw_common::abi::{Request, request};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Enforcement, OnExit, Output, Pinning},
    datapath::{self, Ring},
    enforcer::{Enforcer, Terms},
    events::{
        Filter,
        pipeline::{self, Intake, Stages},
        sink::{Format, Lines},
    },
    host::{
        cgroup::{CgroupId, CgroupPath, Hierarchy, Seclusion},
        lock::PinLock,
        privileges,
        sockets::Destroyer,
        tree::Tree,
    },
    metrics::{Destroyed, Listener, Metrics, Readiness, Reload, Server},
    policy_file::{Loaded, PolicyFile, Update},
    workload::Planner,
};

/// How long the last events may take to get out at the end.
const DRAIN: Duration = Duration::from_millis(1500);
/// How often what happened to denied sockets is added to the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// Where it cannot start. Once it runs it only ends when asked.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before anything else: who is told to stop while it starts, or the moment it is ready, ends in good order too.
        let stop = Stop::listen()?;
        let agent = Agent::start(config).await?;
        agent.serve(stop).await
    })
}

/// The signals that end the agent.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Where the policy comes from.
struct Source {
    file: PolicyFile,
    planner: Planner,
    rules: usize,
}

struct Agent<'a> {
    config: &'a Config,
    root: CgroupPath,
    own: Option<CgroupId>,
    _seclusion: Option<Seclusion>,
    source: Option<Source>,
    tree: Arc<Tree>,
    enforcer: Enforcer,
    events: Ring,
    requests: Ring,
    intake: Intake,
    pipeline: pipeline::Handle<Lines<std::fs::File>>,
    destroyer: Destroyer,
    metrics: Arc<Metrics>,
    server: Option<Server>,
    _lock: Option<PinLock>,
}

impl<'a> Agent<'a> {
    /// Everything that can fail is done here, in the order in which a later step needs an earlier one; nothing is attached before the
    /// policy stands in the kernel.
    async fn start(config: &'a Config) -> anyhow::Result<Self> {
        let pin = (config.pinning == Pinning::On).then_some(config.pin_dir.as_path());
        let able = privileges::check(pin)?;
        for gap in &able.gaps {
            tracing::warn!("{gap}");
        }
        let hierarchy = able.hierarchy;
        let lock = pin.map(PinLock::take).transpose()?;
        let root = hierarchy.resolve(config.cgroup.as_deref().and_then(Path::to_str))?;
        let (terms, mut source) = source(config)?;
        let metrics = Arc::new(Metrics::new(terms.event_mode()));
        let readiness = Readiness::new();
        let attached = readiness.pending("programs attached");
        let loaded = readiness.pending("policy loaded");
        let server = match &config.metrics {
            Some(address) => Some(
                Listener::bind(&address.candidates())
                    .await?
                    .serve(Arc::clone(&metrics), readiness),
            ),
            None => None,
        };
        let tree = Arc::new(Tree::start(hierarchy.clone(), root.clone())?);
        let mut enforcer = Enforcer::load(pin, terms, Arc::clone(&metrics))?;
        let seclusion = seclude(&hierarchy, &root);
        let own = seclusion
            .as_ref()
            .and_then(|seclusion| hierarchy.id(seclusion.path()).ok());
        let planner = source.as_mut().map(|source| &mut source.planner);
        enforcer.enforce(planner, &*tree.rescan().await, &root, own)?;
        metrics.set_policy_rules(source.as_ref().map_or(0, |source| source.rules));
        loaded.ready();

        let events = enforcer.datapath().events()?;
        let requests = enforcer.datapath().requests()?;
        let format = match config.output {
            Output::Text => Format::text_for_stdout(),
            Output::Json => Format::Json,
        };
        let (intake, raw) = pipeline::queue(pipeline::QUEUE, Arc::clone(&metrics));
        let stages = Stages {
            workloads: Arc::clone(&tree),
            rules: enforcer.rule_names(),
            filter: Filter::new(
                config.exclude.cidrs.clone(),
                config.exclude.domain_suffixes.clone(),
            ),
            sink: Lines::stdout(format).context("failed to open standard output")?,
            metrics: Arc::clone(&metrics),
        };
        let pipeline =
            pipeline::spawn(stages, raw).context("failed to start the event pipeline")?;
        let paths = Arc::clone(&tree);
        let destroyer = Destroyer::start(hierarchy.clone(), Box::new(move |id| paths.lookup(id)))?;
        enforcer.datapath().attach(&hierarchy.directory(&root))?;
        attached.ready();
        let adopted = if enforcer.datapath().adopted() {
            ", took over from an earlier agent"
        } else {
            ""
        };
        let exemption = match own {
            Some(_) => "the agent's own connections are exempt",
            None => "nothing is exempt",
        };
        tracing::info!("ready: watching {}{adopted}; {exemption}", root.text());
        Ok(Self {
            config,
            root,
            own,
            _seclusion: seclusion,
            source,
            tree,
            enforcer,
            events,
            requests,
            intake,
            pipeline,
            destroyer,
            metrics,
            server,
            _lock: lock,
        })
    }

    async fn serve(mut self, mut stop: Stop) -> anyhow::Result<()> {
        let mut changes = self.tree.changes();
        let mut tick = tokio::time::interval(COUNT_EVERY);
        let mut counted = Counted::default();
        loop {
            tokio::select! {
                _ = stop.terminate.recv() => break,
                _ = stop.interrupt.recv() => break,
                done = self.events.drain(|bytes| self.intake.offer(bytes)) => done.context("failed to read events")?,
                requests = self.requests.requests() => self.answer(&requests.context("failed to read requests")?).await,
                changed = changes.changed() => {
                    changed.context("the watch of the cgroup tree has ended")?;
                    changes.mark_unchanged();
                    self.enforce();
                }
                update = next_update(&mut self.source) => self.reload(update),
                _ = tick.tick() => counted.add(&self.destroyer, &self.metrics),
            }
        }
        self.stop().await
    }

    /// Puts the current policy and tree into force; on failure the last state stays.
    fn enforce(&mut self) -> bool {
        let planner = self.source.as_mut().map(|source| &mut source.planner);
        match self
            .enforcer
            .enforce(planner, &self.tree.snapshot(), &self.root, self.own)
        {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error:#}; what was in force before stays");
                false
            }
        }
    }

    fn reload(&mut self, update: Update) {
        let Loaded { policy, digest } = match update {
            Ok(loaded) => loaded,
            Err(rejected) => {
                tracing::error!(
                    "the policy file is refused, the last good policy stays in force\n{rejected}"
                );
                return self.metrics.reloaded(Reload::Refused);
            }
        };
        let Some(source) = &mut self.source else {
            return;
        };
        let rules = policy.rules.len();
        let last = std::mem::replace(&mut source.planner, Planner::new(Arc::new(policy)));
        if self.enforce() {
            tracing::info!(rules, %digest, "policy reloaded");
            self.metrics.set_policy_rules(rules);
            self.metrics.reloaded(Reload::Applied);
        } else {
            if let Some(source) = &mut self.source {
                source.planner = last;
            }
            self.metrics.reloaded(Reload::Failed);
        }
    }

    /// Does what the programs ask for.
    async fn answer(&mut self, requests: &[Request]) {
        let mut rescan = false;
        for request in requests {
            match request.kind {
                request::DESTROY => self.destroyer.request(*request),
                request::CLASSIFY => rescan |= !self.enforcer.knows(request.cgroup_id),
                kind => tracing::warn!(
                    kind,
                    "the kernel programs ask for something that this agent does not know"
                ),
            }
        }
        if rescan {
            self.tree.rescan().await;
            self.enforce();
        }
    }

    /// Lets what was decided get out, then leaves enforcement standing or takes it off, as configured.
    async fn stop(mut self) -> anyhow::Result<()> {
        let intake = self.intake.clone();
        self.events.take(|bytes| intake.offer(bytes));
        if let Err(error) = self.pipeline.drain(DRAIN).await {
            tracing::warn!("{error}");
        }
        if let Some(server) = self.server {
            server.shut_down().await;
        }
        match (self.config.pinning, self.config.on_exit) {
            (Pinning::On, OnExit::Keep) => {
                tracing::info!(
                    "stopped: the programs stay attached and go on enforcing; `ebfw detach` takes them off"
                );
            }
            (Pinning::On, OnExit::Open) => {
                datapath::detach(&self.config.pin_dir).context("failed to detach")?;
                tracing::info!("stopped: the programs are detached, nothing is enforced");
            }
            (Pinning::Off, _) => tracing::info!(
                "stopped: the programs were not pinned and are gone, nothing is enforced"
            ),
        }
        Ok(())
    }
}

/// How the configuration wants the programs to run, and the policy to begin with.
fn source(config: &Config) -> anyhow::Result<(Terms, Option<Source>)> {
    let unknown = config.unknown_workload;
    let Enforcement::Policy { mode, file } = &config.enforcement else {
        return Ok((
            Terms {
                mode: None,
                unknown,
            },
            None,
        ));
    };
    let (first, watch) =
        PolicyFile::open(file).with_context(|| format!("failed to watch {}", file.display()))?;
    let Loaded { policy, digest } = first?;
    tracing::info!(rules = policy.rules.len(), %digest, "policy loaded from {}", file.display());
    Ok((
        Terms {
            mode: Some(*mode),
            unknown,
        },
        Some(Source {
            file: watch,
            rules: policy.rules.len(),
            planner: Planner::new(Arc::new(policy)),
        }),
    ))
}

/// Sees to it that the agent is alone in its cgroup, where it runs below the governed one: then its connections can be told from others'.
fn seclude(hierarchy: &Hierarchy, root: &CgroupPath) -> Option<Seclusion> {
    let own = hierarchy.own().ok()?;
    if !own.is_within(root) {
        return None;
    }
    match hierarchy.seclude() {
        Ok(seclusion) => Some(seclusion),
        Err(error) => {
            tracing::warn!("{error}: the agent's own connections are governed like any other");
            None
        }
    }
}

async fn next_update(source: &mut Option<Source>) -> Update {
    match source {
        Some(source) => match source.file.next().await {
            Some(update) => update,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// What was already added to the metrics.
#[derive(Default)]
struct Counted {
    destroyed: u64,
    gone: u64,
    failed: u64,
}

impl Counted {
    fn add(&mut self, destroyer: &Destroyer, metrics: &Metrics) {
        use std::sync::atomic::{AtomicU64, Ordering};
        let counts = destroyer.counts();
        let step = |now: &AtomicU64, last: &mut u64, result| {
            let now = now.load(Ordering::Relaxed);
            metrics.destroyed(result, now - std::mem::replace(last, now));
        };
        step(&counts.destroyed, &mut self.destroyed, Destroyed::Done);
        step(&counts.gone, &mut self.gone, Destroyed::Gone);
        step(&counts.failed, &mut self.failed, Destroyed::Failed);
    }
}
