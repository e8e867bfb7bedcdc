//! Keeps the kernel's state what the policy and the cgroup tree say, and does what the kernel programs ask for.
//!
//! One task owns an [`Enforcer`]. Where policies come from and what becomes of events is not its concern.

mod demand;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use ebfw_common::abi::{self, Config as KernelConfig};
use ebfw_policy::{cgroup::CgroupGlob, compile::Names, policy::Action};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

use self::demand::Orders;
pub use self::{demand::Demand, judge::Judge};
use crate::{
    config::{Mode, UnknownWorkload},
    datapath::{Applied, Assignment, Datapath, Learner, LeftOut, LoadError, Ring, RulesetMaps},
    events::{self, annotate::RulesetHistory},
    host::{
        cgroup::{CgroupId, CgroupPath, Hierarchy},
        layout, netns,
        resolvers::{Locality, Resolvers, Source},
        sockets::{Counts, Destroyer},
        tree::{Cgroups, Tree},
    },
    metrics::{Destroyed, Metrics},
    pods::{
        Pods,
        layout::{Place, place},
    },
    probes::Tally,
    state::{self, WorkloadState},
    workload::{Desired, Planner, Posture, Rulebook, SharedNames, Standing},
};

/// How often expired names are deleted and the resolvers looked for: a name that has expired opens nothing, it only takes room.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// How the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What a Deny does; `None`: nothing is evaluated.
    pub mode: Option<Mode>,
    /// What happens to workloads that are not classified yet.
    pub unknown: UnknownWorkload,
    /// Whether names that stand for special addresses (loopback, link-local, …) are learned too.
    pub learn_special: bool,
    /// What is read for events alone: [`abi::inspect`].
    pub inspect: u32,
}

impl Terms {
    /// The mode as events and metrics name it.
    #[must_use]
    pub fn event_mode(self) -> events::event::Mode {
        match self.mode {
            None => events::event::Mode::Off,
            Some(Mode::Log) => events::event::Mode::Log,
            Some(Mode::DryRun) => events::event::Mode::DryRun,
            Some(Mode::Enforce) => events::event::Mode::Enforce,
        }
    }

    /// `host_netns`: the cookie of the agent's network namespace, where it is known.
    fn kernel(self, host_netns: Option<u64>, shared: abi::SharedPages) -> KernelConfig {
        KernelConfig {
            mode: self.event_mode().tag(),
            pending: match self.unknown {
                UnknownWorkload::Drop => abi::pending::DROP,
                UnknownWorkload::Allow => abi::pending::ALLOW,
            },
            host_netns: host_netns.unwrap_or_default(),
            // The datapath's own affair.
            seed: 0,
            learn_special: self.learn_special.into(),
            inspect: self.inspect,
            shared,
        }
    }
}

/// What is governed.
pub struct Scope {
    /// Where cgroups are found.
    pub hierarchy: Hierarchy,
    /// The cgroup whose processes are governed, and all below it.
    pub root: CgroupPath,
    /// The cgroups that exist there.
    pub tree: Arc<Tree>,
    /// The agent's own cgroup, exempt; `None`: nothing is.
    pub own: Option<CgroupId>,
    /// Services that resolve for others.
    pub services: Vec<CgroupGlob>,
}

/// A loaded datapath, what is wanted of it and what was told about it.
pub struct Enforcer {
    datapath: Datapath,
    requests: Ring,
    terms: Terms,
    scope: Scope,
    /// The pods of the node; `None` where nobody knows of pods.
    pods: Option<watch::Receiver<Pods>>,
    /// The addresses of the cluster's DNS; `None` in no cluster.
    cluster_dns: Option<watch::Receiver<BTreeSet<IpAddr>>>,
    changes: watch::Receiver<Arc<Cgroups>>,
    /// Without one nothing is governed.
    planner: Option<Planner>,
    /// The domain patterns of its policy.
    names: Arc<Names>,
    destroyer: Arc<Destroyer>,
    judge: Arc<Judge>,
    counted: Counted,
    history: Arc<RulesetHistory>,
    metrics: Arc<Metrics>,
    serials: HashSet<u32>,
    applied: Option<BTreeMap<u64, Assignment>>,
    /// Whose names count for whom, with it.
    shared_names: SharedNames,
    resolvers: Source,
    /// Those that are in force; `None`: not set yet.
    trusted: Option<Resolvers>,
    host_netns: Option<u64>,
    shared_pages: abi::SharedPages,
    expiry: Interval,
    #[cfg(feature = "kernel-log")]
    _kernel_log: Option<crate::datapath::KernelLog>,
}

