//! Where fields lie in the structs of the running kernel, as it says itself (BTF, Documentation/bpf/btf.rst).
//!
//! Reads no more of the format than that takes.

use std::{fs, io, path::Path};

use ebfw_common::abi::SharedPages;

/// Where the kernel describes its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
/// Anonymous structs within anonymous structs are not followed further down than this.
const MAX_DEPTH: usize = 8;

/// `SKBFL_SHARED_FRAG` of `skb_shared_info.flags` (include/linux/skbuff.h, from 5.14 on).
const SKBFL_SHARED_FRAG: u16 = 1 << 1;
/// `SKBTX_SHARED_FRAG` of `skb_shared_info.tx_flags`, before that.
const SKBTX_SHARED_FRAG: u16 = 1 << 5;

/// Why a layout is not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel does not describe its types.
    #[error("failed to read {VMLINUX}")]
    Read(#[from] io::Error),
    /// Not the format, or cut off.
    #[error("{VMLINUX} is not in the format that this agent knows")]
    Format,
    /// The struct has no such field.
    #[error("this kernel's {0} is not what this agent knows")]
    Field(&'static str),
}

/// How the programs see that a packet's payload lies in pages that a process can still write to.
///
/// # Errors
///
/// Where the kernel does not say, or has other structs.
pub fn shared_pages() -> Result<SharedPages, LayoutError> {
    shared_pages_of(&fs::read(Path::new(VMLINUX))?)
}

fn shared_pages_of(bytes: &[u8]) -> Result<SharedPages, LayoutError> {
    let types = Types::parse(bytes).ok_or(LayoutError::Format)?;
    let field = |of: &'static str, name| {
        types
            .structure(of)
            .and_then(|found| types.offset(found, name, 0))
            .ok_or(LayoutError::Field(of))
    };
    let (flags, mask) = match field("skb_shared_info", "flags") {
        Ok(offset) => (offset, SKBFL_SHARED_FRAG),
        Err(_) => (field("skb_shared_info", "tx_flags")?, SKBTX_SHARED_FRAG),
    };
    Ok(SharedPages {
        head: field("sk_buff", "head")?,
        end: field("sk_buff", "end")?,
        flags,
        mask,
    })
}

/// Where the kernel's `struct sock` says that a thread holds the socket: `sk_lock.owned`.
///
/// # Errors
///
/// As [`shared_pages`].
pub fn socket_owned() -> Result<u16, LayoutError> {
    socket_owned_of(&fs::read(Path::new(VMLINUX))?)
}

fn socket_owned_of(bytes: &[u8]) -> Result<u16, LayoutError> {
    let types = Types::parse(bytes).ok_or(LayoutError::Format)?;
    let find = || {
        let (lock, kind) = types.member(types.structure("sock")?, "sk_lock", 0)?;
        let lock_type = types.behind_names(kind)?;
        lock.checked_add(types.offset(lock_type, "owned", 0)?)
    };
    find().ok_or(LayoutError::Field("sock"))
}

/// Where the kernel's `struct task_struct` has the number of the thread: `pid`.
///
/// # Errors
///
/// As [`shared_pages`].
pub fn thread_number() -> Result<u16, LayoutError> {
    thread_number_of(&fs::read(Path::new(VMLINUX))?)
}

fn thread_number_of(bytes: &[u8]) -> Result<u16, LayoutError> {
    let types = Types::parse(bytes).ok_or(LayoutError::Format)?;
    let find = || types.offset(types.structure("task_struct")?, "pid", 0);
    find().ok_or(LayoutError::Field("task_struct"))
}

/// A type: its header and what follows.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Whether the members' offsets share their word with the size of a bit field.
    bits: bool,
    /// The type that a name stands for; of others their size.
    target: u32,
    members: &'a [u8],
}

