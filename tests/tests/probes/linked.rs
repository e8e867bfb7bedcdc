//! Programs with a TLS library of their own, linked in: with symbols they are enforced, without they are opaque, and `ebfw status` says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    denied::{NOTES, POLICY},
    server::{PORT, program},
};

/// Times that it tries.
const TRIES: usize = 10;
/// What is linked in: Debian's.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.a";

/// Asks for the paths that it is told, one after the other, on one connection, and prints the status of each answer.
const CLIENT: &str = r#"
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
int main(int count, char **arguments) {
    BIO *bio = BIO_new_ssl_connect(SSL_CTX_new(TLS_client_method()));
    SSL *ssl;
    char text[4096];
    BIO_get_ssl(bio, &ssl);
    BIO_set_conn_hostname(bio, arguments[1]);
    for (int number = 2; number < count; number++) {
        int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n", arguments[number]);
        size_t done;
        if (BIO_do_handshake(bio) != 1 || !(number % 2 ? SSL_write_ex(ssl, text, length, &done) : SSL_write(ssl, text, length) > 0))
            return 1;
        int read = SSL_read(ssl, text, sizeof text - 1);
        if (read <= 0)
            return 2;
        text[read] = 0;
        printf("%.3s\n", strchr(text, ' ') + 1);
    }
    return 0;
}
"#;

impl Bench {
    /// Builds the client, without shared libraries; `None`, said aloud, where a part of it is missing.
    fn linked_client(&self, name: &str, flags: &[&str]) -> Option<PathBuf> {
        let compiler = program("cc")?;
        let is_there = fs::exists(LIBRARY).unwrap_or(false);
        if !ebfw_test_need::met(is_there, LIBRARY) {
            return None;
        }
        let folder = self.server.folder();
        fs::write(folder.join("client.c"), CLIENT).expect("the folder is writable");
        let built = Command::new(compiler)
            .args(["-o", name, "client.c", "-static"])
            .args(flags)
            .args(["-lssl", "-lcrypto"])
            .current_dir(folder)
            .output()
            .expect("the compiler starts");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        Some(folder.join(name))
    }

    /// What `ebfw status` says of the workload, from `TLS` on.
    pub(super) fn standing(&self) -> String {
        let (status, path) = (self.status(), self.lab.path());
        let row = status.lines().find(|line| line.starts_with(&path));
        let row = row.unwrap_or_else(|| panic!("{path} in {status}"));
        let columns: Vec<_> = row.split_whitespace().skip(4).collect();
        columns.join(" ")
    }
}

/// Without symbols first: what is said of the workload changes as soon as something is seen.
#[test]
fn openssl_within_a_program_is_enforced_with_symbols_and_opaque_without() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let (Some(client), Some(stripped)) = (
        bench.linked_client("linked", &[]),
        bench.linked_client("stripped", &["-s"]),
    ) else {
        return;
    };
    let server = format!("10.99.0.2:{PORT}");
    let (said, status) = bench.said(&stripped, &[&server, "/open", "/closed"]);
    assert!(status.success());
    assert_eq!(said, "200\n200\n");
    assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
    eventually("its connection is counted", || {
        bench.standing() == "opaque 0 0 0 0 1"
    });
    let arguments = [&server[..]];
    let ask = bench.asking(&client, &arguments);
    bench.meet("/met", |_| ask(&["/met"]));
    for _ in 0..TRIES {
        ask(&["/admin/linked"]);
        ask(&["/before", "/admin/linked"]);
    }
    ask(&["/linked"]);
    bench.holds("linked", &["/before ", "/linked "]);
    let standing = bench.standing();
    assert!(standing.starts_with("partly "), "{standing}");
}

/// Its functions are inlined and have no stable names: what it sends is opaque, a rule about requests is passed over, and the status says so.
#[test]
fn rustls_is_opaque() {
    const CLIENT: &str = env!("CARGO_BIN_EXE_rustls-client");
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let server = format!("10.99.0.2:{PORT}");
    let (said, status) = bench.said(Path::new(CLIENT), &[&server, "/open", "/admin/rustls"]);
    assert!(status.success());
    assert_eq!(said, "200\n200\n");
    eventually("its connection is counted", || {
        bench.standing() == "opaque 0 0 0 0 1"
    });
    assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
}
