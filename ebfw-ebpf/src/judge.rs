//! From a flow whose names are known to a verdict: the one place where policy is applied and where a failure becomes a Deny.

use ebfw_common::classify::Tables;
use ebfw_common::{
    abi::{Address, MAX_INSTANCES, NAMES_PER_ADDRESS, SlotWord, payload, reason, verdict},
    classify::{Flow, Outcome, classify},
    layout::{Header, header_flag},
};

pub use ebfw_common::classify::{Said, claim, request};

use crate::{automaton::CLASS_BITS, tables::Instance};

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
    /// `ebfw_common::abi::payload`.
    pub payload: u8,
    /// Of a flow whose client has said nothing yet: nothing that it may say can change the verdict.
    pub settled: bool,
}

impl Decision {
    /// A decision that no rule made.
    pub const fn because(verdict: u8, reason: u8) -> Self {
        Self {
            verdict,
            reason,
            rule: 0,
            payload: 0,
            settled: true,
        }
    }

    /// In one number, as functions with external linkage return it.
    #[inline(always)]
    pub fn packed(self) -> u64 {
        u64::from(self.verdict)
            | u64::from(self.reason) << 8
            | u64::from(self.rule) << 16
            | u64::from(self.payload) << 32
            | u64::from(self.settled) << 34
    }

    /// From that number.
    #[inline(always)]
    pub fn unpacked(packed: u64) -> Self {
        Self {
            verdict: packed as u8,
            reason: (packed >> 8) as u8,
            rule: (packed >> 16) as u16,
            payload: (packed >> 32) as u8 & 3,
            settled: packed >> 34 & 1 != 0,
        }
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
    /// What the client said.
    pub said: Said,
    /// The destination's names, see [`Flow::names`].
    pub names: [u32; NAMES_PER_ADDRESS as usize],
}

/// No class of any table: what could not be looked up, so that the flow is denied.
pub const BROKEN_CLASS: u32 = u32::MAX;

/// Bits of the class of a method or a path.
const REQUEST_BITS: u32 = 16;
const INSTANCE_BITS: u32 = 12;
const _: () = assert!(
    MAX_INSTANCES <= 1 << INSTANCE_BITS && INSTANCE_BITS + CLASS_BITS + 2 * REQUEST_BITS == 64
);

/// Every bit of a class that lies in `bits` bits.
#[inline(always)]
const fn low(number: u64, bits: u32) -> u64 {
    number & ((1 << bits) - 1)
}

impl Question {
    /// Instance, claimed name, method and path.
    #[inline(always)]
    fn classes(&self, instance: u32) -> u64 {
        low(instance.into(), INSTANCE_BITS)
            | low(self.said.claimed.into(), CLASS_BITS) << INSTANCE_BITS
            | low(self.said.method.into(), REQUEST_BITS) << (INSTANCE_BITS + CLASS_BITS)
            | low(self.said.path.into(), REQUEST_BITS)
                << (INSTANCE_BITS + CLASS_BITS + REQUEST_BITS)
    }

    /// Port, protocol, whether there is a port, what the client said, and the last name in the upper half.
    #[inline(always)]
    fn flow(&self) -> u64 {
        u64::from(self.port)
            | u64::from(self.protocol) << 16
            | u64::from(self.has_port) << 24
            | low(self.said.claim.into(), 2) << 25
            | low(self.said.request.into(), 2) << 27
            | u64::from(self.names[3]) << 32
    }

    /// The other names.
    #[inline(always)]
    fn three_names(&self) -> u64 {
        u64::from(self.names[0])
            | u64::from(self.names[1]) << CLASS_BITS
            | u64::from(self.names[2]) << (2 * CLASS_BITS)
    }
}

/// Applies the ruleset of a governed workload to a flow whose names are known.
#[inline(always)]
pub fn judge(word: SlotWord, question: &Question) -> Decision {
    let [first, second] = question.destination.halves();
    let packed = ebfw_decide(
        question.classes(word.instance()),
        first,
        second,
        question.flow(),
        question.three_names(),
    );
    Decision::unpacked(packed)
}

/// A function with external linkage, which the verifier follows once, whoever calls it and with what: hence only numbers go in and out
/// (Documentation/bpf/verifier.rst; kernel 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_decide(classes: u64, first: u64, second: u64, flow: u64, names: u64) -> u64 {
    let destination = Address::from_halves([first, second]);
    apply(classes, destination, flow, names).packed()
}

#[inline(always)]
fn apply(classes: u64, destination: Address, flow: u64, names: u64) -> Decision {
    const BROKEN: Decision = Decision::because(verdict::DENY, reason::TABLES);
    let Some(instance) = Instance::get(low(classes, INSTANCE_BITS) as u32) else {
        return BROKEN;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN;
    };
    let said = Said {
        claim: low(flow >> 25, 2) as u32,
        claimed: low(classes >> INSTANCE_BITS, CLASS_BITS) as u32,
        request: low(flow >> 27, 2) as u32,
        method: low(classes >> (INSTANCE_BITS + CLASS_BITS), REQUEST_BITS) as u32,
        path: (classes >> (INSTANCE_BITS + CLASS_BITS + REQUEST_BITS)) as u32,
    };
    let class = |bits: u64| low(bits, CLASS_BITS) as u32;
    let flow = Flow {
        destination,
        protocol: (flow >> 16) as u8,
        port: if flow >> 24 & 1 != 0 {
            Some(flow as u16)
        } else {
            None
        },
        said,
        names: [
            class(names),
            class(names >> CLASS_BITS),
            class(names >> (2 * CLASS_BITS)),
            class(flow >> 32),
        ],
    };
    let opaque = header.flags & header_flag::NAMES != 0 && said.claim == claim::NAMELESS
        || header.flags & header_flag::REQUESTS != 0 && said.request == request::OPAQUE;
    let unresolved = header.flags & header_flag::NAMES != 0 && said.claim == claim::FOREIGN;
    let shown = (u8::from(opaque) * payload::OPAQUE) | (u8::from(unresolved) * payload::UNRESOLVED);
    let permit = |permits| {
        if permits {
            verdict::ALLOW
        } else {
            verdict::DENY
        }
    };
    match classify(&instance, header, &flow) {
        Ok(Outcome::Rule {
            rule,
            permits,
            settled,
        }) => Decision {
            verdict: permit(permits),
            reason: reason::RULE,
            rule,
            payload: shown,
            settled,
        },
        Ok(Outcome::Default { permits }) => Decision {
            verdict: permit(permits),
            reason: reason::DEFAULT,
            rule: 0,
            payload: shown,
            settled: true,
        },
        Ok(Outcome::Held { rule }) => Decision {
            verdict: verdict::HELD,
            reason: reason::RULE,
            rule,
            payload: shown,
            settled: false,
        },
        Err(_) => BROKEN,
    }
}
