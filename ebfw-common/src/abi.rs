//! Types that cross the border between the kernel programs and the agent, and the limits of their maps.
//!
//! Every struct is `repr(C)` without implicit padding (zerocopy's derives refuse it). A change of any layout here, or of a map's
//! definition in `ebfw-ebpf`, must raise [`ABI_VERSION`].

use core::net::{IpAddr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything that is pinned: an agent adopts the maps of its own version only.
pub const ABI_VERSION: u32 = 5;

/// Rules of one ruleset at most: 64 words of 64 bits.
pub const MAX_RULES: usize = 4096;
/// Instances (distinct rulesets) that can be loaded at once, old ones under deletion included.
pub const MAX_INSTANCES: u32 = 4096;
/// Automata of domain patterns that can be loaded at once, old ones under deletion included.
pub const MAX_AUTOMATA: u32 = 16;
/// Slots (workloads) that can exist at once.
pub const MAX_SLOTS: u32 = 16384;
/// Cgroups that can be known at once: each has a slot.
pub const MAX_CGROUPS: u32 = MAX_SLOTS;
/// The deepest level below the cgroup v2 root at which a cgroup can be a workload of its own. What lies deeper belongs to its ancestor.
pub const MAX_CGROUP_DEPTH: u32 = 16;

/// Under which names stand that services of the host learned for others. No workload has this slot.
pub const SHARED: SlotRef = SlotRef(0);
/// Services of the host that may resolve for others.
pub const MAX_SERVICES: u32 = 1024;

/// Names that one address may have in one workload.
pub const NAMES_PER_ADDRESS: u32 = 4;
/// Entries of the map `NAMES`.
pub const MAX_NAMES: u32 = 65_536;
/// Names that one workload may hold of them at most: those of 10,000 look-ups of both families at once, and half as many more.
pub const MAX_WORKLOAD_NAMES: u64 = 30_000;
/// Entries of the map `NAME_COUNTS`: names by slot, and behind them ...
pub const NAME_COUNTS: u32 = MAX_SLOTS + 1;
/// ... those of all slots.
pub const ALL_NAMES: u32 = MAX_SLOTS;

/// Whether a workload that holds `own` of `all` names may learn another: it may hold no more than are left, so that however many workloads learn
/// all they can, there is room for one that knows none yet. None can crowd out the others.
#[must_use]
#[inline(always)]
pub const fn has_room_for_name(own: u64, all: u64) -> bool {
    own < MAX_WORKLOAD_NAMES && own.saturating_add(all) < MAX_NAMES as u64
}
/// Bytes that a name may have, dots included (RFC 1035, 2.3.4, less the first length and the root).
pub const MAX_NAME: usize = 253;
/// Addresses of trusted resolvers.
pub const MAX_RESOLVERS: u32 = 256;
/// Seconds after its time to live for which a name still opens flows.
pub const NAME_GRACE_S: u64 = 30;

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`. Kept as words, since the kernel's target moves bytes one by one.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// `::`.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`.
    pub const LOOPBACK: Self = Self([0, 0, 0, 1u32.to_be()]);

    /// `::ffff:a.b.c.d`, the four bytes as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn mapped(v4: [u8; 4]) -> Self {
        Self([0, 0, 0xffffu32.to_be(), u32::from_ne_bytes(v4)])
    }

    /// The IPv4 address that this stands for, if it stands for one.
    #[inline(always)]
    #[must_use]
    pub const fn v4(self) -> Option<[u8; 4]> {
        if self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffffu32.to_be() {
            Some(self.0[3].to_ne_bytes())
        } else {
            None
        }
    }

    /// Whether this is in 127.0.0.0/8 or ::1.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        match self.v4() {
            Some([first, ..]) => first == 127,
            None => self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1u32.to_be(),
        }
    }

    /// The words in pairs, as functions with external linkage take them.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// The address of which these are the [`Address::halves`].
    #[inline(always)]
    #[must_use]
    pub const fn from_halves([first, second]: [u64; 2]) -> Self {
        Self([
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ])
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }
}

