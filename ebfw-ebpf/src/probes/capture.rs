//! From the arguments of a call to a record in the ring.

use core::{arch::asm, hint::black_box, ptr};

use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_user as read_user,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
            bpf_probe_read_user,
        },
    },
    programs::ProbeContext,
};
use ebfw_common::{
    abi::{Address, SlotRef},
    plaintext::{Counter, Header, MAX_PARTS, RECORD_SIZES, RECORDS_PER_SECOND, kind, record},
};

use crate::{
    deny::{self, Handed},
    maps::{
        CLIENTS, CONNECTIONS, Connection, ConnectionKey, PARTS, PLAINTEXT, PROBE_COUNTERS, Peer,
        RATES, READING, Reading, SCOPE, SOCKET_OWNERS, STREAMS, TABLES, WRITES, Window, Write,
    },
    thread::{self, EITHER},
};

const HEADER: usize = size_of::<Header>();
/// [`ConnectionKey::direction`] of what is read.
const READS: u32 = 1;
/// Set in the key of a workload's window for what is read: no download takes the place of requests.
const READS_OF: u64 = 1 << 63;
const SECOND_NS: u64 = 1_000_000_000;
/// Bytes of plaintext that a record of each size has room for.
const SMALL: usize = RECORD_SIZES[0] - HEADER;
const MIDDLE: usize = RECORD_SIZES[1] - HEADER;
const LARGE: usize = RECORD_SIZES[2] - HEADER;

/// A record with room for `ROOM` bytes.
#[repr(C)]
struct Record<const ROOM: usize> {
    header: Header,
    data: [u8; ROOM],
}

/// What a record begins with, as far as it is known before there is one.
struct Call {
    library: u8,
    kind: u8,
    object: u64,
    pid: u32,
    thread: u32,
    total: u64,
    sequence: u64,
    socket: u64,
    now: u64,
    cgroup: u64,
}

/// Tells of a write of `total` bytes from `buffer`, and has it judged.
#[inline(always)]
pub fn write(context: &ProbeContext, library: u8, object: u64, buffer: u64, total: u64) {
    if object == 0 || buffer == 0 || total == 0 || !in_scope() {
        return;
    }
    count(Counter::Seen);
    let (pid, thread) = ids();
    let key = key(object, pid);
    let Next { sequence, socket } = next(&key);
    let mut call = Call {
        total,
        sequence,
        socket,
        ..call(library, kind::WRITE, object, pid, thread)
    };
    if socket == 0 {
        let begins = sequence == 0 && CLIENTS.remove(key).is_ok();
        let record = if begins { EITHER } else { record::DATA };
        thread::note(&key, library, record, total, call.now);
    }
    // Who hears of a denied request has to find its socket refused: so what is judged is told behind that.
    let handed = Handed {
        buffer,
        total,
        sequence,
        library: library.into(),
    };
    deny::go_on(context, &key, &handed);
    // As good as read anew: what the compiler knows of it by now it would not compare again, and old verifiers want that.
    call.total = black_box(total);
    tell(&mut call, buffer);
}

/// Tells of the write that the calling thread is about to make.
#[inline(always)]
pub fn tell_judged() {
    let Some(write) = WRITES.get_ptr_mut(bpf_get_current_pid_tgid()) else {
        return;
    };
    // SAFETY: entries of the map outlive the program's run, and only the calling thread uses this one.
    let Write {
        connection,
        object,
        buffer,
        total,
        sequence,
        library,
    } = unsafe { &*write };
    let (pid, thread) = ids();
    let mut call = Call {
        total: *total,
        sequence: *sequence,
        socket: connection.socket,
        ..call(*library as u8, kind::WRITE, *object, pid, thread)
    };
    tell(&mut call, *buffer);
}

/// Writes records of a write.
#[inline(always)]
fn tell(call: &mut Call, buffer: u64) {
    if !admit(call, call.cgroup) {
        return count(Counter::Limited);
    }
    // The smallest record that holds it; each size is a program path of its own, since the kernel reserves constants only.
    if call.total <= SMALL as u64 {
        record::<SMALL>(call, buffer);
    } else if call.total <= MIDDLE as u64 {
        record::<MIDDLE>(call, buffer);
    } else {
        large(call, buffer);
    }
}

/// Tells of a write that is longer than smaller records hold: what does not fit is left out, or comes in further records where bodies are
/// captured.
#[inline(always)]
fn large(call: &mut Call, buffer: u64) {
    let parts = match PARTS.get(0) {
        Some(parts) => *parts,
        None => 0,
    };
    let mut from = buffer;
    let mut left = call.total;
    for part in 1..=MAX_PARTS {
        let is_last = part >= parts || left <= LARGE as u64;
        call.total = if is_last { left } else { LARGE as u64 };
        record::<LARGE>(call, from);
        if is_last {
            return;
        }
        left -= LARGE as u64;
        from += LARGE as u64;
        call.kind = kind::MORE;
        // A number that no record has shows that one is missing.
        call.sequence = next(&key(call.object, call.pid)).sequence;
        if !admit(call, call.cgroup) {
            return count(Counter::Limited);
        }
    }
}

