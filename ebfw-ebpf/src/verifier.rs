//! What the verifier is told, and what it is made to forget.

use core::arch::asm;

/// `value & MASK`, where the verifier sees it: right before the access, which the compiler neither moves nor drops.
#[inline(always)]
pub fn masked<const MASK: u32>(value: u32) -> usize {
    let mut value = u64::from(value);
    // SAFETY: the instruction changes nothing but the register.
    unsafe {
        asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK, options(pure, nomem, nostack));
    }
    value as usize
}

/// The same number, of which the verifier no longer knows what it is: else it follows what comes behind once for each value. `unknown` is
/// any number that it does not know.
#[inline(always)]
pub fn forget(number: u32, unknown: u64) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: the instructions change nothing but the register.
    unsafe {
        asm!("{number} += {unknown}", "{number} -= {unknown}", number = inout(reg) number, unknown = in(reg) unknown, options(pure, nomem, nostack));
    }
    number as u32
}
