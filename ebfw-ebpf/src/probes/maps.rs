//! The maps of the probes: none is pinned, all go with the agent.

use aya_ebpf::{
    btf_maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use ebfw_common::{
    abi::{self, Address, SlotRef},
    plaintext::{COUNTERS as COUNTER_COUNT, Config, Header, MAX_CONNECTIONS, MAX_REFUSED, Refusal},
    stream::Http2,
};

pub use crate::rulesets::{
    AUTOMATA, Blocks, CGROUPS, Cells, Chunk, INSTANCES, PREFIXES4, PREFIXES6, SLOTS,
};
use crate::stream::Followed;

/// Which connection: the library's object, and the process in whose memory it lies.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectionKey {
    pub object: u64,
    pub pid: u32,
    /// 0 counts writes, 1 reads.
    pub direction: u32,
}

/// A call that reads, until it comes back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Reading {
    pub object: u64,
    pub buffer: u64,
    /// Where the call says how much it read; 0 where it returns that.
    pub count: u64,
}

/// What is known of a connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connection {
    /// Writes so far.
    pub writes: u64,
    /// Cookie of its socket; 0: not known.
    pub socket: u64,
    /// A number that no other has.
    pub id: u64,
    /// Where the socket is connected to.
    pub peer: Peer,
}

/// Whose socket it is, and where it is connected to. Zeros: not known.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Peer {
    pub address: Address,
    /// The workload that made the socket.
    pub slot: SlotRef,
    /// In host order.
    pub port: u32,
}

/// A write that is to be judged, and then told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Write {
    pub connection: Connection,
    /// The library's object.
    pub object: u64,
    pub buffer: u64,
    pub total: u64,
    /// Which one on its connection.
    pub sequence: u64,
    /// `ebfw_common::plaintext::library`.
    pub library: u64,
}

/// Which connection has a socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    pub key: ConnectionKey,
    /// `ebfw_common::plaintext::library`.
    pub library: u64,
}

/// Connections of one thread whose next record is waited for.
pub const NOTES: usize = 6;

/// That a thread handed plaintext to a library, or began a handshake.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Note {
    /// The library's object; 0: no note.
    pub object: u64,
    /// When, nanoseconds since boot.
    pub at_ns: u64,
    /// Bytes that were written, as many as 32 bits hold.
    pub total: u32,
    /// `ebfw_common::plaintext::library`.
    pub library: u8,
    /// The type of the record that it leads to: `ebfw_common::plaintext::record`, or 0: a ClientHello, or else encrypted data.
    pub record: u8,
    pub _pad: u16,
}

/// What a thread may send next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    pub pid: u32,
    /// Its number. The kernel gives the memory of a thread that has ended to another one.
    pub number: u32,
    /// Bit *i*: note *i* fits what is being sent. Here, and not in a register, whose every value the verifier would follow.
    pub fitting: u64,
    /// When there was no room for a note; for a while no socket is taken for anybody's then.
    pub crowded_ns: u64,
    pub notes: [Note; NOTES],
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

/// Calls that read, by thread. Written by the programs. Full: the one that waits longest is not seen.
#[btf_map]
pub static READING: LruHashMap<u64, Reading, 4096> = LruHashMap::new();

/// What is known by connection. Written by the programs. Full: the connection that was silent longest starts anew.
#[btf_map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, Connection, MAX_CONNECTIONS> = LruHashMap::new();

/// Connection by cookie of its socket. Written by the programs. Full: the socket that was silent longest may be found anew.
#[btf_map]
pub static SOCKET_OWNERS: LruHashMap<u64, Owner, MAX_CONNECTIONS> = LruHashMap::new();

/// Connections whose first write begins the handshake if nobody does before. Written by the programs. Full: of the one that waits longest that is
/// not known.
#[btf_map]
pub static CLIENTS: LruHashMap<ConnectionKey, u64, 4096> = LruHashMap::new();

/// Sockets, by cookie, on which nothing more may leave, because a request on them is denied and that is enforced. Written by the agent, which
/// lets go of them once they are destroyed, or have been silent for longer than TCP is between two attempts. Full: a socket is only
/// destroyed; the agent counts it.
#[btf_map]
pub static REFUSED: HashMap<u64, Refusal, MAX_REFUSED> = HashMap::new();

/// What threads may send next, by their address in the kernel. Written by the programs. Full: what a thread sends next is nobody's.
#[btf_map]
pub static THREADS: LruHashMap<u64, Thread, 4096> = LruHashMap::new();

/// Written by the agent.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Records of the current second by cgroup. Written by the programs. Full: a workload starts a new second early.
#[btf_map]
pub static RATES: LruHashMap<u64, Window, 4096> = LruHashMap::new();

/// What was seen, to the agent. Full: the record is lost and counted, and the connection's sequence shows it.
#[btf_map]
pub static PLAINTEXT: RingBuf<Header, { 4 * 1024 * 1024 }> = RingBuf::new();

/// [`ebfw_common::plaintext::Counter`]s. Written by the programs, read by the agent.
#[btf_map]
pub static PROBE_COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();

/// Connections of which requests are followed at once.
const FOLLOWED: usize = 4096;

/// The write that each thread is about to make. Written by the programs. Full: a write is not judged before it leaves.
#[btf_map]
pub static WRITES: LruHashMap<u64, Write, 4096> = LruHashMap::new();

/// The program that judges requests, at 0. Written by the agent before anything is attached; empty where the kernel refused that program.
#[btf_map]
pub static JUDGES: ProgramArray<1> = ProgramArray::new();

/// The program that tells what was judged, at 0. As `JUDGES`.
#[btf_map]
pub static TELLERS: ProgramArray<1> = ProgramArray::new();

/// The program that judges what waits for its socket, at 0. As `JUDGES`.
#[btf_map]
pub static PACKET_JUDGES: ProgramArray<1> = ProgramArray::new();

/// What was read of a connection, by its number. Written by the programs. Full: the connection that was silent longest is read from its next
/// request on.
#[btf_map]
pub static STREAMS: LruHashMap<u64, Followed, FOLLOWED> = LruHashMap::new();

/// What client and server of an HTTP/2 connection have in their tables, by its number. Written by the programs. Full: the connection that was
/// silent longest is read no more.
#[btf_map]
pub static TABLES: LruHashMap<u64, Http2, 1024> = LruHashMap::new();

/// Zeros, to make entries of `TABLES` of.
#[btf_map]
pub static NO_TABLES: Array<Http2, 1> = Array::new();

/// Zeros, to make entries of `STREAMS` of: none would fit on the stack.
#[btf_map]
pub static BLANK: Array<Followed, 1> = Array::new();

/// The firewall's own map `CONFIG`.
#[btf_map]
pub static FIREWALL: Array<abi::Config, 1> = Array::new();
