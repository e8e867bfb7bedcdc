//! What the programs tell the agent: counters, events under a rate limit, requests.

use core::{arch::asm, ptr};

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use ebfw_common::abi::{Address, Counter, FlowEvent, Request};

use crate::maps::{ASKED, CONTROL, COUNTERS, EVENTS, RATES, WORKLOAD_RATES};

/// Length of a window of the rate limit.
pub const WINDOW_NS: u64 = 1_000_000_000;
/// Events of one (workload, destination, verdict) a window, for flows that are opened one by one.
pub const CONNECTIONS: u32 = 10;
/// The same for datagrams, each of which is a decision of its own.
pub const DATAGRAMS: u32 = 1;
/// Events of one workload a window, whatever they are about.
const WORKLOAD_EVENTS: u32 = 2000;
/// The agent is not asked again about the same thing before this time is over.
const ASK_AGAIN_NS: u64 = 100_000_000;

/// What is rate-limited together.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RateKey {
    /// Slot of the workload.
    pub slot: u32,
    /// Destination port; 0 where there is none.
    pub port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// `ebfw_common::abi::verdict`.
    pub verdict: u8,
    /// Destination.
    pub destination: Address,
}

/// What happened in the current window.
#[repr(C)]
pub struct Window {
    /// Number of the window.
    pub number: u64,
    /// Events written in it.
    pub written: u32,
    /// Zero.
    pub _pad: u32,
    /// Events left out since the last one was written.
    pub suppressed: u64,
}

/// Nanoseconds since boot, suspend included. What another CPU noted meanwhile may be later: differences have to saturate.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the entry is this CPU's own, and programs on it do not interrupt each other at this point.
        unsafe { *value += 1 };
    }
}

/// Adds to a word that other CPUs may add to. The only atomic operation that kernel 5.10 has; `core` has none for this target.
#[inline(always)]
pub fn add(word: &mut u64, value: u64) {
    // SAFETY: the instruction changes the eight bytes of `word` and nothing else.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) ptr::from_mut(word), value = in(reg) value)
    };
}

/// Whether one more event of this flow fits the limit; if so, how many were left out before it.
#[inline(always)]
fn admit(key: &RateKey, limit: u32, number: u64) -> Option<u32> {
    let Some(window) = RATES.get_ptr_mut(key) else {
        let fresh = Window {
            number,
            written: 1,
            _pad: 0,
            suppressed: 0,
        };
        let _ = RATES.insert(key, &fresh, 0);
        return Some(0);
    };
    // SAFETY: the entry lives until the program ends.
    enter(unsafe { &mut *window }, limit, number)
}

/// Whether one more event of the workload fits its limit.
#[inline(always)]
fn admit_workload(slot: u32, number: u64) -> bool {
    WORKLOAD_RATES.get_ptr_mut(slot).is_some_and(|window| {
        // SAFETY: array entries live as long as the map.
        enter(unsafe { &mut *window }, WORKLOAD_EVENTS, number).is_some()
    })
}

/// Enters one more event into a window. Its fields are words of their own; a race costs one event at most.
#[inline(always)]
pub fn enter(window: &mut Window, limit: u32, number: u64) -> Option<u32> {
    if window.number == number && window.written >= limit {
        add(&mut window.suppressed, 1);
        return None;
    }
    if window.number != number {
        window.number = number;
        window.written = 0;
    }
    window.written += 1;
    let suppressed = window.suppressed;
    if suppressed != 0 {
        add(&mut window.suppressed, suppressed.wrapping_neg());
    }
    Some(suppressed as u32)
}

/// Whether an event about `key` fits the limits of flow and workload; if so, how many were left out before it.
#[inline(always)]
pub fn admitted(key: &RateKey, limit: u32) -> Option<u32> {
    let number = boot_ns() / WINDOW_NS;
    let Some(suppressed) = admit(key, limit, number) else {
        count(Counter::EventSuppressed);
        return None;
    };
    if !admit_workload(key.slot, number) {
        count(Counter::EventSuppressed);
        if let Some(window) = RATES.get_ptr_mut(key) {
            // SAFETY: the entry lives until the program ends.
            add(
                unsafe { &mut (*window).suppressed },
                u64::from(suppressed) + 1,
            );
        }
        return None;
    }
    Some(suppressed)
}

/// Writes an event about `key`, if the limits allow. `fill` gets the ring buffer's own memory, so that nothing of it lies on the stack;
/// it must set every field but `boot_ns` and `suppressed`.
#[inline(always)]
pub fn event(key: &RateKey, limit: u32, fill: impl FnOnce(&mut FlowEvent)) {
    let Some(suppressed) = admitted(key, limit) else {
        return;
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::EventLost);
        return;
    };
    // SAFETY: `fill` sets all fields that are not set here; every bit pattern is a `FlowEvent`.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    event.boot_ns = boot_ns();
    event.suppressed = suppressed;
    fill(event);
    entry.submit(0);
}

/// Asks the agent for something about `subject` (a cookie or a cgroup id), unless it was asked just now. `fill` sets every field but `kind`.
#[inline(always)]
pub fn request(kind: u32, subject: u64, fill: impl FnOnce(&mut Request)) {
    // Cookies and cgroup ids are small numbers: the kind on top keeps them apart.
    let key = subject | u64::from(kind) << 62;
    let now = boot_ns();
    // SAFETY: the value is copied at once.
    if let Some(asked) = unsafe { ASKED.get(key) }
        && now.saturating_sub(*asked) < ASK_AGAIN_NS
    {
        return;
    }
    let Some(mut entry) = CONTROL.reserve(0) else {
        count(Counter::RequestLost);
        return;
    };
    // SAFETY: as in `event`.
    let request = unsafe { &mut *entry.as_mut_ptr() };
    request.kind = kind;
    fill(request);
    entry.submit(0);
    let _ = ASKED.insert(key, now, 0);
}
