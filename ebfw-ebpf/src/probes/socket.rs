//! Which socket a connection has: the one on which the thread that gave plaintext to its library sends the record that fits.
//!
//! What is asked of a packet before it counts: a thread holds the socket, so that it is the current one that sends, and no softirq above
//! it; the record's type and length are those that the write leads to; and of all that this thread has under way only one
//! connection fits. Anything less, and the socket stays unknown.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_sk_fullsock,
        bpf_skb_cgroup_id, bpf_skb_load_bytes,
    },
};
use ebfw_common::{
    abi::{Address, SlotRef, slot_flag},
    plaintext::{Counter, Header, Socket, fits, kind, record},
};

use crate::{
    capture::{count, unknown},
    maps::{
        CONFIG, CONNECTIONS, Connection, ConnectionKey, NOTES, Owner, PLAINTEXT, Peer,
        SOCKET_OWNERS, THREADS, Thread,
    },
    stream,
    thread::{self, EITHER, FRESH_NS},
    workload::{self, Membership, UNBOUND},
};

/// Records that are looked at in one packet: the end of a handshake may stand before the first data.
const RECORDS: u32 = 8;
const TCP: u32 = 6;
/// `SOCK_STREAM` of `bpf_sock.type`.
const STREAM: u32 = 1;
/// `AF_INET` of `bpf_sock.family`.
const AF_INET: u32 = 2;
/// `ETH_P_IP` as it stands in `__sk_buff.protocol`.
const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;

/// What is told of a socket.
#[repr(C)]
struct Told {
    header: Header,
    socket: Socket,
}

/// What was found of a packet's socket.
pub enum Found {
    /// Nothing new.
    Nothing,
    /// Whose it is.
    Bound,
    /// Likewise, and a request has waited for it.
    Waited,
}

/// Looks whose socket the packet's is. What is found is still to be told.
#[inline(always)]
pub fn find(skb: *mut __sk_buff) -> Found {
    let Some(thread) = THREADS.get_ptr_mut(thread::current()) else {
        return Found::Nothing;
    };
    // What follows is dear beside this, and most threads that have ever written wait for no socket any more.
    // SAFETY: the entry outlives the program's run, and is this thread's own.
    let own = unsafe { &*thread };
    if !thread::waits(own) || !thread::is_current(own) {
        return Found::Nothing;
    }
    let Some(socket) = full(skb) else {
        return Found::Nothing;
    };
    // SAFETY: the verifier lets a full socket's fields be read.
    if unsafe { (*socket).protocol != TCP || (*socket).type_ != STREAM } || !is_held(socket) {
        return Found::Nothing;
    }
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let Some(payload) = payload(skb) else {
        return Found::Nothing;
    };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: the entry outlives the program's run, and is this thread's own.
    let thread = unsafe { &mut *thread };
    let fitting = fitting(skb, payload, thread, now);
    let mut found = 0;
    let mut library = 0u64;
    for (place, note) in thread.notes.iter_mut().enumerate() {
        if fitting == 1 << place {
            found = note.object;
            library = note.library.into();
            note.object = 0;
            note.at_ns = 0;
        }
    }
    // The same object in another process is the same connection: that was forked with it.
    let is_taken = SOCKET_OWNERS.get_ptr_mut(cookie).is_some_and(|owner| {
        // SAFETY: entries of the map outlive the program's run.
        unsafe { (*owner).key.object != found }
    });
    if found == 0 || now - thread.crowded_ns < FRESH_NS || is_taken {
        return Found::Nothing;
    }
    let key = ConnectionKey {
        object: found,
        pid: thread.pid,
        direction: 0,
    };
    let slot = match workload::of_skb(skb) {
        // The agent's own requests are nobody's business.
        Membership::Of(slot, word) if !word.has(slot_flag::SILENT) => slot,
        _ => UNBOUND,
    };
    bind(socket, cookie, &Owner { key, library }, slot)
}

/// The packet's socket, where it is a full one.
#[inline(always)]
pub fn full(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the context outlives the program's run, and the helper takes a socket that is not null.
    let socket = unsafe {
        let socket = (*skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return None;
        }
        bpf_sk_fullsock(socket)
    };
    (!socket.is_null()).then_some(socket)
}

