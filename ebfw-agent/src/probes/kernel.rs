//! The kernel side of the probes: programs and maps, and how they are attached on this kernel.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use aya::maps::{Array, CgroupArray, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya_obj::Object;
use ebfw_common::plaintext::{COUNTERS, Config, MAX_COPY, MAX_PARTS};

use super::{
    object,
    refused::RefusedMap,
    syscall::{self, At, Purpose, Way},
    target::{Function, Point},
};
use crate::{
    datapath::{Ring, RulesetMaps},
    host::layout,
};

/// The programs that judge requests before they leave, and what tells of them behind that, and the arrays through which others go on with them:
/// from the probes, and from what finds the sockets. What is gone on with comes before who does.
const JUDGES: [(&str, &str, Judged); 3] = [
    ("ebfw_tell", "TELLERS", Judged::Writes),
    ("ebfw_judge", "JUDGES", Judged::Writes),
    ("ebfw_first_packet", "PACKET_JUDGES", Judged::Packets),
];
/// What a program judges, or tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Writes,
    Packets,
}

/// The map of the cgroup below which processes are looked at.
const SCOPE: &str = "SCOPE";
/// Maps of rulesets by the names that the programs have for them, where the firewall has another one.
const RENAMED: [(&str, &str); 1] = [("FIREWALL", "CONFIG")];
/// The probes' own map that is called as one of the firewall's.
const OWN: &str = "CONFIG";
/// The program that finds the sockets of connections.
const SOCKETS: &str = "ebfw_socket";
/// The number of perf's `uprobe`.
const PERF_KIND: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Why the probes cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A build without the eBPF toolchain.
    #[error("this build has no probes: build it with `cargo xtask build`")]
    NoPrograms,
    /// The object makes no sense to this agent.
    #[error("the object with the probes cannot be used: {0}")]
    Object(String),
    /// The kernel refused a map.
    #[error("failed to make the map {0}")]
    Map(String, #[source] Box<aya::maps::MapError>),
    /// The kernel refused a program.
    #[error("the kernel refused the program {0}: {1}")]
    Program(String, String),
    /// There is no way to attach.
    #[error(
        "this kernel offers no way to attach probes: no uprobe_multi links ({multi}; kernel 6.6 with CAP_BPF and CAP_PERFMON), no \
         perf events ({perf}; CAP_SYS_ADMIN and sysfs)"
    )]
    NoWay {
        /// What is wrong with the one.
        multi: io::Error,
        /// What is wrong with the other.
        perf: io::Error,
    },
    /// The ring cannot be watched, or the cgroup not be opened.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

/// Loaded programs. Attached ones go when their links are dropped.
pub(super) struct Kernel {
    programs: BTreeMap<&'static str, OwnedFd>,
    attachment: Attachment,
    /// What finds the sockets of connections; `None`: nothing does.
    sockets: Option<OwnedFd>,
    /// Through which others go on with the programs that judge requests before they leave. Arrays that nobody holds any more are emptied.
    judges: Vec<MapData>,
}

/// How programs are attached here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attachment {
    Multi,
    /// With perf's number for uprobes.
    Perf(u32),
}

impl Attachment {
    fn way(self) -> Way {
        match self {
            Self::Multi => Way::Multi,
            Self::Perf(_) => Way::Perf,
        }
    }
}

/// Writes that the programs saw and lost.
pub(super) struct CounterMap(PerCpuArray<MapData, u64>);

impl CounterMap {
    /// By `ebfw_common::plaintext::Counter`.
    pub(super) fn read(&self) -> Result<[u64; COUNTERS], aya::maps::MapError> {
        let mut sums = [0; COUNTERS];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = self.0.get(&index, 0)?.iter().sum();
        }
        Ok(sums)
    }
}

/// What [`load`] gives.
pub(super) struct Loaded {
    pub(super) kernel: Kernel,
    pub(super) ring: Ring,
    pub(super) counters: CounterMap,
    pub(super) refused: RefusedMap,
}

/// Loads the programs for processes below `scope`, the directory of a cgroup. `body`: bytes of bodies that are captured at most.
/// `rulesets`: what requests are judged by before they leave.
pub(super) fn load(scope: &Path, body: usize, rulesets: &RulesetMaps) -> Result<Loaded, LoadError> {
    let (mut loaded, finder) = load_for(scope, parts(body), Some(rulesets), attachment)?;
    loaded.kernel.sockets = finder
        .attach(scope)
        .inspect_err(|error| {
            tracing::warn!("requests inside TLS are told without their connections: {error:#}");
        })
        .ok();
    Ok(loaded)
}