impl From<[u8; 16]> for Address {
    fn from(octets: [u8; 16]) -> Self {
        Self(zerocopy::transmute!(octets))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        address.octets().into()
    }
}

impl From<Address> for Ipv6Addr {
    fn from(address: Address) -> Self {
        address.octets().into()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::mapped(address.octets()),
            IpAddr::V6(address) => address.into(),
        }
    }
}

/// What the programs do, for all workloads alike. Map `CONFIG`, one entry.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Config {
    /// [`mode`].
    pub mode: u32,
    /// [`pending`].
    pub pending: u32,
    /// Cookie of the agent's network namespace: only there may a resolver on loopback be trusted. 0: nowhere.
    pub host_netns: u64,
    /// Secret start of the hashes of names; stays as long as the maps do.
    pub seed: u64,
    /// 1: answers that point a name to loopback, link-local, multicast, NAT64 or unspecified addresses are learned too.
    pub learn_special: u32,
    /// 1: the beginnings of TCP flows are read for events about TLS and HTTP, whether or not a decision waits for them. 3: the heads of
    /// requests are reported as they stand, too.
    pub inspect: u32,
    /// How packets with payload in shared pages are told.
    pub shared: SharedPages,
}

/// Where the running kernel says that a packet's payload lies in pages that somebody can still write to (vmsplice, sendfile, `MSG_ZEROCOPY`):
/// offsets in bytes of `sk_buff.head` and `.end` and of a byte of `skb_shared_info`, and the bit of that byte.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SharedPages {
    /// Of `sk_buff.head`.
    pub head: u16,
    /// Of `sk_buff.end`.
    pub end: u16,
    /// Of the byte in `skb_shared_info`.
    pub flags: u16,
    /// Its bit; 0: not known, every packet may be one of them.
    pub mask: u16,
}

/// Values of [`Config::inspect`].
pub mod inspect {
    /// Only what a decision waits for is read.
    pub const OFF: u32 = 0;
    /// What TLS and HTTP clients claim and ask for is reported.
    pub const ON: u32 = 1;
    /// And the heads of HTTP/1 requests as they stand.
    pub const HEADS: u32 = 3;
}

/// Values of [`Config::mode`]. Zeroed memory enforces.
pub mod mode {
    /// Denied flows are refused.
    pub const ENFORCE: u32 = 0;
    /// Denied flows are reported and leave.
    pub const LOG: u32 = 1;
    /// As [`LOG`]; reported as `dry-run`.
    pub const DRY_RUN: u32 = 2;
    /// Nothing is evaluated; flows are reported.
    pub const OFF: u32 = 3;
}

/// Values of [`Config::pending`]: packets of a workload that the agent has not classified yet.
pub mod pending {
    /// Drop them without an error, so that the sender tries again.
    pub const DROP: u32 = 0;
    /// Let them through.
    pub const ALLOW: u32 = 1;
}

/// What a slot holds: a workload's ruleset and how to treat cgroups below it. One 64-bit word, stored and read at once.
///
/// Bits 0..16 instance, 16..24 [`slot_flag`], 24..32 generation of the slot's index (against reuse), 32..64 serial of the instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotWord(pub u64);

/// Flags of a [`SlotWord`].
pub mod slot_flag {
    /// The slot is in use. A word without it belongs to no workload.
    pub const LIVE: u8 = 1;
    /// A ruleset governs the workload; without it everything passes and nothing is evaluated.
    pub const GOVERNED: u8 = 2;
    /// A cgroup below may be a workload of its own: it is pending until the agent has looked at it.
    pub const OPEN: u8 = 4;
    /// No events either: the agent itself.
    pub const SILENT: u8 = 8;
    /// The workload's own loopback is judged too.
    pub const GOVERN_LOOPBACK: u8 = 16;
    /// The ruleset looks at names.
    pub const NAMES: u8 = 32;
    /// The ruleset looks at methods or paths of requests.
    pub const REQUESTS: u8 = 64;
    /// Names that services of the host learned count too ([`super::SHARED`]).
    pub const SHARED_NAMES: u8 = 128;
}

