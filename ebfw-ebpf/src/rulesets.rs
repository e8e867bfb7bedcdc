//! The maps that say which ruleset governs whom, and hold the rulesets: the firewall's, which the probes look into as well.
//!
//! Pinned as they are: a change here raises [`ebfw_common::abi::ABI_VERSION`].

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie},
    macros::btf_map,
};
use ebfw_common::{
    abi::{Address, MAX_AUTOMATA, MAX_CGROUPS, MAX_INSTANCES, MAX_SLOTS, SlotRef},
    layout::Block,
    names::CHUNK_CELLS,
};

/// The blocks of one instance; as many entries as the ruleset needs (kernel 5.10 and newer).
pub type Blocks = Array<Block, 1, { BPF_F_INNER_MAP as usize }>;
/// The IPv4 prefixes of one instance, to their class.
pub type Prefixes4 = LpmTrie<[u8; 4], u32, 1>;
/// The IPv6 prefixes of one instance, to their class.
pub type Prefixes6 = LpmTrie<Address, u32, 1>;

/// Cells that lie together.
pub type Chunk = [u32; CHUNK_CELLS];
/// The cells of one automaton.
pub type Cells = Array<Chunk, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// Cgroup id → slot. Written by the agent. Full: the cgroup belongs to its nearest known ancestor, or stays pending.
#[btf_map]
pub static CGROUPS: HashMap<
    u64,
    SlotRef,
    { MAX_CGROUPS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Slot → [`ebfw_common::abi::SlotWord`]. Written by the agent with single 64-bit stores into the mapped memory. Full: a new workload keeps its ancestor's slot.
#[btf_map]
pub static SLOTS: Array<u64, { MAX_SLOTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Instance → its blocks. Written by the agent. Full: a new policy is refused and the old one stays.
#[btf_map]
pub static INSTANCES: ArrayOfMaps<Blocks, { MAX_INSTANCES as usize }> = ArrayOfMaps::new();

/// Instance → its IPv4 prefixes, if it has any. Written by the agent.
#[btf_map]
pub static PREFIXES4: ArrayOfMaps<Prefixes4, { MAX_INSTANCES as usize }> = ArrayOfMaps::new();

/// Instance → its IPv6 prefixes, if it has any. Written by the agent.
#[btf_map]
pub static PREFIXES6: ArrayOfMaps<Prefixes6, { MAX_INSTANCES as usize }> = ArrayOfMaps::new();

/// Automata of domain patterns. Written by the agent; an instance says which is its own. Full: a new policy is refused and the old one stays.
#[btf_map]
pub static AUTOMATA: ArrayOfMaps<Cells, { MAX_AUTOMATA as usize }> = ArrayOfMaps::new();
