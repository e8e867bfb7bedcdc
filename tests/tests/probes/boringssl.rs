//! BoringSSL within a program: libcurl as it is built to ask as browsers do, from Python. With symbols, as it is shipped, it is enforced; without it
//! is opaque.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::program,
};

/// Connections on which each version asks.
const TRIES: usize = 20;
/// The part of it that is no Python.
const CORE: &str = "curl_cffi/_wrapper.abi3.so";

impl Bench {
    /// Takes the client from Python's package index, and returns Python for it; `None`, said aloud, where that cannot be had.
    fn boringssl_client(&self) -> Option<PathBuf> {
        let python = program("python3")?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/boringssl");
        if !ebfw_test_need::met(source.is_dir(), "the source of a client with BoringSSL") {
            return None;
        }
        let installed = Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--only-binary", ":all:", "--require-hashes", "-r"])
            .arg(source.join("requirements.txt"))
            .arg("--target")
            .arg(self.server.folder())
            .output()
            .expect("Python starts");
        eprintln!("{}", String::from_utf8_lossy(&installed.stderr));
        let is_there = installed.status.success();
        if !ebfw_test_need::met(is_there, "curl_cffi from Python's package index") {
            return None;
        }
        // What lies beside it is what it imports.
        let client = self.server.folder().join("client.py");
        fs::copy(source.join("client.py"), client).expect("the folder is writable");
        Some(python)
    }
}

#[test]
fn boringssl_within_a_program_never_gets_a_denied_request_out() {
    for (version, server) in [("1", NOTES), ("2", NOTES_HTTP2)] {
        let Some(bench) = Bench::noting(server, POLICY, &[]) else {
            return;
        };
        let Some(python) = bench.boringssl_client() else {
            return;
        };
        let arguments = ["client.py", version];
        let ask = bench.asking(&python, &arguments);
        bench.meet("/met", |_| ask(&["/met"]));
        let denied = ["/admin/fresh", "/before,/admin/used"];
        let mut connections: Vec<_> = denied.into_iter().cycle().take(TRIES).collect();
        connections.push("/open,/again");
        ask(&connections);
        bench.holds(version, &["/before ", "/open ", "/again "]);
        // It tries once more on a new connection what was lost on an old one.
        eventually("each denial is told", || {
            bench.seen(&["\"action\":\"deny\"", "/admin/"]).len() >= TRIES
        });
    }
}

#[test]
fn boringssl_without_symbols_is_opaque() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let (Some(python), Some(strip)) = (bench.boringssl_client(), program("strip")) else {
        return;
    };
    let core = bench.server.folder().join(CORE);
    let stripped = Command::new(strip).arg(core).status();
    assert!(stripped.expect("it starts").success());
    let (said, _) = bench.said(&python, &["client.py", "1", "/open,/admin/opaque"]);
    assert_eq!(said, "200\n200\n");
    eventually("its connection is counted", || {
        bench.standing() == "opaque 0 0 0 0 1"
    });
    assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
}
