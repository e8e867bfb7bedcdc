//! Reads what clients say on TCP connections whose decision, or whose events, wait for it.
//!
//! What may be read is what nobody can change any more: bytes in their order, each once, that are not urgent and lie in no page that
//! somebody else can write to. Where a decision waits for what cannot be read, it is a Deny.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_probe_read_kernel, bpf_tail_call, bpf_tcp_sock},
};
use ebfw_common::{
    abi::{Counter, SharedPages, SlotWord, inspect, mode, reason, verdict},
    classify::NO_NAMES,
    packet::{Source as _, protocol},
    stream::{Step, flag},
};

use crate::{
    claim,
    decide::{Decision, Question, Said, decide},
    egress::{Fate, ebfw_destroy},
    maps::{CONFIG, READERS},
    reader::{Progress, ebfw_stream},
    report::count,
    skb::{ETH_P_IP, Skb},
    socket::{self, ANEW, NEEDED, RAW, READ},
    spoken, stream,
    verifier::forget,
};

/// Heads that are judged in one packet. What is behind them is lost, as on the way, and read when it is sent again.
const HEADS: u32 = 64;
/// Set in [`stream::Followed::note`]: bytes were read that cannot be relied on.
const SPOILT: u32 = 1;

/// What becomes of a packet. Other numbers than those of a program's return values: the compiler would hand them through, and the verifier
/// would not know their range.
mod outcome {
    pub(super) const PASS: u32 = 16;
    pub(super) const LOSE: u32 = 32;
    pub(super) const DENY: u32 = 48;
    /// It passes, as far as it was read.
    pub(super) const NEXT: u32 = 64;
}

/// What there is to decide.
mod fact {
    /// What was claimed is judged under another policy.
    pub(super) const ANEW: u32 = 8;
    /// Nothing: the payload is read to its end.
    pub(super) const NONE: u32 = 6;
    /// Nothing yet: the payload is too long to be read at once.
    pub(super) const LATE: u32 = 7;
    /// A name or a request was claimed.
    pub(super) const HEAD: u32 = 0;
    /// Nothing can be read from here on.
    pub(super) const OPAQUE: u32 = 1;
    /// What was said cannot be relied on.
    pub(super) const UNREADABLE: u32 = 2;
    /// It can be read in two ways.
    pub(super) const AMBIGUOUS: u32 = 3;
    /// There is no memory to read it.
    pub(super) const NO_MEMORY: u32 = 4;
    /// Nothing to come can change a decision.
    pub(super) const FINISHED: u32 = 5;
}

/// What of a packet matters for what is to be read.
pub mod part {
    /// It belongs to a TCP connection.
    pub const STREAM: u32 = 1;
    /// It is TCP and has payload.
    pub const PAYLOAD: u32 = 2;
}

/// What is to be read of a flow, as bits of [`crate::socket::SocketState::verdict`], and the decision on it: `first` was taken as if its client
/// had said nothing. `parts`: see [`part`].
#[inline(always)]
pub fn weigh(skb: Skb, first: Decision, parts: u32) -> (Decision, u32) {
    let weighed = ebfw_weigh(skb.0, first.packed(), parts);
    (Decision::unpacked(weighed), (weighed >> READS_SHIFT) as u32)
}

/// Where what is to be read stands in the result of [`ebfw_weigh`], above the decision.
const READS_SHIFT: u32 = 40;

