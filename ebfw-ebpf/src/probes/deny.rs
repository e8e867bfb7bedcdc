//! Denies requests before they are encrypted: reads what a process gives to its TLS library by the reader of requests in clear text, and judges each
//! by the ruleset of the workload to which the connection's socket belongs.
//!
//! What was read may deny, never allow: whatever cannot be read or judged here goes its way, and stays what it is to the firewall: opaque.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_tail_call},
    },
    programs::ProbeContext,
};
use ebfw_common::{
    abi::{SlotWord, mode, reason, slot_flag, verdict},
    classify::NO_NAMES,
    packet::protocol,
    plaintext::Refusal,
    request::MAX_METHOD,
    stream::{Step, flag, protocol as stream_protocol, why},
};

use crate::{
    judge::{Decision, Question, Said, claim, judge},
    maps::{
        CONNECTIONS, Connection, ConnectionKey, FIREWALL, JUDGES, PACKET_JUDGES, Peer, REFUSED,
        SOCKET_OWNERS, TELLERS, WRITES, Write,
    },
    reader::{Progress, WINDOW, ebfw_stream},
    stream::{self, Context, Followed, followed, load, waiting},
    verifier::masked,
    words::{self, ebfw_claim_class},
    workload::slot_word,
};

/// Requests that are judged in one write.
const HEADS: u32 = 64;
/// A longer write is not read.
const MAX_WRITE: u64 = 1 << 30;

/// What a process hands over. Whole words, since old verifiers find fault with bytes between fields.
#[repr(C)]
pub struct Handed {
    pub buffer: u64,
    pub total: u64,
    pub sequence: u64,
    pub library: u64,
}

/// Goes on with [`write`], a program of its own, since it is too long to be part of each probe, if anything asks for it. Returns where nothing does.
#[inline(always)]
pub fn go_on(context: &ProbeContext, key: &ConnectionKey, handed: &Handed) {
    if is_noted(key, handed) {
        // SAFETY: the helper takes the context and the map. Where it succeeds it does not return, and nothing here waits to be dropped.
        unsafe { bpf_tail_call(context.as_ptr(), (&raw const JUDGES).cast_mut().cast(), 0) };
    }
}

/// Goes on with what tells of the write that was judged.
#[inline(always)]
pub fn go_on_telling(context: &ProbeContext) {
    // SAFETY: as in `go_on`.
    unsafe { bpf_tail_call(context.as_ptr(), (&raw const TELLERS).cast_mut().cast(), 0) };
}

/// Notes what the calling thread is about to write, if anything asks for it. A function of its own for its stack.
#[inline(never)]
fn is_noted(key: &ConnectionKey, handed: &Handed) -> bool {
    let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
        return false;
    };
    let write = Write {
        // SAFETY: entries of the map outlive the program's run.
        connection: unsafe { *connection },
        object: key.object,
        buffer: handed.buffer,
        total: handed.total,
        sequence: handed.sequence,
        library: handed.library,
    };
    let Connection {
        socket, id, peer, ..
    } = &write.connection;
    if !enforces() || *socket != 0 && !asks(word_of(peer)) || handed.total > MAX_WRITE {
        if let Some(followed) = followed(*id) {
            followed.lost = 1;
        }
        return false;
    }
    WRITES.insert(bpf_get_current_pid_tgid(), write, 0).is_ok()
}

/// Reads what the calling thread is about to write, and refuses its socket if a request in it is denied.
#[inline(always)]
pub fn write() {
    let Some(write) = WRITES.get_ptr_mut(bpf_get_current_pid_tgid()) else {
        return;
    };
    // SAFETY: entries of the map outlive the program's run, and only the calling thread uses this one. By reference, for the stack of kernel 5.10.
    let write = unsafe { &*write };
    let id = write.connection.id;
    let Some(followed) = stream::follow(id) else {
        return;
    };
    followed.buffer = write.buffer;
    followed.word = word_of(&write.connection.peer).0;
    followed.socket = write.connection.socket;
    followed.peer = write.connection.peer;
    // Before its first write a socket is known by the ClientHello alone, so that nothing can have been said on it before.
    let first = u32::from(write.sequence == 0 && write.connection.socket != 0);
    if ebfw_converse(id, write.total as u32, first) != 0 {
        refuse(write.connection.socket);
    }
}

/// The word of the workload that made a socket; 0: nothing governs it, or it is not known.
#[inline(always)]
fn word_of(peer: &Peer) -> SlotWord {
    slot_word(peer.slot).unwrap_or(SlotWord(0))
}

/// Whether a Deny is carried out.
#[inline(always)]
fn enforces() -> bool {
    FIREWALL
        .get(0)
        .is_some_and(|config| config.mode == mode::ENFORCE)
}

