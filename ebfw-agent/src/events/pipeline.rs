//! The way of an event: decode, annotate, attribute, filter, sink. One thread does it all, so that lines keep their order
//! and a reader of standard output that stalls stops nothing but its own events, which are then counted as lost.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    select,
    sync::{mpsc, oneshot},
};

use super::{
    BootClock,
    annotate::{self, Naming, RuleNames},
    attribute::{Owner, Workloads},
    decode::{self, Connect},
    event::{Event, Subject},
    filter::Filter,
    sink::{Sink, Unwritten},
};
use crate::metrics::{Attribution, Lost, Metrics};

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
    /// Takes what is left.
    pub sink: S,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// A queue for `capacity` raw events; what does not fit is counted as lost.
#[must_use]
pub fn queue(capacity: usize, metrics: Arc<Metrics>) -> (Intake, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Intake { sender, metrics }, receiver)
}

/// The end of the queue at which the reader of the ring buffer stands.
#[derive(Clone, Debug)]
pub struct Intake {
    sender: mpsc::Sender<Vec<u8>>,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// Queues the bytes of one event without waiting, or counts them as lost.
    pub fn offer(&self, bytes: &[u8]) {
        if self.sender.try_send(bytes.to_vec()).is_err() {
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
pub fn spawn<W, N, S>(
    stages: Stages<W, N, S>,
    raw: mpsc::Receiver<Vec<u8>>,
) -> io::Result<Handle<S>>
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
    async fn run(mut self, mut raw: mpsc::Receiver<Vec<u8>>, mut stop: oneshot::Receiver<()>) -> S {
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
                    Some(bytes) => self.handle(&bytes),
                    None => break,
                },
            }
        }
        self.flush();
        self.stages.sink
    }

    fn handle(&mut self, bytes: &[u8]) {
        self.clock.refresh();
        match decode::decode(bytes, &self.clock) {
            Ok(connect) => self.report(&connect),
            Err(error) => {
                self.stages.metrics.lost(Lost::Decode, 1);
                if self.undecodable.begins() {
                    tracing::warn!(%error, "an event of the kernel makes no sense; were its programs loaded by another version?");
                }
            }
        }
    }

    fn report(&mut self, connect: &Connect) {
        let metrics = &self.stages.metrics;
        let (ruling, naming) = annotate::ruling(connect, &self.stages.rules);
        if naming == Naming::Unknown {
            metrics.rule_unknown();
        }
        let (pod, cgroup, attribution) = match self.stages.workloads.owner(connect.cgroup_id) {
            Some(Owner::Pod(pod)) => (Some(pod), None, Attribution::Hit),
            Some(Owner::Cgroup(path)) => (None, Some(path), Attribution::Cgroup),
            None => (None, None, Attribution::Miss),
        };
        let event = Event {
            at: connect.at,
            subject: Subject::Connect { flow: connect.flow },
            process: connect.process.clone(),
            pod,
            cgroup,
            ruling,
            suppressed: connect.suppressed,
        };
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