/// See [`weigh`]. With external linkage, as `ebfw_decide`: the verifier would follow what comes behind it for each of these answers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_weigh(context: *mut __sk_buff, first: u64, parts: u32) -> u64 {
    if parts == 0 {
        return first;
    }
    let needs = !Decision::unpacked(first).settled;
    let inspects = CONFIG
        .get(0)
        .is_some_and(|config| config.inspect != inspect::OFF);
    if !needs && !inspects {
        return first;
    }
    let sk = Skb(context).socket();
    if sk.is_null() {
        return first;
    }
    if parts & part::STREAM == 0 {
        // A process that makes its packets itself says what nobody can read for sure.
        // SAFETY: checked against null.
        let raw = unsafe { (*sk).type_ } == RAW;
        return if raw && needs && parts & part::PAYLOAD != 0 {
            Decision::because(verdict::DENY, reason::UNREADABLE).packed()
        } else {
            first
        };
    }
    if socket::get(sk).is_null() {
        // Nothing can be kept of the socket, so nothing can be waited for.
        return if needs {
            Decision::because(verdict::DENY, reason::SOCKET_STATE).packed()
        } else {
            first
        };
    }
    if needs && ebfw_may_join(context) != 0 {
        count(Counter::Unreadable);
        return Decision::because(verdict::DENY, reason::UNREADABLE).packed();
    }
    let spoke = !claim::find(sk).is_null();
    let mut reads = 0;
    if !spoke || !stream::find(sk).is_null() {
        reads = READ;
        if needs {
            reads |= NEEDED;
        }
    }
    if needs && spoke {
        reads |= ANEW;
    }
    first | u64::from(reads) << READS_SHIFT
}

/// The option of Multipath TCP, and its subtype that opens another subflow (RFC 8684, 3.2).
const MPTCP: u8 = 30;
const JOIN: u8 = 1;
/// Options of a SYN that are looked at. The kernel writes six at most, each with two bytes of padding.
const OPTIONS: u32 = 20;

/// Whether the packet opens another subflow of a Multipath TCP connection, or cannot be read so far (behind IPv6 extension headers payload is not
/// read either). On several subflows the bytes of one stream go in any order, which no reader of packets puts together; on the first alone they
/// keep theirs.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_may_join(context: *mut __sk_buff) -> u32 {
    let skb = Skb(context);
    let Some(tcp) = skb.tcp() else {
        return 1;
    };
    let Some([word]) = skb.words::<1>(tcp + 12) else {
        return 0;
    };
    let [data_offset, flags, ..] = word.to_ne_bytes();
    if flags & SYN == 0 {
        return 0;
    }
    let end = tcp + u32::from(data_offset >> 4) * 4;
    let mut at = tcp + 20;
    for _ in 0..OPTIONS {
        at = forget(at, u64::from(skb.length()));
        if at >= end {
            return 0;
        }
        let Some([word]) = skb.words::<1>(at) else {
            return 0;
        };
        let [kind, length, third, _] = word.to_ne_bytes();
        if kind == MPTCP {
            return u32::from(third >> 4 == JOIN);
        }
        at += match kind {
            0 => return 0,
            1 => 1,
            _ if length < 2 => return 0,
            _ => u32::from(length),
        };
    }
    1
}

/// The decision on the flow that the packet's socket remembers, with what its client has said so far: [`Decision::packed`]. With external
/// linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_anew(context: *mut __sk_buff) -> u64 {
    const BROKEN: Decision = Decision::because(verdict::DENY, reason::SOCKET_STATE);
    let skb = Skb(context);
    let sk = skb.socket();
    if sk.is_null() {
        return BROKEN.packed();
    }
    let spoke = !claim::find(sk).is_null();
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    let Some(state) = (unsafe { socket::get(sk).as_ref() }) else {
        return BROKEN.packed();
    };
    let (transport, destination) = (state.transport, state.destination);
    let (netns, opened_ns) = (state.netns, state.opened_ns);
    let (word, slot) = (SlotWord(state.word), state.slot);
    let said = if spoke {
        claim::said(skb, word, destination, transport)
    } else {
        Said::unread(true)
    };
    let mut question = Question {
        destination,
        port: (transport >> 16) as u16,
        has_port: transport & 1 != 0,
        protocol: (transport >> 8) as u8,
        said,
        names: NO_NAMES,
    };
    decide(word, slot, netns, opened_ns, &mut question).packed()
}

