//! The agent: puts the pieces together, then lets changes flow from their sources to the kernel and events from the kernel to the output.

mod probing;
mod stop;
mod surroundings;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinHandle};

use self::{probing::Probing, stop::Stop};
use crate::{
    answers,
    cluster::Cluster,
    config::{Config, Enforcement, OnExit, Output, Pinning, PolicyOrigin},
    datapath::{self, Datapath, Ring},
    enforcer::{Enforcer, Scope, Terms},
    events::{
        Filter, Printable,
        annotate::RulesetHistory,
        attribute::NodeWorkloads,
        pipeline::{self, Intake, Stages},
        sink::{Format, Lines},
    },
    host::{
        cgroup::{CgroupPath, Seclusion},
        lock::PinLock,
        privileges,
        signals::Held,
        tree::Tree,
    },
    inspect::Hellos,
    metrics::{Listener, Metrics, Readiness, Reload, Server},
    probes::Controls,
    source::{News, Rules, Source},
    state::{Asked, Desk, PolicyState, State},
    status::Digest,
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
    // Before anything else: who is told to stop while it starts, or the moment it is ready, ends in good order too.
    let held = Stop::hold()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(start_and_serve(config, held));
    // The kernel may still be looking at the probes: nobody waits for that.
    runtime.shutdown_background();
    result
}

async fn start_and_serve(config: &Config, held: Held) -> anyhow::Result<()> {
    let stop = Stop::listen(held)?;
    // A start may have to wait for the API server; until it is through, nothing has changed that would have to be put in order.
    let agent = tokio::select! {
        agent = Agent::start(config, &stop) => agent?,
        () = stop.told() => return Ok(()),
    };
    agent.serve(stop).await
}

struct Agent<'a> {
    config: &'a Config,
    /// What is governed, and all below it.
    root: CgroupPath,
    _seclusion: Option<Seclusion>,
    source: Option<Source>,
    /// What of the cluster's objects is in force.
    programmed: watch::Sender<Option<Digest>>,
    enforcer: Enforcer,
    events: Ring,
    names: Ring,
    claims: Ring,
    /// Reads the answers that the programs cannot; ends with the agent.
    reading: JoinHandle<anyhow::Result<()>>,
    intake: Intake,
    /// TLS connections of which nothing is seen.
    hellos: Arc<Hellos>,
    pipeline: pipeline::Handle<Lines<std::fs::File>>,
    probes: Probing,
    /// The policy in force: where it comes from, and how many rules it has.
    policy: Option<PolicyState>,
    desk: Option<Desk>,
    metrics: Arc<Metrics>,
    server: Option<Server>,
    _lock: Option<PinLock>,
}

