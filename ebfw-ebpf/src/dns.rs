//! Names: what a workload asked a trusted resolver, and the addresses that came back, learned before the application reads them.
//!
//! An answer counts where its question stands in `QUESTIONS`: same socket, resolver, id, port and text, asked within five seconds and
//! not answered yet (SEMANTICS 4).

use ebfw_common::{
    abi::{
        Address, Config, Counter, LearnedName, MAX_WORKLOAD_NAMES, NAMES_PER_ADDRESS, NameEvent,
        NameKey, SlotRef, name_outcome, resolver,
    },
    dns::{
        self, HEADER, Kept, Kind, MAX_ADDRESSES, MAX_MESSAGE, MAX_QUESTION, Message, NAME_STEPS,
        Name, RECORD_STEPS, Records, Step,
    },
    packet::{Packet, Source as _, Transport, protocol},
};

use crate::{
    egress::LOOPBACK,
    maps::{BLANK, NAME_COUNTS, NAME_EVENTS, NAME_RATES, NAMES, QUESTIONS, RESOLVERS, SCRATCH},
    report::{self, WINDOW_NS, add, boot_ns, count},
    skb::Skb,
    socket::UNBOUND,
    verifier::masked,
    workload,
};

/// The port of DNS.
pub const PORT: u16 = 53;
/// A question is answered within this time, or never.
const ANSWER_NS: u64 = 5_000_000_000;
/// Questions of one workload that may be open: `SETS` times `WAYS`.
const SETS: u32 = 64;
const WAYS: u32 = 4;
/// Events about names of one workload a second.
const EVENTS: u32 = 200;

/// Where an open question stands.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QuestionKey {
    /// The workload.
    pub slot: SlotRef,
    /// Set and way.
    pub place: u32,
}

/// An open question.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Question {
    /// Cookie of the socket.
    pub cookie: u64,
    /// When it was asked.
    pub asked_ns: u64,
    /// Who was asked.
    pub resolver: Address,
    /// Id of the message, network order.
    pub id: u16,
    /// The port that it came from.
    pub port: u16,
    /// Zero.
    pub _pad: u32,
    /// Name, type and class as they were sent, and what came behind.
    pub text: Text,
}

/// The start of a question: in two parts, since what is loaded at once must be a power of two.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    head: [u8; 256],
    tail: [u8; MAX_QUESTION - 256],
}

impl Text {
    /// Byte `at`, 0 where there is none.
    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        if at < 256 {
            // SAFETY: the mask keeps to the array.
            unsafe { *self.head.get_unchecked(masked::<0xff>(at)) }
        } else {
            // SAFETY: the mask keeps to the array.
            unsafe { *self.tail.get_unchecked(masked::<15>(at)) }
        }
    }
}

/// What `learn` works on. One a CPU: ingress runs in softirq, where nothing else comes between.
#[repr(C)]
pub struct Scratch {
    message: [u8; MAX_MESSAGE as usize],
    /// Where the message begins in the packet.
    start: Kept<u32>,
    /// Its length.
    length: Kept<u32>,
    /// The question that it answers.
    question: QuestionKey,
    name: Name,
    records: Records,
    key: NameKey,
    entry: LearnedName,
    /// Addresses whose name is known now.
    learned: Kept<u32>,
    _pad: u32,
}

impl Message for Scratch {
    #[inline(always)]
    fn end(&self) -> u32 {
        self.length.get()
    }

    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        // SAFETY: the mask keeps to the array.
        unsafe {
            *self
                .message
                .get_unchecked(masked::<{ MAX_MESSAGE - 1 }>(at))
        }
    }
}

/// A message to or from a resolver, on the caller's stack.
pub struct Talk {
    /// The workload.
    pub slot: SlotRef,
    /// The resolver.
    pub resolver: Address,
    /// The workload's address.
    pub source: Address,
    /// The workload's port.
    pub port: u32,
    /// Where the message begins in the packet.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// Protocol number.
    pub protocol: u32,
    /// The socket's network namespace.
    pub netns: u64,
}

impl Talk {
    /// The message in an outgoing packet to `port` 53.
    #[inline(always)]
    pub fn outgoing(slot: SlotRef, packet: &Packet) -> Self {
        Self {
            slot,
            resolver: packet.destination,
            source: packet.source,
            port: u32::from(packet.upper.ports.source),
            start: packet.upper.start,
            end: packet.upper.end,
            protocol: u32::from(packet.protocol),
            netns: 0,
        }
    }

    /// The message in a packet that came from port 53.
    #[inline(always)]
    pub fn incoming(slot: SlotRef, packet: &Packet, netns: u64) -> Self {
        Self {
            slot,
            resolver: packet.source,
            source: packet.destination,
            port: u32::from(packet.upper.ports.destination),
            start: packet.upper.start,
            end: packet.upper.end,
            protocol: u32::from(packet.protocol),
            netns,
        }
    }
}