/// Sequence number of the first byte that the socket's client sends on its connection; 0 in the upper half where it is known.
#[inline(always)]
fn first_byte(sk: *mut bpf_sock) -> Option<u32> {
    // SAFETY: the helper takes a socket that is not null, and is null where that is no TCP socket.
    let tcp = unsafe { bpf_tcp_sock(sk).as_ref() }?;
    // What was acknowledged since the SYN, which counts, up to the first byte that was not (tcp_snd_una_update, net/ipv4/tcp_input.c).
    Some(
        tcp.snd_una
            .wrapping_sub(tcp.bytes_acked as u32)
            .wrapping_add(1),
    )
}

/// Whether some of the packet's payload may lie in pages that somebody can still write to.
#[inline(always)]
fn is_shared(skb: Skb, at: SharedPages) -> bool {
    if at.mask == 0 {
        return true;
    }
    let mut head = 0u64;
    let mut end = 0u32;
    let mut flags = 0u8;
    // SAFETY: the helper reads any kernel memory and fails where there is none; it writes as much as the numbers have.
    unsafe {
        let skb = skb.0.cast::<u8>();
        if bpf_probe_read_kernel(
            (&raw mut head).cast(),
            8,
            skb.wrapping_add(at.head.into()).cast(),
        ) != 0
            || bpf_probe_read_kernel(
                (&raw mut end).cast(),
                4,
                skb.wrapping_add(at.end.into()).cast(),
            ) != 0
        {
            return true;
        }
        let info = head + u64::from(end) + u64::from(at.flags);
        if bpf_probe_read_kernel((&raw mut flags).cast(), 1, info as *const _) != 0 {
            return true;
        }
    }
    u16::from(flags) & at.mask != 0
}

/// Goes on with the program that reads payload. One of its own: with its readers, egress would be more than the verifier follows, and its
/// calls deeper than the stack.
#[inline(always)]
pub fn go_on(skb: Skb) -> Fate {
    // SAFETY: the helper takes the context and the map. Where it succeeds it does not return, and nothing here waits to be dropped.
    unsafe { bpf_tail_call(skb.0.cast(), (&raw const READERS).cast_mut().cast(), 0) };
    // There is no program: a failure closes.
    count(Counter::TableError);
    Fate::Drop
}

/// Reads the payload of a packet of a flow that is to be read, and decides at each claim.
#[inline(always)]
pub fn read(skb: Skb) -> Fate {
    // What follows a Deny stands in one place, since the verifier follows it for each.
    match converse(skb.0) {
        outcome::PASS => Fate::Pass,
        outcome::LOSE => Fate::Lose,
        _ => {
            refuse(skb);
            Fate::Drop
        }
    }
}

#[inline(always)]
fn converse(context: *mut __sk_buff) -> u32 {
    let kept = ebfw_kept(context);
    if kept & ANEW != 0 {
        let outcome = ebfw_settle(context, fact::ANEW, ebfw_anew(context));
        if outcome != outcome::PASS {
            return outcome;
        }
    }
    if kept & READ == 0 {
        return outcome::PASS;
    }
    for _ in 0..HEADS {
        let outcome = ebfw_head(context);
        if outcome != outcome::NEXT {
            return outcome;
        }
    }
    ebfw_settle(context, fact::LATE, 0)
}

/// Reads on to the next head and decides on it. Returns an [`outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_head(context: *mut __sk_buff) -> u32 {
    let fact = ebfw_advance(context);
    if fact == fact::NONE {
        return outcome::PASS;
    }
    let decision = if matches!(fact, fact::HEAD | fact::OPAQUE) {
        ebfw_anew(context)
    } else {
        0
    };
    let outcome = ebfw_settle(context, fact, decision);
    if fact == fact::HEAD && outcome == outcome::PASS {
        outcome::NEXT
    } else {
        outcome
    }
}

