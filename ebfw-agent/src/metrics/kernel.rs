//! Counters of the kernel programs, read at each scrape.
//! They count since their map was made, which may be long before this agent started.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use ebfw_common::abi::{COUNTERS, Counter};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

use super::label::{
    AtStage, Decision, Dropped, ForDenial, ForDrop, ForRefusal, Irregular, Lost, Refused,
};
use crate::events::event::{Action, Mode};

/// One value for each [`Counter`], summed over the processors.
pub type Counters = [u64; COUNTERS as usize];

/// Reads the counters of the kernel programs.
pub trait KernelCounters: Send + Sync {
    /// All of them, at about the same moment.
    ///
    /// # Errors
    /// Where the map cannot be read.
    fn read(&self) -> Result<Counters, Box<dyn Error + Send + Sync>>;
}

/// Encodes what the kernel counts, and the events that were lost on either side.
pub(super) struct KernelCollector {
    mode: Mode,
    source: OnceLock<Source>,
    /// Lost in user space, by [`Lost`].
    lost: [AtomicU64; Lost::ALL.len()],
    unreadable: AtomicU64,
}

struct Source {
    counters: Arc<dyn KernelCounters>,
    /// What stood there when the agent came: decisions of its predecessor may have been in another mode.
    start: Counters,
}

impl fmt::Debug for KernelCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelCollector")
            .field("mode", &self.mode)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl KernelCollector {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            source: OnceLock::new(),
            lost: Default::default(),
            unreadable: AtomicU64::new(0),
        }
    }

    pub(super) fn watch(&self, counters: Arc<dyn KernelCounters>) {
        let start = counters.read().unwrap_or_default();
        if self.source.set(Source { counters, start }).is_err() {
            tracing::warn!(
                "the counters of the kernel programs are already watched; the second source is ignored"
            );
        }
    }

    pub(super) fn lost(&self, stage: Lost, events: u64) {
        self.lost[stage as usize].fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn events_lost(&self) -> u64 {
        let read = self.read();
        let lost = self.lost_by_stage(read.as_ref().map(|(counters, _)| counters));
        lost.iter().map(|(_, events)| events).sum()
    }

    fn read(&self) -> Option<(Counters, &Source)> {
        let source = self.source.get()?;
        match source.counters.read() {
            Ok(counters) => Some((counters, source)),
            Err(error) => {
                if self.unreadable.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, "failed to read the counters of the kernel programs; their metrics are left out");
                }
                None
            }
        }
    }

    fn lost_by_stage(&self, kernel: Option<&Counters>) -> [(AtStage, u64); Lost::ALL.len()] {
        Lost::ALL.map(|stage| {
            let here = self.lost[stage as usize].load(Ordering::Relaxed);
            let there = match (stage, kernel) {
                (Lost::Ring, Some(counters)) => {
                    value(counters, Counter::EventLost)
                        + value(counters, Counter::NameEventLost)
                        + value(counters, Counter::ClaimEventLost)
                }
                (Lost::Ring | Lost::Queue | Lost::Decode | Lost::Output, _) => 0,
            };
            (AtStage { stage }, here + there)
        })
    }

    fn decisions(&self, now: &Counters, start: &Counters) -> [(Decision, u64); 3] {
        [
            (Action::Allow, Counter::DecisionAllow),
            (Action::Deny, Counter::DecisionDeny),
            (Action::Held, Counter::DecisionHeld),
        ]
        .map(|(action, counter)| {
            let (now, start) = (value(now, counter), value(start, counter));
            // Less than at the start: the map was made anew.
            (
                Decision {
                    action,
                    mode: self.mode,
                },
                now.checked_sub(start).unwrap_or(now),
            )
        })
    }
}