/// Notes a call that reads into `buffer`. `read_at`: where it says how much it read; 0 where it returns that.
#[inline(always)]
pub fn begin_read(object: u64, buffer: u64, read_at: u64) {
    if object == 0 || buffer == 0 || !in_scope() {
        return;
    }
    let reading = Reading {
        object,
        buffer,
        count: read_at,
    };
    let _ = READING.insert(bpf_get_current_pid_tgid(), reading, 0);
}

/// Tells what a call has read that has come back with `returned`.
#[inline(always)]
pub fn end_read(library: u8, returned: u64) {
    let thread_group = bpf_get_current_pid_tgid();
    let Some(reading) = READING.get_ptr_mut(thread_group) else {
        return;
    };
    // SAFETY: entries of the map outlive the program's run.
    let Reading {
        object,
        buffer,
        count: read_at,
    } = unsafe { *reading };
    let _ = READING.remove(thread_group);
    let total = if read_at == 0 {
        returned
    } else if returned == 1 {
        // SAFETY: the helper checks the address.
        unsafe { read_user(read_at as *const u64) }.unwrap_or(0)
    } else {
        0
    };
    if total == 0 {
        return;
    }
    let (pid, thread) = ids();
    let key = ConnectionKey {
        object,
        pid,
        direction: READS,
    };
    let mut call = call(library, kind::READ, object, pid, thread);
    let mut from = buffer;
    let mut left = total;
    // What is read is at most a record of TLS, which is five of ours.
    for _ in 0..MAX_PARTS {
        call.sequence = next(&key).sequence;
        if !admit(&call, call.cgroup | READS_OF) {
            return count(Counter::Limited);
        }
        let is_last = left <= LARGE as u64;
        call.total = if is_last { left } else { LARGE as u64 };
        record::<LARGE>(&call, from);
        if is_last {
            return;
        }
        left -= LARGE as u64;
        from += LARGE as u64;
    }
}

/// Notes that the object is for a new connection, whose first write begins the handshake unless something else does.
#[inline(always)]
pub fn client(library: u8, object: u64) {
    if object == 0 || !in_scope() {
        return;
    }
    // It may have had another one. What the thread has noted of the new one stays: some begin the handshake first.
    end(library, object);
    let (pid, _) = ids();
    let _ = CLIENTS.insert(key(object, pid), 0, 0);
}

/// Forgets the connection that an object had, if its socket is known: it gets a new one. Without one it is the new one.
#[inline(always)]
pub fn renew(library: u8, object: u64) {
    let (pid, _) = ids();
    let connection = CONNECTIONS.get_ptr_mut(key(object, pid));
    // SAFETY: entries of the map are whole words that outlive the program's run.
    let is_old = connection.is_some_and(|connection| unsafe {
        (&raw const (*connection).socket).read_volatile() != 0
    });
    if is_old {
        end(library, object);
    }
}

/// Notes that a handshake begins or goes on.
#[inline(always)]
pub fn handshake(library: u8, object: u64) {
    if object == 0 || !in_scope() {
        return;
    }
    let (pid, _) = ids();
    let key = key(object, pid);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: entries of the map are whole words that outlive the program's run.
        if unsafe { (&raw const (*connection).socket).read_volatile() } != 0 {
            return;
        }
    }
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    thread::note(&key, library, record::HANDSHAKE, 0, now);
}

/// Forgets a connection whose object is given up.
#[inline(always)]
pub fn close(library: u8, object: u64) {
    let (pid, _) = ids();
    let key = key(object, pid);
    let _ = CLIENTS.remove(key);
    thread::forget(&key);
    end(library, object);
}

/// Tells that an object has its connection no more, if that was ever written to or its socket is known.
#[inline(always)]
fn end(library: u8, object: u64) {
    let (pid, thread) = ids();
    let key = key(object, pid);
    let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: entries of the map are whole words that outlive the program's run.
    let (socket, id) = unsafe {
        (
            (&raw const (*connection).socket).read_volatile(),
            (&raw const (*connection).id).read_volatile(),
        )
    };
    let _ = STREAMS.remove(id);
    let _ = TABLES.remove(id);
    let _ = CONNECTIONS.remove(key);
    let _ = CONNECTIONS.remove(ConnectionKey {
        direction: READS,
        ..key
    });
    let _ = SOCKET_OWNERS.remove(socket);
    record::<SMALL>(&call(library, kind::CLOSE, object, pid, thread), 0);
}

