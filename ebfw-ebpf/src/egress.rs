//! `cgroup_skb/egress`: the last word on every packet that a socket of the host sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
#[cfg(feature = "log")]
use aya_ebpf::programs::SkBuffContext;
use ebfw_common::{
    abi::{
        Address, Counter, SHARED, SlotRef, SlotWord, hook, mode, pending, reason, request,
        slot_flag, verdict,
    },
    classify::NO_NAMES,
    packet::{Malformed, Packet, Source as _, Transport, Upper, protocol},
};

use crate::{
    cached,
    decide::{Decision, Question, Said, decide, passes_as_loopback},
    dns::{self, Heard},
    follow, held,
    maps::CONFIG,
    reply::{self, Peer},
    report::{self, RateKey, count},
    skb::{Parsed, Skb},
    socket::{self, ANEW, LISTEN, READ, STREAM, SocketState, UNBOUND, flow_key},
    verifier::{forget, masked},
    workload::{self, Membership, slot_word},
};

/// The loopback device of every network namespace.
pub const LOOPBACK: u32 = 1;
/// `BPF_TCP_SYN_SENT` of `bpf_sock.state`.
const SYN_SENT: u32 = 2;

/// What becomes of the packet; the values are the program's return values (include/linux/bpf-cgroup.h, `BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY`).
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// Dropped; a sender that waits for it sees `EPERM`.
    Drop = 0,
    /// It goes out.
    Pass = 1,
    /// Dropped as if it was lost on the way.
    Lose = 2,
    /// Not known before its payload is read. Never returned to the kernel.
    Read = 3,
}

/// The workload, and the state of the socket if there is one.
#[inline(always)]
fn membership(skb: *mut __sk_buff, state: *mut SocketState) -> Membership {
    // SAFETY: checked against null; entries live until the program ends.
    let Some(state) = (unsafe { state.as_mut() }) else {
        return workload::of_skb(skb);
    };
    if let Some(word) = slot_word(state.slot) {
        return Membership::Of(state.slot, word);
    }
    let found = workload::of_skb(skb);
    if let Membership::Of(slot, _) = found {
        state.slot = slot;
    }
    found
}

/// The program. Without `CACHED` no verdict is kept or used, for benchmarks.
#[inline(always)]
pub fn egress<const CACHED: bool>(context: *mut __sk_buff) -> Fate {
    let skb = Skb(context);
    let state = socket::find(skb.any_socket());
    if CACHED
        // SAFETY: both are checked against null; entries live until the program ends.
        && let (Some(sk), Some(state)) = (unsafe { (skb.any_socket().as_ref(), state.as_ref()) })
        && cached::passes(skb, sk, state)
    {
        return Fate::Pass;
    }
    match long_way::<CACHED>(skb) {
        Fate::Read => follow::go_on(skb),
        fate => fate,
    }
}

/// All that the short way does not know.
#[inline(always)]
fn long_way<const CACHED: bool>(skb: Skb) -> Fate {
    let context = skb.0;
    let Some(config) = CONFIG.get(0) else {
        return Fate::Drop;
    };
    let sk = skb.socket();
    let state = socket::find(sk);
    let (slot, word) = match membership(context, state) {
        Membership::Of(slot, word) => (slot, word),
        Membership::Nobody => return Fate::Pass,
        Membership::Pending if config.pending == pending::ALLOW => return Fate::Pass,
        Membership::Pending => return lose_pending(skb),
    };
    if !word.has(slot_flag::GOVERNED) && word.has(slot_flag::SILENT) {
        return Fate::Pass;
    }
    let mut parsed = skb.parse();
    if let Parsed::Malformed(why) = parsed {
        if !word.has(slot_flag::GOVERNED) {
            return Fate::Pass;
        }
        // In the same place: there is no room for both.
        parsed = Parsed::Packet(NOWHERE);
        return match &parsed {
            Parsed::Packet(packet) => {
                drop_malformed(skb, sk, state, slot, word, config.mode, packet, why)
            }
            Parsed::Malformed(_) => Fate::Drop,
        };
    }
    let Parsed::Packet(packet) = &parsed else {
        return Fate::Drop;
    };
    // SAFETY: checked against null.
    if let Some(socket) = unsafe { sk.as_ref() }
        && is_reply(skb, socket, sk, state, (slot, word), packet)
    {
        count(Counter::Reply);
        return Fate::Pass;
    }
    judge::<CACHED>(skb, sk, state, slot, word, config.mode, packet)
}

