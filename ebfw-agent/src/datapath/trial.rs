//! For tests and benchmarks: runs programs on made-up packets, puts single ones into a cgroup, reads what the kernel measured.
//!
//! The agent itself uses none of this; nothing here touches what is pinned.

use std::{io, net::IpAddr, path::Path};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, MapError},
};
use ebfw_common::{
    abi::{LearnedName, NameKey},
    stream::{Facts, Step},
    trial::Trial,
};
use zerocopy::FromBytes as _;

use super::{AttachError, Datapath, LoadError, PROGRAMS, READER, link, syscall, syscall::TestRun};

const EGRESS: &str = "ebfw_egress";
/// Programs for benchmarks: one that does nothing, and egress for a socket that remembers nothing.
const EMPTY: &str = "ebfw_empty";
const UNCACHED: &str = "ebfw_uncached";
/// The program that reads a packet's payload as a stream, for tests.
const READ: &str = "ebfw_read";
/// What it notes: bytes up to there, step, why, and the facts.
const HEADS: &str = "HEADS";
const HEAD: usize = 16 + size_of::<Facts>();
const HEADS_KEPT: u32 = 16;

/// One that walks over a name, and one for tests: the verdict on what [`Trial`] says.
const WALK: &str = "ebfw_walk";
const TRIAL: &str = "ebfw_trial";

const TRIAL_WORDS: usize = size_of::<Trial>() / size_of::<u64>();

/// What the program that reads streams noted.
#[derive(Clone, Debug)]
pub struct Read {
    /// Bytes of the stream up to there.
    pub at: u32,
    /// What the last of them led to.
    pub step: Step,
    /// `ebfw_common::stream::why`.
    pub why: u32,
    /// What is claimed.
    pub facts: Facts,
}

/// The program that reads streams, alone.
pub struct StreamReader {
    ebpf: Ebpf,
}

impl StreamReader {
    /// Loads it; attaches nothing.
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the kernel's words.
    pub fn load() -> Result<Self, LoadError> {
        if super::object::OBJECT.is_empty() {
            return Err(LoadError::NoPrograms);
        }
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(super::object::OBJECT)
            .map_err(Box::new)?;
        link::load(&mut ebpf, &[READ])?;
        Ok(Self { ebpf })
    }

    /// How many instructions the verifier looked at, where the kernel tells (5.16 and newer).
    #[must_use]
    pub fn verified_instructions(&self) -> Option<u32> {
        let info = self.ebpf.program(READ)?.info().ok()?;
        info.verified_instruction_count()
    }

    /// Reads the stream that is the payload of `packet`; says what there was to decide, then how it ended.
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn read(&self, packet: &[u8], repeat: u32) -> io::Result<(Vec<Read>, TestRun)> {
        let program = self
            .ebpf
            .program(READ)
            .and_then(|program| program.fd().ok())
            .ok_or(io::ErrorKind::NotFound)?;
        let run = syscall::test_run(program, packet, repeat)?;
        if run.returned != 1 {
            return Err(io::Error::other("the packet could not be read"));
        }
        let map = self.ebpf.map(HEADS).ok_or(io::ErrorKind::NotFound)?;
        let heads: Array<_, [u8; HEAD]> = Array::try_from(map).map_err(io::Error::other)?;
        let mut read = Vec::new();
        for index in 0..HEADS_KEPT {
            let bytes = heads.get(&index, 0).map_err(io::Error::other)?;
            let word = |at: usize| {
                bytes
                    .get(at..at + 4)
                    .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            };
            let step = Step::from_number(word(4).unwrap_or(u32::MAX));
            read.push(Read {
                at: word(0).unwrap_or(0),
                step,
                why: word(8).unwrap_or(0),
                facts: Facts::read_from_bytes(&bytes[16..])
                    .map_err(|_| io::ErrorKind::InvalidData)?,
            });
            if step != Step::Head {
                break;
            }
        }
        Ok((read, run))
    }
}

