//! Every map of the kernel programs: who writes it, who reads it, what happens when it is full.
//!
//! Pinned as they are: a change here raises [`ebfw_common::abi::ABI_VERSION`].

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use ebfw_common::{
    abi::{
        self, Address, AnswerPiece, COUNTERS as COUNTER_COUNT, ClaimEvent, Config, FlowEvent, Held,
        HeldKey, LearnedName, MAX_NAMES, MAX_RESOLVERS, MAX_SERVICES, MAX_SLOTS, NameEvent,
        NameKey, Question, QuestionKey, Request, SlotRef,
    },
    stream::{Facts, Http2},
    trial::Trial,
};

pub use crate::rulesets::{
    AUTOMATA, Blocks, CGROUPS, Cells, Chunk, INSTANCES, PREFIXES4, PREFIXES6, SLOTS,
};
use crate::{
    dns::Scratch,
    reply::{Peer, Seen},
    report::{RateKey, Window},
    socket::SocketState,
    stream::{Followed, HEADS_KEPT, Head},
};

/// Mode and what to do with pending workloads. Written by the agent.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// What a socket remembers. Written by the programs; freed with the socket; inherited by accepted sockets. Full (the
/// socket's option memory is used up): the flow is judged anew with every packet, and a governed connect is refused.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState, INHERITED> = SkStorage::new();

/// What the client says on a connection whose decision waits for it. Written by egress, under the socket's lock; freed with the socket, or
/// once nothing to come can change a fact. Full (the socket's option memory is used up): what waits for it is denied.
#[btf_map]
pub static STREAMS: SkStorage<Followed, OWN> = SkStorage::new();

/// What the client of a followed connection claimed last. Written by egress, under the socket's lock; freed with the socket, so that a new
/// policy judges what was claimed under an old one. Full, as `STREAMS`.
#[btf_map]
pub static CLAIMS: SkStorage<Facts, OWN> = SkStorage::new();

/// The program that reads payload, at 0. Written by the agent before it attaches the others; as many entries as there are.
#[btf_map]
pub static READERS: ProgramArray<1> = ProgramArray::new();

/// What client and server of an HTTP/2 connection that is followed have in their tables. As `STREAMS`.
#[btf_map]
pub static HTTP2: SkStorage<Http2, OWN> = SkStorage::new();

/// What the program that only tests use has read, see [`crate::stream::trial`].
#[btf_map]
pub static HEADS: Array<Head, HEADS_KEPT> = Array::new();

/// Peers that sent datagrams to an unconnected socket lately, or asked a listener for a connection. Written by ingress, read where a
/// datagram is denied and where a listener answers. Full: the oldest goes, and a reply to it is judged as a flow of its own.
#[btf_map]
pub static REPLIES: LruHashMap<Peer, Seen, 8192> = LruHashMap::new();

/// Events of the last second by workload, destination and verdict. Written by the programs, read by the agent at its end.
/// Full: the oldest goes, and with it its count of what was left out (the counter stays exact).
#[btf_map]
pub static RATES: LruHashMap<RateKey, Window, 8192> = LruHashMap::new();

/// Events of the last second by slot. Written by the programs. As many as there are slots.
#[btf_map]
pub static WORKLOAD_RATES: Array<Window, { MAX_SLOTS as usize }> = Array::new();

/// Events about names of the last second by slot. Written by the programs. As many as there are slots.
#[btf_map]
pub static NAME_RATES: Array<Window, { MAX_SLOTS as usize }> = Array::new();

/// When the agent was last asked about a cgroup or socket. Written by the programs. Full: it is asked more often.
#[btf_map]
pub static ASKED: LruHashMap<u64, u64, 1024> = LruHashMap::new();

/// Addresses of trusted resolvers, to [`ebfw_common::abi::resolver`] flags. Written by the agent. Full: the agent says so at start.
#[btf_map]
pub static RESOLVERS: HashMap<
    Address,
    u32,
    { MAX_RESOLVERS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Slots of the services of the host that resolve for others. Written by the agent. Full: the agent says so, and the others resolve for themselves.
#[btf_map]
pub static SERVICES: HashMap<
    SlotRef,
    u32,
    { MAX_SERVICES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Open questions. Written by egress, answered by ingress, or by the agent where it reads the answer; the agent deletes what nobody answered. A
/// workload has places of its own. Full: the question's answer is not learned.
#[btf_map]
pub static QUESTIONS: HashMap<QuestionKey, Question, 32768, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// What was learned. Written by ingress, and by the agent where it reads the answer; the agent deletes what has expired. Full: a new name is not learned, old ones stay.
#[btf_map]
pub static NAMES: HashMap<
    NameKey,
    LearnedName,
    { MAX_NAMES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Entries of `NAMES` by slot, and of all slots. Added to by who writes there, subtracted from by the agent, which counts all anew now and then.
#[btf_map]
pub static NAME_COUNTS: Array<u64, { abi::NAME_COUNTS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Memory for ingress to work in.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Zeros, to make entries of `QUESTIONS` of that are filled in place: none would fit on the stack.
#[btf_map]
pub static BLANK: Array<Question, 1> = Array::new();

/// What a test says of a flow. Written by tests and benchmarks, read by the programs that only they load.
#[btf_map]
pub static TRIAL: Array<Trial, 1> = Array::new();

/// What is said about names, to the agent: a ring of its own, so that no flood hides decisions. Full: the event is lost and counted.
#[btf_map]
pub static NAME_EVENTS: RingBuf<NameEvent, { 512 * 1024 }> = RingBuf::new();

/// What waits until the agent has read it, and how far it has. Made by ingress, advanced by both. Full: the oldest goes, and what waits there
/// is held back anew.
#[btf_map]
pub static HELD: LruHashMap<HeldKey, Held, 2048> = LruHashMap::new();

/// Answers that the programs cannot read alone, to the agent. Full: the piece is lost and counted; it comes again with the packet.
#[btf_map]
pub static ANSWERS: RingBuf<AnswerPiece, { 256 * 1024 }> = RingBuf::new();

/// Decisions about flows, to the agent. Full: the event is lost and counted.
#[btf_map]
pub static EVENTS: RingBuf<FlowEvent, { 1024 * 1024 }> = RingBuf::new();

/// What clients say, to the agent: a ring of its own, as `NAME_EVENTS`. Full: the event is lost and counted.
#[btf_map]
pub static CLAIM_EVENTS: RingBuf<ClaimEvent, { 1024 * 1024 }> = RingBuf::new();

/// Requests to the agent. Full: the request is lost, counted and repeated with the next packet.
#[btf_map]
pub static CONTROL: RingBuf<Request, { 128 * 1024 }> = RingBuf::new();

/// [`ebfw_common::abi::Counter`]s. Written by the programs, read by the agent.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTER_COUNT as usize }> = PerCpuArray::new();

/// Accepted sockets inherit the entry.
const INHERITED: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;
/// Each socket has its own entry.
const OWN: usize = BPF_F_NO_PREALLOC as usize;

/// A socket storage map. aya-ebpf's own has neither flags nor the contexts.
#[repr(C)]
pub struct SkStorage<T, const FLAGS: usize> {
    r#type: *const [i32; 24],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only describe the map to the loader and are never read.
unsafe impl<T, const FLAGS: usize> Sync for SkStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SkStorage<T, FLAGS> {
    const fn new() -> Self {
        use core::ptr::null;
        Self {
            r#type: null(),
            key: null(),
            value: null(),
            max_entries: null(),
            map_flags: null(),
        }
    }
}