#[inline(always)]
fn in_scope() -> bool {
    SCOPE.current_task_under_cgroup(0) == Ok(true)
}

#[inline(always)]
fn ids() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

#[inline(always)]
fn key(object: u64, pid: u32) -> ConnectionKey {
    ConnectionKey {
        object,
        pid,
        direction: 0,
    }
}

#[inline(always)]
fn call(library: u8, kind: u8, object: u64, pid: u32, thread: u32) -> Call {
    Call {
        library,
        kind,
        object,
        pid,
        thread,
        total: 0,
        sequence: 0,
        socket: 0,
        // SAFETY: the helpers have no arguments.
        now: unsafe { bpf_ktime_get_boot_ns() },
        // SAFETY: as above.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
    }
}

/// What a connection's write begins with.
struct Next {
    sequence: u64,
    socket: u64,
}

/// Counts a write, and says what was known before it. Two threads that write to one connection at once may get the same number; a library
/// forbids it.
#[inline(always)]
fn next(key: &ConnectionKey) -> Next {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: entries of the map are whole words that outlive the program's run.
        unsafe {
            let writes = &raw mut (*connection).writes;
            let sequence = writes.read_volatile();
            writes.write_volatile(sequence + 1);
            return Next {
                sequence,
                socket: (&raw const (*connection).socket).read_volatile(),
            };
        }
    }
    first(key);
    Next {
        sequence: 0,
        socket: 0,
    }
}

#[inline(never)]
fn first(key: &ConnectionKey) {
    let connection = Connection {
        writes: 1,
        ..unknown(0)
    };
    let _ = CONNECTIONS.insert(key, connection, 0);
}

/// A connection of which nothing is known but its socket.
#[inline(always)]
pub fn unknown(socket: u64) -> Connection {
    Connection {
        writes: 0,
        socket,
        // SAFETY: the helpers have no arguments.
        id: unsafe { bpf_ktime_get_boot_ns() << 8 | u64::from(bpf_get_smp_processor_id() & 0xff) },
        peer: Peer {
            address: Address::UNSPECIFIED,
            slot: SlotRef(0),
            port: 0,
        },
    }
}

/// Whether the workload has room for one more record in this second. A race lets a few more pass.
#[inline(always)]
fn admit(call: &Call, workload: u64) -> bool {
    let number = call.now / SECOND_NS;
    let Some(window) = RATES.get_ptr_mut(workload) else {
        let _ = RATES.insert(workload, Window { number, written: 1 }, 0);
        return true;
    };
    // SAFETY: entries of the map outlive the program's run; their fields are whole words.
    let window = unsafe { &mut *window };
    if window.number != number {
        window.number = number;
        window.written = 0;
    }
    window.written += 1;
    window.written <= u64::from(RECORDS_PER_SECOND)
}

/// `length`, of which LLVM knows that it is no more than `ROOM`, where the verifier sees it: kernel 5.10 forgets how large a number is that lies on the
/// stack meanwhile.
#[inline(always)]
fn capped<const ROOM: usize>(mut length: u64) -> u32 {
    // SAFETY: the instructions change nothing but the register.
    unsafe {
        asm!("if {length} <= {room} goto +1", "{length} = {room}", length = inout(reg) length, room = const ROOM, options(pure, nomem, nostack));
    }
    length as u32
}

/// Writes a record with as much of `buffer` as `ROOM` holds.
#[inline(always)]
fn record<const ROOM: usize>(call: &Call, buffer: u64) {
    let Some(mut entry) = PLAINTEXT.reserve_untyped::<Record<ROOM>>(0) else {
        return count(Counter::RingFull);
    };
    let length = call.total.min(ROOM as u64);
    let start = entry.as_mut_ptr();
    // SAFETY: the header fits, and `length` bytes behind it; only those are read by the agent.
    let read = unsafe {
        (&raw mut (*start).header).write(Header {
            boot_ns: call.now,
            cgroup_id: call.cgroup,
            connection: call.object,
            total: call.total,
            socket: call.socket,
            pid: call.pid,
            thread: call.thread,
            sequence: call.sequence as u32,
            length: length as u16,
            library: call.library,
            kind: call.kind,
            comm: bpf_get_current_comm().unwrap_or_default(),
        });
        let data = (&raw mut (*start).data).cast();
        length == 0
            || bpf_probe_read_user(
                data,
                capped::<ROOM>(length),
                ptr::without_provenance(buffer as usize),
            ) == 0
    };
    if read {
        entry.submit(0);
    } else {
        entry.discard(0);
        count(Counter::Unreadable);
    }
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = PROBE_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the entry is this CPU's own; a program that is preempted in between costs one count at most.
        unsafe { *value += 1 };
    }
}