impl SlotWord {
    /// Puts the fields together.
    #[must_use]
    pub const fn new(instance: u16, flags: u8, generation: u8, serial: u32) -> Self {
        Self(
            instance as u64
                | (flags as u64) << 16
                | (generation as u64) << 24
                | (serial as u64) << 32,
        )
    }

    /// Number of the instance in the outer maps.
    #[inline(always)]
    #[must_use]
    pub const fn instance(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// Whether all of `flag` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flag: u8) -> bool {
        (self.0 >> 16) as u8 & flag == flag
    }

    /// Generation of the slot's index.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Serial of the instance: distinct for every ruleset that was ever loaded.
    #[inline(always)]
    #[must_use]
    pub const fn serial(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A reference to a slot, as cgroups and sockets keep it: index in the lower 24 bits, generation in the upper 8.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SlotRef(pub u32);

impl SlotRef {
    /// A reference to generation `generation` of slot `index`.
    #[must_use]
    pub const fn new(index: u32, generation: u8) -> Self {
        Self((index & 0xff_ffff) | (generation as u32) << 24)
    }

    /// Index of the slot.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 & 0xff_ffff
    }

    /// Generation that the slot must have for the reference to hold.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// Where a verdict was taken. Field `hook` of [`FlowEvent`].
pub mod hook {
    /// `connect(2)`.
    pub const CONNECT: u8 = 1;
    /// `sendmsg(2)` and its like with an address.
    pub const SENDMSG: u8 = 2;
    /// A packet on its way out.
    pub const EGRESS: u8 = 3;
}

/// What was decided. Field `verdict` of [`FlowEvent`].
pub mod verdict {
    /// Refused or dropped (in mode `log` or dry-run: would have been).
    pub const DENY: u8 = 0;
    /// Let through.
    pub const ALLOW: u8 = 1;
    /// Let through until a fact that a rule needs is known.
    pub const HELD: u8 = 2;
    /// Nothing was evaluated: mode `off`, or a workload that no policy governs.
    pub const OBSERVED: u8 = 3;
}

/// Why it was decided so. Field `reason` of [`FlowEvent`].
pub mod reason {
    /// The rule in field `rule` matched.
    pub const RULE: u8 = 0;
    /// No rule matched: the default action.
    pub const DEFAULT: u8 = 1;
    /// The packet is malformed: a header is cut off, a length lies, too many extension headers.
    pub const MALFORMED: u8 = 2;
    /// An IPv4 source route.
    pub const SOURCE_ROUTE: u8 = 3;
    /// An IPv6 routing header.
    pub const ROUTING_HEADER: u8 = 4;
    /// A table of the ruleset could not be read: denied, because failures close.
    pub const TABLES: u8 = 5;
    /// The workload has not been classified yet.
    pub const PENDING: u8 = 6;
    /// No policy governs the workload, or mode `off`.
    pub const UNGOVERNED: u8 = 7;
    /// The state of the socket could not be kept: denied, because failures close.
    pub const SOCKET_STATE: u8 = 8;
    /// A rule waits for what the client says, and that cannot be relied on: it lies in pages that can still change, is urgent, or was not
    /// read from its beginning.
    pub const UNREADABLE: u8 = 9;
    /// A rule waits for what the client says, and that is malformed or can be read in two ways.
    pub const AMBIGUOUS: u8 = 10;
}

/// What a payload showed with which a flow was decided. Field `payload` of [`FlowEvent`].
pub mod payload {
    /// No name, or no request, where rules ask for one.
    pub const OPAQUE: u8 = 1;
    /// A name that the workload has not resolved to the destination, where rules ask for one: no Allow by name means it.
    pub const UNRESOLVED: u8 = 2;
}

/// One decision about a flow, as the kernel reports it. Ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEvent {
    /// Nanoseconds since boot, suspend included (`bpf_ktime_get_boot_ns`).
    pub boot_ns: u64,
    /// The cgroup v2 id of the socket (`EGRESS`) or of the calling thread.
    pub cgroup_id: u64,
    /// The socket's cookie; 0 where the kernel gives none.
    pub cookie: u64,
    /// The slot word under which it was decided: its serial names the ruleset.
    pub slot_word: u64,
    /// Source; unspecified in `CONNECT` and `SENDMSG` where the socket is not bound.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Thread group that called connect or sendmsg last on this socket; 0 where unknown.
    pub pid: u32,
    /// Equal events that were left out since the last one of this kind was written.
    pub suppressed: u32,
    /// Source port in host order; meaningful as `destination_port` is.
    pub source_port: u16,
    /// Destination port in host order; meaningful where `has_ports` is 1.
    pub destination_port: u16,
    /// Index of the rule; meaningful with [`reason::RULE`].
    pub rule: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 where the ports are known.
    pub has_ports: u8,
    /// [`hook`].
    pub hook: u8,
    /// [`verdict`].
    pub verdict: u8,
    /// [`reason`].
    pub reason: u8,
    /// What the payload showed, flags of [`payload`].
    pub payload: u8,
    /// [`mode`] at that time.
    pub mode: u32,
    /// Name of that thread group's calling thread, padded with zeros; empty where unknown.
    pub comm: [u8; 16],
}

/// Bytes of a request's method that events and the classifier look at.
pub const MAX_METHOD: usize = 32;
/// Bytes of a request's path that events and the classifier look at.
pub const MAX_PATH: usize = 512;
/// Bytes of a request's head that an event carries.
pub const MAX_HEAD: usize = 2048;

/// What a client says. Field `kind` of [`ClaimEvent`].
pub mod claim_kind {
    /// A TLS ClientHello.
    pub const TLS: u8 = 1;
    /// An HTTP request in clear text.
    pub const HTTP: u8 = 2;
}

/// What a client claims or asks for, and what was decided with it. Ring buffer `CLAIM_EVENTS`. [`MAX_HEAD`] bytes may follow: the head of
/// the request as it was sent, of which [`ClaimEvent::head_length`] count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ClaimEvent {
    /// The flow and the decision.
    pub flow: FlowEvent,
    /// [`claim_kind`].
    pub kind: u8,
    /// 1: the ClientHello is encrypted (ECH), the name is that of the outer one.
    pub ech: u8,
    /// Bytes of `name` that count; 0: the client claims none.
    pub name_length: u16,
    /// Bytes of `method` that count.
    pub method_length: u16,
    /// Bytes of `path` that count.
    pub path_length: u16,
    /// Bytes of the head that count; 0 where none follows.
    pub head_length: u32,
    /// 1: the client claims `address` instead of a name.
    pub is_address: u32,
    /// The address that it claims.
    pub address: Address,
    /// The name that the client claims, in lower case.
    pub name: [u8; 256],
    /// The method.
    pub method: [u8; MAX_METHOD],
    /// The path in its normal form, and behind it the query as it was sent.
    pub path: [u8; MAX_PATH],
}