/// Whether the packet belongs to a connection that the other side opened, or is the kernel's own answer.
#[inline(always)]
fn is_reply(
    skb: Skb,
    socket: &bpf_sock,
    sk: *mut bpf_sock,
    state: *mut SocketState,
    (slot, word): (SlotRef, SlotWord),
    packet: &Packet,
) -> bool {
    let is_tcp = packet.upper.transport == Transport::Tcp && socket.type_ == STREAM;
    if is_tcp
        && socket.state == LISTEN
        && word.has(slot_flag::GOVERNED)
        && !reply::is_asked(skb, packet)
    {
        return false;
    }
    // SAFETY: checked against null; entries live until the program ends.
    match unsafe { state.as_mut() } {
        Some(state) => {
            if is_tcp && socket.state == LISTEN {
                state.connected = 0;
            }
            is_tcp && state.connected == 0
        }
        None if is_tcp => {
            let answers = socket.state == LISTEN || reply::has_listener(skb, packet);
            // SAFETY: checked against null; entries live until the program ends.
            if let Some(state) = unsafe { socket::get_or_create(sk).as_mut() } {
                state.slot = slot;
                state.connected = u32::from(!answers);
            }
            answers
        }
        None => reply::is_kernels(socket, packet),
    }
}

#[inline(always)]
fn judge<const CACHED: bool>(
    skb: Skb,
    sk: *mut bpf_sock,
    state: *mut SocketState,
    slot: SlotRef,
    word: SlotWord,
    mode: u32,
    packet: &Packet,
) -> Fate {
    let (port, has_port) = (packet.upper.ports.destination, packet.has_ports());
    // Before loopback: a resolver may be there.
    if port == dns::PORT && dns::is_resolver(packet.destination, port, packet.protocol) {
        dns::note(skb, slot, packet);
        return Fate::Pass;
    }
    if passes_as_loopback(
        word,
        skb.interface() == LOOPBACK && packet.destination.is_loopback(),
    ) {
        return Fate::Pass;
    }
    let payload = packet.carries_payload();
    let transport = flow_key(packet.protocol, port, has_port);
    let destination = packet.destination;
    // SAFETY: checked against null; entries live until the program ends.
    let remembered = unsafe { state.as_ref() };
    if CACHED
        && let Some(state) = remembered
        && state.word == word.0
        && state.transport == transport
        && state.destination == destination
        && !(payload && state.verdict == u32::from(verdict::HELD))
    {
        if state.verdict & ANEW != 0 || payload && state.verdict & READ != 0 {
            return Fate::Read;
        }
        return if state.verdict == u32::from(verdict::DENY) {
            deny(skb, sk, mode, packet)
        } else {
            Fate::Pass
        };
    }
    let is_read_whole = !is_stream(sk, packet);
    let (netns, opened_ns) = match remembered {
        Some(state) => (state.netns, state.opened(transport, destination)),
        None => (0, 0),
    };
    let mut question = Question {
        destination,
        port,
        has_port,
        protocol: packet.protocol,
        said: Said::unread(payload && is_read_whole),
        names: NO_NAMES,
    };
    let decision = decide(word, slot, netns, opened_ns, &mut question);
    // Asked for again rather than kept: with or without them, the verifier follows `decide` once, and 5.10 has no room on the stack for more.
    let sk = skb.socket();
    let state = socket::find(sk);
    let payload = packet.carries_payload();
    let is_stream = is_stream(sk, packet);
    let is_tcp = packet.upper.transport == Transport::Tcp;
    let parts = (u32::from(is_stream) * follow::part::STREAM)
        | (u32::from(is_tcp && payload) * follow::part::PAYLOAD);
    let (decision, reads) = follow::weigh(skb, decision, parts);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &SkBuffContext::new(skb.0),
        "packet of slot {}: protocol {}, port {}: verdict {}, reason {}, rule {}",
        slot.index(),
        packet.protocol,
        port,
        decision.verdict,
        decision.reason,
        decision.rule
    );
    if decision.verdict == verdict::DENY
        && packet.upper.transport == Transport::Datagram
        && is_datagram_reply(skb, packet)
    {
        count(Counter::Reply);
        return Fate::Pass;
    }
    let judged = Judged {
        packet,
        decision,
        slot,
        word,
        mode,
        reads,
    };
    if CACHED {
        remember(sk, state, &judged);
    }
    if CACHED && reads & ANEW != 0 {
        return Fate::Read;
    }
    tell(skb, state, &judged);
    if decision.verdict == verdict::DENY {
        deny(skb, sk, mode, packet)
    } else if CACHED && payload && reads & READ != 0 {
        Fate::Read
    } else {
        Fate::Pass
    }
}

