//! Where in a function to put a probe. An instruction that the kernel can emulate costs a trap; any other one is copied out and
//! single-stepped, which is up to fifteen times as dear on a virtual machine. Pure: bytes in, offset out.
//!
//! The offset must be passed exactly once a call, with the arguments still in their registers. Where that is not certain, it is the entry.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    Register,
};

/// Instructions that are looked at from the entry on. Compilers shuffle arguments away long before.
const LOOK_AHEAD: usize = 24;

/// How a function takes its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convention {
    /// System V: `rdi`, `rsi`, `rdx`.
    C,
    /// Go's own (1.17 and newer): `rax`, `rbx`, `rcx`. Entered twice where the stack has to grow.
    Go,
}

impl Convention {
    fn arguments(self) -> [Register; 3] {
        match self {
            Self::C => [Register::RDI, Register::RSI, Register::RDX],
            Self::Go => [Register::RAX, Register::RBX, Register::RCX],
        }
    }
}

/// Whether a direct call counts as an emulated instruction: the kernel emulates it, but knows nothing of shadow stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// No process of this machine has a shadow stack.
    Emulated,
    /// Some may have.
    Avoided,
}

impl Calls {
    /// By the flags of the processors (`user_shstk` in `/proc/cpuinfo`).
    pub(super) fn of_processor(cpuinfo: &str) -> Self {
        if cpuinfo
            .split_ascii_whitespace()
            .any(|flag| flag == "user_shstk")
        {
            Self::Avoided
        } else {
            Self::Emulated
        }
    }
}

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the function's entry.
    pub(super) offset: u64,
    /// Whether the kernel emulates the instruction there.
    pub(super) emulated: bool,
}

impl Place {
    /// The entry itself, whatever instruction is there.
    pub(super) const ENTRY: Self = Self {
        offset: 0,
        emulated: false,
    };
}

/// The place for a probe in a function whose bytes are `code`, as far as they are known.
pub(super) fn place(code: &[u8], convention: Convention, calls: Calls) -> Place {
    match search(code, convention, calls) {
        Some(offset) if is_landed_on(code, offset) => Place::ENTRY,
        Some(offset) => Place {
            offset: offset as u64,
            emulated: true,
        },
        None => Place::ENTRY,
    }
}

/// The first emulated instruction on the straight way from the entry before an argument is overwritten.
fn search(code: &[u8], convention: Convention, calls: Calls) -> Option<usize> {
    let mut info = InstructionInfoFactory::new();
    let mut grows = convention == Convention::Go;
    for (offset, instruction) in straight(code).take(LOOK_AHEAD) {
        let bytes = code.get(offset..offset + instruction.len())?;
        let step = Step::of(bytes);
        match (convention, step) {
            (_, Some(Step::Push | Step::Nop))
            | (Convention::C, Some(Step::Jump | Step::Branch)) => {
                return Some(offset);
            }
            (Convention::C, Some(Step::Call)) if calls == Calls::Emulated => return Some(offset),
            // The check whether the stack has room: behind it the way goes on once, before it the function may start anew.
            (Convention::Go, Some(Step::Branch)) if grows => {
                grows = false;
                continue;
            }
            _ => {}
        }
        if instruction.flow_control() != FlowControl::Next {
            return None;
        }
        if overwrites(&mut info, &instruction, convention) {
            return None;
        }
    }
    None
}

/// Instructions one behind the other from the entry; ends at bytes that are none.
fn straight(code: &[u8]) -> impl Iterator<Item = (usize, Instruction)> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let offset = decoder.position();
        let mut instruction = Instruction::default();
        if !decoder.can_decode() {
            return None;
        }
        decoder.decode_out(&mut instruction);
        (!instruction.is_invalid()).then_some((offset, instruction))
    })
}

/// Whether a branch of the function leads to the instruction at `offset` or, the entry aside, to one before it: then it may be passed
/// twice a call, or in the middle of it.
fn is_landed_on(code: &[u8], offset: usize) -> bool {
    straight(code).any(|(_, instruction)| {
        let target = instruction.near_branch_target();
        matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        ) && target != 0
            && target <= offset as u64
    })
}

/// Where direct calls and jumps of the function lead, in bytes from its entry (negative ones wrap).
pub(super) fn leads_to(code: &[u8]) -> impl Iterator<Item = u64> {
    straight(code).filter_map(|(_, instruction)| direct_target(&instruction))
}

/// Where the first direct call or jump leads on the straight way from the entry, if all arguments are still in their registers there.
pub(super) fn passes_on(code: &[u8], convention: Convention) -> Option<u64> {
    let mut info = InstructionInfoFactory::new();
    for (_, instruction) in straight(code).take(LOOK_AHEAD) {
        if let Some(target) = direct_target(&instruction) {
            return Some(target);
        }
        let goes_on = matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch
        );
        if !goes_on || overwrites(&mut info, &instruction, convention) {
            return None;
        }
    }
    None
}