/// Where a learned name stands: the key of the map `NAMES`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct NameKey {
    /// The workload that asked.
    pub slot: SlotRef,
    /// Which of the address's names: 0 to [`NAMES_PER_ADDRESS`] - 1.
    pub place: u32,
    /// The address in the answer.
    pub address: Address,
    /// Cookie of the network namespace of the socket that asked. What was resolved in another one does not count: whoever makes namespaces
    /// of their own answers there under any address.
    pub netns: u64,
}

/// A name that a workload resolved: the value of the map `NAMES`. Replaced as a whole; only `class` changes in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LearnedName {
    /// From then on (nanoseconds since boot) the name opens no flow; [`NAME_GRACE_S`] is in it.
    pub expires_ns: u64,
    /// Number of the automaton in the upper half, the name's class under it in the lower; 0: not looked up yet.
    pub class: u64,
    /// Hash of the name, seeded: equal names have equal hashes.
    pub hash: u64,
    /// Bytes of `text` that count.
    pub length: u32,
    /// Zero.
    pub _pad: u32,
    /// The name in lower case, without the last dot.
    pub text: [u8; 256],
}

/// Flags of the map `RESOLVERS`, whose keys are addresses.
pub mod resolver {
    /// It answers over the loopback device of the agent's own network namespace.
    pub const LOCAL: u32 = 1;
}

