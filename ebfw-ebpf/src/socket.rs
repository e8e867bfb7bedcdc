//! What a socket remembers: its workload, whether it ever connected, who used it, the verdict of its last flow.
//!
//! The verdict is never changed in place, since a UDP socket may send on several CPUs at once: it is replaced by deleting the
//! entry and making a new one. The other fields are single words that are true whatever stands beside them.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_sk_storage_delete, bpf_sk_storage_get,
    },
};
use ebfw_common::abi::{Address, SlotRef};

use crate::maps::SOCKETS;
pub use crate::workload::UNBOUND;

/// `SOCK_STREAM` of `bpf_sock.type`.
pub const STREAM: u32 = 1;
/// `SOCK_RAW` of `bpf_sock.type`.
pub const RAW: u32 = 3;
/// `BPF_TCP_LISTEN` of `bpf_sock.state`.
pub const LISTEN: u32 = 10;

/// `AF_INET` of `bpf_sock.family`.
const AF_INET: u32 = 2;

/// Set in [`SocketState::verdict`]: payload is to be read, see [`crate::follow`].
pub const READ: u32 = 8;
/// Set there beside it: the decision waits for what is read.
pub const NEEDED: u32 = 16;

/// Set there: what the client has claimed is to be judged anew, since the verdict was taken as if it had claimed nothing.
pub const ANEW: u32 = 32;

/// The verdict in [`SocketState::verdict`].
#[inline(always)]
pub const fn verdict(kept: u32) -> u32 {
    kept & !(READ | NEEDED | ANEW)
}

/// Reads a field of a socket by itself: the verifier refuses computed offsets here.
#[inline(always)]
fn word(field: &u32) -> u32 {
    // SAFETY: a reference is valid to read.
    unsafe { ptr::from_ref(field).read_volatile() }
}

#[inline(always)]
fn address(is_v4: bool, v4: u32, v6: [u32; 4]) -> Address {
    if is_v4 {
        Address::mapped(v4.to_ne_bytes())
    } else {
        Address(v6)
    }
}

/// Whether it is a socket of IPv4.
#[inline(always)]
pub fn is_v4(socket: &bpf_sock) -> bool {
    socket.family == AF_INET
}

/// The local address. All is read before the family is asked, or the compiler would choose between addresses of fields.
#[inline(always)]
pub fn source(socket: &bpf_sock) -> Address {
    let v4 = word(&socket.src_ip4);
    let [a, b, c, d] = &socket.src_ip6;
    address(is_v4(socket), v4, [word(a), word(b), word(c), word(d)])
}

/// The remote address.
#[inline(always)]
pub fn destination(socket: &bpf_sock) -> Address {
    let v4 = word(&socket.dst_ip4);
    let [a, b, c, d] = &socket.dst_ip6;
    address(is_v4(socket), v4, [word(a), word(b), word(c), word(d)])
}

/// The value of `SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketState {
    /// The workload that created the socket, or [`UNBOUND`].
    pub slot: SlotRef,
    /// 1 once connect was called (and it did not listen since): a TCP socket without it only answers.
    pub connected: u32,
    /// Thread group that connected or sent last; 0 where unknown.
    pub pid: u32,
    /// Protocol, port and whether there is one, of the flow that `verdict` is about; see [`flow_key`].
    pub transport: u32,
    /// Destination of that flow.
    pub destination: Address,
    /// Slot word under which `verdict` was taken; 0: none was.
    pub word: u64,
    /// `ebfw_common::abi::verdict`, with [`READ`], [`NEEDED`] and [`ANEW`].
    pub verdict: u32,
    /// Zero.
    pub _pad: u32,
    /// Name of the thread.
    pub comm: [u8; 16],
    /// Cookie of the network namespace that the socket was made in; 0 where it is older than the programs.
    pub netns: u64,
    /// When that flow was judged first, nanoseconds since boot: names that were good then are its own, whatever expires; 0: no flow was.
    pub opened_ns: u64,
}

impl SocketState {
    /// When the flow was judged first, if it is the one that is remembered; else 0.
    #[inline(always)]
    pub fn opened(&self, transport: u32, destination: Address) -> u64 {
        if self.transport == transport && self.destination == destination {
            self.opened_ns
        } else {
            0
        }
    }
}

/// Packs what identifies a flow beside its address; `port` is 0 where there is none.
#[inline(always)]
pub fn flow_key(protocol: u8, port: u16, has_port: bool) -> u32 {
    u32::from(port) << 16 | u32::from(protocol) << 8 | u32::from(has_port)
}

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    (&raw const SOCKETS).cast_mut().cast()
}

/// The state of `socket`; null where there is none.
#[inline(always)]
pub fn get(socket: *mut bpf_sock) -> *mut SocketState {
    // SAFETY: the callers pass sockets that the verifier knows not to be null.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), 0) }.cast()
}

/// As [`get`]; null where there is no socket.
#[inline(always)]
pub fn find(socket: *mut bpf_sock) -> *mut SocketState {
    if socket.is_null() {
        ptr::null_mut()
    } else {
        get(socket)
    }
}

/// The state of `socket`, made of zeros where there is none; null where it could not be made.
#[inline(always)]
pub fn get_or_create(socket: *mut bpf_sock) -> *mut SocketState {
    create(socket, ptr::null_mut())
}

#[inline(always)]
fn create(socket: *mut bpf_sock, initial: *mut SocketState) -> *mut SocketState {
    let flags = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as in `get`; `initial` is null or has the map's value type.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), initial.cast(), flags) }.cast()
}

/// Replaces the state of `socket`.
#[inline(always)]
pub fn replace(socket: *mut bpf_sock, state: &mut SocketState) {
    // SAFETY: as in `get`.
    unsafe { bpf_sk_storage_delete(map(), socket.cast()) };
    create(socket, state);
}

/// Notes the calling thread in `state`.
#[inline(always)]
pub fn note_caller(state: &mut SocketState) {
    // SAFETY: both helpers only read the current task.
    let pid = unsafe { (bpf_get_current_pid_tgid() >> 32) as u32 };
    if state.pid != pid {
        state.pid = pid;
        // SAFETY: `comm` is 16 writable bytes.
        unsafe { bpf_get_current_comm(state.comm.as_mut_ptr().cast(), 16) };
    }
}
