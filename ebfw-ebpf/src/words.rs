//! The classes of what a client claimed and asked for: walks over its words, which the firewall keeps with a socket, and the probes with a connection.

use ebfw_common::{
    abi::MAX_NAME,
    classify::Tables as _,
    layout::Header,
    names::{IS_CLASS, Text, end_of_name, walk_over_name},
    request::{MAX_PATH, class_of_method, end_of_path, walk_over_path},
    stream::{Facts, flag},
};

use crate::{
    automaton::Loaded,
    judge::{BROKEN_CLASS, Said, request},
    stream::{Context, claimed},
    tables::Instance,
    verifier::{forget, masked},
};

/// What the client said, and the instance by which it is judged.
#[inline(always)]
fn both(context: Context, instance: u32) -> Option<(&'static Facts, Instance)> {
    Some((claimed(context)?, Instance::get(instance)?))
}

/// The class of the claimed name under the instance's automaton.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_claim_class(context: Context, instance_number: u32) -> u32 {
    let Some((facts, instance)) = both(context, instance_number) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let mut state = header.automaton_root;
    for part in 0..PARTS_OF_NAME {
        if part * PART >= facts.name_length {
            break;
        }
        state = ebfw_name_part(context, instance_number, part * PART, state);
        if state & IS_CLASS != 0 {
            return class_in(state);
        }
    }
    let Some(mut cells) = Loaded::of(header) else {
        return BROKEN_CLASS;
    };
    end_of_name(&mut cells, state).unwrap_or(BROKEN_CLASS)
}

/// Bytes that are walked over in one call, which the verifier follows once however many there are.
const PART: u32 = 64;
const PARTS_OF_NAME: u32 = (MAX_NAME as u32).div_ceil(PART);
const PARTS_OF_PATH: u32 = MAX_PATH as u32 / PART;

/// The class that a part of a walk has found.
#[inline(always)]
fn class_in(state: u32) -> u32 {
    if state == BROKEN_CLASS {
        BROKEN_CLASS
    } else {
        state & !IS_CLASS
    }
}

/// Walks over the claimed name behind the first `read` bytes of the walk, in `state`; see [`walk_over_name`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_name_part(context: Context, instance: u32, read: u32, state: u32) -> u32 {
    let Some((facts, instance)) = both(context, instance) else {
        return BROKEN_CLASS;
    };
    let Some(mut cells) = instance.block(0).map(Header::of).and_then(Loaded::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<255>(&facts.name, facts);
    walk_over_name::<PART>(&mut cells, state, &text, read, facts.name_length)
        .unwrap_or(BROKEN_CLASS)
}

/// Says of the request what [`ebfw_request`] found.
#[inline(always)]
pub fn ask(said: &mut Said, context: Context, instance: u32) {
    let asked = ebfw_request(context, instance);
    said.request = asked as u32 & 0xff;
    said.method = (asked >> 16) as u32 & 0xffff;
    said.path = (asked >> 32) as u32;
}

/// The kind of the request in the lowest byte, the class of its method from bit 16 on, that of its path from bit 32 on.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_request(context: Context, instance: u32) -> u64 {
    let Some(facts) = claimed(context) else {
        return u64::from(request::PENDING);
    };
    if !facts.has(flag::REQUEST) {
        return u64::from(request::OPAQUE);
    }
    let method = u64::from(ebfw_method(context, instance)) & 0xffff;
    let path = u64::from(ebfw_path(context, instance));
    u64::from(request::KNOWN) | method << 16 | path << 32
}

/// The class of the request's method.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_method(context: Context, instance: u32) -> u32 {
    let Some((facts, instance)) = both(context, instance) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<31>(&facts.method, facts);
    class_of_method(&instance, header, &text, facts.method_length).unwrap_or(BROKEN_CLASS)
}

/// The class of the request's path.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_path(context: Context, instance_number: u32) -> u32 {
    let Some((facts, instance)) = both(context, instance_number) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let mut state = header.path_root;
    for part in 0..PARTS_OF_PATH {
        if part * PART >= facts.path_length {
            break;
        }
        state = ebfw_path_part(context, instance_number, part * PART, state);
        if state & IS_CLASS != 0 {
            return class_in(state);
        }
    }
    end_of_path(&instance, header, state).unwrap_or(BROKEN_CLASS)
}

/// Walks over the request's path from byte `from` on, in `state`; see [`walk_over_path`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ebfw_path_part(context: Context, instance: u32, from: u32, state: u32) -> u32 {
    let Some((facts, instance)) = both(context, instance) else {
        return BROKEN_CLASS;
    };
    let Some(header) = instance.block(0).map(Header::of) else {
        return BROKEN_CLASS;
    };
    let text = Words::<511>(&facts.path, facts);
    let length = facts.path_length.wrapping_sub(from);
    walk_over_path::<PART, _>(&instance, header, &text, state, from, length).unwrap_or(BROKEN_CLASS)
}

/// A text in the claims' memory, of which `MASK` + 1 bytes are there.
struct Words<'a, const MASK: u32>(&'a [u8], &'a Facts);

impl<const MASK: u32> Text for Words<'_, MASK> {
    #[inline(always)]
    fn byte(&self, index: u32) -> u8 {
        // SAFETY: the mask keeps to the array.
        unsafe { *self.0.get_unchecked(masked::<MASK>(index)) }
    }

    #[inline(always)]
    fn pass(&self, state: u32) -> u32 {
        forget(state, u64::from(self.1.flags))
    }
}
