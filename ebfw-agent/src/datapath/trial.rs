//! For tests and benchmarks: runs programs on made-up packets, puts single ones into a cgroup, reads what the kernel measured.
//!
//! The agent itself uses none of this; nothing here touches what is pinned.

use std::{io, path::Path};

use super::{AttachError, Datapath, LoadError, PROGRAMS, link, syscall, syscall::TestRun};

const EGRESS: &str = "ebfw_egress";
/// Programs for benchmarks: one that does nothing, and egress for a socket that remembers nothing.
const EMPTY: &str = "ebfw_empty";
const UNCACHED: &str = "ebfw_uncached";

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
        link::load(&mut self.ebpf, EMPTY)?;
        link::load(&mut self.ebpf, UNCACHED)
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