/// Whether a flow is DNS to a trusted resolver, which is let through unjudged.
#[inline(always)]
pub fn is_resolver(destination: Address, port: u16, protocol: u8) -> bool {
    port == PORT
        && matches!(protocol, protocol::UDP | protocol::TCP)
        // SAFETY: only asked whether it is there.
        && unsafe { RESOLVERS.get(destination) }.is_some()
}

/// Whether what comes from `packet`'s source through `interface` may be an answer: a resolver's, and over loopback only a local one's to a
/// socket of the host's own network namespace. Elsewhere a workload could be its own resolver. Sockets that are older than the
/// programs, whose namespace is not known, learn nothing.
#[inline(always)]
pub fn may_answer(skb: Skb, packet: &Packet, config: &Config, netns: u64) -> bool {
    if netns == 0
        || packet.upper.ports.source != PORT
        || !matches!(packet.upper.transport, Transport::Tcp | Transport::Datagram)
    {
        return false;
    }
    // SAFETY: the value is copied at once.
    let Some(flags) = unsafe { RESOLVERS.get(packet.source) }.copied() else {
        return false;
    };
    skb.interface() != LOOPBACK || flags & resolver::LOCAL != 0 && netns == config.host_netns
}

/// The first place of the set that a question belongs to.
#[inline(always)]
fn set_of(cookie: u64, id: u16, port: u32) -> u32 {
    let mixed =
        (cookie ^ u64::from(id) << 16 ^ u64::from(port)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as u32 & (SETS - 1)) * WAYS
}

/// Whether a packet to port 53 passes unjudged, since it goes to a trusted resolver. Notes the question that leaves with it. A function of
/// its own for the sake of the stack.
#[inline(never)]
pub fn passes(skb: Skb, slot: SlotRef, packet: &Packet) -> bool {
    if !is_resolver(packet.destination, PORT, packet.protocol) {
        return false;
    }
    count(Counter::Resolver);
    if packet.carries_payload() {
        ask(skb, &Talk::outgoing(slot, packet));
    }
    true
}

#[inline(always)]
fn ask(skb: Skb, talk: &Talk) {
    // A message over TCP has its length before it (RFC 1035, 4.2.2).
    let start = if talk.protocol == u32::from(protocol::TCP) {
        talk.start + 2
    } else {
        talk.start
    };
    if start + HEADER + 5 > talk.end {
        return;
    }
    let Some([head]) = skb.words::<1>(start) else {
        return;
    };
    let [id_high, id_low, flags, _] = head.to_ne_bytes();
    if flags & 0xf8 != 0 {
        return;
    }
    let id = u16::from_ne_bytes([id_high, id_low]);
    let cookie = skb.cookie();
    let now = boot_ns();
    let mut key = QuestionKey {
        slot: talk.slot,
        place: set_of(cookie, id, talk.port),
    };
    let Some(blank) = BLANK.get(0) else {
        return;
    };
    // The first place that is free; else the last, whose question is lost.
    for way in 0..WAYS {
        if let Some(open) = QUESTIONS.get_ptr(key) {
            // SAFETY: the entry lives until the program ends.
            let open = unsafe { &*open };
            let taken = now.wrapping_sub(open.asked_ns) < ANSWER_NS
                && !(open.cookie == cookie && open.id == id);
            if taken && way + 1 < WAYS {
                key.place += 1;
                continue;
            }
            let _ = QUESTIONS.remove(key);
        }
        // By hand and not by the loop's condition: another CPU may have come first.
        if QUESTIONS.insert(key, blank, ONLY_NEW).is_ok() {
            break;
        }
        key.place += 1;
    }
    let Some(question) = QUESTIONS.get_ptr_mut(key) else {
        count(Counter::NameFull);
        return;
    };
    // SAFETY: the entry lives until the program ends; an answer to it cannot come before it has left.
    let question = unsafe { &mut *question };
    if load_text(skb, start + HEADER, talk.end, &mut question.text) {
        question.id = id;
        question.port = talk.port as u16;
        question.resolver = talk.resolver;
        question.asked_ns = now;
        question.cookie = cookie;
        tell(skb, talk, name_outcome::ASKED, 0, start);
    }
}

/// Loads the packet's bytes from `from` on, as far as they go and fit.
#[inline(always)]
fn load_text(skb: Skb, from: u32, end: u32, text: &mut Text) -> bool {
    let length = end - from;
    let head = length.min(text.head.len() as u32);
    if !skb.load_bytes(from, &mut text.head, head) {
        return false;
    }
    length <= head || skb.load_bytes(from + head, &mut text.tail, (length - head).min(16))
}

