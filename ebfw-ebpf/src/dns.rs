//! Names: what a workload asked a trusted resolver, and the addresses that came back, learned before the application reads them.
//!
//! An answer counts where its question stands in `QUESTIONS`: same socket, resolver, id, port and text, asked within five seconds and
//! not answered yet (SEMANTICS 4).

use core::{ops::Deref, ptr};

use aya_ebpf::bindings::__sk_buff;
use ebfw_common::{
    abi::{
        ALL_NAMES, Address, Config, Counter, Held, HeldKey, LearnedName, NAMES_PER_ADDRESS,
        NameEvent, NameKey, Question, QuestionKey, QuestionText, SHARED, SlotRef, SlotWord,
        has_room_for_name, mode, name_outcome, resolver, slot_flag,
    },
    dns::{
        self, ANSWER_NS, HEADER, Kept, Kind, MAX_MESSAGE, Message, NAME_STEPS, Name, QUESTION_WAYS,
        RECORD_STEPS, Records, Step, set_of,
    },
    packet::{Packet, Source as _, Transport, protocol},
};

use crate::{
    egress::LOOPBACK,
    held,
    maps::{
        BLANK, CONFIG, NAME_COUNTS, NAME_EVENTS, NAME_RATES, NAMES, QUESTIONS, RESOLVERS, SCRATCH,
        SERVICES,
    },
    report::{self, WINDOW_NS, add, boot_ns, count},
    skb::{ETH_P_IP, Skb},
    verifier::{forget, masked},
    workload,
};

/// The port of DNS.
pub const PORT: u16 = 53;
/// Events about names of one workload a second.
const EVENTS: u32 = 200;
/// Events beyond these that only tell what went wrong: who asks much must not hide that.
const TROUBLE: u32 = 50;
/// Questions of one packet that are noted, as many as fit into a segment: a C library asks for both families at once, a resolver that
/// forwards over TCP for whatever has gathered.
const QUESTIONS_AT_ONCE: u32 = 32;

/// Byte `at` of a question, 0 where there is none.
#[inline(always)]
fn byte_of(text: &QuestionText, at: u32) -> u8 {
    if at < 256 {
        // SAFETY: the mask keeps to the array.
        unsafe { *text.head.get_unchecked(masked::<0xff>(at)) }
    } else {
        // SAFETY: the mask keeps to the array.
        unsafe { *text.tail.get_unchecked(masked::<15>(at)) }
    }
}

/// What `learn` works on. One a CPU: ingress runs in softirq, where nothing else comes between.
#[repr(C)]
pub struct Scratch {
    message: [u8; MAX_MESSAGE as usize],
    /// Where the message begins in the packet.
    start: Kept<u32>,
    /// How much of it is there.
    length: Kept<u32>,
    /// The question that it answers.
    question: QuestionKey,
    /// Where it stands.
    found: Kept<u32>,
    /// When it was asked.
    asked_ns: Kept<u64>,
    name: Name,
    records: Records,
    key: NameKey,
    entry: LearnedName,
    /// Addresses whose name is known now.
    learned: Kept<u32>,
    /// Whether there was no room for one.
    full: Kept<u32>,
    /// Whether one was special.
    special: Kept<u32>,
    /// [`asked_for`].
    asked_for: Kept<u32>,
    /// Who talks; what is learned is said of it.
    talk: Heard,
    /// Where it stands how far the agent has read; none of it has room on the stack.
    pub(crate) held: HeldKey,
    /// What stands there at first.
    pub(crate) fresh: Held,
}

/// What the question of an answer asks for.
mod asked_for {
    /// A name.
    pub(super) const NAME: u32 = 0;
    /// The root, which has no addresses.
    pub(super) const ROOT: u32 = 1;
    /// A name that cannot be compared with patterns: a dot stands inside of a label.
    pub(super) const UNREADABLE: u32 = 2;
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

/// A message to or from a resolver.
#[repr(C)]
#[derive(Clone, Copy)]
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
}

