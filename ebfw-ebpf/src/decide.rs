//! From a flow and its workload to a verdict.

use ebfw_common::{
    abi::{SlotRef, SlotWord, reason, slot_flag, verdict},
    packet::Malformed,
};

pub use crate::judge::{BROKEN_CLASS, Decision, Question, Said, claim, judge};
use crate::names;

impl Decision {
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

/// Whether a flow to the workload's own loopback passes unjudged.
#[inline(always)]
pub fn passes_as_loopback(word: SlotWord, is_loopback: bool) -> bool {
    is_loopback && !word.has(slot_flag::GOVERN_LOOPBACK)
}

/// Applies the ruleset of the workload in `slot`, whose word is `word`, to a flow of a socket in the network namespace `netns`. `opened_ns`: when the
/// flow was judged first; 0: now. What has expired since then is still one of its names.
#[inline(always)]
pub fn decide(
    word: SlotWord,
    slot: SlotRef,
    netns: u64,
    opened_ns: u64,
    question: &mut Question,
) -> Decision {
    if !word.has(slot_flag::GOVERNED) {
        return Decision::because(verdict::OBSERVED, reason::UNGOVERNED);
    }
    question.names = names::resolved(word, slot, netns, question.destination, opened_ns);
    judge(word, question)
}