/// Whether a ruleset asks for what requests say.
#[inline(always)]
fn asks(word: SlotWord) -> bool {
    word.has(slot_flag::GOVERNED) && (word.has(slot_flag::REQUESTS) || word.has(slot_flag::NAMES))
}

/// Goes on with [`lets_out`], a program of its own as [`write`].
#[inline(always)]
pub fn go_on_with_packet(skb: *mut __sk_buff) {
    // SAFETY: as in `go_on`.
    unsafe { bpf_tail_call(skb.cast(), (&raw const PACKET_JUDGES).cast_mut().cast(), 0) };
}

/// Judges the request that was written last on the connection of the packet's socket, which was not known by then.
#[inline(always)]
pub fn lets_out(skb: *mut __sk_buff) -> bool {
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let Some(owner) = SOCKET_OWNERS.get_ptr_mut(cookie) else {
        return true;
    };
    // SAFETY: entries of the map outlive the program's run.
    let Some(connection) = CONNECTIONS.get_ptr_mut(unsafe { (*owner).key }) else {
        return true;
    };
    // SAFETY: likewise.
    let Connection { id, peer, .. } = unsafe { *connection };
    let Some(followed) = followed(id) else {
        return true;
    };
    let word = word_of(&peer);
    let what = followed.waiting;
    followed.waiting = waiting::NOTHING;
    followed.word = word.0;
    followed.socket = cookie;
    followed.peer = peer;
    if !enforces() || !asks(word) {
        return true;
    }
    let is_denied = if what == waiting::MALFORMED {
        ebfw_is_waited_for(id)
    } else {
        ebfw_is_denied(id)
    };
    if is_denied == 0 {
        return true;
    }
    refuse(cookie);
    false
}

/// Reads a write of `total` bytes; 1 where a request in it is denied. `first`: 1 where it is sure to be the first one on its connection.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_converse(id: Context, total: u32, first: u32) -> u32 {
    let begins = ebfw_begins(id, total);
    let Some(followed) = followed(id) else {
        return 0;
    };
    // Whether a write that seems to begin with a request does not go on with what was read before: the write before was another attempt at a
    // part of it, or was not sent whole. Libraries tell their callers how much they have taken only when the call is over.
    let mut anew = false;
    // Whether a request is sure to begin with the write.
    let mut begun = 0;
    if followed.lost != 0 {
        if begins & begin::TARGET == 0 {
            return 0;
        }
        followed.lost = 0;
        stream::restart(followed);
        begun = 1;
    } else if followed.stream.protocol() == stream_protocol::HTTP2 {
        if begins & begin::TARGET != 0 {
            // No frame begins so: the first write was another attempt.
            stream::restart(followed);
        } else if is_again(followed, total) {
            followed.lost = 1;
            return 0;
        }
    } else if followed.stream.until_head() == Some(0) {
        begun = u32::from(begins != 0) | first;
    } else {
        anew = begins & begin::TARGET != 0;
    }
    let mut at = 0;
    for _ in 0..HEADS {
        if at >= total {
            return 0;
        }
        let progress = Progress(ebfw_stream(id, at, total));
        match progress.step() {
            Step::More => at = progress.at(),
            Step::Head => {
                if ebfw_meets(id) != 0 {
                    return 1;
                }
                at = progress.at();
                anew = false;
                begun = 0;
            }
            Step::Malformed if anew => {
                ebfw_restart(id);
                at = 0;
                anew = false;
                begun = 1;
            }
            Step::Malformed => return ebfw_give_up(id, begun),
            _ => return ebfw_give_up(id, 0),
        }
    }
    ebfw_give_up(id, 0)
}

/// Whether a write of HTTP/2 is as the last one was. That may have been another attempt, of which nothing was taken: read twice, its headers would
/// stand in the tables twice, and all others be misread. Who tries again hands over whole frames; what is shorter than a frame's head is not, and equal ones
/// are what a request written byte by byte is made of.
#[inline(always)]
fn is_again(followed: &mut Followed, total: u32) -> bool {
    let mut differs =
        (followed.before_total ^ u64::from(total)) | (followed.before_buffer ^ followed.buffer);
    for place in 0..WINDOW as usize / 8 {
        let [a, b, c, d, e, f, g, h] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|byte| followed.window[place * 8 + byte]);
        let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        differs |= word ^ followed.before[place];
        followed.before[place] = word;
    }
    followed.before_total = total.into();
    followed.before_buffer = followed.buffer;
    (differs == 0) & (total >= FRAME_HEAD)
}

/// Bytes of a frame without content in HTTP/2.
const FRAME_HEAD: u32 = 9;