/// What the packet's socket remembers as its verdict.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_kept(context: *mut __sk_buff) -> u32 {
    // SAFETY: checked against null; entries live until the program ends.
    match unsafe { socket::find(Skb(context).socket()).as_ref() } {
        Some(state) => state.verdict,
        None => 0,
    }
}

/// The consequence of a Deny.
#[inline(never)]
fn refuse(skb: Skb) {
    ebfw_destroy(skb.0);
    count(Counter::PacketDropped);
}

/// Reads on in the payload of a packet of a flow that is to be read, from its first byte that was not read yet. Returns a [`fact`]. With
/// external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_advance(context: *mut __sk_buff) -> u32 {
    let skb = Skb(context);
    let sk = skb.socket();
    if sk.is_null() {
        return fact::UNREADABLE;
    }
    let Some(segment) = Segment::of(skb) else {
        return fact::UNREADABLE;
    };
    let Segment {
        start,
        end,
        sequence,
        urgent,
    } = segment;
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    let followed = match unsafe { stream::find(sk).as_mut() } {
        Some(followed) => followed,
        None => {
            if first_byte(sk) != Some(sequence) {
                return fact::OPAQUE;
            }
            // SAFETY: likewise.
            match unsafe { stream::follow(sk).as_mut() } {
                Some(followed) => {
                    followed.position = sequence;
                    followed
                }
                None => return fact::NO_MEMORY,
            }
        }
    };
    let known = followed.position.wrapping_sub(sequence);
    if urgent || known > i32::MAX as u32 || followed.note & SPOILT != 0 {
        followed.note |= SPOILT;
        return fact::UNREADABLE;
    }
    // What was read already passes as it was judged.
    let from = start.wrapping_add(known);
    if from >= end {
        return fact::NONE;
    }
    let Some(config) = CONFIG.get(0) else {
        return fact::UNREADABLE;
    };
    let head = match followed.stream.until_head() {
        Some(skipped) if skipped < u64::from(end - from) => from + skipped as u32,
        Some(_) | None => 0,
    };
    let progress = Progress(ebfw_stream(context, from, end));
    // SAFETY: as above.
    let Some(followed) = (unsafe { stream::find(sk).as_mut() }) else {
        return fact::NO_MEMORY;
    };
    let at = progress.at();
    if at == 0 || progress.read() && is_shared(skb, config.shared) {
        followed.note |= SPOILT;
        return fact::UNREADABLE;
    }
    match progress.step() {
        Step::More => {
            followed.position = sequence.wrapping_add(at.wrapping_sub(start));
            if at < end { fact::LATE } else { fact::NONE }
        }
        Step::Head => {
            followed.position = sequence.wrapping_add(at.wrapping_sub(start));
            followed.head = if head == 0 { [0, 0] } else { [head, at] };
            let kept = claim::keep(sk, followed.stream.facts());
            if kept { fact::HEAD } else { fact::NO_MEMORY }
        }
        Step::Opaque => {
            // No request can be read any more; a name that was claimed stays.
            // SAFETY: as above.
            if let Some(facts) = unsafe { claim::find(sk).as_mut() } {
                facts.flags &= !flag::REQUEST;
            }
            fact::OPAQUE
        }
        Step::Finished => fact::FINISHED,
        Step::Http2 | Step::Again => fact::UNREADABLE,
        Step::Malformed => fact::AMBIGUOUS,
    }
}