/// Whether it is a packet of a TCP connection, whose payload can be read.
#[inline(always)]
fn is_stream(sk: *mut bpf_sock, packet: &Packet) -> bool {
    packet.upper.transport == Transport::Tcp
        // SAFETY: checked against null.
        && unsafe { sk.as_ref() }.is_some_and(|socket| socket.type_ == STREAM)
}

#[inline(never)]
fn is_datagram_reply(skb: Skb, packet: &Packet) -> bool {
    let peer = Peer {
        cookie: skb.cookie(),
        address: packet.destination,
        port: u32::from(packet.upper.ports.destination),
        protocol: u32::from(packet.protocol),
    };
    reply::is_reply(&peer, Some(skb.interface()))
}

/// Keeps the verdict with the socket. A socket without a peer keeps the first one under a policy, since replacing it with every datagram
/// would cost more than judging anew, and never a Deny, which the peer's next datagram may turn into a reply. A function of its own for
/// the sake of the stack.
#[inline(never)]
fn remember(sk: *mut bpf_sock, state: *mut SocketState, judged: &Judged<'_>) {
    // SAFETY: checked against null.
    let Some(socket) = (unsafe { sk.as_ref() }) else {
        return;
    };
    if socket.dst_port == 0 {
        // SAFETY: checked against null; entries live until the program ends.
        let taken = unsafe { state.as_ref() }.is_some_and(|state| state.word == judged.word.0);
        if taken || judged.decision.verdict == verdict::DENY {
            return;
        }
    }
    // SAFETY: checked against null; entries live until the program ends.
    let (connected, pid, comm, netns) = match unsafe { state.as_ref() } {
        Some(state) => (state.connected, state.pid, state.comm, state.netns),
        None => (1, 0, [0; 16], 0),
    };
    let transport = flow_key(
        judged.packet.protocol,
        judged.packet.upper.ports.destination,
        judged.packet.has_ports(),
    );
    // SAFETY: checked against null; entries live until the program ends.
    let opened_ns = match unsafe { state.as_ref() } {
        Some(state) => state.opened(transport, judged.packet.destination),
        None => 0,
    };
    let opened_ns = if opened_ns == 0 {
        report::boot_ns()
    } else {
        opened_ns
    };
    let Judged {
        packet,
        decision,
        slot,
        word,
        mode: _,
        reads,
    } = *judged;
    let mut next = SocketState {
        slot,
        connected,
        pid,
        transport,
        destination: packet.destination,
        word: word.0,
        verdict: u32::from(decision.verdict) | reads,
        _pad: 0,
        comm,
        netns,
        opened_ns,
    };
    socket::replace(sk, &mut next);
}

/// The consequence of a Deny.
#[inline(always)]
fn deny(skb: Skb, sk: *mut bpf_sock, mode: u32, packet: &Packet) -> Fate {
    if mode != mode::ENFORCE {
        return Fate::Pass;
    }
    if packet.upper.transport == Transport::Tcp
        // SAFETY: checked against null.
        && let Some(socket) = unsafe { sk.as_ref() }
        && socket.type_ == STREAM
        && socket.state != LISTEN
    {
        // The reset by which a destroyed socket tells its peer carries nothing, and only goes to a peer that was allowed before.
        if packet.upper.reset && socket.state != SYN_SENT {
            return Fate::Pass;
        }
        ebfw_destroy(skb.0);
    }
    count(Counter::PacketDropped);
    Fate::Drop
}

