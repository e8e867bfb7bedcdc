//! Functions of a Go program by its table of lines (`runtime.pclntab`), which stripped programs keep. The layout is that of Go 1.18 and newer
//! (src/debug/gosym/pclntab.go); older ones pass arguments otherwise and are left alone.

use super::elf::{Elf, ElfError, MAX_FOUND, Section, Source, Symbol, name_at};

/// The table's section: on its own, or in position-independent programs among the data to be relocated.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Go 1.18 and 1.20.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Functions of a program at most; the largest have some hundred thousand.
const MAX_FUNCTIONS: usize = 4 << 20;
/// A function's entry in the index: offset of its code, offset of its description.
const ENTRY: usize = 8;

/// Functions to which `wanted` gives a meaning; none where the program is not one of Go's.
pub(super) fn functions<S: Source + ?Sized, T>(
    elf: &Elf<'_, S>,
    wanted: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<(T, Symbol)>, ElfError> {
    let Some(section) = elf.section(&SECTIONS)? else {
        return Ok(Vec::new());
    };
    let bytes = elf.content(section)?;
    let Some(table) = Table::read(&bytes)? else {
        return Ok(Vec::new());
    };
    let starts = starts(&table, elf.section(&[".text"])?);
    let mut found = Vec::new();
    let wanted = table
        .functions()
        .filter_map(|function| Some((function.name.and_then(&wanted)?, function)));
    for (meaning, function) in wanted.take(MAX_FOUND) {
        // Where the program's code begins is said in two places, and each is wrong in some programs (relocated later; C code in front).
        let symbol = starts.iter().find_map(|start| {
            let symbol = Symbol {
                address: start.checked_add(u64::from(function.offset))?,
                size: u64::from(function.size),
            };
            let (_, code) = elf.code(symbol).ok()?;
            checks_stack(&code).then_some(symbol)
        });
        if let Some(symbol) = symbol {
            found.push((meaning, symbol));
        }
    }
    Ok(found)
}

fn starts(table: &Table<'_>, text: Option<Section>) -> Vec<u64> {
    let mut starts = vec![table.text];
    starts.extend(text.map(|text| text.address));
    starts
}

/// Whether code begins as functions of Go do: by comparing the stack pointer, or where it will be, with the goroutine's limit.
fn checks_stack(code: &[u8]) -> bool {
    matches!(
        code,
        [0x49, 0x3b, 0x66, 0x10, ..]
            | [0x4c, 0x8d, 0x64, 0x24, _, 0x4d, 0x3b, 0x66, 0x10, ..]
            | [
                0x4c,
                0x8d,
                0xa4,
                0x24,
                _,
                _,
                _,
                _,
                0x4d,
                0x3b,
                0x66,
                0x10,
                ..
            ]
    )
}

/// The table's parts.
struct Table<'a> {
    text: u64,
    names: &'a [u8],
    index: &'a [u8],
    count: usize,
}

/// A function as the table has it.
struct Function<'a> {
    name: Option<&'a [u8]>,
    offset: u32,
    size: u32,
}

impl<'a> Table<'a> {
    /// `None`: another version of Go.
    fn read(bytes: &'a [u8]) -> Result<Option<Self>, ElfError> {
        let malformed = || ElfError::Malformed("Go's table of lines");
        let magic = word(bytes, 0).ok_or_else(malformed)?;
        let pointer = bytes.get(7).ok_or_else(malformed)?;
        if !MAGIC.contains(&magic) || *pointer != 8 {
            return Ok(None);
        }
        let part = |at| long(bytes, at).ok_or_else(malformed);
        let tail = |at| {
            let start = usize::try_from(part(at)?).map_err(|_| malformed())?;
            bytes.get(start..).ok_or_else(malformed)
        };
        let count = usize::try_from(part(8)?).map_err(|_| malformed())?;
        let index = tail(64)?;
        if count > MAX_FUNCTIONS || index.len() / ENTRY < count {
            return Err(malformed());
        }
        Ok(Some(Self {
            text: part(24)?,
            names: tail(32)?,
            index,
            count,
        }))
    }

    fn functions(&self) -> impl Iterator<Item = Function<'a>> {
        let Self {
            names,
            index,
            count,
            text: _,
        } = *self;
        (0..count).filter_map(move |number| {
            let entry = number * ENTRY;
            let offset = word(index, entry)?;
            let described = usize::try_from(word(index, entry + 4)?).ok()?;
            let name = name_at(names, word(index, described.checked_add(4)?)?);
            // The last entry is followed by the end of the code.
            let next = word(index, entry + ENTRY).unwrap_or(offset);
            Some(Function {
                name,
                offset,
                size: next.saturating_sub(offset),
            })
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
