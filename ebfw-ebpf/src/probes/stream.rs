//! Where the readers of streams find plaintext: in the memory of the process that is about to write it.

use core::{hint::black_box, ptr};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use ebfw_common::{
    abi::SlotWord,
    stream::{Facts, Http2, Stream},
};

use crate::{
    maps::{BLANK, NO_TABLES, Peer, STREAMS, TABLES},
    reader::WINDOW,
};

/// What a reader's functions are given to find the bytes and what is known of their connection: its number.
pub type Context = u64;

/// The value of `STREAMS`. Zeros are a connection of which nothing was read.
#[repr(C)]
pub struct Followed {
    /// Where the bytes lie that are read now.
    pub buffer: u64,
    /// The word of its workload.
    pub word: u64,
    /// Cookie of its socket; 0: not known.
    pub socket: u64,
    pub peer: Peer,
    /// 1: where a request begins is not known any more, but for a write that begins with one.
    pub lost: u32,
    /// [`waiting`]: what waits until the socket is known.
    pub waiting: u32,
    /// The reader.
    pub stream: Stream,
    /// The bytes that are read now.
    pub window: [u8; WINDOW as usize],
    /// How the last write of HTTP/2 began, how long it was, and where it lay.
    pub before: [u64; WINDOW as usize / 8],
    pub before_total: u64,
    pub before_buffer: u64,
}

/// Values of [`Followed::waiting`].
pub mod waiting {
    /// Nothing does.
    pub const NOTHING: u32 = 0;
    /// The request that was read last.
    pub const REQUEST: u32 = 1;
    /// What is no request that can be read in one way only.
    pub const MALFORMED: u32 = 2;
}

impl Followed {
    /// The word of its workload.
    #[inline(always)]
    pub fn word(&self) -> SlotWord {
        SlotWord(self.word)
    }
}

/// What is known of a connection; made of zeros where nothing is.
#[inline(always)]
pub fn follow(context: Context) -> Option<&'static mut Followed> {
    if STREAMS.get_ptr_mut(context).is_none() {
        let _ = STREAMS.insert(context, BLANK.get(0)?, 0);
    }
    followed(context)
}

/// What is known of a connection.
#[inline(always)]
pub fn followed(context: Context) -> Option<&'static mut Followed> {
    // SAFETY: entries of the map outlive the program's run. Whoever writes to one connection from several threads at once without a lock may have
    // it misread, never more: the readers hold every index to its array.
    STREAMS
        .get_ptr_mut(context)
        .map(|followed| unsafe { &mut *followed })
}

/// Begins anew with the next byte.
#[inline(always)]
pub fn restart(followed: &mut Followed) {
    let Some(blank) = BLANK.get(0) else { return };
    // SAFETY: as many bytes, from one map to another.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut followed.stream).cast(),
            size_of::<Stream>() as u32,
            (&raw const blank.stream).cast(),
        );
    }
}

/// What the connection's client claimed last.
#[inline(always)]
pub fn claimed(context: Context) -> Option<&'static Facts> {
    followed(context).map(|followed| followed.stream.facts())
}

/// Loads the first `length` (1 to [`WINDOW`]) bytes of what is written from `at` on into the window.
#[inline(always)]
pub fn load(_: Context, followed: &mut Followed, at: u32, length: u32) -> bool {
    // The mask is what shows the verifier that the length fits; the compiler, which knows, must not drop it.
    let length = (black_box(length.wrapping_sub(1)) & (WINDOW - 1)) + 1;
    let from = followed.buffer.wrapping_add(u64::from(at));
    // SAFETY: the window has as many bytes; the helper checks the address that it reads from.
    unsafe {
        bpf_probe_read_user(
            followed.window.as_mut_ptr().cast(),
            length,
            ptr::without_provenance(from as usize),
        ) == 0
    }
}

/// What is known of a connection beside its stream.
#[inline(always)]
pub fn http2(context: Context) -> Option<&'static mut Http2> {
    // SAFETY: as in `followed`.
    TABLES
        .get_ptr_mut(context)
        .map(|tables| unsafe { &mut *tables })
}

/// Makes that of zeros; `false` where there is no memory for it.
#[inline(always)]
pub fn make_http2(context: Context) -> bool {
    let Some(none) = NO_TABLES.get(0) else {
        return false;
    };
    TABLES.insert(context, none, 0).is_ok()
}