/// What became of a DNS message. Field `outcome` of [`NameEvent`].
pub mod name_outcome {
    /// A question to a trusted resolver.
    pub const ASKED: u8 = 0;
    /// An answer whose addresses were learned.
    pub const LEARNED: u8 = 1;
    /// An answer that neither the programs nor the agent can read. Nothing was learned.
    pub const UNREADABLE: u8 = 2;
    /// An answer to nothing that the workload asked there. Nothing was learned.
    pub const UNASKED: u8 = 3;
    /// An address had [`super::NAMES_PER_ADDRESS`] names already, the workload too many, or the map was full.
    pub const FULL: u8 = 4;
    /// The answer points to a special address ([`super::Config::learn_special`]).
    pub const SPECIAL: u8 = 5;
}

/// What the programs tell about a DNS message. Ring buffer `NAME_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NameEvent {
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// The cgroup v2 id of the socket.
    pub cgroup_id: u64,
    /// The workload's slot.
    pub slot: SlotRef,
    /// Addresses that were learned.
    pub learned: u32,
    /// The workload's address.
    pub source: Address,
    /// The resolver.
    pub resolver: Address,
    /// Bytes of `question` that count; there may be more behind the question itself.
    pub length: u16,
    /// [`name_outcome`].
    pub outcome: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub _pad: u32,
    /// The message behind its header, as it was sent (RFC 1035, 4.1.2): the question comes first.
    pub question: [u8; 256],
}

/// Where an open question stands: the key of the map `QUESTIONS`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct QuestionKey {
    /// The workload.
    pub slot: SlotRef,
    /// Set and way; see [`crate::dns::set_of`].
    pub place: u32,
}

/// An open question: the value of the map `QUESTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
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
    pub text: QuestionText,
}

/// The start of a question: in two parts, since what is loaded at once must be a power of two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QuestionText {
    /// The first bytes.
    pub head: [u8; 256],
    /// Those behind them.
    pub tail: [u8; crate::dns::MAX_QUESTION - 256],
}

/// Bytes of a packet that one [`AnswerPiece`] carries.
pub const PIECE: usize = 4096;

/// A piece of a packet from a resolver that the programs cannot read alone: the agent puts messages together and learns from them. Ring
/// buffer `ANSWERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AnswerPiece {
    /// Nanoseconds since boot; the same for all pieces of a packet.
    pub boot_ns: u64,
    /// The cgroup v2 id of the socket.
    pub cgroup_id: u64,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// The workload.
    pub slot: SlotRef,
    /// TCP: sequence number of the packet's first byte of payload.
    pub sequence: u32,
    /// TCP: sequence number of the first byte of payload that nobody has read yet; a message begins there, unless the agent has a part of
    /// one that ends there.
    pub next: u32,
    /// Bytes of payload in the packet.
    pub total: u32,
    /// Where in the payload this piece begins.
    pub offset: u32,
    /// Bytes of it.
    pub length: u32,
    /// The workload's address.
    pub source: Address,
    /// The resolver.
    pub resolver: Address,
    /// The workload's port.
    pub port: u16,
    /// IP protocol number: UDP's pieces are an answer to a question that was asked.
    pub protocol: u16,
    /// Under whom the names stand: the workload, or [`SHARED`].
    pub owner: SlotRef,
    /// The bytes.
    pub bytes: [u8; PIECE],
}

/// What waits for the agent: the key of the map `HELD`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct HeldKey {
    /// TCP: the socket's cookie. UDP: the name's hash, mixed with the type by [`HeldKey::datagram`].
    pub what: u64,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The workload.
    pub slot: SlotRef,
    /// IP protocol number.
    pub protocol: u32,
}

impl HeldKey {
    /// `what` of an answer over UDP about a name of this hash and a type of record (network order).
    #[inline(always)]
    #[must_use]
    pub const fn datagram(hash: u64, kind: u16) -> u64 {
        hash ^ (kind as u64) << 48
    }
}

