//! What a thread may send next: the records into which its library puts what it has just been given.

use aya_ebpf::helpers::generated::bpf_get_current_task;

use crate::maps::{ConnectionKey, NOTES, Note, THREADS, Thread};

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
    if thread.pid != key.pid {
        // Another thread was here before, which has ended.
        thread.pid = key.pid;
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
