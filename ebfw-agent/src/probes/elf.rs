//! As much of an ELF file as a probe needs: executable segments, sections, symbols. Files come from workloads and may be crafted, so
//! nothing is mapped (a file that shrinks would kill the agent), every length is checked and bounded before memory is taken, and
//! nothing is followed that the file could make a circle of.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use object::{
    LittleEndian as LE,
    elf::{
        ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_LOAD,
        ProgramHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_NOBITS, SHT_SYMTAB, STT_FUNC, SectionHeader64,
        Sym64,
    },
    pod::{Pod, from_bytes, slice_from_bytes},
};

/// Program headers and section headers of a file; real ones have dozens.
const MAX_HEADERS: usize = 4096;
/// Bytes of a table of symbols: a million and a half of them.
const MAX_SYMBOLS: u64 = 36 << 20;
/// Bytes of their names.
const MAX_STRINGS: u64 = 96 << 20;
/// Bytes of a section that is read whole.
const MAX_SECTION: u64 = 96 << 20;
/// Tables of symbols in a file that are read; real ones have one of each kind.
const MAX_TABLES: usize = 4;
/// Functions with a meaning in one file that are looked at; a program with a copy or two of a library has some dozens.
pub(super) const MAX_FOUND: usize = 256;
/// Bytes of the table of section names.
const MAX_SECTION_NAMES: u64 = 1 << 20;
/// Bytes of a function that are looked at.
const MAX_CODE: u64 = 4096;
/// The same where the file does not say how long a function is.
const UNKNOWN_CODE: u64 = 256;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error("failed to read")]
    Io(#[from] io::Error),
    #[error("not an ELF program or library")]
    NotElf,
    #[error("not for this processor")]
    Foreign,
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("too large: {0}")]
    TooLarge(&'static str),
}

/// Bytes at an offset. Files, and in tests slices.
pub(super) trait Source {
    /// Fills `buffer`, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Bytes that there are; more cannot be read.
    fn size(&self) -> io::Result<u64>;
}

impl Source for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Source for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start
            .checked_add(buffer.len())
            .and_then(|end| self.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// An executable segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    size: u64,
}

/// A section's place in the file and in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    name: u32,
    kind: u32,
    link: u32,
    /// Where it lies in memory.
    pub(super) address: u64,
    offset: u64,
    size: u64,
}

/// A function with its place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    /// Where it begins.
    pub(super) address: u64,
    /// Bytes; 0 where the file does not say.
    pub(super) size: u64,
}

/// The headers of a file.
pub(super) struct Elf<'a, S: ?Sized> {
    source: &'a S,
    size: u64,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    names: u32,
}

