//! The agent: puts the pieces together, then lets changes flow from their sources to the kernel and events from the kernel to the output.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use ebfw_policy::policy::Policy;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Enforcement, OnExit, Output, Pinning},
    datapath::{self, Ring},
    enforcer::{Enforcer, Scope, Terms},
    events::{
        Filter,
        pipeline::{self, Intake, Stages},
        sink::{Format, Lines},
    },
    host::{
        cgroup::{CgroupPath, Hierarchy, Seclusion},
        lock::PinLock,
        privileges,
        tree::Tree,
    },
    inspect::Headers,
    metrics::{Listener, Metrics, Readiness, Reload, Server},
    policy_file::{Loaded, PolicyFile, Update},
    probes::Probes,
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

/// How the programs run, under which policy, and where the next one comes from.
struct Source {
    terms: Terms,
    policy: Option<Arc<Policy>>,
    file: Option<PolicyFile>,
}

struct Agent<'a> {
    config: &'a Config,
    _seclusion: Option<Seclusion>,
    file: Option<PolicyFile>,
    enforcer: Enforcer,
    events: Ring,
    names: Ring,
    claims: Ring,
    intake: Intake,
    pipeline: pipeline::Handle<Lines<std::fs::File>>,
    probes: Option<Probes>,
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
        let Source {
            terms,
            policy,
            file,
        } = source(config)?;
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
        let seclusion = seclude(&hierarchy, &root);
        let own = seclusion
            .as_ref()
            .and_then(|seclusion| hierarchy.id(seclusion.path()).ok());
        let scope = Scope {
            hierarchy,
            root: root.clone(),
            tree: Arc::clone(&tree),
            own,
        };
        let watched = scope.hierarchy.clone();
        let rules = policy.as_ref().map_or(0, |policy| policy.rules.len());
        let mut enforcer = Enforcer::load(
            pin,
            terms,
            scope,
            policy,
            config.dns.source(),
            Arc::clone(&metrics),
        )?;
        enforcer.enforce().await?;
        metrics.set_policy_rules(rules);
        loaded.ready();
        tracing::info!(
            resolvers = enforcer.resolvers(),
            "names are learned from the answers of these"
        );

        let events = enforcer.events()?;
        let names = enforcer.name_events()?;
        let claims = enforcer.claim_events()?;
        let format = match config.output {
            Output::Text => Format::text_for_stdout(),
            Output::Json => Format::Json,
        };
        let (intake, raw) = pipeline::queue(pipeline::QUEUE, Arc::clone(&metrics));
        let stages = Stages {
            workloads: tree,
            rules: enforcer.rule_names(),
            filter: Filter::new(
                config.exclude.cidrs.clone(),
                config.exclude.domain_suffixes.clone(),
            ),
            inspection: config.inspect.shown(),
            sink: Lines::stdout(format).context("failed to open standard output")?,
            metrics: Arc::clone(&metrics),
        };
        let pipeline =
            pipeline::spawn(stages, raw).context("failed to start the event pipeline")?;
        enforcer.attach()?;
        attached.ready();
        let probes = probes(config, &watched, &root, &metrics);
        let adopted = if enforcer.adopted() {
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
            _seclusion: seclusion,
            file,
            enforcer,
            events,
            names,
            claims,
            intake,
            pipeline,
            probes,
            metrics,
            server,
            _lock: lock,
        })
    }

    async fn serve(mut self, mut stop: Stop) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(COUNT_EVERY);
        loop {
            tokio::select! {
                _ = stop.terminate.recv() => break,
                _ = stop.interrupt.recv() => break,
                done = self.events.drain(|bytes| self.intake.offer(bytes)) => done.context("failed to read events")?,
                done = self.names.drain(|bytes| self.intake.offer_name(bytes)) => done.context("failed to read events about names")?,
                done = next_requests(&mut self.probes, &self.intake) => done.context("failed to read what the probes saw")?,
                done = self.claims.drain(|bytes| self.intake.offer_claim(bytes)) => done.context("failed to read events about claims")?,
                demand = self.enforcer.demand() => self.enforcer.answer(demand?).await,
                update = next_update(&mut self.file) => self.reload(update),
                _ = tick.tick() => {
                    self.enforcer.count();
                    if let Some(probes) = &mut self.probes {
                        probes.count();
                    }
                }
            }
        }
        self.stop().await
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
        let rules = policy.rules.len();
        match self.enforcer.replace(Arc::new(policy)) {
            Ok(()) => {
                tracing::info!(rules, %digest, "policy reloaded");
                self.metrics.set_policy_rules(rules);
                self.metrics.reloaded(Reload::Applied);
            }
            Err(error) => {
                tracing::error!("{error:#}; what was in force before stays");
                self.metrics.reloaded(Reload::Failed);
            }
        }
    }

    /// Lets what was decided get out, then leaves enforcement standing or takes it off, as configured.
    async fn stop(mut self) -> anyhow::Result<()> {
        let intake = self.intake.clone();
        self.events.take(|bytes| intake.offer(bytes));
        self.names.take(|bytes| intake.offer_name(bytes));
        if let Some(mut probes) = self.probes.take() {
            probes.take(|seen| intake.offer_request(seen));
        }
        self.claims.take(|bytes| intake.offer_claim(bytes));
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
fn source(config: &Config) -> anyhow::Result<Source> {
    let unknown = config.unknown_workload;
    let learn_special = config.dns.learn_special;
    let inspect = config.inspect.kernel();
    let Enforcement::Policy { mode, file } = &config.enforcement else {
        return Ok(Source {
            terms: Terms {
                mode: None,
                unknown,
                learn_special,
                inspect,
            },
            policy: None,
            file: None,
        });
    };
    let (first, watch) =
        PolicyFile::open(file).with_context(|| format!("failed to watch {}", file.display()))?;
    let Loaded { policy, digest } = first?;
    tracing::info!(rules = policy.rules.len(), %digest, "policy loaded from {}", file.display());
    Ok(Source {
        terms: Terms {
            mode: Some(*mode),
            unknown,
            learn_special,
            inspect,
        },
        policy: Some(Arc::new(policy)),
        file: Some(watch),
    })
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

/// The probes inside TLS, where they are wanted and can be had. They only observe: nothing that goes wrong with them stops the firewall.
fn probes(
    config: &Config,
    hierarchy: &Hierarchy,
    root: &CgroupPath,
    metrics: &Arc<Metrics>,
) -> Option<Probes> {
    let inspect = config.inspect;
    if !(inspect.claims && inspect.paths) {
        return None;
    }
    let headers = match (inspect.headers, inspect.redact) {
        (false, _) => Headers::Dropped,
        (true, true) => Headers::Redacted,
        (true, false) => Headers::Shown,
    };
    Probes::start(hierarchy, root, headers, Arc::clone(metrics))
        .map_err(anyhow::Error::from)
        .inspect_err(|error| tracing::warn!("requests inside TLS are not observed: {error:#}"))
        .ok()
}

async fn next_requests(probes: &mut Option<Probes>, intake: &Intake) -> std::io::Result<()> {
    match probes {
        Some(probes) => probes.drain(|seen| intake.offer_request(seen)).await,
        None => std::future::pending().await,
    }
}

async fn next_update(file: &mut Option<PolicyFile>) -> Update {
    let update = match file {
        Some(file) => file.next().await,
        None => None,
    };
    match update {
        Some(update) => update,
        None => std::future::pending().await,
    }
}
