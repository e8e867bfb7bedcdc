//! What a client says on a TCP connection: runs the readers of `ebfw_common::stream` over the bytes of its packets.
//!
//! [`follow`] begins to follow a socket's connection, [`crate::reader`] reads a packet's new bytes up to where there is something to decide,
//! [`forget`] ends it. The state lies with the socket, whose lock egress holds: a CPU's own memory would not do, since a program may be
//! interrupted by another packet's.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_probe_read_kernel, bpf_sk_storage_delete, bpf_sk_storage_get},
};
use ebfw_common::stream::{Facts, Http2, Step, Stream};

use crate::{
    maps::{HEADS, HTTP2, STREAMS},
    reader::{Progress, WINDOW, ebfw_stream},
    skb::{Parsed, Skb},
};

pub use crate::claim::claimed;

/// What a reader's functions are given to find the bytes and what is known of their connection.
pub type Context = *mut __sk_buff;

/// The value of `STREAMS`. Zeros, but for `position`, are a connection of which nothing was read.
#[repr(C)]
pub struct Followed {
    /// Sequence number of the next byte, host order. For whoever calls [`ebfw_stream`].
    pub position: u32,
    /// Free, for the same.
    pub note: u32,
    /// Where in the packet that is read the head begins and ends that was read last; both 0 where it begins in another packet. For the
    /// same.
    pub head: [u32; 2],
    /// The reader.
    pub stream: Stream,
    /// The bytes that are read now.
    pub window: [u8; WINDOW as usize],
}

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    (&raw const STREAMS).cast_mut().cast()
}

#[inline(always)]
fn tables() -> *mut core::ffi::c_void {
    (&raw const HTTP2).cast_mut().cast()
}

/// What is known of the connection of `socket`, which must not be null; null where it is not followed.
#[inline(always)]
pub fn find(socket: *mut bpf_sock) -> *mut Followed {
    // SAFETY: the callers pass sockets that the verifier knows not to be null.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), 0) }.cast()
}

/// As [`find`], but begins to follow it; null where there is no memory for that.
#[inline(always)]
pub fn follow(socket: *mut bpf_sock) -> *mut Followed {
    let flags = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as in `find`.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), flags) }.cast()
}

/// Ends to follow it.
#[inline(always)]
pub fn forget(socket: *mut bpf_sock) {
    // SAFETY: as in `find`.
    unsafe {
        bpf_sk_storage_delete(map(), socket.cast());
        bpf_sk_storage_delete(tables(), socket.cast());
    }
}

/// The packet's socket, if it is followed.
#[inline(always)]
pub fn followed(context: Context) -> Option<&'static mut Followed> {
    let socket = Skb(context).socket();
    if socket.is_null() {
        return None;
    }
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    unsafe { find(socket).as_mut() }
}

/// Loads the first `length` bytes of the packet from `at` on into the window.
#[inline(always)]
pub fn load(context: Context, followed: &mut Followed, at: u32, length: u32) -> bool {
    Skb(context).load_bytes(at, &mut followed.window, length)
}

/// What is known of the packet's connection beside its stream.
#[inline(always)]
pub fn http2(context: Context) -> Option<&'static mut Http2> {
    beside(context, 0)
}

/// As [`http2`], made of zeros; `false` where there is no memory for that.
#[inline(always)]
pub fn make_http2(context: Context) -> bool {
    beside(context, BPF_SK_STORAGE_GET_F_CREATE).is_some()
}

#[inline(always)]
fn beside(context: Context, flags: u32) -> Option<&'static mut Http2> {
    let socket = Skb(context).socket();
    if socket.is_null() {
        return None;
    }
    // SAFETY: as in `followed`.
    unsafe {
        let state = bpf_sk_storage_get(tables(), socket.cast(), ptr::null_mut(), u64::from(flags));
        state.cast::<Http2>().as_mut()
    }
}

impl Progress {
    /// Whether bytes were read and not only passed over.
    #[inline(always)]
    pub const fn read(self) -> bool {
        self.0 & Self::READ != 0
    }
}

/// Entries of `HEADS`.
pub const HEADS_KEPT: usize = 16;

/// What [`trial`] notes.
#[repr(C)]
pub struct Head {
    /// Bytes of the stream up to there.
    at: u32,
    /// [`Step`].
    step: u32,
    /// `ebfw_common::stream::why`.
    why: u32,
    /// Whether bytes were read and not only passed over.
    read: u32,
    /// What is claimed.
    facts: Facts,
}

/// Reads the payload of a packet as a stream and notes what there was to decide, then the end, in `HEADS`.
#[inline(always)]
pub fn trial(context: *mut __sk_buff) -> i32 {
    let skb = Skb(context);
    let Parsed::Packet(packet) = skb.parse() else {
        return 0;
    };
    let socket = skb.socket();
    if socket.is_null() || follow(socket).is_null() {
        return 0;
    }
    let start = packet.upper.start;
    let mut at = start;
    for index in 0..HEADS_KEPT as u32 {
        let progress = Progress(ebfw_stream(context, at, packet.upper.end));
        let Some(followed) = followed(context) else {
            return 0;
        };
        let Some(head) = HEADS.get_ptr_mut(index) else {
            return 0;
        };
        // SAFETY: array entries live as long as the map.
        let head = unsafe { &mut *head };
        head.at = progress.at() - start;
        head.step = progress.step() as u32;
        head.why = followed.stream.why();
        head.read = u32::from(progress.read());
        let facts = followed.stream.facts();
        // SAFETY: as many bytes, from one map to another.
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut head.facts).cast(),
                size_of::<Facts>() as u32,
                ptr::from_ref(facts).cast(),
            );
        }
        if progress.step() != Step::Head {
            break;
        }
        at = progress.at();
    }
    forget(socket);
    1
}
