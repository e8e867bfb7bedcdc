//! The maps of the probes: none is pinned, all go with the agent.

use aya_ebpf::{
    btf_maps::{Array, CgroupArray, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use ebfw_common::plaintext::{COUNTERS as COUNTER_COUNT, Header, MAX_CONNECTIONS};

/// Which connection: the library's object, and the process in whose memory it lies.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectionKey {
    pub object: u64,
    pub pid: u32,
    pub _pad: u32,
}

/// Records of one workload in the current second.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    pub number: u64,
    pub written: u64,
}

/// The cgroup below which processes are looked at. Written by the agent before anything is attached.
#[btf_map]
pub static SCOPE: CgroupArray<1> = CgroupArray::new();

/// Records of one write at most. Written by the agent before anything is attached; 0 as good as 1.
#[btf_map]
pub static PARTS: Array<u32, 1> = Array::new();

/// Writes so far by connection. Written by the programs. Full: the connection that was silent longest starts anew.
#[btf_map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, u64, MAX_CONNECTIONS> = LruHashMap::new();

/// Records of the current second by cgroup. Written by the programs. Full: a workload starts a new second early.
#[btf_map]
pub static RATES: LruHashMap<u64, Window, 4096> = LruHashMap::new();

/// What was seen, to the agent. Full: the record is lost and counted, and the connection's sequence shows it.
#[btf_map]
pub static PLAINTEXT: RingBuf<Header, { 4 * 1024 * 1024 }> = RingBuf::new();

/// [`ebfw_common::plaintext::Counter`]s. Written by the programs, read by the agent.
#[btf_map]
pub static PROBE_COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();