/// A message from a resolver. Apart from [`Talk`], since egress has no room for more on its stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Heard {
    talk: Talk,
    /// Under whom its names stand: the workload, or `SHARED`.
    pub owner: SlotRef,
    /// Whether an answer that only the agent can read has to wait for it: a rule looks at names, and what they say is carried out.
    pub waits: u32,
    _pad: u32,
    /// The socket's network namespace.
    pub netns: u64,
}

impl Deref for Heard {
    type Target = Talk;

    #[inline(always)]
    fn deref(&self) -> &Talk {
        &self.talk
    }
}

impl Heard {
    /// The message in a packet that came from port 53.
    #[inline(always)]
    pub fn incoming(
        skb: Skb,
        (slot, word): (SlotRef, SlotWord),
        packet: &Packet,
        config: &Config,
        netns: u64,
    ) -> Self {
        let owner = ebfw_owner(slot.0);
        let waits =
            (owner == SHARED.0 || word.has(slot_flag::NAMES)) && config.mode == mode::ENFORCE;
        let unknown = u64::from(skb.length());
        Self {
            talk: Talk {
                slot,
                resolver: packet.source,
                source: packet.destination,
                port: u32::from(packet.upper.ports.destination),
                start: packet.upper.start,
                end: packet.upper.end,
                protocol: u32::from(packet.protocol),
            },
            owner: SlotRef(forget(owner, unknown)),
            waits: forget(u32::from(waits), unknown),
            _pad: 0,
            netns,
        }
    }
}

/// Under whom the names of a workload stand: `SHARED` where it resolves for others. With external linkage, as `ebfw_decide`: what comes
/// behind is followed once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_owner(slot: u32) -> u32 {
    // SAFETY: only asked whether it is there.
    match unsafe { SERVICES.get(SlotRef(slot)) } {
        Some(_) => SHARED.0,
        None => slot,
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

/// Notes the questions that leave with a packet to a trusted resolver, which passes unjudged.
#[inline(always)]
pub fn note(skb: Skb, slot: SlotRef, packet: &Packet) {
    count(Counter::Resolver);
    if packet.carries_payload() {
        let who = u64::from(slot.0)
            | u64::from(packet.upper.ports.source) << 32
            | u64::from(packet.protocol) << 48;
        let mut at = packet.upper.start;
        for _ in 0..QUESTIONS_AT_ONCE {
            at = ebfw_ask(skb.0, who, packet.upper.end, at);
            if at == 0 {
                return;
            }
        }
        ebfw_unnoted(skb.0, who, packet.upper.end, at);
    }
}

/// Notes the question at byte `at`. Returns where the next one begins, 0 for nowhere. `who`: the slot, the source port from bit 32 on, the
/// protocol from bit 48 on; `end`: where the payload ends. With external linkage, as `ebfw_decide`: hence the addresses are read again, from
/// the packet's header, since what is routed by its source has not come so far.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_ask(context: *mut __sk_buff, who: u64, end: u32, at: u32) -> u32 {
    let skb = Skb(context);
    let Some(talk) = talk_to(skb, who, end, at) else {
        return 0;
    };
    // A message over TCP has its length before it (RFC 1035, 4.2.2).
    let prefix = ebfw_prefix(context, at, talk.protocol);
    ask_at(skb, &talk, at + u32::from(prefix != 0) * 2);
    let next = at + prefix;
    if prefix != 0 && next < talk.end {
        next
    } else {
        0
    }
}

/// From byte `at` to the end of the message over TCP whose length stands there; 0 where a message begins at once: over UDP, and in a segment
/// whose length came in the one before, as Rust's hickory sends it. Which it is the number of questions tells, which is one: where it stands
/// behind a length, a question without that has its number of answers, 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_prefix(context: *mut __sk_buff, at: u32, protocol: u32) -> u32 {
    const ONE: [u8; 2] = 1u16.to_be_bytes();
    const NONE: [u8; 2] = [0; 2];
    if protocol != u32::from(protocol::TCP) {
        return 0;
    }
    let Some([prefix, counts]) = Skb(context).words::<2>(at) else {
        return 0;
    };
    let [high, low, ..] = prefix.to_ne_bytes();
    let [a, b, c, d] = counts.to_ne_bytes();
    if [a, b] == ONE && [c, d] == NONE {
        return 0;
    }
    2 + u32::from(u16::from_be_bytes([high, low]))
}