impl Enforcer {
    /// Loads the programs and sees to it that their counters are served. Changes nothing that is in force. `pin`: where programs and
    /// maps outlive the agent; `rules`: what [`Enforcer::enforce`] enforces.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a program or a map.
    pub fn load(
        pin: Option<&Path>,
        terms: Terms,
        scope: Scope,
        rules: Option<Rulebook>,
        resolvers: Source,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut datapath = Datapath::load(pin)?;
        let host_netns = netns::own_cookie().context("failed to read the own network namespace")?;
        let shared_pages = layout::shared_pages().unwrap_or_else(|error| {
            tracing::warn!(
                "{error}: where a rule waits for what a client says, no connection can be read and all are denied"
            );
            abi::SharedPages::default()
        });
        let mut expiry = tokio::time::interval(EXPIRE_EVERY);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        metrics.watch_kernel(Arc::new(datapath.counters()?));
        let path_of = || {
            let tree = Arc::clone(&scope.tree);
            Box::new(move |id| tree.lookup(id))
        };
        let judge = Judge::new(terms.event_mode(), path_of());
        Ok(Self {
            #[cfg(feature = "kernel-log")]
            _kernel_log: datapath.kernel_log()?,
            requests: datapath.requests()?,
            datapath,
            terms,
            changes: scope.tree.changes(),
            names: Arc::new(match &rules {
                Some(rules) => rules.names()?,
                None => Names::none(),
            }),
            planner: rules.map(Planner::new),
            destroyer: Arc::new(Destroyer::start(scope.hierarchy.clone(), path_of())?),
            judge: Arc::new(judge),
            scope,
            pods: None,
            cluster_dns: None,
            counted: Counted::default(),
            history: Arc::default(),
            metrics,
            serials: HashSet::new(),
            applied: None,
            shared_names: SharedNames::default(),
            resolvers,
            trusted: None,
            host_netns,
            shared_pages,
            expiry,
        })
    }

    /// The rules that events may name.
    #[must_use]
    pub fn rule_names(&self) -> Arc<RulesetHistory> {
        Arc::clone(&self.history)
    }

    /// The maps of rulesets.
    #[must_use]
    pub fn rulesets(&self) -> Arc<RulesetMaps> {
        self.datapath.rulesets()
    }

    /// What destroys the sockets of denied flows.
    #[must_use]
    pub fn destroyer(&self) -> Arc<Destroyer> {
        Arc::clone(&self.destroyer)
    }

    /// What judges requests inside TLS by the rules in force.
    #[must_use]
    pub fn judge(&self) -> Arc<Judge> {
        Arc::clone(&self.judge)
    }

