//! Runs the readers of `ebfw_common::stream` over bytes: those of packets in the firewall, those that a process gives to its TLS library in the
//! probes. `crate::stream` says where they lie.
//!
//! The readers work on windows of a few bytes, each in a call of a function that the verifier follows once (see `ebfw_decide`); the calls
//! are nested so that few steps of each cover the longest packet. Of these functions only [`ebfw_stream`] is for others:
//!
//! - It must be given bytes in their order, each once: from where the last call stopped to what the packet has at most.
//! - [`Step::Head`]: `followed.stream.facts()` are what is claimed, until the next call, which goes on behind [`Progress::at`].
//! - [`Step::More`]: the packet has nothing more to say. Whether any of its bytes were read, and not only passed over: [`Progress::READ`].
//! - [`Step::Finished`] and [`Step::Opaque`]: nothing more will come; forget the connection.
//! - [`Step::Malformed`]: `followed.stream.why()` says why; 0 where the packet could not be read at all.

use core::arch::asm;

use ebfw_common::stream::{Http2, Step, Stream, protocol};

use crate::{
    stream::{Context, followed, http2, load, make_http2},
    verifier,
};

/// Bytes that are loaded at once.
pub const WINDOW: u32 = 64;
/// Bytes that a reader takes in one call: what the verifier has to follow grows with them.
const STEPS: u32 = 4;
/// Windows of one [`ebfw_stretch`], and stretches of one [`ebfw_stream`]: together 256 KiB of bytes that are read; those passed over do not
/// count.
const WINDOWS: u32 = 64;
const STRETCHES: u32 = 64;

/// What [`ebfw_stream`] says, in one number.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Progress(pub u64);

impl Progress {
    /// Bytes were read and not only passed over.
    pub const READ: u64 = 1 << 40;

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
}

/// Nothing could be read: the packet has fewer bytes than it says, or its socket is not followed.
const LOST: Progress = Progress::new(0, Step::Malformed, Progress::READ);

/// Reads the bytes `from`..`to` of a packet whose socket is followed: those that come next in its stream. Returns a [`Progress`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_stream(context: Context, from: u32, to: u32) -> u64 {
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
pub extern "C" fn ebfw_stretch(context: Context, from: u32, to: u32) -> u64 {
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
pub extern "C" fn ebfw_window(context: Context, from: u32, to: u32) -> u64 {
    let Some(followed) = followed(context) else {
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
    if !load(context, followed, at, length) {
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
            if !make_http2(context) {
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
pub extern "C" fn ebfw_tls(context: Context, from: u32, to: u32) -> u64 {
    read(context, from, to, Protocol::Tls).0
}

/// As [`ebfw_tls`], for HTTP/1. Of the value of a field that says nothing it takes as many bytes as there are: a head is mostly those.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_http(context: Context, from: u32, to: u32) -> u64 {
    let Some(followed) = followed(context) else {
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
    read(context, at, to, Protocol::Http1).0
}

/// As [`ebfw_tls`], for HTTP/2.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_http2(context: Context, from: u32, to: u32) -> u64 {
    let Some(http2) = http2(context) else {
        return LOST.0;
    };
    read(context, from, to, Protocol::Http2(http2)).0
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
fn read(context: Context, from: u32, to: u32, mut protocol: Protocol<'_>) -> Progress {
    let Some(followed) = followed(context) else {
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