impl Collector for KernelCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        let read = self.read();
        let counters = read.as_ref().map(|(counters, _)| counters);
        out.family(
            "ebfw_events_lost",
            "Events that were lost, by where.",
            &self.lost_by_stage(counters),
        )?;
        let unreadable = self.unreadable.load(Ordering::Relaxed);
        out.single(
            "ebfw_scrape_errors",
            "Scrapes at which the counters of the kernel programs could not be read.",
            unreadable,
        )?;

        let Some((counters, source)) = read else {
            return Ok(());
        };
        let count = |counter| value(&counters, counter);
        out.family(
            "ebfw_enforcement_decisions",
            "Decisions about flows since the agent started, by action and mode; modify counts as allow.",
            &self.decisions(&counters, &source.start),
        )?;
        out.family(
            "ebfw_packets_dropped",
            "Packets that were dropped, by reason.",
            &[
                (
                    ForDrop {
                        reason: Dropped::Policy,
                    },
                    count(Counter::PacketDropped),
                ),
                (
                    ForDrop {
                        reason: Dropped::Pending,
                    },
                    count(Counter::PendingDropped),
                ),
            ],
        )?;
        out.family(
            "ebfw_packets_irregular",
            "Packets that are denied without a rule, whether dropped or not, by reason.",
            &[
                (
                    ForDenial {
                        reason: Irregular::Malformed,
                    },
                    count(Counter::Malformed),
                ),
                (
                    ForDenial {
                        reason: Irregular::SourceRoute,
                    },
                    count(Counter::SourceRouted),
                ),
                (
                    ForDenial {
                        reason: Irregular::Unreadable,
                    },
                    count(Counter::Unreadable),
                ),
                (
                    ForDenial {
                        reason: Irregular::Ambiguous,
                    },
                    count(Counter::Ambiguous),
                ),
            ],
        )?;
        let refused = [
            (Refused::Unasked, Counter::NameUnasked),
            (Refused::Unreadable, Counter::NameUnreadable),
            (Refused::Full, Counter::NameFull),
            (Refused::Special, Counter::NameSpecial),
        ]
        .map(|(reason, counter)| (ForRefusal { reason }, count(counter)));
        out.family(
            "ebfw_names_refused",
            "Answers (unasked), answers without one question and packets of answers that passed unread (unreadable) and addresses (full, special) from which the kernel programs learned no name, by reason.",
            &refused,
        )?;
        for (name, help, counter) in SINGLE {
            out.single(name, help, count(counter))?;
        }
        Ok(())
    }
}

/// Counters that are a metric of their own.
const SINGLE: [(&str, &str, Counter); 10] = [
    (
        "ebfw_names_learned",
        "Addresses in answers of resolvers whose name was learned.",
        Counter::NameLearned,
    ),
    (
        "ebfw_answers_held",
        "Packets of resolvers that were held back until the agent has read them.",
        Counter::AnswerHeld,
    ),
    (
        "ebfw_answer_pieces_lost",
        "Pieces of answers that did not reach the agent because the ring buffer was full; they come again with the packet.",
        Counter::AnswerLost,
    ),
    (
        "ebfw_resolver_packets",
        "Packets to trusted resolvers that were let through unjudged.",
        Counter::Resolver,
    ),
    (
        "ebfw_calls_refused",
        "Calls of connect and sendmsg that were refused.",
        Counter::CallRefused,
    ),
    (
        "ebfw_replies",
        "Packets let through as replies on connections that came in.",
        Counter::Reply,
    ),
    (
        "ebfw_events_suppressed",
        "Events left out because equal ones were reported shortly before.",
        Counter::EventSuppressed,
    ),
    (
        "ebfw_requests_lost",
        "Requests of the kernel programs to the agent that were lost; they are repeated with the next packet.",
        Counter::RequestLost,
    ),
    (
        "ebfw_table_errors",
        "Packets and calls denied because a table of the ruleset could not be read.",
        Counter::TableError,
    ),
    (
        "ebfw_socket_state_failures",
        "Sockets for which the kernel had no room to keep their state.",
        Counter::SocketStateFull,
    ),
];

fn value(counters: &Counters, counter: Counter) -> u64 {
    counters[counter as usize]
}

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn single(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(
            name,
            help,
            None,
            MetricType::Counter,
        )?)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        series: &[(impl EncodeLabelSet, u64)],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}