/// Whether it is an entry of the table by which a library calls what may come from another one: a jump to an address in memory.
pub(super) fn is_stub(code: &[u8]) -> bool {
    let first = straight(code)
        .map(|(_, instruction)| instruction)
        .find(|instruction| instruction.mnemonic() != Mnemonic::Endbr64);
    first.is_some_and(|instruction| {
        instruction.is_jmp_near_indirect() && instruction.is_ip_rel_memory_operand()
    })
}

fn direct_target(instruction: &Instruction) -> Option<u64> {
    let is_direct = instruction.is_jmp_short_or_near() || instruction.is_call_near();
    is_direct.then(|| instruction.near_branch_target())
}

/// Whether the instruction may change an argument.
fn overwrites(
    info: &mut InstructionInfoFactory,
    instruction: &Instruction,
    convention: Convention,
) -> bool {
    let arguments = convention.arguments();
    info.info(instruction).used_registers().iter().any(|used| {
        arguments.contains(&used.register().full_register())
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    })
}

/// Instructions that the kernel emulates on all versions that ebfw runs on (arch/x86/kernel/uprobes.c: `branch_setup_xol_ops`,
/// `push_setup_xol_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Push,
    Nop,
    Jump,
    Branch,
    Call,
}

impl Step {
    /// By the bytes themselves: the kernel refuses to emulate the same instructions with a prefix that it does not expect.
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x50..=0x57] | [0x41, 0x50..=0x57] => Some(Self::Push),
            [0x90] => Some(Self::Nop),
            [0xeb | 0xe9, ..] => Some(Self::Jump),
            [0xe8, ..] => Some(Self::Call),
            [0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, ..] => Some(Self::Branch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Place {
        Place {
            offset,
            emulated: true,
        }
    }

    #[test]
    fn the_first_emulated_instruction_before_an_argument_is_gone() {
        use Convention::{C, Go};
        for (code, convention, expected, why) in [
            (&[0x55, 0x48, 0x89, 0xe5][..], C, at(0), "push rbp"),
            (&[0x41, 0x57, 0x55], C, at(0), "push r15"),
            (
                &[0xf3, 0x0f, 0x1e, 0xfa, 0x53],
                C,
                at(4),
                "endbr64, push rbx",
            ),
            (
                &[
                    0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48,
                    0x89, 0x44, 0x24, 0x08, 0x31, 0xc0, 0x85, 0xd2, 0x78, 0x2f, 0x48, 0x89, 0xe1,
                ],
                C,
                at(22),
                "Debian's SSL_write: sub, canary, test, js",
            ),
            (
                &[0x45, 0x31, 0xc0, 0x31, 0xc9, 0xe9, 0x66, 0x9c, 0xff, 0xff],
                C,
                at(5),
                "Debian's gnutls_record_send: a jump to its successor",
            ),
            (
                &[
                    0x41, 0x54, 0x49, 0x89, 0xf4, 0x55, 0x48, 0x63, 0xea, 0x53, 0x48, 0x89, 0xfb,
                ],
                C,
                at(0),
                "BoringSSL's SSL_write, built with GCC: push r12",
            ),
            (
                &[
                    0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x1b, 0x31, 0xc9, 0x48, 0x63, 0xd2,
                ],
                C,
                at(6),
                "SSL_write of OpenSSL 3.5: sub, test, js",
            ),
            (
                &[0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xd9],
                C,
                at(5),
                "SSL_write_ex of OpenSSL 3.5: a jump to SSL_write_ex2",
            ),
            (
                &[0x48, 0x83, 0xec, 0x08, 0xe8, 0x27, 0xfc, 0xff, 0xff],
                C,
                Place::ENTRY,
                "SSL_write_ex2: a call, which some processors cannot emulate",
            ),
            (
                &[0x66, 0x90, 0x53],
                C,
                at(2),
                "a nop with a prefix is not emulated",
            ),
            (
                &[0x48, 0x55, 0x53],
                C,
                at(2),
                "nor a push with another prefix than 41",
            ),
            (
                &[0x48, 0x89, 0xfb, 0x48, 0x89, 0xf7, 0x53],
                C,
                Place::ENTRY,
                "mov rdi, rsi comes before the push",
            ),
            (
                &[0x48, 0x63, 0xd2, 0x53],
                C,
                Place::ENTRY,
                "movsxd rdx, edx changes an argument",
            ),
            (&[0xff, 0xe0, 0x53], C, Place::ENTRY, "an indirect jump"),
            (
                &[0xe8, 0, 0, 0, 0, 0x53],
                C,
                Place::ENTRY,
                "a call clobbers arguments",
            ),
            (&[0xc3, 0x53], C, Place::ENTRY, "a return"),
            (&[], C, Place::ENTRY, "no code"),
            (&[0x06, 0x53], C, Place::ENTRY, "no instruction"),
            (&[0x48, 0x83, 0xec], C, Place::ENTRY, "cut off"),
            (
                &[0x31, 0xc0, 0x53, 0x48, 0xff, 0xc8, 0x75, 0xfa],
                C,
                Place::ENTRY,
                "a loop leads back to the push",
            ),
            (
                &[0x53, 0x31, 0xc0, 0xeb, 0xfb],
                C,
                at(0),
                "a jump back to the entry is a call of its own",
            ),
            (
                &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55, 0x48, 0x89, 0xe5],
                Go,
                at(6),
                "behind the check of the stack",
            ),
            (
                &[
                    0x4c, 0x8d, 0x64, 0x24, 0xb8, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0,
                    0x55,
                ],
                Go,
                at(15),
                "with a large frame",
            ),
            (
                &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x76, 0x20, 0x55],
                Go,
                Place::ENTRY,
                "two checks",
            ),
            (
                &[0x48, 0x89, 0xc8, 0x55],
                Go,
                Place::ENTRY,
                "rax is an argument of Go's",
            ),
            (&[0x48, 0x89, 0xf7, 0x55], Go, at(3), "rdi is none"),
        ] {
            assert_eq!(place(code, convention, Calls::Avoided), expected, "{why}");
        }
    }

    #[test]
    fn where_a_function_leads_to() {
        // OpenSSL 3.5: mov r8, rcx; xor ecx, ecx; jmp SSL_write_ex2, which lies 32 bytes before it.
        let wrapper = [0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xd9];
        for (code, distance, expected, why) in [
            (&wrapper[..], -32_i64, true, "a jump back"),
            (&wrapper[..], 0, false, "to itself"),
            (&[0x90, 0xe8, 0x10, 0, 0, 0], 22, true, "a call"),
            (&[0x90, 0xff, 0xd0], 0, false, "a call by a register"),
            (&[0xc3], 0, false, "none"),
            (&[], 0, false, "no code"),
        ] {
            let leads = leads_to(code).any(|target| target == distance as u64);
            assert_eq!(leads, expected, "{why}");
        }
    }

    #[test]
    fn to_whom_a_function_passes_its_arguments() {
        for (code, expected, why) in [
            (
                &[0x48, 0x83, 0xec, 0x08, 0xe8, 0xf7, 0xff, 0xff, 0xff][..],
                Some(0),
                "Debian's SSL_write_ex: sub, call",
            ),
            (
                &[0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xd9],
                Some(-32_i64 as u64),
                "SSL_write_ex of OpenSSL 3.5: a jump to SSL_write_ex2",
            ),
            (
                &[0x85, 0xff, 0x74, 0x05, 0xe8, 0, 0, 0, 0],
                Some(9),
                "behind a branch",
            ),
            (
                &[0x48, 0x63, 0xd2, 0xe8, 0, 0, 0, 0],
                None,
                "SSL_write: the size is made longer first",
            ),
            (
                &[0xff, 0xd0, 0xe8, 0, 0, 0, 0],
                None,
                "a call by a register",
            ),
            (&[0xc3, 0xe8, 0, 0, 0, 0], None, "a return"),
            (&[0x48, 0x83], None, "cut off"),
            (&[], None, "no code"),
        ] {
            assert_eq!(passes_on(code, Convention::C), expected, "{why}");
        }
    }

    #[test]
    fn a_call_is_emulated_where_no_process_has_a_shadow_stack() {
        let code = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x53];
        for (cpuinfo, expected) in [
            ("flags\t: fpu sse2 ibt\n", at(4)),
            ("flags\t: fpu user_shstk ibt\n", Place::ENTRY),
        ] {
            let calls = Calls::of_processor(cpuinfo);
            assert_eq!(place(&code, Convention::C, calls), expected, "{cpuinfo}");
            assert_eq!(
                place(&code, Convention::Go, calls),
                Place::ENTRY,
                "not in Go"
            );
        }
    }

    #[test]
    fn any_bytes_give_a_place_within_them() {
        proptest::proptest!(|(code in proptest::collection::vec(proptest::num::u8::ANY, 0..200))| {
            for convention in [Convention::C, Convention::Go] {
                let Place { offset, emulated } = place(&code, convention, Calls::Emulated);
                let offset = usize::try_from(offset).unwrap();
                assert!(offset == 0 || offset < code.len());
                assert!(!emulated || Step::of(&code[offset..offset + straight(&code[offset..]).next().unwrap().1.len()]).is_some());
            }
        });
    }
}
