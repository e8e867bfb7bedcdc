//! The kernel side as the agent sees it: load or adopt, apply what is wanted, attach, read.
//!
//! Knows maps and programs, nothing of policies' sources, cgroup trees or events' meaning. One task owns a [`Datapath`] and is the only
//! writer of its maps.

mod grace;
mod instance;
#[cfg(feature = "kernel-log")]
mod kernel_log;
mod link;
mod names;
mod object;
mod reclaim;
mod rings;
mod slot;
mod syscall;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap, HashSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf},
};
use ebfw_common::abi::{ABI_VERSION, COUNTERS, Config, SlotRef, SlotWord, slot_flag};
use ebfw_policy::{
    compile::{Names as Patterns, NamesError},
    ruleset::Ruleset,
};

#[cfg(feature = "kernel-log")]
pub use self::kernel_log::KernelLog;
pub(crate) use self::rings::REST;
pub use self::{
    instance::InstanceError,
    link::{AttachError, detach},
    names::{Asker, Learned, Learner, Owned, Tally, pinned_names},
    rings::{LeftOut, Ring},
    syscall::TestRun,
    trial::{Read, StreamReader},
};
use self::{instance::Instances, names::Names, slot::Slots};
use crate::{
    host::resolvers::Resolvers,
    metrics::{Counters, KernelCounters},
};

/// Name of the folder of links below the pin directory.
const LINKS: &str = "links";
/// Maps that hold the state of the datapath and are pinned together.
const PINNED_MAPS: [&str; 28] = [
    "CONFIG",
    "CGROUPS",
    "SLOTS",
    "INSTANCES",
    "PREFIXES4",
    "PREFIXES6",
    "AUTOMATA",
    "SOCKETS",
    "REPLIES",
    "RATES",
    "WORKLOAD_RATES",
    "ASKED",
    "EVENTS",
    "CONTROL",
    "COUNTERS",
    "RESOLVERS",
    "SERVICES",
    "QUESTIONS",
    "NAMES",
    "NAME_COUNTS",
    "NAME_EVENTS",
    "STREAMS",
    "HTTP2",
    "CLAIMS",
    "CLAIM_EVENTS",
    "READERS",
    "HELD",
    "ANSWERS",
];

/// Why the kernel side cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A build without the eBPF toolchain.
    #[error("this build has no kernel programs: build it with `cargo xtask build`")]
    NoPrograms,
    /// The kernel refused the object or a map.
    #[error("failed to load the kernel programs")]
    Load(#[from] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("the kernel refused the program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map cannot be used.
    #[error("failed to open the map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What went wrong.
        source: Box<aya::maps::MapError>,
    },
    /// Memory of a map cannot be mapped, or the pin directory not be made.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// Why a wanted state was not applied, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A ruleset does not compile or does not fit; nothing was changed.
    #[error("failed to load a ruleset into the kernel")]
    Instance(#[from] InstanceError),
    /// The domain patterns do not fit; nothing was changed.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// All slots are taken; workloads beyond stay with their ancestor's policy.
    #[error("more than {} workloads", ebfw_common::abi::MAX_SLOTS - 1)]
    SlotsFull,
    /// More resolvers than the map holds; nothing was changed.
    #[error("{0} resolvers: at most {max} can be trusted", max = ebfw_common::abi::MAX_RESOLVERS)]
    ResolversFull(usize),
    /// More services that resolve for others than the map holds; nothing was changed.
    #[error("{0} services resolve for others: at most {max} can", max = ebfw_common::abi::MAX_SERVICES)]
    ServicesFull(usize),
    /// The system has no random number; what a workload could guess is not used instead.
    #[error("failed to get a random number")]
    Random(#[source] io::Error),
    /// The policy is switched, but what an earlier one left could not be deleted and stays in memory until the next change.
    #[error("failed to delete the tables of an earlier policy")]
    Reclaim {
        /// What the kernel said.
        source: io::Error,
    },
    /// A map refused an update.
    #[error("failed to update the map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What went wrong.
        source: Box<aya::maps::MapError>,
    },
}

