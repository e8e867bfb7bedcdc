//! The places of open questions.

use std::collections::HashMap;

use ebfw_common::dns::{QUESTION_WAYS, set_of};

/// Random numbers that are the same each time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Questions that find no place beside the others, where `questions` of them are open.
fn lost(questions: impl Iterator<Item = (u64, u16, u32)>) -> u32 {
    let mut sets: HashMap<u32, u32> = HashMap::new();
    for (cookie, id, port) in questions {
        *sets.entry(set_of(cookie, id, port)).or_default() += 1;
    }
    sets.values()
        .map(|open| open.saturating_sub(QUESTION_WAYS))
        .sum()
}

#[test]
fn a_thousand_open_questions_have_a_place_each() {
    const OPEN: u64 = 1_000;
    let mut random = Random(7);
    let mut of_each = 0;
    for _ in 0..100 {
        let first = random.next() >> 32;
        // A socket each, as Go has it, with cookies that the kernel hands out one after the other.
        of_each += lost((0..OPEN).map(|at| {
            let number = random.next();
            (first + at, number as u16, (number >> 32) as u32 & 0xffff)
        }));
        // One socket for all, as c-ares has it.
        of_each += lost((0..OPEN).map(|_| (first, random.next() as u16, 40_000)));
    }
    // Ids are drawn: of some sets there are nine.
    assert!(of_each <= 60, "{of_each} of {}", 200 * OPEN);
}