/// How far the agent has read: the value of the map `HELD`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Held {
    /// When a packet was held back first since the agent read last; 0: none was.
    pub since_ns: u64,
    /// UDP: when the agent read such an answer last; 0: never.
    pub read_ns: u64,
    /// TCP: sequence number of the first byte that nobody has read.
    pub read: u32,
    /// TCP: sequence number of the first byte behind the message that has begun, where the next one begins; what ends before it completes no
    /// message and need not wait. Something before `read` where that is not known.
    pub end: u32,
}

/// What the kernel asks the agent to do. Ring buffer `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// [`request`].
    pub kind: u32,
    /// IP protocol number of the socket to destroy.
    pub protocol: u32,
    /// Cgroup to classify, or of the socket to destroy.
    pub cgroup_id: u64,
    /// Cookie of the socket to destroy.
    pub cookie: u64,
    /// Local address of that socket.
    pub source: Address,
    /// Remote address of that socket.
    pub destination: Address,
    /// Local port in host order.
    pub source_port: u16,
    /// Remote port in host order.
    pub destination_port: u16,
    /// 4 or 6: address family of the socket (a v4-mapped flow may belong to an IPv6 socket).
    pub family: u32,
}

/// Values of [`Request::kind`].
pub mod request {
    /// Destroy a TCP socket whose flow is denied.
    pub const DESTROY: u32 = 1;
    /// Classify a cgroup that is not known.
    pub const CLASSIFY: u32 = 2;
}

/// Counters of the programs: indexes into the per-CPU map `COUNTERS`. Each is a number of packets or calls since the map was made.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Flow decisions that permit (one a flow and policy, not one a packet).
    DecisionAllow = 0,
    /// Flow decisions that deny.
    DecisionDeny = 1,
    /// Flow decisions that hold.
    DecisionHeld = 2,
    /// Packets dropped in egress.
    PacketDropped = 3,
    /// Calls refused in connect and sendmsg.
    CallRefused = 4,
    /// Packets dropped because the workload was pending.
    PendingDropped = 5,
    /// Events left out by the rate limit.
    EventSuppressed = 6,
    /// Events lost because the ring buffer was full.
    EventLost = 7,
    /// Requests lost because the ring buffer was full; each is repeated with the socket's next packet.
    RequestLost = 8,
    /// Malformed packets denied.
    Malformed = 9,
    /// Source routes and routing headers denied.
    SourceRouted = 10,
    /// Denied because a table could not be read.
    TableError = 11,
    /// Replies let through on connections that came in.
    Reply = 12,
    /// Socket states that could not be created.
    SocketStateFull = 13,
    /// Addresses of answers whose name was learned.
    NameLearned = 14,
    /// Answers to nothing that was asked.
    NameUnasked = 15,
    /// Answers without one question, and packets of answers that the programs cannot read alone and that passed before the agent had read them.
    NameUnreadable = 16,
    /// Names that were not learned for want of room.
    NameFull = 17,
    /// Addresses that were not learned because they are special.
    NameSpecial = 18,
    /// Packets to trusted resolvers that passed unjudged.
    Resolver = 19,
    /// Events about names that were lost because the ring buffer was full.
    NameEventLost = 20,
    /// Events about what clients say that were lost because the ring buffer was full.
    ClaimEventLost = 21,
    /// Packets of which the client's words could not be read where a decision waits for them.
    Unreadable = 22,
    /// The same for words that are malformed or ambiguous.
    Ambiguous = 23,
    /// Packets of resolvers that were held back until the agent has read them.
    AnswerHeld = 24,
    /// Pieces of answers that were lost because the ring buffer was full.
    AnswerLost = 25,
}

/// Number of [`Counter`]s; the map's size.
pub const COUNTERS: u32 = 26;

const _: () = assert!(
    size_of::<FlowEvent>() == 104
        && size_of::<ClaimEvent>() == 936
        && size_of::<Request>() == 64
        && size_of::<Config>() == 40
);