/// What is wanted for one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its rules; `None`: nothing governs it.
    pub ruleset: Option<Arc<Ruleset>>,
    /// Whether a cgroup below could be a workload of its own: an unknown one there is pending.
    pub open: bool,
    /// Whether not even its flows are reported (the agent itself).
    pub silent: bool,
}

/// What [`Datapath::apply`] did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Rulesets in force and the serials by which events name them.
    pub serials: Vec<(u32, Arc<Ruleset>)>,
    /// Instances that were written.
    pub written: usize,
}

/// The programs that [`Datapath::attach`] attaches, in this order: who connects is marked before anybody looks for the mark.
const PROGRAMS: [&str; 7] = [
    "ebfw_connect4",
    "ebfw_connect6",
    "ebfw_create",
    "ebfw_sendmsg4",
    "ebfw_sendmsg6",
    "ebfw_ingress",
    "ebfw_egress",
];
/// The program that reads payload: egress goes on with it, so that it is attached nowhere.
const READER: &str = "ebfw_reader";
/// Instances by ruleset. What a rule caches inside takes no part in its equality or hash.
type Loaded = StdHashMap<Arc<Ruleset>, instance::Instance>;

/// Maps that say which ruleset governs whom, by name: for programs beside the firewall, which look into them and write nothing.
#[derive(Debug)]
pub struct RulesetMaps(Vec<(&'static str, OwnedFd)>);

impl RulesetMaps {
    const NAMES: [&'static str; 7] = [
        "CONFIG",
        "CGROUPS",
        "SLOTS",
        "INSTANCES",
        "PREFIXES4",
        "PREFIXES6",
        "AUTOMATA",
    ];

    fn of(ebpf: &Ebpf) -> io::Result<Self> {
        let maps = Self::NAMES.into_iter();
        maps.map(|name| Ok((name, syscall::descriptor(ebpf, name)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The map of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let (_, map) = self.0.iter().find(|(known, _)| *known == name)?;
        Some(map.as_fd())
    }
}

/// Loaded programs and their maps.
pub struct Datapath {
    ebpf: Ebpf,
    rulesets: Arc<RulesetMaps>,
    /// All maps, to account for their memory.
    maps: Vec<OwnedFd>,
    pin: Option<PathBuf>,
    config: Array<MapData, [u64; 5]>,
    cgroups: HashMap<MapData, u64, u32>,
    known: BTreeMap<u64, SlotRef>,
    slots: Slots,
    instances: Instances,
    names: Names,
    /// Workloads for which the names of services count.
    users: BTreeSet<u64>,
    learner: Option<Learner>,
    links: Vec<aya::programs::links::FdLink>,
    adopted: bool,
    _readers: Option<ProgramArray<MapData>>,
}

impl Datapath {
    /// Loads the programs; attaches nothing. With a pin directory, maps of the same version that are pinned there are adopted: what they
    /// enforce stays in force until [`Datapath::apply`].
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the kernel's words.
    pub fn load(pin: Option<&Path>) -> Result<Self, LoadError> {
        if object::OBJECT.is_empty() {
            return Err(LoadError::NoPrograms);
        }
        let maps = pin.map(|pin| maps_directory(pin, ABI_VERSION));
        let adopted = maps
            .as_ref()
            .is_some_and(|maps| maps.join("SLOTS").exists());
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        if let Some(maps) = &maps {
            fs::create_dir_all(maps).map_err(|source| LoadError::Io {
                what: format!("create {}", maps.display()),
                source,
            })?;
            for name in PINNED_MAPS {
                loader.map_pin_path(name, maps.join(name));
            }
        }
        let mut ebpf = loader.load(object::OBJECT).map_err(Box::new)?;
        let maps = syscall::descriptors(&ebpf).map_err(|source| LoadError::Io {
            what: "open the maps".into(),
            source,
        })?;
        let rulesets = RulesetMaps::of(&ebpf).map_err(|source| LoadError::Io {
            what: "open the maps of rulesets".into(),
            source,
        })?;
        let learner = Some(Learner::open(&ebpf)?);
        let config = Array::try_from(take(&mut ebpf, "CONFIG")).map_err(map_error("CONFIG"))?;
        let cgroups: HashMap<_, u64, u32> =
            HashMap::try_from(take(&mut ebpf, "CGROUPS")).map_err(map_error("CGROUPS"))?;
        let mut readers =
            ProgramArray::try_from(take(&mut ebpf, "READERS")).map_err(map_error("READERS"))?;
        let slots = Slots::map(take(&mut ebpf, "SLOTS"))?;
        let instances = Instances::open(&mut ebpf, &slots, adopted)?;
        let names = Names::open(
            take(&mut ebpf, "RESOLVERS"),
            take(&mut ebpf, "SERVICES"),
            take(&mut ebpf, "QUESTIONS"),
            take(&mut ebpf, "NAMES"),
            take(&mut ebpf, "NAME_COUNTS"),
        )?;
        let mut known = BTreeMap::new();
        for entry in cgroups.iter() {
            let (cgroup, slot) = entry.map_err(map_error("CGROUPS"))?;
            known.insert(cgroup, SlotRef(slot));
        }
        let mut datapath = Self {
            ebpf,
            rulesets: Arc::new(rulesets),
            maps,
            pin: pin.map(Path::to_owned),
            config,
            cgroups,
            known,
            slots,
            instances,
            names,
            users: BTreeSet::new(),
            learner,
            links: Vec::new(),
            adopted,
            _readers: None,
        };
        let programs: Vec<_> = PROGRAMS.into_iter().chain([READER]).collect();
        link::load(&mut datapath.ebpf, &programs)?;
        link::put_in_place(&mut datapath.ebpf, READER, &mut readers)?;
        // The array is emptied when nobody in user space holds it any more.
        datapath._readers = Some(readers);
        Ok(datapath)
    }

    /// The maps of rulesets.
    #[must_use]
    pub fn rulesets(&self) -> Arc<RulesetMaps> {
        Arc::clone(&self.rulesets)
    }

    /// Whether maps of an earlier agent were found and are used.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Sets what the programs do, for all workloads alike. The seed is that of the maps, whatever `config` says: names that are known keep
    /// their hashes.
    ///
    /// # Errors
    ///
    /// Where the map refuses, or there is no random number for a new seed.
    pub fn configure(&mut self, mut config: Config) -> Result<(), ApplyError> {
        let last = self.config.get(&0, 0).map_err(update_error("CONFIG"))?;
        let last: Config = zerocopy::transmute!(last);
        config.seed = match last.seed {
            0 => random()?,
            seed => seed,
        };
        let words: [u64; 5] = zerocopy::transmute!(config);
        self.config.set(0, words, 0).map_err(update_error("CONFIG"))
    }

    /// Makes `resolvers` those whose answers count. One that is new counts before one that is gone stops to.
    ///
    /// # Errors
    ///
    /// Where there are too many (then nothing has changed), or the map refuses.
    pub fn trust(&mut self, resolvers: &Resolvers) -> Result<(), ApplyError> {
        self.names.trust(resolvers)
    }

    /// Says for which cgroups the names of services count, from the next [`Datapath::apply`] on.
    pub fn share_names(&mut self, users: BTreeSet<u64>) {
        self.users = users;
    }

    /// Makes these cgroups, which [`Datapath::apply`] knows, the services whose names count for others.
    ///
    /// # Errors
    ///
    /// Where there are too many, or the map refuses.
    pub fn serve_names(&mut self, services: &BTreeSet<u64>) -> Result<(), ApplyError> {
        let slots = services.iter().filter_map(|id| self.known.get(id));
        self.names.serve(&slots.map(|slot| slot.0).collect())
    }

    /// The names that were learned and are still known, expired ones among them.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn learned_names(&self) -> Result<Vec<Learned>, LoadError> {
        self.names.learned().map_err(map_error("NAMES"))
    }

    /// Makes all names that are known expire at `expires_ns` (since boot), for tests that cannot wait for their time.
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    pub fn outdate_names(&mut self, expires_ns: u64) -> Result<(), ApplyError> {
        self.names
            .outdate(expires_ns)
            .map_err(update_error("NAMES"))
    }

    /// Deletes names of workloads that are gone, and of those that have expired by `now_ns` (since boot) what there is no room for: flows keep
    /// the names under which they were opened. Says how many. Looks at no name where there can be none. Questions that nobody answered go too.
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    pub fn forget_expired(&mut self, now_ns: u64) -> Result<usize, ApplyError> {
        self.names.forget_expired(now_ns, &self.slots)
    }

    /// Makes the kernel's state what is wanted: new rulesets are written beside the old ones, then each slot is switched by one store. What is no
    /// longer used is deleted in the background, after a grace period. No packet sees a mixture.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; with [`ApplyError::Instance`] nothing has changed.
    pub fn apply(&mut self, wanted: &BTreeMap<u64, Assignment>) -> Result<Applied, ApplyError> {
        let lists = wanted
            .values()
            .filter_map(|assignment| assignment.ruleset.as_ref())
            .flat_map(|ruleset| &ruleset.rules)
            .filter_map(|rule| rule.matches.domains.entries());
        let names = Patterns::compile_lists(lists)?;
        self.apply_announced(wanted, &Arc::new(names), |_, _| {})
    }

    /// As [`Datapath::apply`], `names` being the automaton of all patterns of the policy; tells `announce` each ruleset and its serial before a packet can be judged by it.
    ///
    /// # Errors
    ///
    /// As [`Datapath::apply`].
    pub fn apply_announced(
        &mut self,
        wanted: &BTreeMap<u64, Assignment>,
        names: &Arc<Patterns>,
        mut announce: impl FnMut(u32, &Arc<Ruleset>),
    ) -> Result<Applied, ApplyError> {
        let mut rulesets = Loaded::new();
        let mut applied = Applied::default();
        for ruleset in wanted
            .values()
            .filter_map(|assignment| assignment.ruleset.as_ref())
        {
            if rulesets.contains_key(ruleset) {
                continue;
            }
            let (instance, written) = self.instances.load(ruleset, names, &self.slots)?;
            applied.written += usize::from(written);
            announce(instance.serial, ruleset);
            applied.serials.push((instance.serial, Arc::clone(ruleset)));
            rulesets.insert(Arc::clone(ruleset), instance);
        }
        // Cgroups below before those above: when an ancestor becomes open, what exists below it is known already.
        for (&cgroup, assignment) in wanted.iter().filter(|(_, assignment)| !assignment.open) {
            self.assign(cgroup, assignment, &rulesets)?;
        }
        for (&cgroup, assignment) in wanted.iter().filter(|(_, assignment)| assignment.open) {
            self.assign(cgroup, assignment, &rulesets)?;
        }
        self.forget(wanted)?;
        let used: HashSet<u32> = rulesets.values().map(|instance| instance.number).collect();
        self.instances
            .retain(&used)
            .map_err(|source| ApplyError::Reclaim { source })?;
        Ok(applied)
    }

    /// Lets everything pass that comes from `cgroup`, and reports nothing of it, until the next [`Datapath::apply`]. Touches nothing else that is
    /// in force: so an agent that took over can ask the API server what it should enforce.
    ///
    /// # Errors
    ///
    /// Where there is no slot left, or the map refuses.
    pub fn exempt(&mut self, cgroup: u64) -> Result<(), ApplyError> {
        let exempt = Assignment {
            ruleset: None,
            open: false,
            silent: true,
        };
        self.assign(cgroup, &exempt, &Loaded::new())
    }

    fn assign(
        &mut self,
        cgroup: u64,
        assignment: &Assignment,
        rulesets: &Loaded,
    ) -> Result<(), ApplyError> {
        let Assignment {
            ruleset,
            open,
            silent,
        } = assignment;
        let mut flags = slot_flag::LIVE;
        let mut instance = instance::Instance::default();
        if let Some(ruleset) = ruleset {
            instance = rulesets[ruleset];
            flags |= slot_flag::GOVERNED;
            if ruleset.govern_loopback {
                flags |= slot_flag::GOVERN_LOOPBACK;
            }
            if ruleset.reads_names() {
                flags |= slot_flag::NAMES;
                if self.users.contains(&cgroup) {
                    flags |= slot_flag::SHARED_NAMES;
                }
            }
            if ruleset.reads_requests() {
                flags |= slot_flag::REQUESTS;
            }
        }
        if *open {
            flags |= slot_flag::OPEN;
        }
        if *silent {
            flags |= slot_flag::SILENT;
        }
        let number = u16::try_from(instance.number).expect("there are 4096 instances");
        let word = |generation| SlotWord::new(number, flags, generation, instance.serial);
        if let Some(slot) = self.known.get(&cgroup).copied() {
            self.slots.store(slot.index(), word(slot.generation()));
            return Ok(());
        }
        let slot = self.slots.take().ok_or(ApplyError::SlotsFull)?;
        self.names.reset(slot);
        self.slots.store(slot.index(), word(slot.generation()));
        self.cgroups
            .insert(cgroup, slot.0, 0)
            .map_err(update_error("CGROUPS"))?;
        self.known.insert(cgroup, slot);
        Ok(())
    }

    /// Takes cgroups out that are no longer wanted; their sockets look for their workload anew.
    fn forget(&mut self, wanted: &BTreeMap<u64, Assignment>) -> Result<(), ApplyError> {
        let gone: Vec<_> = self
            .known
            .iter()
            .filter(|(cgroup, _)| !wanted.contains_key(cgroup))
            .map(|(&cgroup, &slot)| (cgroup, slot))
            .collect();
        for (cgroup, slot) in gone {
            match self.cgroups.remove(&cgroup) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(source) => return Err(update_error("CGROUPS")(source)),
            }
            self.slots.free(slot);
            self.names.reset(slot);
            self.known.remove(&cgroup);
        }
        Ok(())
    }

    /// Attaches the programs to a cgroup, or puts them into the links that are pinned for it.
    ///
    /// # Errors
    ///
    /// [`AttachError`] names the program.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        let links = self.pin.as_ref().map(|pin| pin.join(LINKS));
        for name in PROGRAMS {
            if let Some(link) = link::attach(&mut self.ebpf, name, cgroup, links.as_deref())? {
                self.links.push(link);
            }
        }
        if let Some(pin) = &self.pin {
            remove_other_versions(pin);
        }
        Ok(())
    }

    /// Whether each link is pinned still, where links are pinned at all: a link that is not falls, and its program with it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        let links = self.pin.as_ref().map(|pin| pin.join(LINKS));
        links.is_none_or(|links| PROGRAMS.iter().all(|name| links.join(name).exists()))
    }

    /// Attaches the programs to a cgroup for as long as that exists: they outlive this process, but not the cgroup.
    ///
    /// # Errors
    ///
    /// [`AttachError`] names the program.
    pub fn attach_for_life(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        PROGRAMS
            .into_iter()
            .try_for_each(|name| link::attach_for_life(&mut self.ebpf, name, cgroup))
    }

    /// The programs that [`Datapath::attach`] attaches.
    #[must_use]
    pub fn programs() -> &'static [&'static str] {
        &PROGRAMS
    }

    /// Takes the ring of events; once.
    ///
    /// # Errors
    ///
    /// Where it was taken before or cannot be mapped.
    pub fn events(&mut self) -> Result<Ring, LoadError> {
        self.ring("EVENTS", REST)
    }

    /// Takes the ring of events about names; once.
    ///
    /// # Errors
    ///
    /// As [`Datapath::events`].
    pub fn name_events(&mut self) -> Result<Ring, LoadError> {
        self.ring("NAME_EVENTS", REST)
    }

    /// Takes the ring of events about what clients say; once.
    ///
    /// # Errors
    ///
    /// As [`Datapath::events`].
    pub fn claim_events(&mut self) -> Result<Ring, LoadError> {
        self.ring("CLAIM_EVENTS", REST)
    }

    /// Takes the ring of answers that the programs cannot read alone, and what learns from them; once.
    ///
    /// # Errors
    ///
    /// As [`Datapath::events`].
    ///
    /// # Panics
    ///
    /// Where they were taken before.
    pub fn answers(&mut self) -> Result<(Ring, Learner), LoadError> {
        let learner = self.learner.take().expect("it is taken once");
        Ok((self.ring("ANSWERS", Duration::ZERO)?, learner))
    }

    /// Takes the ring of requests; once.
    ///
    /// # Errors
    ///
    /// As [`Datapath::events`].
    pub fn requests(&mut self) -> Result<Ring, LoadError> {
        self.ring("CONTROL", Duration::ZERO)
    }

    fn ring(&mut self, name: &'static str, rest: Duration) -> Result<Ring, LoadError> {
        let ring = RingBuf::try_from(take(&mut self.ebpf, name)).map_err(map_error(name))?;
        Ring::new(ring, rest).map_err(|source| LoadError::Io {
            what: format!("watch the ring buffer {name}"),
            source,
        })
    }

    /// Starts to read what the programs say for debugging; once. `None` where they were built to say nothing.
    ///
    /// # Errors
    ///
    /// Where the ring is none or cannot be watched.
    #[cfg(feature = "kernel-log")]
    pub fn kernel_log(&mut self) -> Result<Option<KernelLog>, LoadError> {
        KernelLog::start(&mut self.ebpf)
    }

    /// A reader of the programs' counters; once.
    ///
    /// # Errors
    ///
    /// Where it was taken before or is no such map.
    pub fn counters(&mut self) -> Result<CounterReader, LoadError> {
        Ok(CounterReader(
            PerCpuArray::try_from(take(&mut self.ebpf, "COUNTERS"))
                .map_err(map_error("COUNTERS"))?,
        ))
    }

    /// Events of flows that were left out by the rate limit and not reported with a later event: key bytes → how many.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn left_out(&mut self) -> Result<Vec<(LeftOut, u64)>, LoadError> {
        rings::left_out(&self.ebpf)
    }

    /// Bytes of kernel memory that the maps hold, as the kernel accounts them, once what is not used any more is deleted.
    ///
    /// # Errors
    ///
    /// Where a map's information cannot be read.
    pub fn memory(&mut self) -> io::Result<u64> {
        let mut sum = self.instances.memory()?;
        for map in &self.maps {
            sum += syscall::memory_of_map(map.as_fd())?;
        }
        Ok(sum)
    }
}