/// Asks for the end of the packet's TCP connection. The addresses are the socket's own, which a source route makes others than the packet's.
/// With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_destroy(context: *mut __sk_buff) -> u32 {
    let skb = Skb(context);
    // SAFETY: checked against null.
    let Some(socket) = (unsafe { skb.socket().as_ref() }) else {
        return 0;
    };
    let cookie = skb.cookie();
    let (source, destination) = (socket::source(socket), socket::destination(socket));
    report::request(request::DESTROY, cookie, |request| {
        request.protocol = u32::from(protocol::TCP);
        request.cgroup_id = workload::cgroup_of_skb(skb.0);
        request.cookie = cookie;
        request.source_port = socket.src_port as u16;
        request.destination_port = u16::from_be(socket.dst_port);
        request.family = if socket::is_v4(socket) { 4 } else { 6 };
        request.source = source;
        request.destination = destination;
    });
    1
}

/// A packet and what was decided, on the caller's stack.
struct Judged<'a> {
    packet: &'a Packet,
    decision: Decision,
    slot: SlotRef,
    word: SlotWord,
    mode: u32,
    /// What is to be read of the flow: bits of [`SocketState::verdict`].
    reads: u32,
}

/// A function of its own, so that what it needs of the stack is free again for others.
#[inline(never)]
fn tell(skb: Skb, state: *mut SocketState, judged: &Judged<'_>) {
    let Judged {
        packet,
        decision,
        slot,
        word,
        mode,
        reads: _,
    } = *judged;
    let limit = if packet.upper.transport == Transport::Tcp {
        report::CONNECTIONS
    } else {
        report::DATAGRAMS
    };
    count(match decision.verdict {
        verdict::DENY => Counter::DecisionDeny,
        verdict::HELD => Counter::DecisionHeld,
        _ => Counter::DecisionAllow,
    });
    if decision.reason == reason::TABLES {
        count(Counter::TableError);
    }
    // The decision on what a rule waits for will be told when it is taken.
    if decision.verdict == verdict::HELD {
        return;
    }
    let (ports, has_ports) = (packet.upper.ports, packet.has_ports());
    let key = RateKey {
        slot: slot.index(),
        port: ports.destination,
        protocol: packet.protocol,
        verdict: decision.verdict,
        destination: packet.destination,
    };
    report::event(&key, limit, |event| {
        event.cgroup_id = workload::cgroup_of_skb(skb.0);
        event.cookie = skb.cookie();
        event.slot_word = word.0;
        event.source = packet.source;
        event.destination = packet.destination;
        event.source_port = ports.source;
        event.destination_port = ports.destination;
        event.rule = decision.rule;
        event.protocol = packet.protocol;
        event.has_ports = u8::from(has_ports);
        event.hook = hook::EGRESS;
        event.verdict = decision.verdict;
        event.reason = decision.reason;
        event.payload = decision.payload;
        event.mode = mode;
        // SAFETY: checked against null; entries live until the program ends.
        if let Some(state) = unsafe { state.as_ref() } {
            event.pid = state.pid;
            event.comm = state.comm;
        } else {
            event.pid = 0;
            event.comm = [0; 16];
        }
    });
}

/// What is told of a packet that cannot be read.
const NOWHERE: Packet = Packet {
    source: Address::UNSPECIFIED,
    destination: Address::UNSPECIFIED,
    upper: Upper::UNKNOWN,
    protocol: 0,
};

#[expect(
    clippy::too_many_arguments,
    reason = "it is inlined, and a struct would lie on the stack"
)]
#[inline(always)]
fn drop_malformed(
    skb: Skb,
    sk: *mut bpf_sock,
    state: *mut SocketState,
    slot: SlotRef,
    word: SlotWord,
    mode: u32,
    packet: &Packet,
    why: Malformed,
) -> Fate {
    count(match why {
        Malformed::Header => Counter::Malformed,
        Malformed::SourceRoute | Malformed::RoutingHeader => Counter::SourceRouted,
    });
    tell(
        skb,
        state,
        &Judged {
            packet,
            decision: Decision::malformed(why),
            slot,
            word,
            mode,
            reads: 0,
        },
    );
    if mode != mode::ENFORCE {
        return Fate::Pass;
    }
    // SAFETY: checked against null.
    if let Some(socket) = unsafe { sk.as_ref() }
        && socket.type_ == STREAM
        && socket.protocol == u32::from(protocol::TCP)
        && socket.state != LISTEN
    {
        ebfw_destroy(skb.0);
    }
    count(Counter::PacketDropped);
    Fate::Drop
}