/// Records of one write by which so many bytes of a body are seen, wherever in it the body begins.
fn parts(body: usize) -> u32 {
    if body == 0 {
        return 1;
    }
    u32::try_from(body.div_ceil(MAX_COPY) + 1).map_or(MAX_PARTS, |parts| parts.min(MAX_PARTS))
}

/// Loads the programs to be attached in one way, whatever else this kernel has. Nothing finds the sockets of connections until that is
/// attached.
pub(super) fn load_for_way(scope: &Path, way: Way) -> Result<(Loaded, Finder), LoadError> {
    load_for(scope, 1, None, |object| {
        match way {
            Way::Multi => has_multi(object)?.map(|()| Attachment::Multi),
            Way::Perf => perf_kind().map(Attachment::Perf),
        }
        .map_err(|source| LoadError::Io {
            what: "find a way to attach probes",
            source,
        })
    })
}

/// The map by which the agent tells the programs what they cannot know.
type ConfigMap = Array<MapData, [u32; 2]>;

/// What finds the sockets of connections, before it is attached.
pub(super) struct Finder {
    /// What the kernel says against it does not keep requests from being seen.
    program: Result<OwnedFd, LoadError>,
    config: ConfigMap,
}

impl Finder {
    /// Attaches it to what leaves the cgroup `scope`.
    pub(super) fn attach(mut self, scope: &Path) -> anyhow::Result<OwnedFd> {
        let program = self.program?;
        let words: [u32; 2] = zerocopy::transmute!(Config {
            owned: layout::socket_owned()?.into(),
            thread: layout::thread_number()?.into(),
        });
        self.config.set(0, words, 0)?;
        let directory = File::open(scope)?;
        Ok(syscall::attach_egress(program.as_fd(), directory.as_fd())?)
    }
}

fn load_for(
    scope: &Path,
    parts: u32,
    rulesets: Option<&RulesetMaps>,
    attachment: impl FnOnce(&Object) -> Result<Attachment, LoadError>,
) -> Result<(Loaded, Finder), LoadError> {
    if object::OBJECT.is_empty() {
        return Err(LoadError::NoPrograms);
    }
    let mut object =
        Object::parse(object::OBJECT).map_err(|error| LoadError::Object(error.to_string()))?;
    let types = load_types(&mut object);
    let types = types.as_ref().map(OwnedFd::as_fd);
    let mut maps = make_maps(&object, rulesets)?;
    relocate(&mut object, &maps, rulesets)?;
    let attachment = attachment(&object)?;
    let programs = load_programs(&object, types, attachment)?;
    let program = load_program(&object, types, SOCKETS, Purpose::Egress);
    let judges = match rulesets {
        Some(_) => put_judges(&object, types, attachment, &maps)
            .inspect_err(|error| {
                tracing::warn!("requests inside TLS are not denied before they leave: {error:#}");
            })
            .is_ok(),
        None => false,
    };
    let mut take = |name: &str| {
        maps.remove(name)
            .ok_or_else(|| LoadError::Object(format!("no map {name}")))
    };
    let error = |name: &'static str| move |error| LoadError::Map(name.to_owned(), Box::new(error));
    let io_error = |what| move |source| LoadError::Io { what, source };
    let mut cgroups =
        CgroupArray::try_from(Map::CgroupArray(take(SCOPE)?)).map_err(error(SCOPE))?;
    let directory = File::open(scope).map_err(io_error("open the cgroup to be looked at"))?;
    cgroups.set(0, directory, 0).map_err(error(SCOPE))?;
    let config = Array::try_from(Map::Array(take("CONFIG")?)).map_err(error("CONFIG"))?;
    let mut settings = Array::try_from(Map::Array(take("PARTS")?)).map_err(error("PARTS"))?;
    settings.set(0, parts, 0).map_err(error("PARTS"))?;
    let ring = RingBuf::try_from(Map::RingBuf(take("PLAINTEXT")?)).map_err(error("PLAINTEXT"))?;
    let counters = PerCpuArray::try_from(Map::PerCpuArray(take("PROBE_COUNTERS")?))
        .map_err(error("PROBE_COUNTERS"))?;
    let refused = HashMap::try_from(Map::HashMap(take("REFUSED")?)).map_err(error("REFUSED"))?;
    let loaded = Loaded {
        kernel: Kernel {
            programs,
            attachment,
            sockets: None,
            judges: if judges {
                let arrays = JUDGES.into_iter().map(|(_, array, _)| take(array));
                arrays.collect::<Result<_, _>>()?
            } else {
                Vec::new()
            },
        },
        ring: Ring::new(ring, Duration::ZERO).map_err(io_error("watch the ring of the probes"))?,
        counters: CounterMap(counters),
        refused,
    };
    Ok((loaded, Finder { program, config }))
}