struct Types<'a> {
    /// Type 1 is the first.
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let offset = |at| word(bytes, at).map(|offset| offset as usize);
        let body = bytes.get(offset(4)?..)?;
        let section = |start: usize, length: usize| body.get(start..start.checked_add(length)?);
        let mut rest = section(offset(8)?, offset(12)?)?;
        let strings = section(offset(16)?, offset(20)?)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            let (name, info) = (word(rest, 0)?, word(rest, 4)?);
            let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
            let (members, behind) = rest.get(12..)?.split_at_checked(length(kind, count)?)?;
            types.push(Type {
                name,
                kind,
                bits: info >> 31 != 0,
                target: word(rest, 8)?,
                members,
            });
            rest = behind;
        }
        Some(Self { types, strings })
    }

    fn name(&self, at: u32) -> Option<&[u8]> {
        self.strings
            .get(at as usize..)?
            .split(|byte| *byte == 0)
            .next()
    }

    fn structure(&self, name: &str) -> Option<Type<'a>> {
        let named = |found: &&Type<'_>| {
            found.kind == STRUCT && self.name(found.name) == Some(name.as_bytes())
        };
        self.types.iter().find(named).copied()
    }

    /// The type with this number, or what it is another name of.
    fn behind_names(&self, mut kind: u32) -> Option<Type<'a>> {
        for _ in 0..MAX_DEPTH {
            let found = *self.types.get((kind as usize).checked_sub(1)?)?;
            if found.kind != TYPEDEF {
                return Some(found);
            }
            kind = found.target;
        }
        None
    }

    /// Offset of a field in bytes, also where it is in an anonymous struct or union.
    fn offset(&self, of: Type<'_>, field: &str, depth: usize) -> Option<u16> {
        self.member(of, field, depth).map(|(offset, _)| offset)
    }

    /// Offset of a field in bytes and the number of its type.
    fn member(&self, of: Type<'_>, field: &str, depth: usize) -> Option<(u16, u32)> {
        if !matches!(of.kind, STRUCT | UNION) || depth > MAX_DEPTH {
            return None;
        }
        of.members.chunks_exact(12).find_map(|member| {
            let (name, kind, at) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let (bits, size) = if of.bits {
                (at & 0xff_ffff, at >> 24)
            } else {
                (at, 0)
            };
            let here = || u16::try_from(bits / 8).ok();
            if name == 0 {
                let inner = *self.types.get((kind as usize).checked_sub(1)?)?;
                let (offset, kind) = self.member(inner, field, depth + 1)?;
                return Some((here()?.checked_add(offset)?, kind));
            }
            // A bit field has no offset in bytes.
            if size != 0 || bits % 8 != 0 || self.name(name)? != field.as_bytes() {
                return None;
            }
            Some((here()?, kind))
        })
    }
}