/// Tells that the question over TCP at byte `at`, and those behind it, were not noted. As [`ebfw_ask`], which has no room for this on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_unnoted(context: *mut __sk_buff, who: u64, end: u32, at: u32) -> u32 {
    let skb = Skb(context);
    count(Counter::NameFull);
    if let Some(talk) = talk_to(skb, who, end, at) {
        tell(skb, &talk, name_outcome::FULL, 0, at + 2);
    }
    0
}

/// The message at byte `at` to a resolver; see [`ebfw_ask`].
#[inline(always)]
fn talk_to(skb: Skb, who: u64, end: u32, at: u32) -> Option<Talk> {
    let [source, resolver] = addresses(skb)?;
    Some(Talk {
        slot: SlotRef(who as u32),
        resolver,
        source,
        port: u32::from((who >> 32) as u16),
        start: at,
        end,
        protocol: (who >> 48) as u32,
    })
}

/// Source and destination of the packet's header.
#[inline(always)]
fn addresses(skb: Skb) -> Option<[Address; 2]> {
    if skb.ethertype() == ETH_P_IP {
        let words: [u32; 2] = skb.fixed::<12, 2>()?;
        return Some(words.map(|word| Address::mapped(word.to_ne_bytes())));
    }
    let [a, b, c, d, e, f, g, h] = skb.fixed::<8, 8>()?;
    Some([Address([a, b, c, d]), Address([e, f, g, h])])
}

#[inline(always)]
fn ask_at(skb: Skb, talk: &Talk, start: u32) {
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
    if !claim(&mut key, now) {
        count(Counter::NameFull);
        tell(skb, talk, name_outcome::FULL, 0, start);
        return;
    }
    let Some(question) = QUESTIONS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the entry lives until the program ends; an answer to it cannot come before it has left.
    let question = unsafe { &mut *question };
    if !load_text(skb, start + HEADER, talk.end, &mut question.text) {
        let _ = QUESTIONS.remove(key);
        return;
    }
    question.id = id;
    question.port = talk.port as u16;
    question.resolver = talk.resolver;
    question.cookie = cookie;
    // SAFETY: as above. Last: from now on others may take the place again, once it has expired.
    unsafe { ptr::write_volatile(&raw mut question.asked_ns, now) };
    tell(skb, talk, name_outcome::ASKED, 0, start);
}

/// Makes an entry for a question of the set that begins at `key`, which nobody else has: at the first place that is free, else at the last,
/// whose question is lost. Who asks runs on any CPU, and two that ask at once may mean the same place.
#[inline(always)]
fn claim(key: &mut QuestionKey, now: u64) -> bool {
    let Some(blank) = BLANK.get(0) else {
        return false;
    };
    for way in 0..QUESTION_WAYS {
        let is_last = way + 1 == QUESTION_WAYS;
        let free = match QUESTIONS.get_ptr(*key) {
            // SAFETY: the entry lives until the program ends.
            Some(open) => cleared(*key, unsafe { (*open).asked_ns }, now, is_last),
            None => true,
        };
        // Refused where another CPU came first.
        if free && QUESTIONS.insert(*key, blank, ONLY_NEW).is_ok() {
            return true;
        }
        key.place += 1;
    }
    false
}

/// Removes a question that was asked at `asked_ns` if it has expired, or `always`; not while another CPU writes it (0), or clears the place
/// itself, which would take away what was asked since. The other may have begun after this one and ended before: its time is later than `now`.
#[inline(always)]
fn cleared(key: QuestionKey, asked_ns: u64, now: u64, always: bool) -> bool {
    if asked_ns == 0 || !always && now.saturating_sub(asked_ns) < ANSWER_NS {
        return false;
    }
    let Some(blank) = BLANK.get(0) else {
        return false;
    };
    let clearing = QuestionKey {
        place: key.place | CLEARING,
        ..key
    };
    if QUESTIONS.insert(clearing, blank, ONLY_NEW).is_err() {
        return false;
    }
    let same = QUESTIONS
        .get_ptr(key)
        // SAFETY: the entry lives until the program ends.
        .is_some_and(|open| unsafe { ptr::read_volatile(&raw const (*open).asked_ns) } == asked_ns);
    if same {
        let _ = QUESTIONS.remove(key);
    }
    let _ = QUESTIONS.remove(clearing);
    same
}