/// Loads the programs that judge requests, and puts them where the others find them.
fn put_judges(
    object: &Object,
    types: Option<BorrowedFd<'_>>,
    attachment: Attachment,
    maps: &BTreeMap<String, MapData>,
) -> anyhow::Result<()> {
    for (name, array, judged) in JUDGES {
        let purpose = match judged {
            Judged::Writes => Purpose::Probe(attachment.way()),
            Judged::Packets => Purpose::Egress,
        };
        let program = load_program(object, types, name, purpose)?;
        syscall::put_first(maps[array].fd().as_fd(), program.as_fd())?;
    }
    Ok(())
}

/// The firewall's map that the programs know as `name`.
fn of_firewall<'a>(rulesets: Option<&'a RulesetMaps>, name: &str) -> Option<BorrowedFd<'a>> {
    if name == OWN {
        return None;
    }
    let renamed = RENAMED.into_iter().find(|(own, _)| *own == name);
    rulesets?.get(renamed.map_or(name, |(_, theirs)| theirs))
}

/// Whether a map holds maps: without the firewall's there are none, and no program that looks into them is loaded.
fn holds_maps(map: &aya_obj::Map) -> bool {
    map.map_type() == aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32
}

/// Makes the programs' own maps.
fn make_maps(
    object: &Object,
    rulesets: Option<&RulesetMaps>,
) -> Result<BTreeMap<String, MapData>, LoadError> {
    object
        .maps
        .iter()
        .filter(|(name, map)| of_firewall(rulesets, name).is_none() && !holds_maps(map))
        .map(|(name, map)| {
            let is_ring =
                map.map_type() == aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
            let constants = map.data().to_vec();
            // Without the types of keys and values: nobody looks at these maps from outside. A ring's records have none for the kernel.
            let map = aya_obj::Map::new_from_params(
                map.map_type(),
                map.key_size(),
                if is_ring { 0 } else { map.value_size() },
                map.max_entries(),
                map.map_flags(),
            );
            let made = MapData::create(map, name, None)
                .map_err(|error| LoadError::Map(name.clone(), Box::new(error)))?;
            if !constants.is_empty() {
                syscall::set_first(made.fd().as_fd(), &constants).map_err(|source| {
                    LoadError::Io {
                        what: "fill a map with the constants of the programs",
                        source,
                    }
                })?;
            }
            Ok((name.clone(), made))
        })
        .collect()
}

fn relocate(
    object: &mut Object,
    maps: &BTreeMap<String, MapData>,
    rulesets: Option<&RulesetMaps>,
) -> Result<(), LoadError> {
    let broken = |error: &dyn std::fmt::Display| LoadError::Object(error.to_string());
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let definitions = object.maps.clone();
    let known = definitions.iter().map(|(name, map)| {
        // Where there is no such map, any other stands for it in programs that are not loaded.
        let other = &maps[SCOPE];
        let own = maps.get(name).unwrap_or(other).fd().as_fd();
        let fd = of_firewall(rulesets, name).unwrap_or(own);
        (name.as_str(), fd.as_raw_fd(), map)
    });
    object
        .relocate_maps(known, &sections)
        .map_err(|error| broken(&error))?;
    object
        .relocate_calls(&sections)
        .map_err(|error| broken(&error))
}

/// Loads the types of the programs; `None` where the kernel does not take them: then it refuses what is too long without.
fn load_types(object: &mut Object) -> Option<OwnedFd> {
    let types = object
        .fixup_and_sanitize_btf(aya::features().btf()?)
        .inspect_err(|error| tracing::debug!(%error, "the types of the probes make no sense"))
        .ok()??
        .to_bytes();
    syscall::load_types(&types)
        .inspect_err(|error| tracing::debug!(%error, "the kernel refused the types of the probes"))
        .ok()
}