impl Datapath {
    /// Runs the egress program on a packet that begins with its IP header, without attaching anything (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn test_egress(&self, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        self.test(EGRESS, packet, repeat)
    }

    /// Loads the programs that only benchmarks use.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses one.
    pub fn load_benchmarks(&mut self) -> Result<(), LoadError> {
        link::load(&mut self.ebpf, &[EMPTY, UNCACHED, WALK, TRIAL])
    }

    /// Sets the names, the claim and the request of the packets that [`Datapath::test_trial`] and [`Datapath::test_walk`] run on. The
    /// instance is that of one of the workloads, all of which should have the same rules.
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    pub fn set_trial(&mut self, trial: &Trial) -> Result<(), MapError> {
        let mut trial = *trial;
        if let Some(slot) = self.known.values().next() {
            trial.instance = self.slots.read(*slot).instance();
        }
        let words: [u64; TRIAL_WORDS] = zerocopy::transmute!(trial);
        let map = self.ebpf.map_mut("TRIAL").expect("the object has the map");
        Array::<_, [u64; TRIAL_WORDS]>::try_from(map)?.set(0, words, 0)
    }

    /// Makes a name one that every workload has learned in a network namespace, good until `expires_ns`.
    ///
    /// # Errors
    ///
    /// Where the map refuses.
    ///
    /// # Panics
    ///
    /// If the name is longer than names are.
    pub fn set_learned(
        &mut self,
        netns: u64,
        address: IpAddr,
        place: u32,
        name: &str,
        expires_ns: u64,
    ) -> Result<(), MapError> {
        let mut learned = LearnedName {
            expires_ns,
            class: 0,
            hash: 0,
            length: name.len() as u32,
            _pad: 0,
            text: [0; 256],
        };
        learned.text[..name.len()].copy_from_slice(name.as_bytes());
        for slot in self.known.values() {
            let key = NameKey {
                slot: *slot,
                place,
                address: address.into(),
                netns,
            };
            self.names.put(key, learned)?;
        }
        Ok(())
    }

    /// As [`Datapath::test_egress`], with what [`Datapath::set_trial`] set: [`ebfw_common::trial::AS_EXPECTED`], or the verdict.
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn test_trial(&self, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        self.test(TRIAL, packet, repeat)
    }

    /// As [`Datapath::test_egress`], with a program that only walks over the first name.
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn test_walk(&self, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        self.test(WALK, packet, repeat)
    }

    /// As [`Datapath::test_egress`], with the program that does nothing.
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn test_empty(&self, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        self.test(EMPTY, packet, repeat)
    }

    /// As [`Datapath::test_egress`], without a verdict that the socket remembers from the run before.
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn test_uncached(&self, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        self.test(UNCACHED, packet, repeat)
    }

    fn test(&self, name: &str, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
        let program = self
            .ebpf
            .program(name)
            .and_then(|program| program.fd().ok())
            .ok_or(io::ErrorKind::NotFound)?;
        syscall::test_run(program, packet, repeat)
    }

    /// The programs and how many instructions the verifier looked at in each, where the kernel tells (5.16 and newer).
    #[must_use]
    pub fn verified_instructions(&self) -> Vec<(&'static str, Option<u32>)> {
        PROGRAMS
            .into_iter()
            .chain([READER])
            .map(|name| {
                let info = self
                    .ebpf
                    .program(name)
                    .and_then(|program| program.info().ok());
                (
                    name,
                    info.and_then(|info| info.verified_instruction_count()),
                )
            })
            .collect()
    }

    /// Puts `program` of this object into `cgroup` for a benchmark: `true` the real egress, `false` the empty program. Never pinned.
    ///
    /// # Errors
    ///
    /// [`AttachError`] names the program.
    pub fn attach_for_benchmark(&mut self, cgroup: &Path, real: bool) -> Result<(), AttachError> {
        let name = if real { EGRESS } else { EMPTY };
        if let Some(link) = link::attach(&mut self.ebpf, name, cgroup, None)? {
            self.links.push(link);
        }
        Ok(())
    }

    /// Detaches what [`Datapath::attach_for_benchmark`] and unpinned [`Datapath::attach`] attached.
    pub fn detach_unpinned(&mut self) {
        self.links.clear();
    }

    /// Run count and run time in ns of the ingress program, while the kernel's statistics are on.
    #[must_use]
    pub fn ingress_statistics(&self) -> (u64, u64) {
        let program = self.ebpf.program("ebfw_ingress");
        let info = program.and_then(|program| program.info().ok());
        info.map_or((0, 0), |info| {
            (info.run_count(), info.run_time().as_nanos() as u64)
        })
    }

    /// Run count and run time in ns of the egress and the empty program, while the kernel's statistics are on.
    #[must_use]
    pub fn run_statistics(&self) -> [(u64, u64); 2] {
        [EGRESS, EMPTY].map(|name| {
            let info = self
                .ebpf
                .program(name)
                .and_then(|program| program.info().ok());
            info.map_or((0, 0), |info| {
                (info.run_count(), info.run_time().as_nanos() as u64)
            })
        })
    }
}
