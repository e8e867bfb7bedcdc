//! A lab for one test: a workload in a cgroup and a network namespace of its own, its peers in another one, and a judge on the wire.
//! All of it goes with the value. Nothing is ever attached to a cgroup that the lab has not made.

pub mod agent;
mod kernel;
pub mod net;
mod netlink;
pub mod process;
pub mod recorder;
pub mod resolver;
pub mod router;
pub mod server;
pub mod sniffer;
pub mod subflows;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use ebfw_agent::{
    datapath::{Assignment, LeftOut},
    host::{
        cgroup::{CgroupId, CgroupPath, Hierarchy, OwnedCgroup},
        layout,
        netns::Netns,
        resolvers::Locality,
        sockets::{Outcome, Worker},
        tree::Cgroups,
    },
    metrics::Counters,
    workload::{self, Posture, SharedNames},
};
use ebfw_common::abi::{
    ClaimEvent, Config, Counter, FlowEvent, NameEvent, Request, mode, pending, request,
};
use ebfw_policy::{cgroup::CgroupGlob, parse_policy, policy::Policy};
use zerocopy::FromBytes as _;

use self::{
    kernel::Kernel,
    net::Net,
    process::{Answer, Line, Place, Process},
    server::Server,
    sniffer::Sniffer,
};

/// What does not happen within this time does not happen: a start of the agent alone takes 20 s where QEMU emulates an old kernel.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until `look` is true.
///
/// # Panics
///
/// When it takes too long; `what` was expected.
pub fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// The lab.
pub struct Lab {
    kernel: Option<Kernel>,
    attached: bool,
    config: Config,
    policy: Option<Policy>,
    services: Vec<CgroupGlob>,
    worker: Worker,
    requests: Vec<Request>,
    destroyed: usize,
    wire: Sniffer,
    _server: Server,
    net: Net,
    hierarchy: Hierarchy,
    cgroup: OwnedCgroup,
}

/// The port on which everybody at the far end answers.
pub const PORT: u16 = 80;

/// Resolvers and servers of labs keep their sockets until the process ends: more than the usual limit of 1024 once all tests have run.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit all may");
    }
}