/// Bytes that follow the header of a type.
fn length(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Pointers, names and modifiers of other types, functions, floats.
        2 | 7..=12 | 16 | 18 => 0,
        // Arrays.
        3 => 12,
        // Structs, unions, sections, enums of 64 bits.
        4 | 5 | 15 | 19 => count * 12,
        // Enums, prototypes.
        6 | 13 => count * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct: its name and its members, each a name, the number of its type and its offset in bits.
    type Struct<'a> = (&'a str, &'a [(&'a str, u32, u32)]);

    /// BTF with these structs.
    fn btf(structs: &[Struct<'_>]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut add = |name: &str| {
            if name.is_empty() {
                return 0;
            }
            let at = u32::try_from(strings.len()).unwrap();
            strings.extend(name.bytes().chain([0]));
            at
        };
        let mut types = Vec::new();
        for (name, members) in structs {
            let count = u32::try_from(members.len()).unwrap();
            types.extend([add(name), STRUCT << 24 | count, 0]);
            for (name, kind, offset) in *members {
                types.extend([add(name), *kind, *offset]);
            }
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let header = [24, 0, length(&types), length(&types), length(&strings)];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header.into_iter().flat_map(u32::to_ne_bytes));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    /// `btf` with one more type.
    fn with_type(btf: &[u8], added: &[u8]) -> Vec<u8> {
        let length = word(btf, 12).unwrap();
        let longer = (length + u32::try_from(added.len()).unwrap()).to_ne_bytes();
        let mut bytes = btf.to_vec();
        bytes[12..16].copy_from_slice(&longer);
        bytes[16..20].copy_from_slice(&longer);
        let end = 24 + length as usize;
        bytes.splice(end..end, added.iter().copied());
        bytes
    }

    const SK_BUFF: Struct<'_> = ("sk_buff", &[("len", 9, 0), ("", 3, 64), ("head", 9, 1536)]);
    const INNER: Struct<'_> = ("", &[("end", 9, 32)]);

    #[test]
    fn fields_are_found_where_the_kernel_has_them() {
        for (info, flags, mask, why) in [
            (
                &[("flags", 9, 0), ("tx_flags", 9, 24)][..],
                0,
                SKBFL_SHARED_FRAG,
                "from 5.14 on",
            ),
            (&[("tx_flags", 9, 24)], 3, SKBTX_SHARED_FRAG, "before"),
        ] {
            let bytes = btf(&[SK_BUFF, ("skb_shared_info", info), INNER]);
            let expected = SharedPages {
                head: 192,
                end: 12,
                flags,
                mask,
            };
            assert_eq!(shared_pages_of(&bytes).unwrap(), expected, "{why}");
        }
    }

    #[test]
    fn a_lock_is_found_behind_its_name() {
        let name = |kind: u32| {
            let mut bytes = Vec::new();
            for value in [0, TYPEDEF << 24, kind] {
                bytes.extend(u32::to_ne_bytes(value));
            }
            bytes
        };
        let sock: Struct<'_> = ("sock", &[("a", 9, 0), ("sk_lock", 3, 1088)]);
        let lock: Struct<'_> = ("", &[("slock", 9, 0), ("owned", 9, 32)]);
        for (target, expected, why) in [(2, Some(140), "a name of it"), (3, None, "of itself")] {
            let bytes = with_type(&btf(&[sock, lock]), &name(target));
            assert_eq!(socket_owned_of(&bytes).ok(), expected, "{why}");
        }
    }

    /// Kernels that shuffle the struct have its fields in another one without a name.
    #[test]
    fn the_number_of_a_thread_is_found_wherever_it_lies() {
        for (task, expected) in [
            (&[("state", 9, 0), ("pid", 9, 960)][..], Some(120)),
            (&[("state", 9, 0), ("", 2, 64)], Some(16)),
            (&[("state", 9, 0), ("tgid", 9, 960)], None),
        ] {
            let bytes = btf(&[("task_struct", task), ("", &[("pid", 9, 64)])]);
            assert_eq!(thread_number_of(&bytes).ok(), expected, "{task:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_guessed() {
        let info = ("skb_shared_info", &[("flags", 9, 0)][..]);
        let no_end = btf(&[SK_BUFF, info, ("", &[("tail", 9, 0)])]);
        assert!(matches!(
            shared_pages_of(&no_end),
            Err(LayoutError::Field("sk_buff"))
        ));
        let no_info = btf(&[SK_BUFF, ("other", &[]), INNER]);
        assert!(matches!(
            shared_pages_of(&no_info),
            Err(LayoutError::Field("skb_shared_info"))
        ));
    }

    #[test]
    fn what_is_cut_off_or_circular_is_refused() {
        let info = ("skb_shared_info", &[("flags", 9, 0)][..]);
        let whole = btf(&[SK_BUFF, info, INNER]);
        for length in 0..whole.len() {
            assert!(shared_pages_of(&whole[..length]).is_err(), "{length} bytes");
        }
        let circle = btf(&[("sk_buff", &[("", 1, 0)]), info]);
        assert!(shared_pages_of(&circle).is_err());
    }

    #[test]
    fn this_kernel_is_understood() {
        if ebfw_test_need::met(Path::new(VMLINUX).exists(), VMLINUX) {
            let found = shared_pages().unwrap();
            assert!(found.head > 0 && found.end > 0, "{found:?}");
            assert!(socket_owned().unwrap() > 0);
            assert!(thread_number().unwrap() > 0);
        }
    }
}