/// The head of what [`tell`] tells of the packet's socket: no connection's, and nobody's.
#[inline(always)]
pub fn header(skb: *mut __sk_buff, cookie: u64, kind: u8, now: u64) -> Header {
    Header {
        boot_ns: now,
        // SAFETY: the helper takes the context.
        cgroup_id: unsafe { bpf_skb_cgroup_id(skb) },
        connection: 0,
        total: size_of::<Socket>() as u64,
        socket: cookie,
        pid: 0,
        thread: 0,
        sequence: 0,
        length: size_of::<Socket>() as u16,
        library: 0,
        kind,
        comm: [0; 16],
    }
}

/// Which of a thread's notes fit a record of the packet: bit *i* for note *i*.
#[inline(always)]
fn fitting(skb: *mut __sk_buff, payload: u32, thread: &mut Thread, now: u64) -> u64 {
    let bits = &raw mut thread.fitting;
    // SAFETY: a word of the thread's own entry.
    unsafe { bits.write_volatile(0) };
    let mut at = payload;
    for _ in 0..RECORDS {
        let mut head = [0u8; 8];
        // SAFETY: six writable bytes; the helper checks the packet's side.
        if unsafe { bpf_skb_load_bytes(skb.cast(), at, head.as_mut_ptr().cast(), 6) } != 0
            || head[1] != 3
        {
            break;
        }
        let length = u32::from(u16::from_be_bytes([head[3], head[4]]));
        let is_hello = head[0] == record::HANDSHAKE && head[5] == 1;
        if head[0] == record::DATA || is_hello {
            for place in 0..NOTES {
                let note = &thread.notes[place];
                if note.object != 0
                    && (note.record == head[0] || note.record == EITHER)
                    && now - note.at_ns < FRESH_NS
                    && (is_hello || fits(note.library, note.total, length))
                {
                    // SAFETY: as above.
                    unsafe { bits.write_volatile(bits.read_volatile() | 1 << place) };
                }
            }
        }
        at += 5 + length;
    }
    // SAFETY: as above.
    unsafe { bits.read_volatile() }
}

/// Whether a thread holds the socket: then the packet is sent by it, here.
#[inline(always)]
fn is_held(socket: *mut bpf_sock) -> bool {
    let Some(config) = CONFIG.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the agent writes it once, whole.
    let offset = unsafe { (&raw const (*config).owned).read_volatile() };
    if offset == 0 {
        return false;
    }
    let mut address = 0u64;
    let mut owned = 0u32;
    // SAFETY: the helper reads any kernel memory and fails where there is none; it writes as much as the numbers have. The verifier
    // forbids arithmetic on sockets, so the address makes its way through memory.
    unsafe {
        bpf_probe_read_kernel((&raw mut address).cast(), 8, (&raw const socket).cast()) == 0
            && bpf_probe_read_kernel(
                (&raw mut owned).cast(),
                4,
                ptr::without_provenance((address + u64::from(offset)) as usize),
            ) == 0
            && owned != 0
    }
}

/// Where the payload of a TCP segment begins; `None` behind IPv6 extension headers.
#[inline(always)]
pub fn payload(skb: *mut __sk_buff) -> Option<u32> {
    let byte = |at: u32| {
        let mut byte = 0u8;
        // SAFETY: one writable byte; the helper checks the packet's side.
        let result = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut byte).cast(), 1) };
        (result == 0).then_some(u32::from(byte))
    };
    // SAFETY: the context outlives the program's run.
    let tcp = if unsafe { (*skb).protocol } == ETH_P_IP {
        (byte(0)? & 15) * 4
    } else if byte(6)? == TCP {
        40
    } else {
        return None;
    };
    Some(tcp + (byte(tcp + 12)? >> 4) * 4)
}

/// Notes whose socket it is; see [`find`].
#[inline(always)]
fn bind(socket: *mut bpf_sock, cookie: u64, owner: &Owner, slot: SlotRef) -> Found {
    let peer = peer(socket, slot);
    let _ = SOCKET_OWNERS.insert(cookie, owner, 0);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(owner.key) {
        // SAFETY: entries of the map are whole words that outlive the program's run.
        let followed = unsafe {
            (&raw mut (*connection).peer).write_volatile(peer);
            (&raw mut (*connection).socket).write_volatile(cookie);
            stream::followed((&raw const (*connection).id).read_volatile())
        };
        if followed.is_some_and(|followed| followed.waiting != stream::waiting::NOTHING) {
            return Found::Waited;
        }
    } else {
        let connection = Connection {
            peer,
            ..unknown(cookie)
        };
        let _ = CONNECTIONS.insert(owner.key, connection, 0);
    }
    Found::Bound
}