/// Loads the packet's bytes from `from` on, as far as they go and fit.
#[inline(always)]
fn load_text(skb: Skb, from: u32, end: u32, text: &mut QuestionText) -> bool {
    let length = end - from;
    let head = length.min(text.head.len() as u32);
    if !skb.load_bytes(from, &mut text.head, head) {
        return false;
    }
    length <= head || skb.load_bytes(from + head, &mut text.tail, (length - head).min(16))
}

/// What became of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Learned {
    /// There is nothing more in it.
    All,
    /// The agent has to read it.
    Part,
}

/// Learns what an answer over UDP says, if it answers a question; 0: the packet does not pass before the agent has read it. Who talks stands
/// in the scratch ([`keep`]). With external linkage, as `ebfw_decide`: else it would be followed for each way through the parser.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_learn(context: *mut __sk_buff) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    let talk = talk_of(scratch);
    if ebfw_message(context, talk.start) == 0 {
        return 1;
    }
    // SAFETY: this CPU's own; see `Scratch`.
    let scratch = unsafe { &*scratch };
    let after = scratch.name.end();
    let what = HeldKey::datagram(scratch.name.hash(), scratch.half(after));
    u32::from(held::datagram(Skb(context), talk, what))
}

/// Puts into the scratch who talks.
#[inline(always)]
pub fn keep(talk: &Heard) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's own; see `Scratch`.
        unsafe { (*scratch).talk = *talk };
    }
}

/// Learns what the message at byte `start` says, if it answers a question; 0: all of it. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_message(context: *mut __sk_buff, start: u32) -> u32 {
    let Some(config) = CONFIG.get(0) else {
        return 0;
    };
    u32::from(read_message(Skb(context), start, config) == Learned::Part)
}

/// What is known after each part lies in the scratch and not in registers, so that all ways through it come together again: else the
/// verifier would follow every loop once for each of them.
#[inline(always)]
fn read_message(skb: Skb, start: u32, config: &Config) -> Learned {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Learned::All;
    };
    let talk = talk_of(scratch);
    // SAFETY: this CPU's own, see `Scratch`; who talks is another part than what is changed.
    let scratch = unsafe { &mut *scratch };
    if !load(skb, start, talk.end, scratch) {
        return Learned::All;
    }
    match dns::kind(scratch) {
        Kind::Answer | Kind::Truncated | Kind::Empty => {}
        Kind::Unreadable => {
            count(Counter::NameUnreadable);
            tell(skb, talk, name_outcome::UNREADABLE, 0, start);
            return Learned::All;
        }
        Kind::Question | Kind::Other => return Learned::All,
    }
    find(skb, talk, scratch);
    let is_answer = match QUESTIONS.get_ptr(scratch.question) {
        // SAFETY: the entry lives until the program ends.
        Some(question) => read_name(scratch, unsafe { &*question }, config.seed),
        None => false,
    };
    // One answer a question: of two that come at once, that which takes it away.
    let is_stream = talk.protocol == u32::from(protocol::TCP);
    if !is_answer || !is_stream && QUESTIONS.remove(scratch.question).is_err() {
        count(Counter::NameUnasked);
        tell(skb, talk, name_outcome::UNASKED, 0, start);
        return Learned::All;
    }
    let learned = match dns::kind(scratch) {
        Kind::Answer | Kind::Truncated if scratch.asked_for.get() != asked_for::NAME => {
            if scratch.asked_for.get() == asked_for::UNREADABLE {
                count(Counter::NameUnreadable);
                tell(skb, talk, name_outcome::UNREADABLE, 0, start);
            }
            Learned::All
        }
        Kind::Answer => read_answer(skb, talk, start, config),
        // Where it is cut off in the midst of a record, nobody can read on.
        Kind::Truncated => {
            let _ = read_answer(skb, talk, start, config);
            Learned::All
        }
        _ => Learned::All,
    };
    // What the agent reads to its end answers the question there.
    if is_stream && learned == Learned::All {
        let _ = QUESTIONS.remove(scratch.question);
    }
    learned
}

