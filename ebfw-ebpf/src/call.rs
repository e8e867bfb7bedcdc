//! `cgroup/connect`, `cgroup/sendmsg`, `cgroup/sock_create`: bind a socket to its workload and refuse early what the packet would not survive.

#[cfg(feature = "log")]
use aya_ebpf::programs::SockAddrContext;
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
};
use ebfw_common::{
    abi::{Address, Counter, SlotWord, hook, mode, reason, slot_flag, verdict},
    classify::NO_NAMES,
    packet::protocol,
};

use crate::{
    caller, claim,
    decide::{Decision, Question, Said, decide, passes_as_loopback},
    dns,
    maps::CONFIG,
    reply::{self, Peer},
    report::{self, RateKey, count},
    socket::{self, RAW, SocketState, UNBOUND, note_caller},
    stream,
    workload::{Membership, slot_word},
};

/// `IPPROTO_MPTCP`: its subflows are TCP.
const MPTCP: u32 = 262;

/// A call with an address.
pub struct Call {
    /// The context.
    pub address: *mut bpf_sock_addr,
    /// Where it goes.
    pub destination: Address,
    /// `hook::CONNECT` or `hook::SENDMSG`.
    pub hook: u8,
}

/// `sock_create`: the caller's cgroup is the socket's.
#[inline(always)]
pub fn create(sk: *mut bpf_sock) {
    let slot = match caller::workload() {
        Membership::Of(slot, _) => slot,
        Membership::Pending | Membership::Nobody => UNBOUND,
    };
    // SAFETY: checked against null; entries live until the program ends.
    match unsafe { socket::get_or_create(sk).as_mut() } {
        Some(state) => {
            state.slot = slot;
            // SAFETY: the helper takes the context.
            state.netns = unsafe { bpf_get_netns_cookie(sk.cast()) };
        }
        None => count(Counter::SocketStateFull),
    }
}

/// Whether the call may go on.
#[inline(always)]
pub fn permits(call: &Call) -> bool {
    let Some(config) = CONFIG.get(0) else {
        return false;
    };
    // SAFETY: the context outlives the program's run.
    let (sk, port, number) = unsafe {
        let context = call.address;
        (
            (*context).__bindgen_anon_1.sk,
            u16::from_be((*context).user_port as u16),
            (*context).protocol,
        )
    };
    if sk.is_null() {
        return true;
    }
    // A socket without a state is older than the programs: the caller need not be its creator, so it stays unbound.
    let state = socket::get_or_create(sk);
    // SAFETY: checked against null; entries live until the program ends.
    let Some(state) = (unsafe { state.as_mut() }) else {
        return refuse_stateless(config.mode);
    };
    if call.hook == hook::CONNECT {
        state.connected = 1;
        // What was said on the socket's last connection, and what was decided with it, ends with that.
        if number == u32::from(protocol::TCP) || number == MPTCP {
            state.word = 0;
            stream::forget(sk);
            claim::forget_all(sk);
        }
    }
    if state.netns == 0 {
        // SAFETY: the helper takes the context.
        state.netns = unsafe { bpf_get_netns_cookie(call.address.cast()) };
    }
    note_caller(state);
    // Unbound or pending: the packet decides.
    let Some(word) = slot_word(state.slot) else {
        return true;
    };
    if !word.has(slot_flag::GOVERNED) || config.mode != mode::ENFORCE {
        return true;
    }
    let number = if number == MPTCP {
        protocol::TCP
    } else {
        number as u8
    };
    // SAFETY: not null.
    let socket = unsafe { &*sk };
    let has_port = has_port(socket, number);
    if stays_here(call, word) || (number == protocol::UDP && port == 0) {
        return true;
    }
    if has_port && dns::is_resolver(call.destination, port, number) {
        return true;
    }
    let mut question = Question {
        destination: call.destination,
        port: if has_port { port } else { 0 },
        has_port,
        protocol: number,
        said: Said::unread(number != protocol::TCP),
        names: NO_NAMES,
    };
    let decision = decide(word, state.slot, state.netns, 0, &mut question);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &SockAddrContext::new(call.address),
        "call {} of slot {}: protocol {}, port {}: verdict {}, reason {}, rule {}",
        call.hook,
        state.slot.index(),
        number,
        port,
        decision.verdict,
        decision.reason,
        decision.rule
    );
    if decision.verdict != verdict::DENY || is_reply(call, &question) {
        return true;
    }
    tell(call, state, word, &question, decision);
    false
}

/// Whether the protocol has ports. A raw socket's "port" is no port of the packet.
#[inline(always)]
fn has_port(socket: &bpf_sock, number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP) && socket.type_ != RAW
}

/// Loopback, or the unspecified address, which the kernel takes for loopback in both calls.
#[inline(always)]
fn stays_here(call: &Call, word: SlotWord) -> bool {
    let unspecified =
        call.destination == Address::UNSPECIFIED || call.destination == Address::mapped([0; 4]);
    passes_as_loopback(word, unspecified || call.destination.is_loopback())
}

#[inline(always)]
fn is_reply(call: &Call, question: &Question) -> bool {
    let peer = Peer {
        cookie: cookie(call),
        address: question.destination,
        port: u32::from(question.port),
        protocol: u32::from(question.protocol),
    };
    call.hook == hook::SENDMSG
        && question.protocol == protocol::UDP
        && question.has_port
        && reply::is_reply(&peer, None)
}

#[inline(always)]
fn cookie(call: &Call) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(call.address.cast()) }
}

/// A governed connect that cannot be marked must not happen; whose socket it is only the caller tells.
#[inline(always)]
fn refuse_stateless(mode: u32) -> bool {
    count(Counter::SocketStateFull);
    match caller::workload() {
        Membership::Of(_, word) if !word.has(slot_flag::GOVERNED) => true,
        _ => mode != mode::ENFORCE,
    }
}

#[inline(always)]
fn tell(call: &Call, state: &SocketState, word: SlotWord, question: &Question, decision: Decision) {
    count(Counter::DecisionDeny);
    count(Counter::CallRefused);
    if decision.reason == reason::TABLES {
        count(Counter::TableError);
    }
    let key = RateKey {
        slot: state.slot.index(),
        port: question.port,
        protocol: question.protocol,
        verdict: decision.verdict,
        destination: question.destination,
    };
    let limit = if question.protocol == protocol::TCP {
        report::CONNECTIONS
    } else {
        report::DATAGRAMS
    };
    report::event(&key, limit, |event| {
        event.cgroup_id = caller::cgroup();
        event.cookie = cookie(call);
        event.slot_word = word.0;
        event.source = Address::UNSPECIFIED;
        event.destination = question.destination;
        event.pid = state.pid;
        event.source_port = 0;
        event.destination_port = question.port;
        event.rule = decision.rule;
        event.protocol = question.protocol;
        event.has_ports = u8::from(question.has_port);
        event.hook = call.hook;
        event.verdict = decision.verdict;
        event.reason = decision.reason;
        event.payload = decision.payload;
        event.mode = mode::ENFORCE;
        event.comm = state.comm;
    });
}
