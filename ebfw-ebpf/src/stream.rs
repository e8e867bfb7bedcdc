//! What a client says on a TCP connection: runs the readers of `ebfw_common::stream` over the bytes of its packets.
//!
//! [`follow`] begins to follow a socket's connection, [`ebfw_stream`] reads a packet's new bytes up to where there is something to decide,
//! [`forget`] ends it. The state lies with the socket, whose lock egress holds: a CPU's own memory would not do, since a program may be
//! interrupted by another packet's.
//!
//! The readers work on windows of a few bytes, each in a call of a function that the verifier follows once (see `ebfw_decide`); the calls
//! are nested so that few steps of each cover the longest packet. Of these functions only [`ebfw_stream`] is for others:
//!
//! - It must be given bytes in their order, each once: from where the last call stopped to what the packet has at most.
//! - [`Step::Head`]: `followed.stream.facts()` are what is claimed, until the next call, which goes on behind [`Progress::at`].
//! - [`Step::More`]: the packet has nothing more to say. Whether any of its bytes were read, and not only passed over: [`Progress::read`].
//! - [`Step::Finished`] and [`Step::Opaque`]: nothing more will come; [`forget`] the connection.
//! - [`Step::Malformed`]: `followed.stream.why()` says why; 0 where the packet could not be read at all.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_probe_read_kernel, bpf_sk_storage_delete, bpf_sk_storage_get},
};
use ebfw_common::stream::{Facts, Http2, Step, Stream, protocol};

use crate::{
    maps::{HEADS, HTTP2, STREAMS},
    skb::{Parsed, Skb},
    verifier,
};

/// Bytes that are loaded at once.
const WINDOW: u32 = 64;
/// Bytes that a reader takes in one call: what the verifier has to follow grows with them.
const STEPS: u32 = 4;
/// Windows of one [`ebfw_stretch`], and stretches of one [`ebfw_stream`]: together 256 KiB of bytes that are read; those passed over do not
/// count.
const WINDOWS: u32 = 64;
const STRETCHES: u32 = 64;

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
    window: [u8; WINDOW as usize],
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
fn followed(skb: Skb) -> Option<&'static mut Followed> {
    let socket = skb.socket();
    if socket.is_null() {
        return None;
    }
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    unsafe { find(socket).as_mut() }
}

/// What [`ebfw_stream`] says, in one number.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Progress(pub u64);

impl Progress {
    const READ: u64 = 1 << 40;

    #[inline(always)]
    const fn new(at: u32, step: Step, read: u64) -> Self {
        Self(at as u64 | (step as u64) << 32 | read)
    }

    /// Where in the packet the next byte is: behind the byte that led to [`Progress::step`].
    #[inline(always)]
    pub const fn at(self) -> u32 {
        self.0 as u32
    }

    /// [`Step::More`]: all bytes are done. [`Step::Head`]: decide, then go on from [`Progress::at`]. All others are the end.
    #[inline(always)]
    pub const fn step(self) -> Step {
        Step::from_number((self.0 >> 32) as u32 & 0xff)
    }

    /// Whether bytes were read and not only passed over.
    #[inline(always)]
    pub const fn read(self) -> bool {
        self.0 & Self::READ != 0
    }
}

/// Nothing could be read: the packet has fewer bytes than it says, or its socket is not followed.
const LOST: Progress = Progress::new(0, Step::Malformed, Progress::READ);

/// Reads the bytes `from`..`to` of a packet whose socket is followed: those that come next in its stream. Returns a [`Progress`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_stream(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    let mut read = 0;
    let mut at = from;
    for _ in 0..STRETCHES {
        if at >= to {
            return Progress::new(at, Step::More, read).0;
        }
        let progress = Progress(ebfw_stretch(context, at, to));
        read |= progress.0 & Progress::READ;
        if progress.step() != Step::More {
            return progress.0 | read;
        }
        at = progress.at();
    }
    // As far as it goes: whoever calls sees that there is more.
    Progress::new(at, Step::More, read).0
}

/// A part of [`ebfw_stream`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_stretch(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    let mut read = 0;
    let mut at = from;
    for _ in 0..WINDOWS {
        if at >= to {
            break;
        }
        let progress = Progress(ebfw_window(context, at, to));
        read |= progress.0 & Progress::READ;
        if progress.step() != Step::More {
            return progress.0 | read;
        }
        at = progress.at();
    }
    Progress::new(at, Step::More, read).0
}

