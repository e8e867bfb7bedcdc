//! The way of an event: decode, annotate, attribute, filter, sink. One thread does it all, so that lines keep their order
//! and a reader of standard output that stalls stops nothing but its own events, which are then counted as lost.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    select,
    sync::{mpsc, oneshot},
};

use super::{
    BootClock, Printable,
    annotate::{self, Naming, RuleNames},
    attribute::{Owner, Workloads},
    claim::{self, Inspection},
    decode::{self, Connect},
    event::{Event, Outcome, Pod, Subject},
    filter::Filter,
    https::{self, Https},
    lookup::{self, Lookup},
    sink::{Sink, Unwritten},
};
use crate::{
    inspect,
    metrics::{Attribution, Lost, Metrics},
};

/// Events that wait between the ring buffer and the output: a burst of a second or so at 10,000 a second, 1 MiB.
pub const QUEUE: usize = 8192;

/// What the stages need.
#[derive(Debug)]
pub struct Stages<W, N, S> {
    /// Attributes.
    pub workloads: W,
    /// Annotates.
    pub rules: N,
    /// Hides what is internal.
    pub filter: Filter,
    /// What of requests is shown.
    pub inspection: Inspection,
    /// Takes what is left.
    pub sink: S,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// A queue for `capacity` raw events; what does not fit is counted as lost.
#[must_use]
pub fn queue(capacity: usize, metrics: Arc<Metrics>) -> (Intake, mpsc::Receiver<Raw>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Intake { sender, metrics }, receiver)
}

/// The bytes of one event, as the kernel programs wrote them.
#[derive(Debug)]
pub enum Raw {
    /// A decision about a flow.
    Flow(Vec<u8>),
    /// A DNS message.
    Name(Vec<u8>),
    /// What a client says.
    Claim(Vec<u8>),
    /// A request inside TLS, which was put together elsewhere.
    Request(Box<inspect::Seen>),
}

/// The end of the queue at which the reader of the ring buffer stands.
#[derive(Clone, Debug)]
pub struct Intake {
    sender: mpsc::Sender<Raw>,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// Queues the bytes of a decision about a flow without waiting, or counts them as lost.
    pub fn offer(&self, bytes: &[u8]) {
        self.queue(Raw::Flow(bytes.to_vec()));
    }

    /// Queues the bytes of an event about a DNS message likewise.
    pub fn offer_name(&self, bytes: &[u8]) {
        self.queue(Raw::Name(bytes.to_vec()));
    }

    /// Queues the bytes of an event about what a client says likewise.
    pub fn offer_claim(&self, bytes: &[u8]) {
        self.queue(Raw::Claim(bytes.to_vec()));
    }

    /// Queues a request inside TLS likewise.
    pub fn offer_request(&self, seen: inspect::Seen) {
        self.queue(Raw::Request(Box::new(seen)));
    }

    fn queue(&self, raw: Raw) {
        if self.sender.try_send(raw).is_err() {
            self.metrics.lost(Lost::Queue, 1);
        }
    }
}

/// A running pipeline.
#[derive(Debug)]
pub struct Handle<S> {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<S>,
}

/// Why a pipeline did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// The reader of the output does not take what is left.
    #[error("the output did not take the last events within {0:?}")]
    Timeout(Duration),
    /// A bug; the panic has been reported.
    #[error("the event pipeline ended before its time")]
    Panicked,
}

impl<S> Handle<S> {
    /// Takes no more events, handles those that are queued, and gives the sink back.
    ///
    /// # Errors
    /// Where that takes longer than `limit`; the thread is then left to the end of the process.
    pub async fn drain(self, limit: Duration) -> Result<S, DrainError> {
        // No receiver: every intake was dropped, and the pipeline has ended or is about to.
        let _ = self.stop.send(());
        match tokio::time::timeout(limit, self.done).await {
            Ok(Ok(sink)) => Ok(sink),
            Ok(Err(_)) => Err(DrainError::Panicked),
            Err(_) => Err(DrainError::Timeout(limit)),
        }
    }
}

/// Starts the pipeline on a thread of its own.
///
/// # Errors
/// Where the clocks cannot be read or no thread can be started.
pub fn spawn<W, N, S>(stages: Stages<W, N, S>, raw: mpsc::Receiver<Raw>) -> io::Result<Handle<S>>
where
    W: Workloads + 'static,
    N: RuleNames + 'static,
    S: Sink,
{
    let (stop, stopped) = oneshot::channel();
    let (finished, done) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let worker = Worker {
        stages,
        clock: BootClock::read()?,
        undecodable: Trouble::default(),
        unwritable: Trouble::default(),
    };
    thread::Builder::new()
        .name("ebfw-events".into())
        .spawn(move || {
            let sink = runtime.block_on(worker.run(raw, stopped));
            // No receiver: nobody waits for the end.
            let _ = finished.send(sink);
        })?;
    Ok(Handle { stop, done })
}

struct Worker<W, N, S> {
    stages: Stages<W, N, S>,
    clock: BootClock,
    undecodable: Trouble,
    unwritable: Trouble,
}