/// Who talks, as the scratch says.
#[inline(always)]
pub fn talk_of(scratch: *mut Scratch) -> &'static Heard {
    // SAFETY: array entries live as long as the map, and nothing changes this part while a message is read.
    unsafe { &(*scratch).talk }
}

/// Brings the message into the scratch: its first bytes, where it is longer.
#[inline(always)]
fn load(skb: Skb, start: u32, end: u32, scratch: &mut Scratch) -> bool {
    scratch.start.set(start);
    scratch.length.set(end - start);
    if scratch.length.get() < HEADER + 5 {
        return false;
    }
    if scratch.length.get() > MAX_MESSAGE {
        scratch.length.set(MAX_MESSAGE);
    }
    skb.load_bytes(start, &mut scratch.message, scratch.length.get())
}

/// Finds the open question that the message answers, the one asked last if there are several: `scratch.question` becomes its key, or one
/// that is in no map.
#[inline(always)]
fn find(skb: Skb, talk: &Heard, scratch: &mut Scratch) {
    let id = u16::from_ne_bytes([scratch.byte(0), scratch.byte(1)]);
    let cookie = skb.cookie();
    let now = boot_ns();
    scratch.question.slot = talk.slot;
    scratch.question.place = set_of(cookie, id, talk.port);
    scratch.found.set(NOWHERE);
    scratch.asked_ns.set(0);
    for _ in 0..QUESTION_WAYS {
        if let Some(open) = QUESTIONS.get_ptr(scratch.question) {
            // SAFETY: the entry lives until the program ends.
            let question = unsafe { &*open };
            if question.cookie == cookie
                && question.id == id
                && u32::from(question.port) == talk.port
                && question.resolver == talk.resolver
                && now.saturating_sub(question.asked_ns) < ANSWER_NS
                && question.asked_ns >= scratch.asked_ns.get()
            {
                scratch.found.set(scratch.question.place);
                scratch.asked_ns.set(question.asked_ns);
            }
        }
        scratch.question.place += 1;
    }
    scratch.question.place = scratch.found.get();
}

/// Reads the question of an answer; whether it is the one that was asked. Of one that cannot be read only the beginning is compared: nothing is
/// learned from its answer.
#[inline(always)]
fn read_name(scratch: &mut Scratch, question: &Question, seed: u64) -> bool {
    let message = &raw const *scratch;
    // SAFETY: the message is another part of the scratch than the name and what is asked for.
    let (message, scratch) = unsafe { (&*message, scratch) };
    let name = &mut scratch.name;
    scratch.asked_for.set(asked_for::NAME);
    let first = message.byte(HEADER);
    if byte_of(&question.text, 0) != first {
        return false;
    }
    if first == 0 {
        scratch.asked_for.set(asked_for::ROOT);
    } else if name.begin(message, seed) != Step::More {
        return false;
    } else {
        for index in 0..NAME_STEPS {
            if !dns::same(
                byte_of(&question.text, index + 1),
                message.byte(HEADER + 1 + index),
            ) {
                return false;
            }
            match name.step(message, index) {
                Step::More => {}
                Step::Bad => {
                    scratch.asked_for.set(asked_for::UNREADABLE);
                    return true;
                }
                Step::Done => break,
            }
        }
    }
    // Type and class.
    let after = if first == 0 { HEADER + 1 } else { name.end() };
    let mut same = after + 4 <= message.end();
    for index in 0..4 {
        same &= byte_of(&question.text, after - HEADER + index) == message.byte(after + index);
    }
    same
}

