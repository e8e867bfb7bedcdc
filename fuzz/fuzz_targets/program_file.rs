//! Programs and libraries that workloads made: what there is to probe in them is found, or not, without harm, and lies in the file.
//! The agent's own sources, since its crate keeps them behind its door.
#![no_main]

// Formatted where they belong.
#[rustfmt::skip]
#[path = "../../ebfw-agent/src/probes/elf.rs"]
mod elf;
#[rustfmt::skip]
#[path = "../../ebfw-agent/src/probes/golang.rs"]
mod golang;
#[rustfmt::skip]
#[path = "../../ebfw-agent/src/probes/prologue.rs"]
mod prologue;
#[rustfmt::skip]
#[expect(dead_code, reason = "only the agent asks functions for their library and their end")]
#[path = "../../ebfw-agent/src/probes/target.rs"]
mod target;

use libfuzzer_sys::fuzz_target;
use prologue::Calls;
use target::{Point, Target};

fuzz_target!(|bytes: &[u8]| {
    for calls in [Calls::Emulated, Calls::of_processor("user_shstk")] {
        let Ok(Target(functions)) = Target::find(bytes, calls) else {
            continue;
        };
        for (function, points) in functions {
            assert!(!points.is_empty() && points.len() <= 8);
            assert!(!function.program().is_empty());
            for Point {
                entry,
                offset,
                emulated,
            } in points
            {
                assert!(entry <= offset && offset < bytes.len() as u64);
                assert!(emulated || entry == offset, "the fallback is the entry");
            }
        }
    }
});
