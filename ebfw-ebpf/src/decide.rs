//! From a flow and its workload to a verdict: the one place where policy is applied and where a failure becomes a Deny.

use ebfw_common::classify::Tables;
use ebfw_common::{
    abi::{Address, NAMES_PER_ADDRESS, SlotRef, SlotWord, reason, slot_flag, verdict},
    classify::{Content, Flow, Outcome, classify},
    layout::{Header, header_flag},
    packet::Malformed,
};

use crate::{
    names::{self, CLASS_BITS},
    tables::Instance,
};

/// What was decided and why.
#[derive(Clone, Copy)]
#[must_use]
pub struct Decision {
    /// `ebfw_common::abi::verdict`.
    pub verdict: u8,
    /// `ebfw_common::abi::reason`.
    pub reason: u8,
    /// Index of the rule, where the reason is a rule.
    pub rule: u16,
    /// Whether rules that need a name or a request had to be passed over.
    pub opaque: bool,
}

impl Decision {
    /// A decision that no rule made.
    pub const fn because(verdict: u8, reason: u8) -> Self {
        Self {
            verdict,
            reason,
            rule: 0,
            opaque: false,
        }
    }

    /// A packet that may not leave whatever the rules say.
    pub const fn malformed(why: Malformed) -> Self {
        Self::because(
            verdict::DENY,
            match why {
                Malformed::Header => reason::MALFORMED,
                Malformed::SourceRoute => reason::SOURCE_ROUTE,
                Malformed::RoutingHeader => reason::ROUTING_HEADER,
            },
        )
    }
}

/// A flow to be decided.
pub struct Question {
    /// Destination address.
    pub destination: Address,
    /// Destination port; 0 where there is none.
    pub port: u16,
    /// Whether there is one.
    pub has_port: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether payload is there already (which this program cannot read) or may still come.
    pub payload: bool,
    /// When the flow was judged first; 0: now. What has expired since then is still one of its names.
    pub opened_ns: u64,
    /// The destination's names, see [`Flow::names`]: [`decide`] fills them in.
    pub names: [u32; NAMES_PER_ADDRESS as usize],
}

impl Question {
    /// All but the destination in one number: port, protocol, whether there is a port, whether there is payload. The upper half is free.
    #[inline(always)]
    fn flow(&self) -> u64 {
        u64::from(self.port)
            | u64::from(self.protocol) << 16
            | u64::from(self.has_port) << 24
            | u64::from(self.payload) << 25
    }
}

/// Whether a flow to the workload's own loopback passes unjudged.
#[inline(always)]
pub fn passes_as_loopback(word: SlotWord, is_loopback: bool) -> bool {
    is_loopback && !word.has(slot_flag::GOVERN_LOOPBACK)
}

/// Applies the ruleset of the workload in `slot`, whose word is `word`, to a flow of a socket in the network namespace `netns`.
#[inline(always)]
pub fn decide(word: SlotWord, slot: SlotRef, netns: u64, question: &mut Question) -> Decision {
    if !word.has(slot_flag::GOVERNED) {
        return Decision::because(verdict::OBSERVED, reason::UNGOVERNED);
    }
    names::resolve(word, slot, netns, question);
    let [first, second] = question.destination.halves();
    let names = question.names.map(u64::from);
    let packed = ebfw_decide(
        word.0,
        first,
        second,
        question.flow() | names[3] << 32,
        names[0] | names[1] << CLASS_BITS | names[2] << (2 * CLASS_BITS),
    );
    Decision {
        verdict: packed as u8,
        reason: (packed >> 8) as u8,
        rule: (packed >> 16) as u16,
        opaque: packed >> 32 & 1 != 0,
    }
}

/// A function with external linkage, which the verifier follows once, whoever calls it and with what: hence only numbers go in and out
/// (Documentation/bpf/verifier.rst; kernel 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_decide(word: u64, first: u64, second: u64, flow: u64, names: u64) -> u64 {
    let destination = Address::from_halves([first, second]);
    let decision = apply(SlotWord(word), destination, flow, names);
    u64::from(decision.verdict)
        | u64::from(decision.reason) << 8
        | u64::from(decision.rule) << 16
        | u64::from(decision.opaque) << 32
}

#[inline(always)]
fn apply(word: SlotWord, destination: Address, flow: u64, names: u64) -> Decision {
    const BROKEN: Decision = Decision::because(verdict::DENY, reason::TABLES);
    let Some(instance) = Instance::get(word.instance()) else {
        return BROKEN;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN;
    };
    let payload = flow >> 25 & 1 != 0;
    let class = |bits: u64| bits as u32 & ((1 << CLASS_BITS) - 1);
    let flow = Flow {
        destination,
        protocol: (flow >> 16) as u8,
        port: if flow >> 24 & 1 != 0 {
            Some(flow as u16)
        } else {
            None
        },
        content: if payload {
            Content::Opaque
        } else {
            Content::Pending
        },
        names: [
            class(names),
            class(names >> CLASS_BITS),
            class(names >> (2 * CLASS_BITS)),
            class(flow >> 32),
        ],
    };
    let opaque = header.flags & header_flag::CONTENT != 0 && payload;
    let permit = |permits| {
        if permits {
            verdict::ALLOW
        } else {
            verdict::DENY
        }
    };
    match classify(&instance, header, &flow) {
        Ok(Outcome::Rule { rule, permits }) => Decision {
            verdict: permit(permits),
            reason: reason::RULE,
            rule,
            opaque,
        },
        Ok(Outcome::Default { permits }) => Decision {
            verdict: permit(permits),
            reason: reason::DEFAULT,
            rule: 0,
            opaque,
        },
        Ok(Outcome::Held { rule }) => Decision {
            verdict: verdict::HELD,
            reason: reason::RULE,
            rule,
            opaque,
        },
        Err(_) => BROKEN,
    }
}
