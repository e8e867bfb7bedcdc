//! What a thread may send next: the records into which its library puts what it has just been given.

use core::ptr;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_task, bpf_probe_read_kernel},
};

use crate::maps::{CONFIG, ConnectionKey, NOTES, Note, THREADS, Thread};

/// A note is good for so long: a library encrypts and sends at once, or gives what it encrypted to its caller, who does.
pub const FRESH_NS: u64 = 1_000_000_000;

/// [`Note::record`] of a write that may begin with a handshake.
pub const EITHER: u8 = 0;

const NOTHING: Note = Note {
    object: 0,
    at_ns: 0,
    total: 0,
    library: 0,
    record: 0,
    _pad: 0,
};

/// The calling thread's key in `THREADS`.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_get_current_task() }
}

/// The calling thread's number.
#[inline(always)]
fn number() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// Whether `thread` is the current one, and not one that has ended and had its place in memory before. Programs on packets have no helper that
/// says its number.
#[inline(always)]
pub fn is_current(thread: &Thread) -> bool {
    let Some(config) = CONFIG.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the agent writes it once, whole.
    let offset = unsafe { (&raw const (*config).thread).read_volatile() };
    let mut number = 0u32;
    // SAFETY: as many bytes as the number has; the helper reads any kernel memory and fails where there is none.
    let result = unsafe {
        bpf_probe_read_kernel(
            (&raw mut number).cast(),
            4,
            ptr::without_provenance((current() + u64::from(offset)) as usize),
        )
    };
    offset != 0 && result == 0 && number == thread.number
}

/// Notes that the calling thread has given `total` bytes to a library for this connection, or let it begin a handshake. A note about the
/// same connection is replaced.
#[inline(always)]
pub fn note(key: &ConnectionKey, library: u8, record: u8, total: u64, now: u64) {
    let note = Note {
        object: key.object,
        at_ns: now,
        total: total.min(u64::from(u32::MAX)) as u32,
        library,
        record,
        _pad: 0,
    };
    let Some(thread) = THREADS.get_ptr_mut(current()) else {
        return first(key, note);
    };
    // SAFETY: the entry outlives the program's run; only programs on the thread that it belongs to use it.
    let thread = unsafe { &mut *thread };
    let number = number();
    if thread.number != number {
        // Another thread was here before, which has ended.
        thread.pid = key.pid;
        thread.number = number;
        thread.crowded_ns = 0;
        thread.notes = [NOTHING; NOTES];
    }
    let mut free = None;
    for place in &mut thread.notes {
        if place.object == key.object {
            *place = note;
            return;
        }
        if now - place.at_ns >= FRESH_NS {
            free = Some(place);
        }
    }
    match free {
        Some(place) => *place = note,
        None => thread.crowded_ns = now,
    }
}

/// Whether a connection of the thread waits for its socket.
#[inline(always)]
pub fn waits(thread: &Thread) -> bool {
    let mut objects = 0;
    for note in &thread.notes {
        objects |= note.object;
    }
    objects != 0
}

#[inline(never)]
fn first(key: &ConnectionKey, note: Note) {
    let mut thread = Thread {
        pid: key.pid,
        number: number(),
        fitting: 0,
        crowded_ns: 0,
        notes: [NOTHING; NOTES],
    };
    thread.notes[0] = note;
    let _ = THREADS.insert(current(), thread, 0);
}

/// Forgets what the calling thread noted about a connection.
#[inline(always)]
pub fn forget(key: &ConnectionKey) {
    if let Some(thread) = THREADS.get_ptr_mut(current()) {
        // SAFETY: as above.
        for note in unsafe { &mut (*thread).notes } {
            if note.object == key.object {
                note.object = 0;
                note.at_ns = 0;
            }
        }
    }
}