/// Keeps and tells the decision that `fact` makes possible; `decision` is that on what was said ([`Decision::packed`]), where something was.
/// Returns an [`outcome`]. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_settle(context: *mut __sk_buff, fact: u32, decision: u64) -> u32 {
    let skb = Skb(context);
    let sk = skb.socket();
    let (Some(config), false) = (CONFIG.get(0), sk.is_null()) else {
        return outcome::DENY;
    };
    // SAFETY: checked against null; the entry lives until the program ends, which holds the socket's lock.
    let Some(state) = (unsafe { socket::get(sk).as_mut() }) else {
        return outcome::DENY;
    };
    // Nothing is to be read any more, or nobody waits for it.
    let waits = state.verdict & NEEDED != 0;
    let ends = !matches!(fact, fact::HEAD | fact::ANEW);
    if fact == fact::FINISHED || ends && !waits {
        state.verdict &= !(READ | NEEDED);
        stream::forget(sk);
        return outcome::PASS;
    }
    // What is lost is read when it is sent again; where nothing may be dropped, reading ends here.
    if fact == fact::LATE && config.mode == mode::ENFORCE {
        return outcome::LOSE;
    }
    let decision = match fact {
        fact::HEAD | fact::ANEW => Decision::unpacked(decision),
        fact::OPAQUE => {
            stream::forget(sk);
            Decision::unpacked(decision)
        }
        fact::UNREADABLE | fact::LATE => irregular(Counter::Unreadable, reason::UNREADABLE),
        fact::AMBIGUOUS => irregular(Counter::Ambiguous, reason::AMBIGUOUS),
        _ => irregular(Counter::SocketStateFull, reason::SOCKET_STATE),
    };
    spoken::tell(
        skb,
        SlotWord(state.word),
        state.slot,
        decision,
        fact == fact::HEAD,
    );
    let reads = if ends {
        0
    } else {
        state.verdict & (READ | NEEDED)
    };
    let denied = decision.verdict == verdict::DENY;
    let carried_out = denied && config.mode == mode::ENFORCE;
    // Where a Deny is only told, what comes next is judged all the same.
    state.verdict = if carried_out {
        verdict::DENY.into()
    } else if denied {
        u32::from(verdict::ALLOW) | reads
    } else {
        u32::from(decision.verdict) | reads
    };
    if carried_out {
        outcome::DENY
    } else {
        outcome::PASS
    }
}

#[inline(always)]
fn irregular(counter: Counter, why: u8) -> Decision {
    count(counter);
    Decision::because(verdict::DENY, why)
}

/// Where a TCP packet's payload is, and where it belongs in its stream.
struct Segment {
    /// Where in the packet it begins.
    start: u32,
    /// Where it ends.
    end: u32,
    /// Sequence number of its first byte.
    sequence: u32,
    /// Whether it is urgent (URG): the receiver may take a byte out of the stream.
    urgent: bool,
}

/// Flags of a TCP header (RFC 9293, 3.1).
const SYN: u8 = 2;
const URG: u8 = 32;

impl Segment {
    /// Reads it; `None` where there are IPv6 extension headers, or where the parser before would have found no TCP.
    #[inline(always)]
    fn of(skb: Skb) -> Option<Self> {
        let [first]: [u32; 1] = skb.fixed::<0, 1>()?;
        let [version_length, _, total_high, total_low] = first.to_ne_bytes();
        let (at, stated) = if skb.ethertype() == ETH_P_IP {
            let at = u32::from(version_length & 15) * 4;
            (at, u32::from(u16::from_be_bytes([total_high, total_low])))
        } else {
            let [second]: [u32; 1] = skb.fixed::<4, 1>()?;
            let [high, low, next, _] = second.to_ne_bytes();
            if next != protocol::TCP {
                return None;
            }
            let stated = u32::from(u16::from_be_bytes([high, low]));
            (40, if stated == 0 { 0 } else { stated + 40 })
        };
        // A length of 0 is that of a packet over 64 KiB (BIG TCP).
        let end = if stated == 0 { skb.length() } else { stated };
        let words: [u32; 4] = skb.words(at)?;
        let [data_offset, flags, ..] = words[3].to_ne_bytes();
        let start = at + u32::from(data_offset >> 4) * 4;
        // A SYN comes before the first byte and has a number of its own (RFC 9293, 3.4).
        let sequence = u32::from_be(words[1]).wrapping_add(u32::from(flags & SYN != 0));
        (start <= end && end <= skb.length()).then_some(Self {
            start,
            end,
            sequence,
            urgent: flags & URG != 0,
        })
    }
}