    /// Whether programs and maps of an earlier agent were found and are used.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.datapath.adopted()
    }

    /// Takes the ring of events; once.
    ///
    /// # Errors
    ///
    /// Where it was taken before or cannot be mapped.
    pub fn events(&mut self) -> Result<Ring, LoadError> {
        self.datapath.events()
    }

    /// Takes the ring of events about what clients say; once.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::events`].
    pub fn claim_events(&mut self) -> Result<Ring, LoadError> {
        self.datapath.claim_events()
    }

    /// Takes the ring of events about names; once.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::events`].
    pub fn name_events(&mut self) -> Result<Ring, LoadError> {
        self.datapath.name_events()
    }

    /// Takes the ring of answers that the programs cannot read alone, and what learns from them; once.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::events`].
    pub fn answers(&mut self) -> Result<(Ring, Learner), LoadError> {
        self.datapath.answers()
    }

    /// Looks where the resolvers are found, and makes those the ones whose answers count. What was trusted stays where that fails.
    pub fn trust_resolvers(&mut self) {
        let cluster = match &mut self.cluster_dns {
            Some(addresses) => addresses.borrow_and_update().clone(),
            None => BTreeSet::new(),
        };
        let trust = |datapath: &mut Datapath, last: &Option<Resolvers>, source: &Source| {
            let found = source
                .read(&cluster)
                .context("failed to read the resolvers")?;
            if last.as_ref() == Some(&found) {
                return Ok(None);
            }
            datapath.trust(&found)?;
            anyhow::Ok(Some(found))
        };
        match trust(&mut self.datapath, &self.trusted, &self.resolvers) {
            Ok(None) => {}
            Ok(Some(found)) => {
                self.tell_resolvers(&found);
                self.trusted = Some(found);
            }
            Err(error) => tracing::error!("{error:#}; the resolvers that were trusted stay"),
        }
    }

    /// The resolvers whose answers count, with commas between them.
    #[must_use]
    pub fn resolvers(&self) -> String {
        self.trusted.as_ref().map_or_else(String::new, list)
    }

    fn tell_resolvers(&self, found: &Resolvers) {
        if found.is_empty() {
            tracing::warn!(
                "no resolver is known, so no name can be learned: name them with EBFW_DNS_RESOLVERS or --dns-resolvers"
            );
        } else if self.trusted.is_some() {
            tracing::info!(
                resolvers = list(found),
                "names are learned from other resolvers now"
            );
        }
        let local = found.values().any(|at| *at == Locality::Local);
        if local && self.host_netns.is_none() {
            tracing::warn!(
                "this kernel (before 5.14) does not tell which network namespace is the host's: resolvers on the host itself are not trusted"
            );
        }
    }

    /// Lets the agent's own connections pass under what an earlier agent left in force, and changes nothing else of it.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn exempt_own(&mut self) -> anyhow::Result<()> {
        match self.scope.own {
            Some(own) if self.adopted() => Ok(self.datapath.exempt(own.0)?),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes note of the cluster: the pods of the node, and the addresses of its DNS.
    pub fn join(&mut self, pods: watch::Receiver<Pods>, dns: watch::Receiver<BTreeSet<IpAddr>>) {
        self.pods = Some(pods);
        self.cluster_dns = Some(dns);
    }

    /// Makes `rules` what [`Enforcer::enforce`] enforces.
    ///
    /// # Errors
    ///
    /// Where their patterns explode; then the last ones stay.
    pub fn govern(&mut self, rules: Rulebook) -> anyhow::Result<()> {
        self.names = Arc::new(rules.names()?);
        self.planner = Some(Planner::new(rules));
        Ok(())
    }

    /// Looks at the cgroup tree and puts the policy in force, as [`Enforcer::replace`].
    ///
    /// # Errors
    ///
    /// As [`Enforcer::replace`].
    pub async fn enforce(&mut self) -> anyhow::Result<()> {
        let tree = self.scope.tree.rescan().await;
        self.apply(&tree)
    }

    /// Attaches the programs to the root of what is governed. The policy should be in force by then.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a program.
    pub fn attach(&mut self) -> anyhow::Result<()> {
        let root = self.scope.hierarchy.directory(&self.scope.root);
        Ok(self.datapath.attach(&root)?)
    }

    /// Attaches the programs for as long as the cgroup exists that is governed, whatever becomes of this process. For a cgroup of its own.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn attach_for_life(&mut self) -> anyhow::Result<()> {
        let root = self.scope.hierarchy.directory(&self.scope.root);
        Ok(self.datapath.attach_for_life(&root)?)
    }

    /// Puts another policy in the place of the one in force, in one step.
    ///
    /// # Errors
    ///
    /// Where more rules apply to a workload than fit, or the kernel refuses; what was in force stays, and goes on following the tree.
    pub fn replace(&mut self, rules: Rulebook) -> anyhow::Result<()> {
        let names = rules.names()?;
        let last_names = mem::replace(&mut self.names, Arc::new(names));
        self.trust_resolvers();
        let last = self.planner.replace(Planner::new(rules));
        let tree = self.scope.tree.snapshot();
        self.apply(&tree).inspect_err(|_| {
            self.planner = last;
            self.names = last_names;
        })
    }

    /// Waits until there is something to answer. May be cancelled; nothing is lost by that.
    ///
    /// # Errors
    ///
    /// Where programs cannot be heard any more, or the cgroup tree not be watched.
    pub async fn demand(&mut self) -> anyhow::Result<Demand> {
        tokio::select! {
            requests = self.requests.requests() => Ok(Demand::Requests(requests.context("failed to read requests")?)),
            changed = self.changes.changed() => {
                changed.context("the watch of the cgroup tree has ended")?;
                self.changes.mark_unchanged();
                Ok(Demand::Cgroups)
            }
            () = changed(&mut self.pods) => Ok(Demand::Pods),
            () = changed(&mut self.cluster_dns) => Ok(Demand::Resolvers),
            _ = self.expiry.tick() => Ok(Demand::Names),
        }
    }

    /// Does what is demanded. What fails is logged: what was in force stays, and who asked asks again.
    pub async fn answer(&mut self, demand: Demand) {
        let result = match demand {
            Demand::Cgroups | Demand::Pods => {
                let tree = self.scope.tree.snapshot();
                self.apply(&tree)
            }
            Demand::Resolvers => {
                self.trust_resolvers();
                Ok(())
            }
            Demand::Names => self.tidy_names(),
            Demand::Requests(requests) => self.carry_out(requests).await,
        };
        if let Err(error) = result {
            tracing::error!("{error:#}; what was in force before stays");
        }
    }

    /// Deletes expired names, and looks whether the host asks other resolvers now.
    fn tidy_names(&mut self) -> anyhow::Result<()> {
        self.trust_resolvers();
        let forgotten = self.datapath.forget_expired(events::boot_ns()?)?;
        if forgotten > 0 {
            tracing::debug!(forgotten, "expired names are forgotten");
        }
        Ok(())
    }

    async fn carry_out(&mut self, requests: Vec<abi::Request>) -> anyhow::Result<()> {
        let Orders {
            destroy,
            classify,
            strange,
        } = Orders::of(requests, |cgroup| self.knows(cgroup));
        for request in destroy {
            self.destroyer.request(request);
        }
        for kind in strange {
            tracing::warn!(
                kind,
                "the kernel programs ask for something that this agent does not know"
            );
        }
        if classify {
            self.enforce().await
        } else {
            Ok(())
        }
    }

    /// How the cgroups with a standing of their own are treated. `requests`: the requests inside TLS that were seen, by cgroup.
    #[must_use]
    pub fn workloads(&self, requests: &HashMap<u64, Tally>) -> Vec<WorkloadState> {
        let path_of = |id: u64| self.scope.tree.lookup(CgroupId(id));
        let standings = self.applied.iter().flatten().filter_map(|(id, own)| {
            let path = path_of(*id)?;
            Some((path, own))
        });
        let standings: BTreeMap<_, _> = standings.collect();
        let mut seen = BTreeMap::<_, Tally>::new();
        for (id, own) in requests {
            let path = path_of(*id);
            let owner = path.and_then(|path| owner(&standings, path));
            *seen.entry(owner).or_default() += *own;
        }
        let pods = self.pods.as_ref().map(|pods| pods.borrow().clone());
        standings
            .iter()
            .map(|(path, own)| {
                let requests = seen.get(&Some(path.clone())).copied().unwrap_or_default();
                let enforced = own.ruleset.is_some() && self.judge.enforces();
                workload(path, own, pods.as_ref(), requests, enforced)
            })
            .collect()
    }

    /// Adds what became of denied sockets to the metrics.
    pub fn count(&mut self) {
        self.counted.add(self.destroyer.counts(), &self.metrics);
    }

    /// Events of flows that were left out by the rate limit and not reported with a later event.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn left_out(&mut self) -> Result<Vec<(LeftOut, u64)>, LoadError> {
        self.datapath.left_out()
    }

    /// Makes what the plan says about the cgroups of `tree` the state of the kernel. What did not change is not touched.
    fn apply(&mut self, tree: &Cgroups) -> anyhow::Result<()> {
        let Scope { root, own, .. } = &self.scope;
        let pods = self.pods.as_mut();
        let pods = pods.map(|pods| pods.borrow_and_update().clone());
        let mut desired = match &mut self.planner {
            Some(planner) => planner
                .desired(tree, root, *own, pods.as_ref())
                .map_err(|error| anyhow::anyhow!("{error}: the policy is not applied"))?,
            None => observed(tree, root)?,
        };
        for (path, error) in &desired.oversized {
            tracing::error!(cgroup = %path.text(), "{error}: this workload stays closed");
        }
        let shared = match &self.planner {
            Some(_) => SharedNames::find(&self.scope.services, tree, &mut desired),
            None => SharedNames::default(),
        };
        let wanted = assignments(&desired);
        if self.applied.as_ref() == Some(&wanted) && self.shared_names == shared {
            return Ok(());
        }
        if self.applied.is_none() {
            self.datapath
                .configure(self.terms.kernel(self.host_netns, self.shared_pages))?;
            self.trust_resolvers();
        }
        let ids = |set: &BTreeSet<CgroupId>| set.iter().map(|id| id.0).collect();
        self.datapath.share_names(ids(&shared.users));
        let history = Arc::clone(&self.history);
        let Applied { serials, written } =
            self.datapath
                .apply_announced(&wanted, &self.names, |serial, ruleset| {
                    history.load(serial, Arc::clone(ruleset))
                })?;
        self.datapath.serve_names(&ids(&shared.services))?;
        self.judge.replace(&wanted);
        self.shared_names = shared;
        let now: HashSet<u32> = serials.iter().map(|(serial, _)| *serial).collect();
        for gone in self.serials.difference(&now) {
            self.history.retire(*gone);
        }
        self.serials = now;
        self.metrics.set_workloads(desired.governed());
        tracing::debug!(
            governed = desired.governed(),
            entries = wanted.len(),
            rulesets = serials.len(),
            written,
            "the kernel's state is up to date"
        );
        self.applied = Some(wanted);
        Ok(())
    }

    /// Whether a cgroup has a slot of its own.
    fn knows(&self, cgroup: u64) -> bool {
        self.applied
            .as_ref()
            .is_some_and(|applied| applied.contains_key(&cgroup))
    }
}

