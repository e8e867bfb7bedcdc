//! Probes on a kernel where there is nothing else: the smallest program with an OpenSSL of its own, made here byte by byte. Needs root; also
//! for virtual machines, which have neither libraries nor clients.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use ebfw_agent::{
    host::cgroup::{CgroupPath, Hierarchy},
    inspect::Record,
    probes::{
        LoadError,
        trial::{Placement, Trial, Way},
    },
};
use ebfw_common::plaintext::{MAX_COPY, kind, library};
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home, PROBES},
    eventually,
};

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes before the code: the headers of the file and of its segment.
const HEADERS: usize = 64 + 56;
/// What it passes for a connection.
const CONNECTION: u32 = 0x1000_0000;

/// A program that writes `text` once by an `SSL_write` of its own, calls `SSL_free`, and ends.
fn program(text: &[u8]) -> Vec<u8> {
    const WRITE: usize = 50;
    const FREE: usize = WRITE + 8;
    const TEXT: usize = FREE + 3;
    let length = u32::try_from(text.len()).expect("short").to_le_bytes();
    let ahead = |target: usize, behind: usize| (target - behind) as u32;
    let mut code = Vec::new();
    // What nobody has touched lies in no page yet, and a probe does not wait for one.
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, text
    code.extend(ahead(TEXT, 7).to_le_bytes());
    code.push(0xb9); // mov ecx, length
    code.extend(length);
    code.extend([0xf3, 0xac]); // rep lodsb
    code.push(0xbf); // mov edi, CONNECTION
    code.extend(CONNECTION.to_le_bytes());
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, text
    code.extend(ahead(TEXT, 26).to_le_bytes());
    code.push(0xba); // mov edx, length
    code.extend(length);
    code.push(0xe8); // call SSL_write
    code.extend(ahead(WRITE, 36).to_le_bytes());
    code.push(0xe8); // call SSL_free: the connection is still in its register
    code.extend(ahead(FREE, 41).to_le_bytes());
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, SYS_exit
    code.extend([0x0f, 0x05]); // syscall
    assert_eq!(code.len(), WRITE);
    code.extend([0x55, 0x48, 0x89, 0xe5, 0x89, 0xd0, 0x5d, 0xc3]); // push, mov, mov eax, edx, pop, ret
    code.extend([0x55, 0x5d, 0xc3]); // push, pop, ret
    code.extend(text);
    let strings = b"\0SSL_write\0SSL_free\0";
    let mut symbols = vec![0; 24];
    for (name, at, size) in [(1_u32, WRITE, 8_u64), (11, FREE, 3)] {
        symbols.extend(name.to_le_bytes());
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend((BASE + (HEADERS + at) as u64).to_le_bytes());
        symbols.extend(size.to_le_bytes());
    }
    let (symbols_at, strings_at) = (HEADERS + code.len(), HEADERS + code.len() + symbols.len());
    let sections_at = strings_at + strings.len();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for long in [BASE + HEADERS as u64, 64, sections_at as u64] {
        file.extend(long.to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [64_u16, 56, 1, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let whole = (HEADERS + code.len()) as u64;
    for long in [0, BASE, BASE, whole, whole, 0x1000] {
        file.extend(long.to_le_bytes());
    }
    file.extend(&code);
    file.extend(&symbols);
    file.extend(strings);
    file.extend([0; 64]);
    for (kind, at, size, link) in [
        (2_u32, symbols_at, symbols.len(), 2_u32),
        (3, strings_at, strings.len(), 0),
    ] {
        file.extend([0; 4]);
        file.extend(kind.to_le_bytes());
        for long in [0, 0, at as u64, size as u64] {
            file.extend(long.to_le_bytes());
        }
        file.extend(link.to_le_bytes());
        file.extend([0; 4]);
        for long in [8_u64, 24] {
            file.extend(long.to_le_bytes());
        }
    }
    file
}

/// The program as a file; it goes with the value.
struct Installed(PathBuf);

impl Installed {
    fn new(text: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("ebfw-tiny-{}-{number}", std::process::id()));
        let written = path.with_extension("bytes");
        fs::write(&written, program(text)).expect("there is a folder for temporary files");
        // A shell makes the program of it: another thread's child would inherit a descriptor that this process writes to, and the kernel
        // starts no program that somebody may still write to (ETXTBSY).
        const INSTALL: &str = "cp \"$0\" \"$1\" && chmod 755 \"$1\" && rm \"$0\"";
        let mut shell = Command::new("/bin/sh");
        let status = shell.args(["-c", INSTALL]).args([&written, &path]).status();
        assert!(status.expect("the shell starts").success());
        Self(path)
    }

    fn run(&self) {
        let status = Command::new(&self.0).status().expect("the kernel runs it");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn everything() -> PathBuf {
    let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
    hierarchy.directory(&CgroupPath::top())
}

/// The ways that this kernel has; the others are said aloud.
fn ways(scope: &Path) -> Vec<(Way, Trial)> {
    let found: Vec<_> = [Way::Multi, Way::Perf]
        .into_iter()
        .filter_map(|way| match Trial::load(scope, way) {
            Ok(trial) => Some((way, trial)),
            Err(error @ LoadError::Io { .. }) => {
                ebfw_test_need::not_run(&format!("probes by {way:?}: {error:?}"));
                None
            }
            Err(error) => panic!("{way:?}: {error:?}"),
        })
        .collect();
    assert!(!found.is_empty(), "there is no way to attach");
    found
}

#[tokio::test]
async fn a_write_is_seen_once_whichever_way_and_wherever() {
    if !ebfw_test_need::root() {
        return;
    }
    let long: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
    for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], &long] {
        let tiny = Installed::new(text);
        for (way, mut trial) in ways(&everything()) {
            for placement in [Placement::Chosen, Placement::Entry] {
                let links = trial.attach(&tiny.0, placement).unwrap();
                tiny.run();
                drop(links);
                tiny.run();
                let mut seen = Vec::new();
                trial.take(|Record { header, data }| {
                    assert_eq!(header.library, library::OPENSSL);
                    assert_eq!(header.connection, u64::from(CONNECTION));
                    seen.push((header.kind, header.total, data.to_vec()));
                });
                let copied = text[..text.len().min(MAX_COPY)].to_vec();
                let expected = [
                    (kind::WRITE, text.len() as u64, copied),
                    (kind::CLOSE, 0, Vec::new()),
                ];
                // Not `assert_eq`: it would show ten thousand bytes.
                let kinds: Vec<_> = seen
                    .iter()
                    .map(|(kind, total, _)| (*kind, *total))
                    .collect();
                assert!(seen == expected, "{way:?}, {placement:?}: {kinds:?}");
            }
        }
    }
}

#[test]
fn the_agent_tells_requests_and_bodies() {
    let Some(lab) = Lab::open() else { return };
    let home = Home::new();
    home.write_policy("defaultAction: Allow\nrules: []\n");
    let settings = [
        PROBES,
        ("EBFW_INSPECT_BODY", "true"),
        ("EBFW_BODY_LIMIT", "8192"),
    ];
    let agent = Agent::start_with(&home, &lab, &settings);
    let said = agent.log.wait_for(&["requests inside TLS are"]);
    assert!(said.contains("are observed by"), "{said}");
    let refused = |line: &String| line.contains("not denied before they leave");
    let log = agent.log.so_far();
    assert!(!log.iter().any(refused), "{log:?}");
    let body = "x".repeat(9000);
    let request = format!(
        "POST /tiny HTTP/1.1\r\nHost: tiny.example\r\nContent-Type: text/plain\r\nContent-Length: 9000\r\n\r\n{body}"
    );
    let tiny = Installed::new(request.as_bytes());
    let seen = || {
        let lines = agent.events.so_far().into_iter();
        lines
            .filter(|line| line.contains("\"https\""))
            .collect::<Vec<_>>()
    };
    let run = || {
        let status = lab.command(&tiny.0).status();
        assert!(status.unwrap().success());
    };
    // A new program is looked into after it has started: its first runs may be over before.
    eventually("the program is seen", || {
        run();
        !seen().is_empty()
    });
    for line in seen() {
        for part in [
            "\"method\":\"POST\"",
            "\"path\":\"/tiny\"",
            "\"domain\":\"tiny.example\"",
            "\"size\":9000,\"captured\":8192,",
            &"x".repeat(8192),
            "\"truncated\":true,\"redacted\":false",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