/// Passes over what need not be read, then reads a window.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_window(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    let skb = Skb(context);
    let Some(followed) = followed(skb) else {
        return LOST.0;
    };
    let end = followed.stream.end();
    if end != Step::More {
        return Progress::new(from, end, 0).0;
    }
    let at = from + followed.stream.advance(u64::from(to - from)) as u32;
    if at >= to {
        return Progress::new(at, Step::More, 0).0;
    }
    let left = to - at;
    let length = if left < WINDOW { left } else { WINDOW };
    if !skb.load_bytes(at, &mut followed.window, length) {
        return LOST.0;
    }
    if followed.stream.is_fresh() {
        followed.stream.begin(followed.window[0]);
    }
    let protocol = followed.stream.protocol();
    let mut done = 0;
    for _ in 0..WINDOW / STEPS {
        if done >= length {
            break;
        }
        let read = Progress(match protocol {
            protocol::TLS => ebfw_tls(context, done, length),
            protocol::HTTP1 => ebfw_http(context, done, length),
            protocol::HTTP2 => ebfw_http2(context, done, length),
            _ => Progress::new(1, Step::Opaque, 0).0,
        });
        done = read.at();
        let step = read.step();
        if step == Step::Http2 {
            if http2(skb, BPF_SK_STORAGE_GET_F_CREATE).is_none() {
                return LOST.0;
            }
            break;
        }
        if step != Step::More {
            return Progress::new(at + done, step, Progress::READ).0;
        }
    }
    Progress::new(at + done, Step::More, Progress::READ).0
}

/// Reads bytes `from`..`to` of the window as TLS, [`STEPS`] of them at most. Each protocol has a function of its own, to be followed by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_tls(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    read(Skb(context), from, to, Protocol::Tls).0
}

/// As [`ebfw_tls`], for HTTP/1. Of the value of a field that says nothing it takes as many bytes as there are: a head is mostly those.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_http(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    let skb = Skb(context);
    let Some(followed) = followed(skb) else {
        return LOST.0;
    };
    let idles = followed.stream.idles();
    let mut at = from;
    if idles >= WINDOW {
        for _ in 0..WINDOW {
            if at >= to || !Stream::is_idle(byte(&followed.window, at)) {
                break;
            }
            at += 1;
        }
        let [a, b, c, d, e, f, g, h, ..] = followed.window;
        at = verifier::forget(at, u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        followed.stream.idle(at - from);
    }
    read(skb, at, to, Protocol::Http1).0
}

/// As [`ebfw_tls`], for HTTP/2.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_http2(context: *mut __sk_buff, from: u32, to: u32) -> u64 {
    let skb = Skb(context);
    let Some(http2) = http2(skb, 0) else {
        return LOST.0;
    };
    read(skb, from, to, Protocol::Http2(http2)).0
}

/// What is known of the packet's connection beside its stream; made of zeros with `BPF_SK_STORAGE_GET_F_CREATE`.
#[inline(always)]
fn http2(skb: Skb, flags: u32) -> Option<&'static mut Http2> {
    let socket = skb.socket();
    if socket.is_null() {
        return None;
    }
    // SAFETY: as in `followed`.
    unsafe {
        let state = bpf_sk_storage_get(tables(), socket.cast(), ptr::null_mut(), u64::from(flags));
        state.cast::<Http2>().as_mut()
    }
}

/// Byte `at` of a window.
#[inline(always)]
fn byte(window: &[u8; WINDOW as usize], at: u32) -> u8 {
    // SAFETY: the mask keeps to the array.
    unsafe { *window.get_unchecked(verifier::masked::<{ WINDOW - 1 }>(at)) }
}

/// What the bytes are read as. No closure: where one is large it becomes a function of its own, and the verifier allows eight calls deep.
enum Protocol<'a> {
    Tls,
    Http1,
    Http2(&'a mut Http2),
}

#[inline(always)]
fn read(skb: Skb, from: u32, to: u32, mut protocol: Protocol<'_>) -> Progress {
    let Some(followed) = followed(skb) else {
        return LOST;
    };
    let mut at = from;
    for _ in 0..STEPS {
        if at >= to {
            break;
        }
        relearn();
        let byte = byte(&followed.window, at);
        let step = match &mut protocol {
            Protocol::Tls => followed.stream.step_tls(byte),
            Protocol::Http1 => followed.stream.step_http(byte),
            Protocol::Http2(http2) => followed.stream.step_http2(http2, byte),
        };
        if step == Step::Again {
            continue;
        }
        at += 1;
        if step != Step::More {
            return Progress::new(at, step, 0);
        }
    }
    Progress::new(at, Step::More, 0)
}

/// Has all memory read again: what the compiler kept of it in registers would keep paths apart for the verifier.
#[inline(always)]
fn relearn() {
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack)) };
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
        let Some(followed) = followed(skb) else {
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