/// Tells the agent whose socket the packet's is. Where the ring has no room, it is nobody's again.
#[inline(always)]
pub fn tell_owner(skb: *mut __sk_buff) {
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let (Some(socket), Some(owner)) = (full(skb), SOCKET_OWNERS.get_ptr_mut(cookie)) else {
        return;
    };
    // SAFETY: entries of the map outlive the program's run.
    let Owner { key, library } = unsafe { *owner };
    let header = Header {
        connection: key.object,
        pid: key.pid,
        library: library as u8,
        // SAFETY: the helper has no arguments.
        ..header(skb, cookie, kind::SOCKET, unsafe {
            bpf_ktime_get_boot_ns()
        })
    };
    if tell(socket, &header) {
        return;
    }
    let _ = SOCKET_OWNERS.remove(cookie);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: as above, and a whole word.
        unsafe { (&raw mut (*connection).socket).write_volatile(0) };
    }
}

/// Where a full socket of the workload in `slot` is connected to.
#[inline(always)]
fn peer(socket: *mut bpf_sock, slot: SlotRef) -> Peer {
    // As in `tell`.
    // SAFETY: the verifier lets a full socket's fields be read, word by word.
    let (family, address_v4, address_v6, port) = unsafe {
        (
            (&raw const (*socket).family).read_volatile(),
            (&raw const (*socket).dst_ip4).read_volatile(),
            v6(&raw const (*socket).dst_ip6),
            (&raw const (*socket).dst_port).read_volatile(),
        )
    };
    Peer {
        address: if family == AF_INET {
            v4(address_v4)
        } else {
            address_v6
        },
        slot,
        port: u16::from_be(port).into(),
    }
}

/// Tells the agent of a full socket; `false` where the ring has no room.
#[inline(always)]
pub fn tell(socket: *mut bpf_sock, header: &Header) -> bool {
    let Some(mut entry) = PLAINTEXT.reserve_untyped::<Told>(0) else {
        count(Counter::RingFull);
        return false;
    };
    let cookie = header.socket;
    let told = entry.as_mut_ptr();
    // All is read before the family is asked, or the compiler would choose between addresses of fields, which the verifier forbids.
    // SAFETY: the verifier lets a full socket's fields be read, word by word; the entry is as large as what is written.
    unsafe {
        let family = (&raw const (*socket).family).read_volatile();
        let source_v4 = (&raw const (*socket).src_ip4).read_volatile();
        let source_v6 = v6(&raw const (*socket).src_ip6);
        let destination_v4 = (&raw const (*socket).dst_ip4).read_volatile();
        let destination_v6 = v6(&raw const (*socket).dst_ip6);
        let source_port = (&raw const (*socket).src_port).read_volatile();
        let destination_port = (&raw const (*socket).dst_port).read_volatile();
        let is_v4 = family == AF_INET;
        (&raw mut (*told).header).write(*header);
        (&raw mut (*told).socket).write(Socket {
            cookie,
            cgroup_id: header.cgroup_id,
            source: if is_v4 { v4(source_v4) } else { source_v6 },
            destination: if is_v4 {
                v4(destination_v4)
            } else {
                destination_v6
            },
            source_port: source_port as u16,
            destination_port: u16::from_be(destination_port),
            family: if is_v4 { 4 } else { 6 },
        });
    }
    entry.submit(0);
    true
}

#[inline(always)]
fn v4(word: u32) -> Address {
    Address::mapped(word.to_ne_bytes())
}

/// # Safety
///
/// The words are those of a full socket.
#[inline(always)]
unsafe fn v6(words: *const [u32; 4]) -> Address {
    let words = words.cast::<u32>();
    // SAFETY: the caller's promise; each word is read by itself, as the verifier wants it.
    unsafe {
        Address([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}