fn list(resolvers: &Resolvers) -> String {
    let texts: Vec<_> = resolvers.keys().map(ToString::to_string).collect();
    texts.join(",")
}

/// What was already added to the metrics.
#[derive(Default)]
struct Counted {
    destroyed: u64,
    gone: u64,
    failed: u64,
}

impl Counted {
    fn add(&mut self, counts: &Counts, metrics: &Metrics) {
        let step = |now: &AtomicU64, last: &mut u64, result| {
            let now = now.load(Ordering::Relaxed);
            metrics.destroyed(result, now - mem::replace(last, now));
        };
        step(&counts.destroyed, &mut self.destroyed, Destroyed::Done);
        step(&counts.gone, &mut self.gone, Destroyed::Gone);
        step(&counts.failed, &mut self.failed, Destroyed::Failed);
    }
}

/// Nothing is governed, everything is seen.
fn observed(tree: &Cgroups, root: &CgroupPath) -> anyhow::Result<Desired> {
    let id = tree
        .iter()
        .find_map(|(id, path)| (path == root).then_some(*id));
    let id = id.with_context(|| format!("the cgroup {} is gone", root.text()))?;
    let standing = Standing {
        posture: Posture::Ungoverned,
        open: false,
    };
    Ok(Desired {
        entries: BTreeMap::from([(id, standing)]),
        oversized: Vec::new(),
        pending: 0,
    })
}