/// Learns what an answer says, if it answers a question.
///
/// What is known after each part lies in the scratch and not in registers, so that all ways through it come together again: else the
/// verifier would follow every loop once for each of them.
#[inline(never)]
pub fn learn(skb: Skb, talk: &Talk, config: &Config) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own; see `Scratch`.
    let scratch = unsafe { &mut *scratch };
    if !load(skb, talk, scratch) {
        return;
    }
    if !matches!(dns::kind(scratch), Kind::Answer | Kind::Empty) {
        return;
    }
    find(skb, talk, scratch);
    let is_answer = match QUESTIONS.get_ptr(scratch.question) {
        // SAFETY: the entry lives until the program ends.
        Some(question) => read_name(scratch, unsafe { &*question }, config.seed),
        None => false,
    };
    let start = scratch.start.get();
    if !is_answer {
        count(Counter::NameUnasked);
        tell(skb, talk, name_outcome::UNASKED, 0, start);
        return;
    }
    // One answer a question.
    let _ = QUESTIONS.remove(scratch.question);
    if dns::kind(scratch) == Kind::Answer {
        read_answer(skb, talk, config);
    }
}

/// Brings the message into the scratch.
#[inline(always)]
fn load(skb: Skb, talk: &Talk, scratch: &mut Scratch) -> bool {
    scratch.start.set(talk.start);
    scratch.length.set(talk.end - talk.start);
    if talk.protocol == u32::from(protocol::TCP) {
        // A message over TCP has its length before it (RFC 1035, 4.2.2).
        let Some([prefix]) = skb.words::<1>(talk.start) else {
            return false;
        };
        let [high, low, ..] = prefix.to_ne_bytes();
        scratch.start.set(talk.start + 2);
        scratch
            .length
            .set(u32::from(u16::from_be_bytes([high, low])));
    }
    let (start, length) = (scratch.start.get(), scratch.length.get());
    if length < HEADER + 5 {
        return false;
    }
    if length > MAX_MESSAGE || start + length != talk.end {
        count(Counter::NameUnreadable);
        tell(skb, talk, name_outcome::UNREADABLE, 0, start);
        return false;
    }
    skb.load_bytes(start, &mut scratch.message, length)
}

/// Finds the open question that the message answers: `scratch.question` becomes its key, or one that is in no map.
#[inline(always)]
fn find(skb: Skb, talk: &Talk, scratch: &mut Scratch) {
    let id = u16::from_ne_bytes([scratch.byte(0), scratch.byte(1)]);
    let cookie = skb.cookie();
    let now = boot_ns();
    scratch.question.slot = talk.slot;
    scratch.question.place = set_of(cookie, id, talk.port);
    for _ in 0..WAYS {
        if let Some(open) = QUESTIONS.get_ptr(scratch.question) {
            // SAFETY: the entry lives until the program ends.
            let question = unsafe { &*open };
            if question.cookie == cookie
                && question.id == id
                && u32::from(question.port) == talk.port
                && question.resolver == talk.resolver
                && now.wrapping_sub(question.asked_ns) < ANSWER_NS
            {
                return;
            }
        }
        scratch.question.place += 1;
    }
    scratch.question.slot = UNBOUND;
}

/// Reads the question of an answer; whether it is the one that was asked.
#[inline(always)]
fn read_name(scratch: &mut Scratch, question: &Question, seed: u64) -> bool {
    let message = &raw const *scratch;
    // SAFETY: the message is another part of the scratch than the name.
    let (message, name) = unsafe { (&*message, &mut scratch.name) };
    if name.begin(message, seed) != Step::More || question.text.byte(0) != message.byte(HEADER) {
        return false;
    }
    for index in 0..NAME_STEPS {
        if !dns::same(
            question.text.byte(index + 1),
            message.byte(HEADER + 1 + index),
        ) {
            return false;
        }
        match name.step(message, index) {
            Step::More => {}
            Step::Bad => return false,
            Step::Done => break,
        }
    }
    // Type and class.
    let after = name.end();
    let mut same = after + 4 <= message.end();
    for index in 0..4 {
        same &= question.text.byte(after - HEADER + index) == message.byte(after + index);
    }
    same
}

#[inline(always)]
fn read_answer(skb: Skb, talk: &Talk, config: &Config) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return;
    };
    let message = scratch.cast_const();
    // SAFETY: this CPU's own; what is changed is another part than the message.
    let (message, scratch) = unsafe { (&*message, &mut *scratch) };
    let start = message.start.get();
    scratch.key.slot = talk.slot;
    scratch.key.netns = talk.netns;
    scratch.entry.class = 0;
    scratch.entry.hash = scratch.name.hash();
    scratch.entry.length = scratch.name.length();
    scratch.entry._pad = 0;
    scratch.entry.text = *scratch.name.text();
    scratch.records.begin(message, scratch.name.end());
    for _ in 0..RECORD_STEPS {
        if scratch.records.step(message) != Step::More {
            break;
        }
    }
    let now = boot_ns();
    scratch.learned.set(0);
    for at in 0..MAX_ADDRESSES {
        if at >= scratch.records.found() {
            break;
        }
        ebfw_learn(at, config.learn_special, now);
    }
    let learned = scratch.learned.get();
    if scratch.records.complete() {
        tell(skb, talk, name_outcome::LEARNED, learned, start);
    } else {
        count(Counter::NameUnreadable);
        tell(skb, talk, name_outcome::UNREADABLE, learned, start);
    }
}

