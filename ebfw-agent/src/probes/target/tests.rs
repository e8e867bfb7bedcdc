use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::*;

fn find<S: Source + ?Sized>(source: &S) -> Result<Target, ElfError> {
    Target::find(source, Calls::Emulated)
}

fn emulated(target: &Target, function: Function) -> Vec<bool> {
    let points = target.0.get(&function).map_or(&[][..], Vec::as_slice);
    points.iter().map(|point| point.emulated).collect()
}

/// The first of these files that exists.
fn first(paths: &[&str]) -> Option<PathBuf> {
    paths.iter().map(PathBuf::from).find(|path| path.exists())
}

#[test]
fn real_libraries_have_an_emulated_instruction_for_each_function() {
    use Function::{
        GnutlsDeinit, GnutlsHandshake, GnutlsRecordSend2, SslClear, SslConnect, SslDoHandshake,
        SslFree, SslSetConnectState, SslWrite, SslWriteEx, SslWriteInternal,
    };
    const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
    for (paths, functions) in [
        (
            &[
                format!("{LIBRARIES}/libssl.so.3"),
                "/usr/lib64/libssl.so.3".to_owned(),
            ][..],
            &[
                SslWriteInternal,
                SslSetConnectState,
                SslDoHandshake,
                SslConnect,
                SslClear,
                SslFree,
            ][..],
        ),
        (
            &[
                format!("{LIBRARIES}/libgnutls.so.30"),
                "/usr/lib64/libgnutls.so.30".to_owned(),
            ],
            &[GnutlsRecordSend2, GnutlsHandshake, GnutlsDeinit],
        ),
        (
            &["/usr/bin/node".to_owned()],
            // Built so that it is part of the others.
            &[
                SslWrite,
                SslWriteEx,
                SslWriteInternal,
                SslSetConnectState,
                SslDoHandshake,
                SslClear,
                SslFree,
            ],
        ),
    ] {
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let path = first(&paths);
        if !ebfw_test_need::met(path.is_some(), &format!("one of {paths:?}")) {
            continue;
        }
        let path = path.expect("just seen");
        let target = find(&File::open(&path).unwrap()).unwrap();
        if path.ends_with("node") && target.0.is_empty() {
            ebfw_test_need::not_run("node's own OpenSSL: this node uses the system's");
            continue;
        }
        for function in functions {
            assert_eq!(
                emulated(&target, *function),
                [true],
                "{function:?} in {}",
                path.display()
            );
        }
        let writes = target
            .0
            .keys()
            .filter(|function| function.is_openssl_write());
        let expected = functions
            .iter()
            .filter(|function| function.is_openssl_write());
        let (writes, expected): (Vec<_>, Vec<_>) = (writes.collect(), expected.collect());
        assert_eq!(writes, expected, "{}", path.display());
    }
}

/// Builds a Go program that uses TLS; `None`, said aloud, without Go.
fn go_program(folder: &Path, flags: &[&str]) -> Option<PathBuf> {
    const SOURCE: &str = "package main\nimport (\"fmt\"; \"net/http\")\n\
                          func main() { fmt.Println(http.Get(\"https://192.0.2.1\")) }\n";
    let go = first(&["/usr/local/go/bin/go", "/usr/bin/go"]);
    if !ebfw_test_need::met(go.is_some(), "go") {
        return None;
    }
    let source = folder.join("main.go");
    fs::write(&source, SOURCE).unwrap();
    let program = folder.join("program");
    let built = Command::new(go.expect("just seen"))
        .args(["build", "-o"])
        .arg(&program)
        .args(flags)
        .arg(&source)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod")
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Some(program)
}

#[test]
fn go_programs_are_found_with_and_without_symbols() {
    let folder = tempfile::tempdir().unwrap();
    for flags in [&[][..], &["-buildmode=pie", "-ldflags=-s -w"]] {
        let Some(program) = go_program(folder.path(), flags) else {
            return;
        };
        let target = find(&File::open(&program).unwrap()).unwrap();
        for function in [
            Function::GoWrite,
            Function::GoClientHandshake,
            Function::GoClose,
        ] {
            assert_eq!(
                emulated(&target, function),
                [true],
                "{function:?} with {flags:?}"
            );
        }
        assert_eq!(target.0.len(), 3, "{flags:?}");
    }
}

#[test]
fn what_has_no_tls_has_nothing_to_probe() {
    let own = std::env::current_exe().unwrap();
    let target = find(&File::open(own).unwrap()).unwrap();
    assert_eq!(target, Target::default(), "this test");
    let error = find(&b"#!/bin/sh\nexit 0\n"[..]).unwrap_err();
    assert!(matches!(error, ElfError::NotElf), "a script: {error}");
    assert!(matches!(find(&[][..]).unwrap_err(), ElfError::NotElf));
}