fn load_programs(
    object: &Object,
    types: Option<BorrowedFd<'_>>,
    attachment: Attachment,
) -> Result<BTreeMap<&'static str, OwnedFd>, LoadError> {
    let way = attachment.way();
    let names: HashSet<_> = Function::ALL
        .into_iter()
        .flat_map(|function| [Some(function.program()), function.end()])
        .flatten()
        .collect();
    names
        .into_iter()
        .map(|name| {
            load_program(object, types, name, Purpose::Probe(way)).map(|program| (name, program))
        })
        .collect()
}

fn load_program(
    object: &Object,
    types: Option<BorrowedFd<'_>>,
    name: &str,
    purpose: Purpose,
) -> Result<OwnedFd, LoadError> {
    let missing = || LoadError::Object(format!("no program {name}"));
    let program = object.programs.get(name).ok_or_else(missing)?;
    let function = object
        .functions
        .get(&program.function_key())
        .ok_or_else(missing)?;
    syscall::load(name, function, types, &program.license, purpose)
        .map_err(|refused| LoadError::Program(name.to_owned(), refused.to_string()))
}

/// Finds out how programs can be attached here.
fn attachment(object: &Object) -> Result<Attachment, LoadError> {
    match has_multi(object)? {
        Ok(()) => Ok(Attachment::Multi),
        Err(multi) => match perf_kind() {
            Ok(kind) => Ok(Attachment::Perf(kind)),
            Err(perf) => Err(LoadError::NoWay { multi, perf }),
        },
    }
}

/// Whether the kernel has `uprobe_multi` links and lets us make them: a kernel that has them finds fault with the file, which is a directory
/// (EBADF: not a regular file), before anything else (kernel/trace/bpf_trace.c, `bpf_uprobe_multi_link_attach`). Asked with a program that goes
/// on with no other: the first that does says how all must be attached that share its array of programs.
fn has_multi(object: &Object) -> Result<io::Result<()>, LoadError> {
    let program = load_program(
        object,
        None,
        Function::SslFree.program(),
        Purpose::Probe(Way::Multi),
    )?;
    Ok(
        match syscall::attach_multi(program.as_fd(), Path::new("/"), &[1], At::Place) {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("a directory was probed")),
        },
    )
}

fn perf_kind() -> io::Result<u32> {
    let text = fs::read_to_string(PERF_KIND)?;
    text.trim().parse().map_err(io::Error::other)
}

impl Kernel {
    /// Whether requests are judged before they leave.
    pub(super) fn judges(&self) -> bool {
        self.sockets.is_some() && !self.judges.is_empty()
    }

    /// Whether the sockets of connections are found.
    pub(super) fn finds_sockets(&self) -> bool {
        self.sockets.is_some()
    }

    /// How probes are attached, in words.
    pub(super) fn way(&self) -> &'static str {
        match self.attachment {
            Attachment::Multi => "uprobe_multi links",
            Attachment::Perf(_) => "perf events",
        }
    }

    /// Attaches the program of `function` at `points` of the file at `path`, for all processes.
    pub(super) fn attach(
        &self,
        path: &Path,
        function: Function,
        points: &[Point],
    ) -> io::Result<Vec<OwnedFd>> {
        let offsets: Vec<_> = points.iter().map(|point| point.offset).collect();
        let mut links = self.attach_at(path, function.program(), &offsets, At::Place)?;
        if let Some(program) = function.end() {
            // The kernel finds where to return to at the entry alone.
            let entries: Vec<_> = points.iter().map(|point| point.entry).collect();
            links.extend(self.attach_at(path, program, &entries, At::Return)?);
        }
        Ok(links)
    }

    fn attach_at(
        &self,
        path: &Path,
        program: &str,
        offsets: &[u64],
        at: At,
    ) -> io::Result<Vec<OwnedFd>> {
        let program = self.programs[program].as_fd();
        match self.attachment {
            Attachment::Multi => {
                syscall::attach_multi(program, path, offsets, at).map(|link| vec![link])
            }
            Attachment::Perf(kind) => offsets
                .iter()
                .map(|offset| syscall::attach_perf(program, kind, path, *offset, at))
                .collect(),
        }
    }
}