impl Lab {
    /// Sets it up; `None`, said aloud, where this machine cannot. Without a policy nothing is attached.
    ///
    /// # Panics
    ///
    /// Where the machine should be able to.
    #[must_use]
    pub fn open() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !ebfw_test_need::root() {
            return None;
        }
        allow_many_files();
        let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
        let own = hierarchy.own().expect("this process is in a cgroup");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebfw-live-{}-{number}", std::process::id());
        let cgroup = hierarchy.create(&own, &name).expect("root makes cgroups");
        let net = Net::new().expect("root makes namespaces");
        let paths = hierarchy.clone();
        let worker = Worker::new(hierarchy.clone(), Box::new(move |id| paths.path(id)));
        let mut lab = Self {
            kernel: Some(Kernel::take()),
            attached: false,
            config: Config {
                pending: pending::DROP,
                shared: layout::shared_pages().unwrap_or_default(),
                ..Config::default()
            },
            policy: None,
            services: Vec::new(),
            worker: worker.expect("netlink is there"),
            requests: Vec::new(),
            destroyed: 0,
            wire: Sniffer::start(&net.near, &net.far).expect("root opens packet sockets"),
            _server: Server::start(&net.far, PORT).expect("the namespace is fresh"),
            net,
            hierarchy,
            cgroup,
        };
        lab.mode(mode::ENFORCE);
        Some(lab)
    }

    /// Puts a policy file in force for all cgroups of the lab.
    ///
    /// # Panics
    ///
    /// Where the policy is wrong or the kernel refuses it.
    pub fn policy(&mut self, source: &str) {
        self.policy = Some(parse_policy(source).expect("the test's policy is right"));
        self.classify();
        if !self.attached {
            let directory = self.cgroup.directory().to_owned();
            let kernel = self.kernel.as_mut().expect("the lab is open");
            kernel
                .datapath
                .attach(&directory)
                .unwrap_or_else(|error| panic!("{error:?}"));
            self.attached = true;
        }
    }

    /// Makes the servers at the far end with the numbers 9 trusted resolvers, which say what `answers` gives for a question.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn resolver(
        &mut self,
        answers: impl Fn(&hickory_proto::op::Message) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) {
        resolver::serve(&self.net.far, answers).expect("the port is free");
        self.trust(&[net::v4(9), net::v6(9)]);
    }

    /// Makes all names that are known expire now.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn outdate_names(&mut self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
        let now = u64::try_from(Duration::from(now).as_nanos()).expect("it is young");
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel
            .datapath
            .outdate_names(now)
            .expect("the map takes what it had");
    }

    /// Does what the agent does from time to time, as if it were so much later: forgets names and questions that count no more.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn forget_names(&mut self, later: Duration) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
        let then = (Duration::from(now) + later).as_nanos();
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel
            .datapath
            .forget_expired(u64::try_from(then).expect("it is young"))
            .expect("the maps delete");
    }

    /// Makes the server with the number 9 a trusted resolver over TCP that answers as [`resolver::serve_writes`] says.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn stream_resolver(
        &mut self,
        writes: impl Fn(&[hickory_proto::op::Message]) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) {
        resolver::serve_writes(&self.net.far, writes).expect("the port is free");
        self.trust(&[net::v4(9)]);
    }

    /// Makes these the trusted resolvers.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn trust(&mut self, resolvers: &[std::net::IpAddr]) {
        let resolvers: Vec<_> = resolvers.iter().map(|at| (*at, Locality::Remote)).collect();
        self.trust_as(&resolvers);
    }

    /// Makes these the trusted resolvers.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn trust_as(&mut self, resolvers: &[(std::net::IpAddr, Locality)]) {
        let trusted = resolvers.iter().copied().collect();
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel.datapath.trust(&trusted).expect("the map takes few");
    }

    /// Does what the agent does with answers that the programs cannot read, and returns what it would tell of them.
    pub fn read_answers(&mut self) -> Vec<NameEvent> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let Kernel {
            answers, reader, ..
        } = kernel;
        let told = std::cell::RefCell::new(Vec::new());
        answers.take(|entry| {
            reader.take(entry, |event| {
                let event = NameEvent::read_from_bytes(event).expect("events are whole");
                told.borrow_mut().push(event);
            });
        });
        told.into_inner()
    }

    /// Run counts and run times in ns of egress, the empty program and ingress, while the kernel's statistics are on.
    #[must_use]
    pub fn run_statistics(&self) -> [(u64, u64); 3] {
        let datapath = &self.kernel.as_ref().expect("the lab is open").datapath;
        let [egress, empty] = datapath.run_statistics();
        [egress, empty, datapath.ingress_statistics()]
    }

    /// Puts the empty program beside the others, to see the same outgoing packets.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn attach_empty(&mut self) {
        let directory = self.cgroup.directory().to_owned();
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel
            .datapath
            .load_benchmarks()
            .unwrap_or_else(|error| panic!("{error:?}"));
        kernel
            .datapath
            .attach_for_benchmark(&directory, false)
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// What the agent's own metrics say.
    #[must_use]
    pub fn metrics(&self) -> String {
        let kernel = self.kernel.as_ref().expect("the lab is open");
        kernel.metrics.encode()
    }

    /// Does what the agent does when cgroups come and go: gives each its rules.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn classify(&mut self) {
        let policy = self.policy.as_ref().expect("there is a policy");
        let cgroups = self.cgroups();
        let (wanted, shared) = assignments(policy, &cgroups, self.cgroup.path(), &self.services);
        let ids = |set: BTreeSet<CgroupId>| set.into_iter().map(|id| id.0).collect();
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel.datapath.share_names(ids(shared.users));
        kernel
            .datapath
            .apply(&wanted)
            .and_then(|_| kernel.datapath.serve_names(&ids(shared.services)))
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Makes the workload's cgroup `name` below its own a service that resolves for others, from the next [`Lab::classify`] on.
    ///
    /// # Panics
    ///
    /// Where it is no cgroup.
    pub fn service(&mut self, name: &str) -> PathBuf {
        let glob = format!("{}/{name}", self.path());
        self.services
            .push(CgroupGlob::new(&glob).expect("a path is a glob"));
        self.nested(name)
    }

    /// Says which network namespace is the host's.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn host_netns(&mut self, cookie: u64) {
        self.config.host_netns = cookie;
        self.configure();
    }

    /// The cgroups of the lab.
    fn cgroups(&self) -> Cgroups {
        let mut found = Cgroups::from([(self.cgroup.id(), self.cgroup.path().clone())]);
        let mut pending = vec![self.cgroup.path().clone()];
        while let Some(path) = pending.pop() {
            for (child, id) in self.hierarchy.children(&path).unwrap_or_default() {
                found.insert(id, child.clone());
                pending.push(child);
            }
        }
        found
    }

    /// Sets the mode, one of `ebfw_common::abi::mode`.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn mode(&mut self, mode: u32) {
        self.config.mode = mode;
        self.configure();
    }

    /// Sets what is read for events alone, one of `ebfw_common::abi::inspect`.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    pub fn inspect(&mut self, inspect: u32) {
        self.config.inspect = inspect;
        self.configure();
    }

    fn configure(&mut self) {
        let config = self.config;
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel.datapath.configure(config).expect("the map takes it");
    }

    /// Makes a cgroup below the workload's, and returns its directory; it goes with the lab.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    #[must_use]
    pub fn nested(&self, name: &str) -> PathBuf {
        let directory = self.cgroup.directory().join(name);
        fs::create_dir(&directory).expect("root makes cgroups");
        directory
    }

    /// The path of the workload's cgroup, as policies name it.
    #[must_use]
    pub fn path(&self) -> String {
        self.cgroup.path().text().into_owned()
    }

    /// Directory of the workload's cgroup.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.cgroup.directory()
    }

    /// A program to be started in the workload's cgroup; in whose network namespace is the caller's choice.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        // The shell enters the cgroup and becomes the program.
        const ENTER: &str = "echo 0 > \"$0/cgroup.procs\" && exec \"$@\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", ENTER]).arg(self.directory()).arg(program);
        shell
    }

    /// Id of the workload's cgroup.
    #[must_use]
    pub fn cgroup_id(&self) -> u64 {
        self.cgroup.id().0
    }

    /// Starts a process in the workload.
    pub fn start<T: Answer>(
        &self,
        work: impl FnOnce(&mut Line) -> io::Result<T> + Send,
    ) -> Process<T> {
        self.start_in(Some(self.cgroup.directory()), work)
    }

    /// Starts a process beside the workload, in another cgroup or in the test's own.
    pub fn start_in<T: Answer>(
        &self,
        cgroup: Option<&Path>,
        work: impl FnOnce(&mut Line) -> io::Result<T> + Send,
    ) -> Process<T> {
        let netns = &self.net.near;
        Process::start(Place { netns, cgroup }, work)
    }

    /// Runs `work` in a process of the workload that has gone to another network namespace.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn elsewhere<T: Answer>(
        &self,
        netns: &Netns,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let cgroup = Some(self.cgroup.directory());
        Process::start(Place { netns, cgroup }, |_: &mut Line| work()).finish()
    }

    /// Runs `work` in a process of the workload.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn inside<T: Answer>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.start(|_| work()).finish()
    }

    /// The namespaces.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The judge.
    #[must_use]
    pub fn wire(&self) -> &Sniffer {
        &self.wire
    }

    /// The counters of the programs.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let kernel = self.kernel.as_ref().expect("the lab is open");
        kernel.counters()
    }

    /// One of them.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.counters()[counter as usize]
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<FlowEvent> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let mut events = Vec::new();
        kernel.events.take(|entry| {
            events.push(FlowEvent::read_from_bytes(entry).expect("entries are whole events"));
        });
        events
    }

    /// Waits for events, as the agent does.
    ///
    /// # Panics
    ///
    /// Where the ring cannot be polled.
    pub fn next_events(&mut self) -> Vec<FlowEvent> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let mut events = Vec::new();
        let read = kernel.events.drain(|entry| {
            events.push(FlowEvent::read_from_bytes(entry).expect("entries are whole events"));
        });
        let read = kernel::runtime().block_on(read);
        read.expect("the ring can be polled");
        events
    }

    /// What clients said since the last call.
    pub fn claims(&mut self) -> Vec<ClaimEvent> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let mut claims = Vec::new();
        kernel.claims.take(|entry| {
            let (claim, _) = ClaimEvent::read_from_prefix(entry).expect("entries are whole events");
            claims.push(claim);
        });
        claims
    }

    /// What was told of questions and answers since the last call.
    pub fn name_events(&mut self) -> Vec<NameEvent> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let mut events = Vec::new();
        kernel.names.take(|entry| {
            events.push(NameEvent::read_from_bytes(entry).expect("entries are whole events"));
        });
        events
    }

    /// Runs `work` in a process of the workload, and destroys meanwhile what the kernel asks for.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn tended<T: Answer>(
        &mut self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let process = self.start(|_| work());
        eventually("the process ends", || {
            self.tend();
            process.is_heard()
        });
        process.finish()
    }

    /// What the rate limit still holds.
    ///
    /// # Panics
    ///
    /// Where the map cannot be read.
    pub fn left_out(&mut self) -> Vec<(LeftOut, u64)> {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        kernel.datapath.left_out().expect("the map is readable")
    }

    /// Does what the kernel asked for: destroys sockets, and remembers the rest for `Lab::asked`. Returns how many were destroyed
    /// since the lab was opened.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses to destroy.
    pub fn tend(&mut self) -> usize {
        let kernel = self.kernel.as_mut().expect("the lab is open");
        let mut fresh = Vec::new();
        kernel.requests.take(|entry| {
            fresh.push(Request::read_from_bytes(entry).expect("entries are whole requests"));
        });
        for asked in fresh {
            if asked.kind != request::DESTROY {
                self.requests.push(asked);
                continue;
            }
            match self.worker.destroy(&asked) {
                Outcome::Destroyed => self.destroyed += 1,
                Outcome::Gone => {}
                Outcome::Failed(error) => panic!("{asked:?}: {error}"),
            }
        }
        self.destroyed
    }

    /// Whether the kernel has asked to classify `cgroup`.
    pub fn asked_to_classify(&mut self, cgroup: u64) -> bool {
        self.tend();
        self.requests
            .iter()
            .any(|asked| asked.kind == request::CLASSIFY && asked.cgroup_id == cgroup)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.take() {
            kernel.give_back();
        }
    }
}

/// Id of the cgroup with this directory.
///
/// # Panics
///
/// Where there is none.
#[must_use]
pub fn cgroup_id(directory: &Path) -> u64 {
    fs::metadata(directory).expect("the cgroup exists").ino()
}

fn assignments(
    policy: &Policy,
    cgroups: &Cgroups,
    root: &CgroupPath,
    services: &[CgroupGlob],
) -> (BTreeMap<u64, Assignment>, SharedNames) {
    let mut desired = workload::desired(policy, cgroups, root, None).expect("few rules");
    let shared = SharedNames::find(services, cgroups, &mut desired);
    let mut wanted = BTreeMap::new();
    for (CgroupId(id), standing) in desired.entries {
        let (ruleset, silent) = match standing.posture {
            Posture::Governed(ruleset) => (Some(ruleset), false),
            Posture::Ungoverned => (None, false),
            Posture::Exempt => (None, true),
        };
        let open = standing.open;
        wanted.insert(
            id,
            Assignment {
                ruleset,
                open,
                silent,
            },
        );
    }
    (wanted, shared)
}
