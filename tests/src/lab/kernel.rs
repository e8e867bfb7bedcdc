//! The kernel side under test: loaded once for each thread of tests, since the verifier takes its time, and handed from test to test.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ebfw_agent::{
    answers::Reader,
    datapath::{CounterReader, Datapath, Ring},
    events::event::Mode,
    metrics::{Counters, KernelCounters, Metrics},
};
use tokio::runtime::{Builder, Runtime};

/// Loaded programs with all that can be taken from them only once.
pub(super) struct Kernel {
    pub(super) datapath: Datapath,
    pub(super) events: Ring,
    pub(super) requests: Ring,
    pub(super) claims: Ring,
    pub(super) names: Ring,
    pub(super) answers: Ring,
    pub(super) reader: Reader,
    pub(super) metrics: Arc<Metrics>,
    counters: CounterReader,
}

static IDLE: Mutex<Vec<Kernel>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Kernel>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rings want to be registered with a reactor, though most tests only look into them.
pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .expect("epoll is there")
    })
}

impl Kernel {
    /// One that nobody uses, attached to nothing.
    pub(super) fn take() -> Self {
        let idle = idle().pop();
        idle.unwrap_or_else(Self::load)
    }

    fn load() -> Self {
        let _reactor = runtime().enter();
        let mut datapath = Datapath::load(None).unwrap_or_else(|error| panic!("{error:?}"));
        let (answers, learner) = datapath.answers().expect("nobody else has taken the ring");
        let metrics = Arc::new(Metrics::new(Mode::Enforce));
        Self {
            answers,
            reader: Reader::new(learner, Arc::clone(&metrics)),
            metrics,
            events: datapath.events().expect("nobody else has taken the ring"),
            claims: datapath
                .claim_events()
                .expect("nobody else has taken the ring"),
            names: datapath
                .name_events()
                .expect("nobody else has taken the ring"),
            requests: datapath.requests().expect("nobody else has taken the ring"),
            counters: datapath
                .counters()
                .expect("nobody else has taken the counters"),
            datapath,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters.read().expect("the counters are readable")
    }

    /// Leaves it to the next test.
    pub(super) fn give_back(mut self) {
        self.datapath.detach_unpinned();
        if self.datapath.apply(&Default::default()).is_ok() {
            self.events.take(|_| {});
            self.requests.take(|_| {});
            self.claims.take(|_| {});
            self.names.take(|_| {});
            self.answers.take(|_| {});
            idle().push(self);
        }
    }
}