/// A small library, its tables where a mutation can reach all of them.
fn library() -> Vec<u8> {
    let code = [&[0x49, 0x3b, 0x66, 0x10, 0x76, 8, 0x55][..], &[0x90; 25]].concat();
    library_of(&[("SSL_write", 0), ("SSL_free", 16)], &code)
}

/// The same with functions of 16 bytes each at these offsets in the code.
fn library_of(functions: &[(&str, u64)], code: &[u8]) -> Vec<u8> {
    let mut strings = vec![0];
    let symbols = {
        let mut bytes = vec![0; 24];
        for (name, offset) in functions {
            let (at, value) = (strings.len() as u32, 0x1000 + offset);
            strings.extend(name.as_bytes());
            strings.push(0);
            bytes.extend(at.to_le_bytes());
            bytes.extend([0x12, 0]);
            bytes.extend(1u16.to_le_bytes());
            bytes.extend(value.to_le_bytes());
            bytes.extend(16u64.to_le_bytes());
        }
        bytes
    };
    strings.push(0);
    let names = b"\0.dynsym\0.dynstr\0.shstrtab\0.gopclntab\0\0".to_vec();
    let mut lines = 0xffff_fff1u32.to_le_bytes().to_vec();
    lines.extend([0, 0, 1, 8]);
    for value in [1u64, 0, 0x1000, 72, 0, 0, 0, 104] {
        lines.extend(value.to_le_bytes());
    }
    lines.extend(b"crypto/tls.(*Conn).Write\0\0\0\0\0\0\0\0");
    for value in [0u32, 12, 16, 0, 0] {
        lines.extend(value.to_le_bytes());
    }
    let mut body = Vec::new();
    let mut place = |bytes: &[u8]| {
        let offset = 64 + 56 + body.len();
        body.extend(bytes);
        (offset as u64, bytes.len() as u64)
    };
    let places = [
        place(code),
        place(&symbols),
        place(&strings),
        place(&names),
        place(&lines),
    ];
    let sections_at = (64 + 56 + body.len()) as u64;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [3u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for long in [0u64, 64, sections_at] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 5, 3] {
        file.extend(half.to_le_bytes());
    }
    for word in [1u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for long in [places[0].0, 0x1000, 0x1000, places[0].1, places[0].1, 16] {
        file.extend(long.to_le_bytes());
    }
    file.extend(&body);
    let section = |name: u32, kind: u32, (offset, size): (u64, u64), link: u32| {
        let mut header = Vec::new();
        for word in [name, kind] {
            header.extend(word.to_le_bytes());
        }
        for long in [0, 0, offset, size] {
            header.extend(long.to_le_bytes());
        }
        for word in [link, 0] {
            header.extend(word.to_le_bytes());
        }
        for long in [8u64, 24] {
            header.extend(long.to_le_bytes());
        }
        header
    };
    for header in [
        section(0, 0, (0, 0), 0),
        section(1, 11, places[1], 2),
        section(9, 3, places[2], 0),
        section(17, 3, places[3], 0),
        section(27, 1, places[4], 0),
    ] {
        file.extend(header);
    }
    file
}

/// The kernel programs read the registers of x86-64, and places are found by its instructions.
#[test]
fn libraries_of_other_processors_are_left_alone() {
    const X86: u8 = 3;
    const ARM64: u8 = 183;
    for (machine, why) in [(ARM64, "arm64"), (X86, "32 bits in 64"), (0, "none")] {
        let mut library = library();
        library[18] = machine;
        let error = find(&library[..]).unwrap_err();
        assert!(matches!(error, ElfError::Foreign), "{why}: {error}");
    }
    let mut narrow = library();
    narrow[4] = 1;
    assert!(
        matches!(find(&narrow[..]), Err(ElfError::Foreign)),
        "32 bits"
    );
}

#[test]
fn the_smallest_library_is_read() {
    let target = find(&library()[..]).unwrap();
    let found: Vec<_> = target.0.keys().copied().collect();
    assert_eq!(
        found,
        [Function::SslWrite, Function::SslFree, Function::GoWrite]
    );
}

/// OpenSSL 3.3 and newer: both names, of which one leads to the other.
#[test]
fn a_function_that_goes_on_with_another_one_is_not_probed() {
    const BOTH: [(&str, u64); 3] = [
        ("SSL_write", 32),
        ("SSL_write_ex2", 0),
        ("SSL_write_ex", 16),
    ];
    let inner = [&[0x48, 0x83, 0xec, 0x08, 0x53][..], &[0x90; 11]].concat();
    let wrapper = [&[0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xe9][..], &[0x90; 9]].concat();
    let other = [0x53; 16];
    for (code, expected, why) in [
        (&wrapper, Function::SslWriteEx2, "it jumps there"),
        (&other.to_vec(), Function::SslWriteEx, "who knows"),
    ] {
        let code = [&inner[..], code, &other].concat();
        let target = find(&library_of(&BOTH, &code)[..]).unwrap();
        let is_openssl = |function: &&Function| function.library() == "openssl";
        let found: Vec<_> = target.0.keys().filter(is_openssl).copied().collect();
        assert_eq!(found, [Function::SslWrite, expected], "{why}");
    }
    let alone = find(&library_of(&BOTH[..2], &[0x53; 48])[..]).unwrap();
    assert!(alone.0.contains_key(&Function::SslWriteEx2));
}

/// What all that write go on with is probed in their place, but only where all of them do.
#[test]
fn what_all_functions_go_on_with_is_probed() {
    const INNER: u64 = 64;
    // Debian's: sub rsp, 8; call. Then movsxd rdx, edx; call, and OpenSSL 3.5's jump to SSL_write_ex2.
    let call = |from: u64| (INNER.wrapping_sub(from) as u32).to_le_bytes();
    let second = [&[0x48, 0x83, 0xec, 0x08, 0xe8][..], &call(9), &[0x90; 7]].concat();
    let write = [&[0x48, 0x63, 0xd2, 0xe8][..], &call(16 + 8), &[0x90; 8]].concat();
    let jump = [&[0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xd9][..], &[0x90; 9]].concat();
    let changed = [&[0x31, 0xd2, 0xe8][..], &call(32 + 7), &[0x90; 9]].concat();
    let own = [0x53; 16];
    const THREE: [(&str, u64); 3] = [
        ("SSL_write_ex2", 0),
        ("SSL_write", 16),
        ("SSL_write_ex", 32),
    ];
    const TWO: [(&str, u64); 2] = [("SSL_write_ex", 0), ("SSL_write", 16)];
    const NAMED: [(&str, u64); 4] = [
        TWO[0],
        TWO[1],
        ("ssl_write_internal", INNER),
        ("BIO_f_ssl", 48),
    ];
    use Function::{SslWrite, SslWriteEx, SslWriteEx2, SslWriteInternal};
    for (names, write, third, expected, why) in [
        (
            &THREE[..],
            &write[..],
            &jump[..],
            &[SslWriteInternal][..],
            "OpenSSL 3.5",
        ),
        (&TWO, &write, &own, &[SslWriteInternal], "older ones"),
        (&TWO, &own, &own, &[SslWrite, SslWriteEx], "one does not"),
        (&THREE, &own, &jump, &[SslWrite, SslWriteEx2], "likewise"),
        (&NAMED, &write, &own, &[SslWriteInternal], "it has a name"),
        (
            &NAMED,
            &own,
            &own,
            &[SslWrite, SslWriteEx],
            "one of two goes on with it",
        ),
        (
            &THREE,
            &write,
            &changed,
            &[SslWrite, SslWriteEx],
            "one changes an argument",
        ),
    ] {
        let code = [&second[..], write, third, &own, &own].concat();
        let target = find(&library_of(names, &code)[..]).unwrap();
        let is_openssl = |function: &&Function| function.library() == "openssl";
        let found: Vec<_> = target.0.keys().filter(is_openssl).copied().collect();
        assert_eq!(found, expected, "{why}");
        if expected == [SslWriteInternal] {
            assert_eq!(target.0[&SslWriteInternal][0].entry - 120, INNER, "{why}");
        }
    }
    let alone = find(&library_of(&TWO[..1], &second)[..]).unwrap();
    assert!(alone.0.contains_key(&SslWriteEx), "nothing else is there");
}

/// By way of the table for what is linked, by itself, or not at all.
#[test]
fn gnutls_is_probed_where_all_of_it_writes() {
    // xor r8d, r8d; xor ecx, ecx; jmp. Then jmp [rip + …], with and without a mark for indirect branches.
    let wrapper = |to: u32| {
        [
            &[0x45, 0x31, 0xc0, 0x31, 0xc9, 0xe9][..],
            &(to - 10).to_le_bytes(),
            &[0x90; 6],
        ]
        .concat()
    };
    let stub = [&[0xff, 0x25, 0, 0, 0, 0][..], &[0x90; 10]].concat();
    let marked = [
        &[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0, 0, 0, 0][..],
        &[0x90; 5],
    ]
    .concat();
    let own = vec![0x53; 16];
    const BOTH: [(&str, u64); 2] = [("gnutls_record_send", 0), ("gnutls_record_send2", 16)];
    use Function::{GnutlsRecordSend, GnutlsRecordSend2};
    for (names, first, third, expected, why) in [
        (&BOTH[..], wrapper(32), &stub, GnutlsRecordSend2, "Debian's"),
        (&BOTH, wrapper(32), &marked, GnutlsRecordSend2, "marked"),
        (&BOTH, wrapper(16), &own, GnutlsRecordSend2, "by itself"),
        (&BOTH, wrapper(32), &own, GnutlsRecordSend, "something else"),
        (&BOTH, own.clone(), &stub, GnutlsRecordSend, "it does not"),
        (&BOTH[..1], wrapper(32), &stub, GnutlsRecordSend, "old"),
        (&BOTH[1..], wrapper(32), &stub, GnutlsRecordSend2, "alone"),
    ] {
        let code = [&first[..], &own, third, &own].concat();
        let target = find(&library_of(names, &code)[..]).unwrap();
        let is_gnutls = |function: &&Function| function.library() == "gnutls";
        let found: Vec<_> = target.0.keys().filter(is_gnutls).copied().collect();
        assert_eq!(found, [expected], "{why}");
    }
}

#[test]
fn crafted_files_do_no_harm() {
    let good = library();
    for end in 0..good.len() {
        let _ = find(&good[..end]);
    }
    // Every byte with the values at which comparisons and sums turn over, then several at once.
    let mut bytes = good.clone();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            bytes[at] = value;
            let _ = find(&bytes[..]);
        }
        bytes[at] = good[at];
    }
    for at in 0..bytes.len() - 8 {
        for value in [u64::MAX, u64::MAX - 63, i64::MAX as u64, 1 << 32] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let _ = find(&bytes[..]);
        }
        bytes[at..at + 8].copy_from_slice(&good[at..at + 8]);
    }
    proptest::proptest!(|(changes in proptest::collection::vec((0..good.len(), proptest::num::u8::ANY), 1..12))| {
        let mut bytes = good.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        let _ = find(&bytes[..]);
    });
}