#[inline(always)]
fn read_answer(skb: Skb, talk: &Heard, start: u32, config: &Config) -> Learned {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Learned::All;
    };
    let message = scratch.cast_const();
    // SAFETY: this CPU's own; what is changed is another part than the message.
    let (message, scratch) = unsafe { (&*message, &mut *scratch) };
    scratch.key.slot = talk.owner;
    scratch.key.netns = talk.netns;
    scratch.entry.class = 0;
    scratch.entry.hash = scratch.name.hash();
    scratch.entry.length = scratch.name.length();
    scratch.entry._pad = 0;
    scratch.entry.text = *scratch.name.text();
    scratch.records.begin(message, scratch.name.end());
    scratch.learned.set(0);
    scratch.full.set(0);
    scratch.special.set(0);
    let now = boot_ns();
    for _ in 0..RECORD_STEPS {
        if ebfw_record(config.learn_special, now) == 0 {
            break;
        }
    }
    let learned = scratch.learned.get();
    if scratch.full.get() != 0 {
        tell(skb, talk, name_outcome::FULL, learned, start);
    } else if scratch.special.get() != 0 {
        tell(skb, talk, name_outcome::SPECIAL, learned, start);
    } else if learned != 0 {
        tell(skb, talk, name_outcome::LEARNED, learned, start);
    }
    if scratch.records.complete() {
        Learned::All
    } else {
        Learned::Part
    }
}

/// Reads one record of the answer in the scratch, or a label of its owner, and learns its address; 0: there are no more. With external
/// linkage, as `ebfw_decide`: the verifier follows it once and not for each record.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_record(learn_special: u32, now: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let message = scratch.cast_const();
    // SAFETY: this CPU's own, see `Scratch`; what is changed is another part than the message.
    let (message, scratch) = unsafe { (&*message, &mut *scratch) };
    if scratch.records.step(message) != Step::More {
        return 0;
    }
    if let Some(answer) = scratch.records.answer() {
        scratch.entry.expires_ns = now + answer.lifetime_s() * 1_000_000_000;
        scratch.key.address = answer.address();
        if learn_special == 0 && dns::is_special(scratch.key.address) {
            scratch.special.set(1);
            count(Counter::NameSpecial);
        } else {
            place(scratch, now);
        }
    }
    1
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
    let Some(all) = NAME_COUNTS.get_ptr_mut(ALL_NAMES) else {
        return;
    };
    // SAFETY: array entries live as long as the map.
    let (taken, all) = unsafe { (&mut *taken, &mut *all) };
    let mut expired = NAMES_PER_ADDRESS;
    for at in 0..NAMES_PER_ADDRESS {
        scratch.key.place = at;
        let Some(known) = NAMES.get_ptr_mut(&scratch.key) else {
            if !has_room_for_name(*taken, *all) {
                break;
            }
            // Refused where another CPU came first.
            if NAMES.insert(&scratch.key, &scratch.entry, ONLY_NEW).is_ok() {
                add(taken, 1);
                add(all, 1);
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
    scratch.full.set(1);
    count(Counter::NameFull);
}

#[inline(always)]
fn learned(scratch: &mut Scratch) {
    scratch.learned.set(scratch.learned.get() + 1);
    count(Counter::NameLearned);
}

/// Beside a question's place: somebody takes what stands there away.
const CLEARING: u32 = 1 << 31;
/// A place where no question is.
const NOWHERE: u32 = CLEARING - 1;
/// `BPF_ANY`.
const REPLACE: u64 = 0;
/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// Tells the agent about a message that begins at byte `start` of the packet.
#[inline(never)]
fn tell(skb: Skb, talk: &Talk, outcome: u8, learned: u32, start: u32) {
    let now = boot_ns();
    let limit = match outcome {
        name_outcome::ASKED | name_outcome::LEARNED => EVENTS,
        _ => EVENTS + TROUBLE,
    };
    let admitted = NAME_RATES
        .get_ptr_mut(talk.slot.index())
        .is_some_and(|window| {
            // SAFETY: array entries live as long as the map.
            report::enter(unsafe { &mut *window }, limit, now / WINDOW_NS).is_some()
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
