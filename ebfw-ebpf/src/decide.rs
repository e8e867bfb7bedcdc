//! From a flow and its workload to a verdict: the one place where policy is applied and where a failure becomes a Deny.

use ebfw_common::classify::Tables;
use ebfw_common::{
    abi::{Address, SlotWord, reason, slot_flag, verdict},
    classify::{Content, Flow, NO_NAMES, Outcome, classify},
    layout::Header,
    packet::Malformed,
};

use crate::tables::Instance;

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

/// A flow to be decided. As [`Flow`], but flat: every byte is defined, which an `Option` does not see to and the verifier insists on.
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
}

/// Whether a flow to the workload's own loopback passes unjudged.
#[inline(always)]
pub fn passes_as_loopback(word: SlotWord, is_loopback: bool) -> bool {
    is_loopback && !word.has(slot_flag::GOVERN_LOOPBACK)
}

/// Applies the workload's ruleset. A function of its own, so that what it needs of the stack is free again for others.
#[inline(never)]
pub fn decide(word: SlotWord, question: &Question) -> Decision {
    if !word.has(slot_flag::GOVERNED) {
        return Decision::because(verdict::OBSERVED, reason::UNGOVERNED);
    }
    let Question {
        destination,
        port,
        has_port,
        protocol,
        payload,
    } = *question;
    let flow = Flow {
        destination,
        protocol,
        port: if has_port { Some(port) } else { None },
        content: if payload {
            Content::Opaque
        } else {
            Content::Pending
        },
        names: NO_NAMES,
    };
    const BROKEN: Decision = Decision::because(verdict::DENY, reason::TABLES);
    let Some(instance) = Instance::get(word.instance()) else {
        return BROKEN;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN;
    };
    let opaque = header.flags & ebfw_common::layout::header_flag::CONTENT != 0 && payload;
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