impl<W: Workloads, N: RuleNames, S: Sink> Worker<W, N, S> {
    async fn run(mut self, mut raw: mpsc::Receiver<Raw>, mut stop: oneshot::Receiver<()>) -> S {
        let mut open = true;
        loop {
            if raw.is_empty() {
                self.flush();
            }
            select! {
                biased;
                _ = &mut stop, if open => {
                    open = false;
                    raw.close();
                }
                bytes = raw.recv() => match bytes {
                    Some(raw) => self.handle(&raw),
                    None => break,
                },
            }
        }
        self.flush();
        self.stages.sink
    }

    fn handle(&mut self, raw: &Raw) {
        self.clock.refresh();
        let handled = match raw {
            Raw::Flow(bytes) => decode::decode(bytes, &self.clock).map(|connect| {
                let flow = connect.flow;
                self.report(&connect, Subject::Connect { flow });
            }),
            Raw::Claim(bytes) => claim::decode(bytes, &self.clock, self.stages.inspection)
                .map(|spoken| self.report(&spoken.connect, spoken.subject())),
            Raw::Name(bytes) => lookup::decode(bytes, &self.clock).map(|seen| self.told(seen)),
            Raw::Request(seen) => {
                https::read(seen, &self.clock).map(|request| self.requested(request))
            }
        };
        match handled {
            Ok(()) => {}
            Err(error) => {
                self.stages.metrics.lost(Lost::Decode, 1);
                if self.undecodable.begins() {
                    tracing::warn!(%error, "an event of the kernel makes no sense; were its programs loaded by another version?");
                }
            }
        }
    }

    fn report(&mut self, connect: &Connect, subject: Subject) {
        let metrics = &self.stages.metrics;
        let (ruling, naming) = annotate::ruling(connect, &self.stages.rules);
        if naming == Naming::Unknown {
            metrics.rule_unknown();
        }
        let (pod, cgroup, attribution) = self.attribute(connect.cgroup_id);
        self.emit(
            attribution,
            Event {
                at: connect.at,
                subject,
                process: connect.process.clone(),
                pod,
                cgroup,
                ruling,
                suppressed: connect.suppressed,
            },
        );
    }

    /// Questions are events, and answers from which not everything was learned, because a policy may go wrong without their names.
    fn told(&mut self, seen: Lookup) {
        let learned = match seen.outcome {
            Outcome::Asked => None,
            Outcome::Learned => return,
            Outcome::Unreadable | Outcome::Unasked | Outcome::Full | Outcome::Special => {
                Some(seen.learned)
            }
        };
        let (pod, cgroup, attribution) = self.attribute(seen.cgroup_id);
        let event = Event {
            at: seen.at,
            subject: Subject::Dns {
                flow: seen.flow,
                name: seen.name,
                record: seen.record,
                outcome: seen.outcome,
                learned,
            },
            process: None,
            pod,
            cgroup,
            ruling: None,
            suppressed: 0,
        };
        self.emit(attribution, event);
    }

    fn requested(&mut self, request: Https) {
        let Https {
            at,
            cgroup_id,
            process,
            request,
            flow,
            ruling,
        } = request;
        let (pod, cgroup, attribution) = self.attribute(cgroup_id);
        let event = Event {
            at,
            subject: Subject::Https { flow, request },
            process,
            pod,
            cgroup,
            ruling,
            suppressed: 0,
        };
        self.emit(attribution, event);
    }

    fn attribute(&self, cgroup_id: u64) -> (Option<Pod>, Option<Printable>, Attribution) {
        match self.stages.workloads.owner(cgroup_id) {
            Some(Owner::Pod(pod)) => {
                let told = pod.name.is_some();
                let attribution = if told {
                    Attribution::Hit
                } else {
                    Attribution::Node
                };
                (Some(pod), None, attribution)
            }
            Some(Owner::Cgroup(path)) => (None, Some(path), Attribution::Cgroup),
            None => (None, None, Attribution::Miss),
        }
    }

    fn emit(&mut self, attribution: Attribution, event: Event) {
        let metrics = &self.stages.metrics;
        let kind = event.subject.kind();
        if self.stages.filter.hides(&event) {
            metrics.filtered(kind);
            return;
        }
        metrics.event(kind);
        metrics.attributed(attribution);
        let written = self.stages.sink.write(&event);
        self.account(written);
    }

    fn flush(&mut self) {
        let flushed = self.stages.sink.flush();
        self.account(flushed);
    }

    fn account(&mut self, written: Result<(), Unwritten>) {
        let Err(Unwritten { events, cause }) = written else {
            return;
        };
        self.stages.metrics.lost(Lost::Output, events);
        if !self.unwritable.begins() {
            return;
        }
        if cause.kind() == io::ErrorKind::BrokenPipe {
            tracing::info!("nobody reads the events any more; they are counted as lost");
        } else {
            tracing::warn!(error = %cause, "failed to write events; they are counted as lost");
        }
    }
}

/// Something that is logged once, and counted from then on.
#[derive(Debug, Default)]
struct Trouble(bool);

impl Trouble {
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }
}

#[cfg(test)]
mod tests;