/// Waits for something else than was seen; for ever where there is nothing to see.
async fn changed<T>(watched: &mut Option<watch::Receiver<T>>) {
    if let Some(watched) = watched
        && watched.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// The nearest cgroup at or above `path` with a standing of its own.
fn owner<T>(standings: &BTreeMap<CgroupPath, T>, path: CgroupPath) -> Option<CgroupPath> {
    let mut path = Some(path);
    while let Some(own) = path {
        if standings.contains_key(&own) {
            return Some(own);
        }
        path = own.parent();
    }
    None
}

fn workload(
    path: &CgroupPath,
    own: &Assignment,
    pods: Option<&Pods>,
    requests: Tally,
    enforced: bool,
) -> WorkloadState {
    let pod = match place(path) {
        Place::Pod(pod) | Place::Inside(pod, _) => {
            pods.and_then(|pods| pods.get(&pod.uid).cloned())
        }
        Place::Elsewhere | Place::Root | Place::Strange => None,
    };
    let standing = match (&own.ruleset, own.silent) {
        (_, true) => state::Standing::Exempt,
        (Some(_), false) => state::Standing::Governed,
        (None, false) => state::Standing::Ungoverned,
    };
    let rules = own.ruleset.as_ref();
    WorkloadState {
        cgroup: events::Printable::from(&*path.text()).as_str().to_owned(),
        pod: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        standing,
        rules: rules.map(|rules| rules.rules.len()),
        default: rules.map(|rules| match rules.default {
            Action::Deny => "deny".to_owned(),
            Action::Allow | Action::Modify => "allow".to_owned(),
        }),
        tls: state::Tls::of(requests, enforced),
        tls_requests: requests.seen,
        tls_opaque: requests.opaque,
        tls_denied: requests.denied,
        tls_late: requests.late,
        tls_unseen: requests.unseen,
    }
}

fn assignments(desired: &Desired) -> BTreeMap<u64, Assignment> {
    let assignment = |standing: &Standing| {
        let (ruleset, silent) = match &standing.posture {
            Posture::Governed(ruleset) => (Some(Arc::clone(ruleset)), false),
            Posture::Ungoverned => (None, false),
            Posture::Exempt => (None, true),
        };
        Assignment {
            ruleset,
            open: standing.open,
            silent,
        }
    };
    desired
        .entries
        .iter()
        .map(|(id, standing)| (id.0, assignment(standing)))
        .collect()
}
