//! What the agent counts, and the HTTP server that says so. Names are an interface: see `docs/metrics.md`.
//! Every series exists from the start, so that a rate is right from the first increment on.
//! The registry ends help texts with a full stop of its own.

mod http;
mod kernel;
mod label;
mod probes;
mod readiness;

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::events::event::{Kind, Mode};
use kernel::KernelCollector;
use label::{InMode, OfAttribution, OfDestruction, OfKind, OfReading, OfReload};

pub use http::{BindError, Listener, Server};
pub use kernel::{Counters, KernelCounters};
pub use label::{Attribution, Destroyed, Lost, Reading, Reload};
pub use probes::{ProbeFailure, RequestInTls, Unread};
pub use readiness::{Pending, Readiness};

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Family<OfKind, Counter>,
    filtered: Family<OfKind, Counter>,
    attributions: Family<OfAttribution, Counter>,
    rules_unknown: Counter,
    reloads: Family<OfReload, Counter>,
    destroyed: Family<OfDestruction, Counter>,
    readings: Family<OfReading, Counter>,
    policy_rules: Gauge,
    workloads: Gauge,
    kernel: Arc<KernelCollector>,
    probes: probes::ProbeMetrics,
}

impl Metrics {
    /// Nothing counted yet, by an agent that runs in `mode`.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let events = family(
            r,
            "ebfw_events",
            "Events reported, by kind",
            Kind::ALL.map(|kind| OfKind { kind }),
        );
        let filtered = family(
            r,
            "ebfw_filtered",
            "Events not reported because the configuration calls their traffic internal, by kind",
            Kind::ALL.map(|kind| OfKind { kind }),
        );
        let attributions = family(
            r,
            "ebfw_attribution",
            "Reported events by what was found: a pod by name (hit), a pod that only the node knows (node), a cgroup in no pod, or nothing (miss)",
            Attribution::ALL.map(|result| OfAttribution { result }),
        );
        let reloads = family(
            r,
            "ebfw_policy_reloads",
            "Policies that were to be loaded, by result",
            Reload::ALL.map(|result| OfReload { result }),
        );
        let destroyed = family(
            r,
            "ebfw_sockets_destroyed",
            "Established sockets that were to be destroyed because their flow is denied, by result",
            Destroyed::ALL.map(|result| OfDestruction { result }),
        );
        let readings = family(
            r,
            "ebfw_answers_read",
            "Answers of resolvers that the agent read because the kernel programs cannot, by result",
            Reading::ALL.map(|result| OfReading { result }),
        );
        let rules_unknown = Counter::default();
        r.register(
            "ebfw_rule_names_unknown",
            "Events whose rule could not be named",
            rules_unknown.clone(),
        );
        let policy_rules = Gauge::default();
        r.register(
            "ebfw_policy_rules",
            "Rules of the policy that is in force",
            policy_rules.clone(),
        );
        let workloads = Gauge::default();
        r.register(
            "ebfw_workloads",
            "Workloads that a policy governs on this node",
            workloads.clone(),
        );
        r.register(
            "ebfw_build",
            "The version of the agent",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let modes = Family::<InMode, Gauge>::default();
        r.register(
            "ebfw_mode",
            "1 for the mode that the agent runs in",
            modes.clone(),
        );
        for each in Mode::ALL {
            modes
                .get_or_create(&InMode { mode: each })
                .set(i64::from(each == mode));
        }
        let kernel = Arc::new(KernelCollector::new(mode));
        r.register_collector(Box::new(Arc::clone(&kernel)));
        let probes = probes::ProbeMetrics::register(r);
        Self {
            registry,
            events,
            filtered,
            attributions,
            rules_unknown,
            reloads,
            destroyed,
            readings,
            policy_rules,
            workloads,
            kernel,
            probes,
        }
    }

    /// An event is reported.
    pub fn event(&self, kind: Kind) {
        self.events.get_or_create(&OfKind { kind }).inc();
    }

    /// An event is hidden by the filter.
    pub fn filtered(&self, kind: Kind) {
        self.filtered.get_or_create(&OfKind { kind }).inc();
    }

    /// A reported event is given to a workload, or cannot be.
    pub fn attributed(&self, result: Attribution) {
        self.attributions
            .get_or_create(&OfAttribution { result })
            .inc();
    }

    /// `events` are lost.
    pub fn lost(&self, stage: Lost, events: u64) {
        self.kernel.lost(stage, events);
    }

    /// How many events are lost so far, in the kernel and here.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.kernel.events_lost()
    }

    /// The rule of an event cannot be named.
    pub fn rule_unknown(&self) {
        self.rules_unknown.inc();
    }

    /// A policy was to be loaded.
    pub fn reloaded(&self, result: Reload) {
        self.reloads.get_or_create(&OfReload { result }).inc();
    }

    /// `sockets` were to be destroyed.
    pub fn destroyed(&self, result: Destroyed, sockets: u64) {
        self.destroyed
            .get_or_create(&OfDestruction { result })
            .inc_by(sockets);
    }

    /// An answer that the kernel programs cannot read was read.
    pub fn answer_read(&self, result: Reading) {
        self.readings.get_or_create(&OfReading { result }).inc();
    }

    /// The policy in force has so many rules.
    pub fn set_policy_rules(&self, rules: usize) {
        self.policy_rules
            .set(i64::try_from(rules).unwrap_or(i64::MAX));
    }

    /// So many workloads are governed.
    pub fn set_workloads(&self, workloads: usize) {
        self.workloads
            .set(i64::try_from(workloads).unwrap_or(i64::MAX));
    }

    /// So many files have probes inside their TLS.
    pub fn set_probed_files(&self, files: usize) {
        self.probes.set_attached(files);
    }

    /// Files got no probes.
    pub fn probe_failed(&self, reason: ProbeFailure, count: u64) {
        self.probes.failed(reason, count);
    }

    /// Plaintext gave no request.
    pub fn unread(&self, reason: Unread, count: u64) {
        self.probes.unread(reason, count);
    }

    /// A request was seen inside TLS.
    pub fn request_in_tls(&self, result: RequestInTls) {
        self.probes.request(result);
    }

    /// The socket of a denied request inside TLS is not refused.
    pub fn refusal_failed(&self) {
        self.probes.refusal_failed();
    }

    /// From now on each scrape reads the counters of the kernel programs too.
    pub fn watch_kernel(&self, counters: Arc<dyn KernelCounters>) {
        self.kernel.watch(counters);
    }

    /// All metrics in the text format of OpenMetrics 1.0.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a String does not fail");
        out
    }
}

/// A registered family of counters with all its series at 0.
fn family<L>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = L>,
) -> Family<L, Counter>
where
    L: EncodeLabelSet + Clone + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<L, Counter>::default();
    for labels in series {
        drop(family.get_or_create(&labels));
    }
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests;