/// How a write begins.
mod begin {
    /// With a word in capitals and a blank.
    pub(super) const METHOD: u32 = 1;
    /// And with what a target begins with.
    pub(super) const TARGET: u32 = 2;
}

/// Whether the request that was read last is denied. Where the socket is not known yet, it waits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_meets(id: Context) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    if followed.socket == 0 {
        if followed.waiting == waiting::NOTHING {
            followed.waiting = waiting::REQUEST;
        }
        return 0;
    }
    ebfw_is_denied(id)
}

/// Whether a write of `total` bytes begins as a request does: see [`begin`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_begins(id: Context, total: u32) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    let length = if total < WINDOW { total } else { WINDOW };
    let words = followed.window.as_mut_ptr().cast::<u64>();
    for word in 0..WINDOW as usize / 8 {
        // SAFETY: as many words; the window lies behind a word. By itself each, since a call to clear memory is a function to the verifier.
        unsafe { words.add(word).write_volatile(0) };
    }
    if !load(id, followed, 0, length) {
        return 0;
    }
    // SAFETY: the mask keeps to the array.
    let byte = |at: u32| unsafe { *followed.window.get_unchecked(masked::<{ WINDOW - 1 }>(at)) };
    for at in 0..MAX_METHOD as u32 + 1 {
        if at + 1 >= length {
            return 0;
        }
        let letter = byte(at);
        if (letter == b' ') | (letter == b'\t') {
            let target = matches!(byte(at + 1), b'/' | b'h' | b'*');
            return u32::from(at > 0) * (begin::METHOD | (u32::from(target) * begin::TARGET));
        }
        if !letter.is_ascii_uppercase() {
            return 0;
        }
    }
    0
}

/// See [`stream::restart`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_restart(id: Context) -> u32 {
    if let Some(followed) = followed(id) {
        stream::restart(followed);
    }
    0
}

/// Reads no more of the connection up to a write that begins with a request. 1 where a request was `begun` that a server may read in another way
/// than the reader, and a rule waits for requests.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_give_up(id: Context, begun: u32) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    followed.lost = 1;
    // In HTTP/2 that nobody sees where a frame begins is no sign of a request; that its path or host can be read in two ways is.
    let is_http2 = followed.stream.protocol() == stream_protocol::HTTP2;
    let is_two_faced = is_http2 && matches!(followed.stream.why(), why::TARGET | why::TWO_HOSTS);
    if begun == 0 && !is_two_faced {
        return 0;
    }
    if followed.socket == 0 {
        followed.waiting = waiting::MALFORMED;
        return 0;
    }
    ebfw_is_waited_for(id)
}

/// Whether a rule waits for what requests say: then one is denied of which that is not clear.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_is_waited_for(id: Context) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    if !followed.word().has(slot_flag::REQUESTS) {
        return 0;
    }
    // Whatever names are resolved, it is denied too: rules that allow by one are passed over here, and where they are not it is ambiguous there.
    u32::from(decision(id, Said::NOTHING).verdict == verdict::HELD)
}

/// Whether the request that was read last is denied: with its host as the only name of the destination, so that it is with any.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_is_denied(id: Context) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    let word = followed.word();
    let facts = followed.stream.facts();
    let mut said = Said::UNREAD;
    if word.has(slot_flag::NAMES) {
        if !facts.has(flag::NAME) {
            return 0;
        }
        said.claim = claim::RESOLVED;
        said.claimed = ebfw_claim_class(id, word.instance());
    }
    if word.has(slot_flag::REQUESTS) {
        words::ask(&mut said, id, word.instance());
    }
    let decision = decision(id, said);
    let by_rules = matches!(decision.reason, reason::RULE | reason::DEFAULT);
    u32::from(decision.verdict == verdict::DENY && by_rules)
}

#[inline(always)]
fn decision(id: Context, said: Said) -> Decision {
    let Some(followed) = followed(id) else {
        return Decision::because(verdict::ALLOW, reason::TABLES);
    };
    let question = Question {
        destination: followed.peer.address,
        port: followed.peer.port as u16,
        has_port: true,
        protocol: protocol::TCP,
        said,
        names: NO_NAMES,
    };
    judge(followed.word(), &question)
}

/// From now on nothing leaves on the socket.
#[inline(always)]
fn refuse(socket: u64) {
    let refusal = Refusal {
        // SAFETY: the helper has no arguments.
        last_ns: unsafe { bpf_ktime_get_boot_ns() },
        told_ns: 0,
    };
    // Full: the agent has the socket destroyed, after the request has left.
    let _ = REFUSED.insert(black_box(socket), refusal, 0);
}