/// Reads the counters of the programs.
pub struct CounterReader(PerCpuArray<MapData, u64>);

impl KernelCounters for CounterReader {
    fn read(&self) -> Result<Counters, Box<dyn std::error::Error + Send + Sync>> {
        let mut sums = [0u64; COUNTERS as usize];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = self.0.get(&index, 0)?.iter().sum();
        }
        Ok(sums)
    }
}

/// A secret that is not 0, which means none.
fn random() -> Result<u64, ApplyError> {
    let random = getrandom::u64().map_err(|error| ApplyError::Random(io::Error::other(error)))?;
    Ok(random.max(1))
}

fn maps_directory(pin: &Path, version: u32) -> PathBuf {
    pin.join(format!("maps-{version}"))
}

/// Removes the maps of other versions, which no link uses any more.
fn remove_other_versions(pin: &Path) {
    let own = maps_directory(pin, ABI_VERSION);
    let Ok(entries) = fs::read_dir(pin) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_maps = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
        if is_maps && path != own && fs::remove_dir_all(&path).is_err() {
            tracing::warn!(path = %path.display(), "failed to remove the maps of another version");
        }
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> aya::maps::Map {
    ebpf.take_map(name)
        .unwrap_or_else(|| panic!("the object has the map {name}, and it is taken once"))
}

fn map_error(name: &'static str) -> impl Fn(aya::maps::MapError) -> LoadError {
    move |source| LoadError::Map {
        name,
        source: Box::new(source),
    }
}

fn update_error(name: &'static str) -> impl Fn(aya::maps::MapError) -> ApplyError {
    move |source| ApplyError::Map {
        name,
        source: Box::new(source),
    }
}
