//! Denies requests before they are encrypted: reads what a process gives to its TLS library by the reader of requests in clear text, and judges each
//! by the ruleset of the workload to which the connection's socket belongs.
//!
//! What was read may deny, never allow: whatever cannot be read or judged here goes its way, and stays what it is to the firewall: opaque.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_tail_call},
    },
    programs::ProbeContext,
};
use ebfw_common::{
    abi::{SlotWord, mode, reason, slot_flag, verdict},
    classify::NO_NAMES,
    packet::protocol,
    plaintext::Refusal,
    request::MAX_METHOD,
    stream::{Step, flag},
};

use crate::{
    judge::{Decision, Question, Said, claim, judge, request},
    maps::{CONNECTIONS, ConnectionKey, FIREWALL, JUDGES, REFUSED, WRITES, Write},
    reader::{Progress, WINDOW, ebfw_stream},
    stream::{self, Context, followed, load},
    verifier::masked,
    words::{ebfw_claim_class, ebfw_request},
    workload::slot_word,
};

/// Requests that are judged in one write.
const HEADS: u32 = 64;
/// A longer write is not read.
const MAX_WRITE: u64 = 1 << 30;

/// Goes on with [`write`], a program of its own, since it is too long to be part of each probe.
#[inline(always)]
pub fn go_on(context: &ProbeContext, key: &ConnectionKey, buffer: u64, total: u64) {
    if is_noted(key, buffer, total) {
        // SAFETY: the helper takes the context and the map. Where it succeeds it does not return, and nothing here waits to be dropped.
        unsafe { bpf_tail_call(context.as_ptr(), (&raw const JUDGES).cast_mut().cast(), 0) };
    }
}

/// Notes what the calling thread is about to write. A function of its own for its stack.
#[inline(never)]
fn is_noted(key: &ConnectionKey, buffer: u64, total: u64) -> bool {
    let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
        return false;
    };
    let write = Write {
        // SAFETY: entries of the map outlive the program's run.
        connection: unsafe { *connection },
        buffer,
        total,
    };
    WRITES.insert(bpf_get_current_pid_tgid(), write, 0).is_ok()
}

/// Reads what the calling thread is about to write, and refuses its socket if a request in it is denied.
#[inline(always)]
pub fn write() {
    let Some(write) = WRITES.get_ptr_mut(bpf_get_current_pid_tgid()) else {
        return;
    };
    // SAFETY: entries of the map outlive the program's run, and only the calling thread uses this one.
    let write = unsafe { *write };
    let id = write.connection.id;
    let word = slot_word(write.connection.peer.slot).unwrap_or(SlotWord(0));
    let reads = FIREWALL
        .get(0)
        .is_some_and(|config| config.mode == mode::ENFORCE)
        && word.has(slot_flag::GOVERNED)
        && (word.has(slot_flag::REQUESTS) || word.has(slot_flag::NAMES))
        && write.total <= MAX_WRITE;
    if !reads {
        if let Some(followed) = followed(id) {
            followed.lost = 1;
        }
        return;
    }
    let Some(followed) = stream::follow(id) else {
        return;
    };
    followed.buffer = write.buffer;
    followed.word = word.0;
    followed.socket = write.connection.socket;
    followed.peer = write.connection.peer;
    if ebfw_converse(id, write.total as u32) != 0 {
        refuse(write.connection.socket);
    }
}

/// Reads a write of `total` bytes; 1 where a request in it is denied.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_converse(id: Context, total: u32) -> u32 {
    let begins = ebfw_begins(id, total) != 0;
    let Some(followed) = followed(id) else {
        return 0;
    };
    if followed.lost != 0 {
        if !begins {
            return 0;
        }
        followed.lost = 0;
        stream::restart(followed);
    }
    let mut at = 0;
    // Where a write begins with a request and what was read before does not go on with that, the write before was another attempt at a part of
    // it, or was not sent whole: libraries tell their callers how much they have taken only when the call is over.
    let mut anew = begins && followed.stream.until_head() != Some(0);
    for _ in 0..HEADS {
        if at >= total {
            return 0;
        }
        let progress = Progress(ebfw_stream(id, at, total));
        match progress.step() {
            Step::More => at = progress.at(),
            Step::Head => {
                if ebfw_is_denied(id) != 0 {
                    return 1;
                }
                at = progress.at();
                anew = false;
            }
            Step::Malformed if anew => {
                ebfw_restart(id);
                at = 0;
                anew = false;
            }
            Step::Malformed if begins && at == 0 => return ebfw_give_up(id, 1),
            _ => return ebfw_give_up(id, 0),
        }
    }
    ebfw_give_up(id, u32::from(begins))
}

/// Whether a write of `total` bytes begins as a request does: a method in capitals, a space, and a target.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_begins(id: Context, total: u32) -> u32 {
    let Some(followed) = followed(id) else {
        return 0;
    };
    let length = if total < WINDOW { total } else { WINDOW };
    if length < 4 || !load(id, followed, 0, length) {
        return 0;
    }
    // SAFETY: the mask keeps to the array.
    let byte = |at: u32| unsafe { *followed.window.get_unchecked(masked::<{ WINDOW - 1 }>(at)) };
    for at in 0..MAX_METHOD as u32 + 1 {
        if at + 1 >= length {
            return 0;
        }
        let letter = byte(at);
        if letter == b' ' {
            return u32::from(at > 0 && matches!(byte(at + 1), b'/' | b'h' | b'*'));
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
    if begun == 0 || !followed.word().has(slot_flag::REQUESTS) {
        return 0;
    }
    let said = Said {
        request: request::PENDING,
        ..Said::UNREAD
    };
    u32::from(decision(id, said).verdict == verdict::HELD)
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
        let asked = ebfw_request(id, word.instance());
        said.request = asked as u32 & 0xff;
        said.method = (asked >> 16) as u32 & 0xffff;
        said.path = (asked >> 32) as u32;
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
