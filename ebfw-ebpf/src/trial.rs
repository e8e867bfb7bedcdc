//! Programs for tests and benchmarks alone: a verdict on names, a claim and a request that a map holds, and the walks over them.

use aya_ebpf::bindings::__sk_buff;
use ebfw_common::{
    abi::SlotWord,
    classify::{NO_NAMES, Tables as _, claim, request},
    layout::Header,
    names::Text,
    request::{class_of_method, class_of_path},
    trial::{AS_EXPECTED, NAMES, Trial},
};

use crate::{
    decide::{BROKEN_CLASS, Question, Said, judge},
    maps::TRIAL,
    names::{class_of, resolved},
    skb::{Parsed, Skb},
    tables::Instance,
    verifier::{forget, masked},
    workload::{self, Membership},
};

/// What [`ebfw_trial_class`] classifies.
const METHOD: u32 = NAMES as u32;
const PATH: u32 = METHOD + 1;

/// The verdict on a packet whose names, claim and request are in the map.
#[inline(always)]
pub fn trial(context: *mut __sk_buff) -> u32 {
    let skb = Skb(context);
    let (Membership::Of(slot, word), Parsed::Packet(packet)) =
        (workload::of_skb(context), skb.parse())
    else {
        return 0;
    };
    let Some(trial) = TRIAL.get(0) else {
        return 0;
    };
    let has_request = trial.request == request::KNOWN;
    let class = |wanted, what| {
        if wanted {
            ebfw_trial_class(what, word.instance())
        } else {
            0
        }
    };
    let mut question = Question {
        destination: packet.destination,
        port: packet.upper.ports.destination,
        has_port: packet.has_ports(),
        protocol: packet.protocol,
        said: Said {
            claim: trial.claim,
            claimed: class(trial.claim >= claim::RESOLVED, NAMES as u32 - 1),
            request: trial.request,
            method: class(has_request, METHOD),
            path: class(has_request, PATH),
        },
        names: NO_NAMES,
    };
    if trial.netns == 0 {
        question.names = [
            class(true, 0),
            class(true, 1),
            class(true, 2),
            class(true, 3),
        ];
    } else {
        question.names = resolved(word, slot, trial.netns, packet.destination, 0);
    }
    verdict(word, &question, trial)
}

#[inline(always)]
fn verdict(word: SlotWord, question: &Question, trial: &Trial) -> u32 {
    let decision = judge(word, question);
    let packed = u64::from(decision.verdict)
        | u64::from(decision.reason) << 8
        | u64::from(decision.rule) << 16
        | u64::from(decision.settled) << 33;
    if packed == trial.expected {
        AS_EXPECTED
    } else {
        u32::from(decision.verdict & 1) | u32::from(decision.verdict == 2) << 1
    }
}

/// Walks over the first name of the map.
#[inline(always)]
pub fn walk() {
    if let Some(trial) = TRIAL.get(0) {
        ebfw_trial_class(0, trial.instance);
    }
}

/// The class of a name (by its place), the method or the path. With external linkage, as `ebfw_decide`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_trial_class(what: u32, instance: u32) -> u32 {
    let (Some(trial), Some(instance)) = (TRIAL.get(0), Instance::get(instance)) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    if what == METHOD {
        let text = Words::<31>(&trial.method, trial);
        return class_of_method(&instance, header, &text, trial.method_length)
            .unwrap_or(BROKEN_CLASS);
    }
    if what == PATH {
        let text = Words::<511>(&trial.path, trial);
        return class_of_path(&instance, header, &text, trial.path_length).unwrap_or(BROKEN_CLASS);
    }
    let place = masked::<7>(what);
    if place >= NAMES {
        return BROKEN_CLASS;
    }
    let text = Words::<0xff>(&trial.names[place], trial);
    class_of(header, &text, trial.name_lengths[place]).unwrap_or(BROKEN_CLASS)
}

/// A text of `MASK` + 1 bytes in the map.
struct Words<'a, const MASK: u32>(&'a [u8], &'a Trial);

impl<const MASK: u32> Text for Words<'_, MASK> {
    #[inline(always)]
    fn byte(&self, index: u32) -> u8 {
        // SAFETY: the mask keeps to the array.
        unsafe { *self.0.get_unchecked(masked::<MASK>(index)) }
    }

    #[inline(always)]
    fn pass(&self, state: u32) -> u32 {
        forget(state, self.1.expected)
    }
}