impl<'a> Agent<'a> {
    /// Everything that can fail is done here, in the order in which a later step needs an earlier one; nothing is attached before the
    /// policy stands in the kernel.
    async fn start(config: &'a Config, stop: &Stop) -> anyhow::Result<Self> {
        let pin = (config.pinning == Pinning::On).then_some(config.pin_dir.as_path());
        let able = privileges::check(pin)?;
        for gap in &able.gaps {
            tracing::warn!("{gap}");
        }
        let hierarchy = able.hierarchy;
        let lock = pin.map(PinLock::take).transpose()?;
        let root = hierarchy.resolve(config.cgroup.as_deref().and_then(Path::to_str))?;
        let terms = terms(config);
        let metrics = Arc::new(Metrics::new(terms.event_mode()));
        let readiness = Readiness::new();
        let attached = readiness.pending("programs attached");
        let loaded = readiness.pending("policy loaded");
        let server = match &config.metrics {
            Some(address) => Some(
                Listener::bind(&address.candidates())?
                    .serve(Arc::clone(&metrics), readiness.clone()),
            ),
            None => None,
        };
        let tree = Arc::new(Tree::start(hierarchy.clone(), root.clone())?);
        let seclusion = surroundings::seclude(&hierarchy, &root);
        let own = seclusion
            .as_ref()
            .and_then(|seclusion| hierarchy.id(seclusion.path()).ok());
        let own_pod = surroundings::own_pod(&hierarchy);
        let cluster = surroundings::cluster(config).map(|cluster| {
            let cluster = cluster.with_pod(own_pod.clone());
            cluster.with_readiness(&readiness)
        });
        let file = match &config.enforcement {
            Enforcement::Policy {
                source: PolicyOrigin::File(file),
                ..
            } => Some(Source::file(file)?),
            Enforcement::Policy { .. } | Enforcement::Off => None,
        };
        let scope = Scope {
            hierarchy,
            root: root.clone(),
            tree: Arc::clone(&tree),
            own,
            services: config.dns.local_resolvers.clone(),
        };
        let watched = scope.hierarchy.clone();
        let mut enforcer = Enforcer::load(
            pin,
            terms,
            scope,
            None,
            config.dns.source(),
            Arc::clone(&metrics),
        )?;
        // Before the API server is asked: the agent may be in a pod that is closed.
        enforcer.exempt_own()?;
        let pods = cluster.as_ref().map(Cluster::pods);
        if let (Some(cluster), Some(pods)) = (&cluster, &pods) {
            enforcer.join(pods.clone(), cluster.resolvers());
        }
        let first = match file {
            Some(file) => Some(file),
            None => first_objects(config, cluster.as_ref(), &readiness, enforcer.adopted()).await?,
        };
        let (source, rules) = first.unzip();
        {
            let _heard = readiness.pending("pods heard of from the API server");
            surroundings::hear_of_pods(pods.as_ref(), own_pod.as_deref(), enforcer.adopted()).await;
        }
        let mut count = 0;
        let mut policy = None;
        let mut versions = None;
        if let Some(rules) = rules {
            count = rules.book.len();
            versions = rules.digest();
            tracing::info!(rules = count, "policy loaded: {}", rules.origin);
            policy = Some(PolicyState {
                source: rules.origin.clone(),
                rules: count,
            });
            enforcer.govern(rules.book)?;
        }
        enforcer.enforce().await?;
        metrics.set_policy_rules(count);
        loaded.ready();
        tracing::info!(
            resolvers = enforcer.resolvers(),
            "names are learned from the answers of these"
        );

        let events = enforcer.events()?;
        let names = enforcer.name_events()?;
        let claims = enforcer.claim_events()?;
        let (answers, learner) = enforcer.answers()?;
        let workloads = NodeWorkloads {
            tree,
            pods,
            node: config.node_name.as_deref().map(printable),
        };
        let (intake, pipeline) = report(config, workloads, enforcer.rule_names(), &metrics)?;
        // Before the programs are attached: what they hold back waits for it.
        let reader = answers::Reader::new(learner, Arc::clone(&metrics));
        let told = intake.clone();
        let reading = tokio::spawn(reader.run(answers, move |event| told.offer_name(event)));
        stop.commit().await;
        enforcer.attach()?;
        attached.ready();
        let (programmed, reports) = watch::channel(versions);
        if let (Some(cluster), Some(policies)) =
            (&cluster, source.as_ref().and_then(Source::policies))
        {
            cluster.report(policies, reports);
        }
        let hellos = Arc::new(Hellos::default());
        let controls = Controls {
            judge: enforcer.judge(),
            destroyer: enforcer.destroyer(),
            rulesets: enforcer.rulesets(),
            hellos: Arc::clone(&hellos),
        };
        // Last, since the firewall must not wait for them.
        let probes = Probing::start(config, watched, &root, controls, &metrics);
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
            root,
            _seclusion: seclusion,
            source,
            programmed,
            enforcer,
            events,
            names,
            claims,
            reading,
            intake,
            pipeline,
            hellos,
            probes,
            policy,
            desk: desk(config),
            metrics,
            server,
            _lock: lock,
        })
    }

    async fn serve(mut self, stop: Stop) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(COUNT_EVERY);
        loop {
            tokio::select! {
                () = stop.told() => break,
                done = self.events.drain(|bytes| self.intake.offer(bytes)) => done.context("failed to read events")?,
                done = self.names.drain(|bytes| self.intake.offer_name(bytes)) => done.context("failed to read events about names")?,
                done = self.claims.drain(|bytes| {
                    self.hellos.claimed(bytes);
                    self.intake.offer_claim(bytes);
                }) => done.context("failed to read events about claims")?,
                demand = self.enforcer.demand() => self.enforcer.answer(demand?).await,
                news = next_news(&mut self.source) => self.reload(news),
                ended = &mut self.reading => {
                    ended.context("the reader of answers broke")?.context("failed to read answers")?;
                }
                done = self.probes.next(&self.intake) => done.context("failed to read what the probes saw")?,
                asked = next_question(&self.desk) => asked.answer(&self.state()),
                _ = tick.tick() => {
                    self.enforcer.count();
                    self.probes.count();
                }
            }
        }
        self.stop().await
    }

    /// What the agent says of itself.
    fn state(&self) -> State {
        let (probes, requests) = self.probes.state();
        let config = self.config;
        let pinned = config.pinning == Pinning::On;
        let programs = Datapath::programs().iter().copied();
        State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            mode: match &config.enforcement {
                Enforcement::Off => "off".to_owned(),
                Enforcement::Policy { mode, .. } => mode.to_string(),
            },
            cgroup: self.root.text().into_owned(),
            pin_dir: pinned.then(|| config.pin_dir.display().to_string()),
            policy: self.policy.clone(),
            programs: programs.map(str::to_owned).collect(),
            probes,
            workloads: self.enforcer.workloads(&requests),
        }
    }

    fn reload(&mut self, news: News) {
        let rules = match news {
            Ok(rules) => rules,
            Err(rejected) => {
                tracing::error!(
                    "the policy file is refused, the last good policy stays in force\n{rejected}"
                );
                return self.metrics.reloaded(Reload::Refused);
            }
        };
        let digest = rules.digest();
        let Rules { book, origin, .. } = rules;
        let rules = book.len();
        match self.enforcer.replace(book) {
            Ok(()) => {
                tracing::info!(rules, "policy reloaded: {origin}");
                // Nobody listens where the rules come from a file.
                let _ = self.programmed.send(digest);
                self.metrics.set_policy_rules(rules);
                self.policy = Some(PolicyState {
                    source: origin,
                    rules,
                });
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
        self.reading.abort();
        let intake = self.intake.clone();
        self.events.take(|bytes| intake.offer(bytes));
        self.names.take(|bytes| intake.offer_name(bytes));
        self.claims.take(|bytes| intake.offer_claim(bytes));
        self.probes.take(&intake);
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

/// What the policy objects of the cluster say, or the file that stands in for them, where the configuration wants objects.
async fn first_objects(
    config: &Config,
    cluster: Option<&Cluster>,
    readiness: &Readiness,
    standing: bool,
) -> anyhow::Result<Option<(Source, Rules)>> {
    let Enforcement::Policy {
        source: PolicyOrigin::Objects { fallback },
        ..
    } = &config.enforcement
    else {
        return Ok(None);
    };
    let _heard = readiness.pending("policies heard of from the API server");
    let first = Source::objects(fallback.as_deref(), cluster, standing).await?;
    Ok(Some(first))
}

/// Starts what makes lines on standard output of what the kernel tells.
fn report(
    config: &Config,
    workloads: NodeWorkloads,
    rules: Arc<RulesetHistory>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Intake, pipeline::Handle<Lines<std::fs::File>>)> {
    let format = match config.output {
        Output::Text => Format::text_for_stdout(),
        Output::Json => Format::Json,
    };
    let (intake, raw) = pipeline::queue(pipeline::QUEUE, Arc::clone(metrics));
    let stages = Stages {
        workloads,
        rules,
        filter: Filter::new(
            config.exclude.cidrs.clone(),
            config.exclude.domain_suffixes.clone(),
        ),
        inspection: config.inspect.shown(),
        sink: Lines::stdout(format).context("failed to open standard output")?,
        metrics: Arc::clone(metrics),
    };
    let pipeline = pipeline::spawn(stages, raw).context("failed to start the event pipeline")?;
    Ok((intake, pipeline))
}

/// How the configuration wants the programs to run.
fn terms(config: &Config) -> Terms {
    Terms {
        mode: match &config.enforcement {
            Enforcement::Off => None,
            Enforcement::Policy { mode, .. } => Some(*mode),
        },
        unknown: config.unknown_workload,
        learn_special: config.dns.learn_special,
        inspect: config.inspect.kernel(),
    }
}

fn printable(text: &str) -> Printable {
    Printable::from_bytes(text.as_bytes())
}

/// Where `ebfw status` asks. Nothing else depends on it.
fn desk(config: &Config) -> Option<Desk> {
    Desk::open(&config.pin_dir)
        .inspect_err(|error| tracing::warn!("`ebfw status` cannot ask this agent: {error}"))
        .ok()
}

async fn next_question(desk: &Option<Desk>) -> Asked {
    match desk {
        Some(desk) => desk.next().await,
        None => std::future::pending().await,
    }
}

async fn next_news(source: &mut Option<Source>) -> News {
    match source {
        Some(source) => source.next().await,
        None => std::future::pending().await,
    }
}