#[test]
fn a_file_that_claims_to_be_huge_takes_no_memory() {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &library(), 0).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut good = library();
    let sections_at = u64::from_le_bytes(good[40..48].try_into().unwrap()) as usize;
    // The size of the table of symbols, and of their names.
    for section in [1, 2] {
        let size = sections_at + 64 * section + 32;
        good[size..size + 8].copy_from_slice(&(1u64 << 39).to_le_bytes());
    }
    std::os::unix::fs::FileExt::write_all_at(&file, &good, 0).unwrap();
    let target = find(&file).unwrap();
    assert_eq!(
        target.0.keys().copied().collect::<Vec<_>>(),
        [Function::GoWrite],
        "the other table is still read"
    );
}

/// Names are free: a file may give one to millions of functions, and have the same table any number of times.
#[test]
fn a_file_that_repeats_itself_takes_no_time() {
    const COPIES: u64 = 3000;
    let file = tempfile::tempfile().unwrap();
    let good = library();
    let sections_at = u64::from_le_bytes(good[40..48].try_into().unwrap()) as usize;
    let headers = &good[sections_at..];
    let write = |bytes: &[u8], at: u64| {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    };
    // A million and a half symbols of one name, and names of a size that takes a while to read.
    let symbols_at = 1 << 20;
    let symbols_size: u64 = 36 << 20;
    let symbol_offset = u64::from_le_bytes(headers[64 + 24..64 + 32].try_into().unwrap()) as usize;
    let symbol = &good[symbol_offset + 24..symbol_offset + 48];
    write(&good, 0);
    write(&symbol.repeat(symbols_size as usize / 24), symbols_at);
    let mut table = headers[64..128].to_vec();
    table[24..32].copy_from_slice(&symbols_at.to_le_bytes());
    table[32..40].copy_from_slice(&(symbols_size - symbols_size % 24).to_le_bytes());
    let mut names = headers[128..192].to_vec();
    names[32..40].copy_from_slice(&(64_u64 << 20).to_le_bytes());
    let all: Vec<u8> = [&headers[..64], &table, &names, &headers[192..]]
        .concat()
        .into_iter()
        .chain(table.repeat(COPIES as usize))
        .collect();
    let tables_at = 200_u64 << 20;
    write(&all, tables_at);
    write(&tables_at.to_le_bytes(), 40);
    write(&(COPIES as u16 + 5).to_le_bytes(), 60);
    let start = std::time::Instant::now();
    let target = find(&file).unwrap();
    assert_eq!(target.0[&Function::SslWrite].len(), 1);
    // Without a bound it is many minutes.
    assert!(start.elapsed() < std::time::Duration::from_secs(60));
}