impl<'a, S: Source + ?Sized> Elf<'a, S> {
    /// Reads the headers.
    pub(super) fn open(source: &'a S) -> Result<Self, ElfError> {
        let size = source.size()?;
        let mut start = [0; size_of::<FileHeader64<LE>>()];
        match source.read_at(&mut start, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ElfError::NotElf);
            }
            read => read?,
        }
        let header: &FileHeader64<LE> = pod(&start)?;
        let kind = header.e_type.get(LE);
        if header.e_ident.magic != ELFMAG || !(kind == ET_EXEC || kind == ET_DYN) {
            return Err(ElfError::NotElf);
        }
        if header.e_ident.class != ELFCLASS64
            || header.e_ident.data != ELFDATA2LSB
            || header.e_machine.get(LE) != EM_X86_64
        {
            return Err(ElfError::Foreign);
        }
        let mut elf = Self {
            source,
            size,
            segments: Vec::new(),
            sections: Vec::new(),
            names: u32::from(header.e_shstrndx.get(LE)),
        };
        let (offset, count) = (header.e_phoff.get(LE), header.e_phnum.get(LE));
        elf.segments = elf
            .table::<ProgramHeader64<LE>>(offset, count, header.e_phentsize.get(LE))?
            .iter()
            .filter(|segment| {
                segment.p_type.get(LE) == PT_LOAD && segment.p_flags.get(LE) & PF_X != 0
            })
            .map(|segment| Segment {
                address: segment.p_vaddr.get(LE),
                offset: segment.p_offset.get(LE),
                size: segment.p_filesz.get(LE),
            })
            .collect();
        let (offset, count) = (header.e_shoff.get(LE), header.e_shnum.get(LE));
        elf.sections = elf
            .table::<SectionHeader64<LE>>(offset, count, header.e_shentsize.get(LE))?
            .iter()
            .map(|section| Section {
                name: section.sh_name.get(LE),
                kind: section.sh_type.get(LE),
                link: section.sh_link.get(LE),
                address: section.sh_addr.get(LE),
                offset: section.sh_offset.get(LE),
                size: section.sh_size.get(LE),
            })
            .collect();
        Ok(elf)
    }

    fn table<T: Pod + Copy>(
        &self,
        offset: u64,
        count: u16,
        entry: u16,
    ) -> Result<Vec<T>, ElfError> {
        let count = usize::from(count);
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(entry) != size_of::<T>() {
            return Err(ElfError::Malformed("a header's size"));
        }
        if count > MAX_HEADERS {
            return Err(ElfError::TooLarge("headers"));
        }
        let bytes = self.bytes(offset, (count * size_of::<T>()) as u64, u64::MAX, "headers")?;
        let (entries, _) =
            slice_from_bytes::<T>(&bytes, count).map_err(|()| ElfError::Malformed("headers"))?;
        Ok(entries.to_vec())
    }

    /// `length` bytes from `offset`, if the file has them and they are no more than `limit`.
    fn bytes(
        &self,
        offset: u64,
        length: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ElfError> {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.size) {
            return Err(ElfError::Malformed(what));
        }
        if length > limit {
            return Err(ElfError::TooLarge(what));
        }
        let length = usize::try_from(length).map_err(|_| ElfError::TooLarge(what))?;
        let mut bytes = vec![0; length];
        self.source.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The offset in the file of an address in an executable segment, and how many bytes of the segment follow.
    fn file_offset(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            let rest = segment.size.checked_sub(within).filter(|rest| *rest > 0)?;
            Some((segment.offset.checked_add(within)?, rest))
        })
    }

    /// The beginning of a function's code, and where it lies in the file.
    pub(super) fn code(&self, symbol: Symbol) -> Result<(u64, Vec<u8>), ElfError> {
        let (offset, rest) = self
            .file_offset(symbol.address)
            .ok_or(ElfError::Malformed("a function outside of the code"))?;
        let size = match symbol.size {
            0 => UNKNOWN_CODE,
            size => size,
        };
        let length = size.min(MAX_CODE).min(rest);
        Ok((offset, self.bytes(offset, length, MAX_CODE, "code")?))
    }

    /// Functions that the file defines and `wanted` gives a meaning, from both tables of symbols.
    pub(super) fn functions<T>(
        &self,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<(T, Symbol)>, ElfError> {
        let mut found = Vec::new();
        let tables = self
            .sections
            .iter()
            .filter(|section| matches!(section.kind, SHT_DYNSYM | SHT_SYMTAB));
        for table in tables.take(MAX_TABLES) {
            match self.functions_of(table, &wanted, &mut found) {
                // A stripped or oversized table is no reason to give up the other one.
                Ok(()) | Err(ElfError::TooLarge(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn functions_of<T>(
        &self,
        table: &Section,
        wanted: &impl Fn(&[u8]) -> Option<T>,
        found: &mut Vec<(T, Symbol)>,
    ) -> Result<(), ElfError> {
        let strings = self
            .sections
            .get(table.link as usize)
            .ok_or(ElfError::Malformed("no names of symbols"))?;
        let strings = self.bytes(
            strings.offset,
            strings.size,
            MAX_STRINGS,
            "names of symbols",
        )?;
        let symbols = self.bytes(table.offset, table.size, MAX_SYMBOLS, "symbols")?;
        let count = symbols.len() / size_of::<Sym64<LE>>();
        let (symbols, _) = slice_from_bytes::<Sym64<LE>>(&symbols, count)
            .map_err(|()| ElfError::Malformed("symbols"))?;
        for symbol in symbols {
            if symbol.st_info & 0xf != STT_FUNC || symbol.st_shndx.get(LE) == SHN_UNDEF {
                continue;
            }
            if found.len() >= MAX_FOUND {
                break;
            }
            let name = name_at(&strings, symbol.st_name.get(LE));
            if let Some(meaning) = name.and_then(wanted) {
                found.push((
                    meaning,
                    Symbol {
                        address: symbol.st_value.get(LE),
                        size: symbol.st_size.get(LE),
                    },
                ));
            }
        }
        Ok(())
    }

    /// The section with one of these names.
    pub(super) fn section(&self, names: &[&str]) -> Result<Option<Section>, ElfError> {
        let Some(table) = self.sections.get(self.names as usize) else {
            return Ok(None);
        };
        let strings = self.bytes(
            table.offset,
            table.size,
            MAX_SECTION_NAMES,
            "names of sections",
        )?;
        Ok(self.sections.iter().copied().find(|section| {
            name_at(&strings, section.name)
                .is_some_and(|name| names.iter().any(|wanted| wanted.as_bytes() == name))
        }))
    }

    /// What a section holds.
    pub(super) fn content(&self, section: Section) -> Result<Vec<u8>, ElfError> {
        if section.kind == SHT_NOBITS {
            return Err(ElfError::Malformed("a section without content"));
        }
        self.bytes(section.offset, section.size, MAX_SECTION, "a section")
    }
}

/// Longer names are none that anybody looks for.
const MAX_NAME: usize = 64;

/// The name that begins at `start`.
pub(super) fn name_at(strings: &[u8], start: u32) -> Option<&[u8]> {
    let rest = strings.get(usize::try_from(start).ok()?..)?;
    let end = rest.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
    Some(&rest[..end])
}

fn pod<T: Pod>(bytes: &[u8]) -> Result<&T, ElfError> {
    from_bytes(bytes)
        .map(|(value, _)| value)
        .map_err(|()| ElfError::NotElf)
}