#[inline(always)]
fn lose_pending(skb: Skb) -> Fate {
    count(Counter::PendingDropped);
    let cgroup = workload::cgroup_of_skb(skb.0);
    report::request(request::CLASSIFY, cgroup, |request| {
        request.protocol = 0;
        request.cgroup_id = cgroup;
        request.cookie = 0;
        request.source = Address::UNSPECIFIED;
        request.destination = Address::UNSPECIFIED;
        request.source_port = 0;
        request.destination_port = 0;
        request.family = 0;
    });
    Fate::Lose
}

/// Whether what comes to a workload is of interest: it is governed or not known yet, or it resolves for others and this may be an answer; 0:
/// no. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_listens(slot: u32, may_answer: u32) -> u32 {
    let slot = SlotRef(slot);
    let governed =
        slot == UNBOUND || slot_word(slot).is_some_and(|word| word.has(slot_flag::GOVERNED));
    u32::from(governed || may_answer != 0 && dns::ebfw_owner(slot.0) == SHARED.0)
}

/// `cgroup_skb/ingress`: notes who sends datagrams to unconnected sockets, or wants a connection, of governed workloads, and what resolvers
/// answer. Whether the packet passes: not where the agent has to read an answer first.
#[inline(always)]
pub fn ingress(context: *mut __sk_buff) -> bool {
    let skb = Skb(context);
    let sk = skb.socket();
    // SAFETY: checked against null.
    let Some(socket) = (unsafe { sk.as_ref() }) else {
        return true;
    };
    let is_udp = socket.protocol == u32::from(protocol::UDP);
    let is_asked = if is_udp {
        socket.dst_port == 0
    } else {
        socket.type_ == STREAM && socket.state == LISTEN
    };
    // A packet from port 53 may be an answer about names.
    let may_answer = is_asked && is_udp || socket.dst_port == dns::PORT.to_be();
    if !is_asked && !may_answer || skb.is_own_copy() {
        return true;
    }
    // SAFETY: checked against null; entries live until the program ends.
    let state = unsafe { socket::get(sk).as_ref() };
    let slot = match state {
        Some(state) if state.slot != UNBOUND => state.slot,
        _ => match workload::of_skb(context) {
            Membership::Of(slot, _) => slot,
            Membership::Pending | Membership::Nobody => UNBOUND,
        },
    };
    // What the verifier knows of these would keep paths apart, each of which would parse the packet for itself.
    let unknown = u64::from(skb.length());
    let slot = SlotRef(forget(slot.0, unknown));
    let is_asked = forget(u32::from(is_asked), unknown);
    let may_answer = forget(u32::from(may_answer), unknown);
    if ebfw_listens(slot.0, may_answer) == 0 {
        return true;
    }
    let Parsed::Packet(packet) = skb.parse() else {
        return true;
    };
    if let Some(config) = CONFIG.get(0)
        && slot != UNBOUND
        && may_answer != 0
        && let Some(state) = state
        && dns::may_answer(skb, &packet, config, state.netns)
    {
        let word = slot_word(slot).unwrap_or_default();
        let talk = Heard::incoming(skb, (slot, word), &packet, config, state.netns);
        dns::keep(&talk);
        let passes = if packet.protocol != protocol::TCP {
            dns::ebfw_learn(context)
        } else if packet.upper.payload {
            held::ebfw_segment(context)
        } else {
            1
        };
        // The verifier does not know that it is 0 or 1, and the compiler does.
        return masked::<1>(passes) != 0;
    }
    if is_asked != 0 && matches!(packet.upper.transport, Transport::Datagram | Transport::Tcp) {
        let peer = Peer {
            cookie: skb.cookie(),
            address: packet.source,
            port: u32::from(packet.upper.ports.source),
            protocol: u32::from(packet.protocol),
        };
        reply::note(&peer, skb.interface());
    }
    true
}