/// Learns address `at` of the answer in the scratch. With external linkage, as `ebfw_decide`: the verifier follows it once and not for
/// each address.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_learn(at: u32, learn_special: u32, now: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own; see `Scratch`.
    let scratch = unsafe { &mut *scratch };
    let answer = scratch.records.answer(at);
    scratch.entry.expires_ns = now + answer.lifetime_s() * 1_000_000_000;
    scratch.key.address = answer.address();
    if learn_special == 0 && dns::is_special(scratch.key.address) {
        count(Counter::NameSpecial);
    } else {
        place(scratch, now);
    }
    0
}

/// Puts the name beside the others of its address: where it stands already, or at the first place that is free, or, where none is, in the
/// place of one that has expired. One that stands behind a free place stands twice then, which means the same.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, the entries would be copied to the stack"
)]
#[inline(always)]
fn place(scratch: &mut Scratch, now: u64) {
    let Some(taken) = NAME_COUNTS.get_ptr_mut(scratch.key.slot.index()) else {
        return;
    };
    // SAFETY: array entries live as long as the map.
    let taken = unsafe { &mut *taken };
    let mut expired = NAMES_PER_ADDRESS;
    for at in 0..NAMES_PER_ADDRESS {
        scratch.key.place = at;
        let Some(known) = NAMES.get_ptr_mut(&scratch.key) else {
            if *taken >= MAX_WORKLOAD_NAMES {
                break;
            }
            // Refused where another CPU came first.
            if NAMES.insert(&scratch.key, &scratch.entry, ONLY_NEW).is_ok() {
                add(taken, 1);
                return learned(scratch);
            }
            continue;
        };
        // SAFETY: the entry lives until the program ends; its words are read and written one by one.
        let known = unsafe { &mut *known };
        if known.hash == scratch.entry.hash && known.length == scratch.entry.length {
            if known.expires_ns < scratch.entry.expires_ns {
                known.expires_ns = scratch.entry.expires_ns;
            }
            return learned(scratch);
        }
        if known.expires_ns < now {
            expired = at;
        }
    }
    // Flows keep the names under which they were opened, so those that have expired are not the first to go.
    if expired < NAMES_PER_ADDRESS {
        scratch.key.place = expired;
        if NAMES.insert(&scratch.key, &scratch.entry, REPLACE).is_ok() {
            return learned(scratch);
        }
    }
    count(Counter::NameFull);
}

#[inline(always)]
fn learned(scratch: &mut Scratch) {
    scratch.learned.set(scratch.learned.get() + 1);
    count(Counter::NameLearned);
}

/// `BPF_ANY`.
const REPLACE: u64 = 0;
/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// Tells the agent about a message that begins at byte `start` of the packet.
#[inline(never)]
fn tell(skb: Skb, talk: &Talk, outcome: u8, learned: u32, start: u32) {
    let now = boot_ns();
    let admitted = NAME_RATES
        .get_ptr_mut(talk.slot.index())
        .is_some_and(|window| {
            // SAFETY: array entries live as long as the map.
            report::enter(unsafe { &mut *window }, EVENTS, now / WINDOW_NS).is_some()
        });
    if !admitted {
        count(Counter::EventSuppressed);
        return;
    }
    let Some(mut entry) = NAME_EVENTS.reserve(0) else {
        count(Counter::NameEventLost);
        return;
    };
    // SAFETY: all fields are set, the question by the helper as far as `length` says; every bit pattern is a `NameEvent`.
    let event: &mut NameEvent = unsafe { &mut *entry.as_mut_ptr() };
    event.boot_ns = now;
    event.cgroup_id = workload::cgroup_of_skb(skb.0);
    event.slot = talk.slot;
    event.source = talk.source;
    event.resolver = talk.resolver;
    event.learned = learned;
    event._pad = 0;
    event.outcome = outcome;
    event.protocol = talk.protocol as u8;
    let length = (talk.end.saturating_sub(start + HEADER)).min(event.question.len() as u32);
    let loaded = length != 0 && skb.load_bytes(start + HEADER, &mut event.question, length);
    event.length = if loaded { length as u16 } else { 0 };
    entry.submit(0);
}
