//! Programs with a TLS library of their own, linked in: with symbols they are enforced, without they are opaque, and `ebfw status` says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::{PORT, program},
};

/// Times that it tries.
const TRIES: usize = 10;
/// What is linked in: Debian's.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.a";

/// Asks for the paths that it is told, one after the other, on one connection, and prints the status of each answer. Its second argument is the
/// version of HTTP; frames are made by hand.
const CLIENT: &str = r#"
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
static SSL *ssl;
static unsigned char text[65536];
static int writes;
static int say(int length) {
    size_t done;
    return writes++ % 2 ? SSL_write_ex(ssl, text, length, &done) : SSL_write(ssl, text, length) > 0;
}
static int frame(int at, int kind, int flags, int stream, int length) {
    memcpy(text + at, (unsigned char[]){0, 0, length, kind, flags, 0, 0, 0, stream}, 9);
    return at + 9;
}
static int ask(const char *path) {
    int length = sprintf((char *)text, "GET %s HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n", path);
    if (!say(length) || (length = SSL_read(ssl, text, sizeof text - 1)) <= 0)
        return 0;
    text[length] = 0;
    printf("%.3s\n", strchr((char *)text, ' ') + 1);
    return 1;
}
static int ask_by_frames(const char *path, int number) {
    /* The authority goes into the table with the first request, and is named by its place there. */
    int length = strlen(path), authority = number ? 1 : 11, at = 0, got = 0, more;
    if (!number) {
        memcpy(text, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        at = frame(24, 4, 0, 0, 0);
    }
    at = frame(at, 1, 5, 2 * number + 1, 4 + authority + length);
    at += sprintf((char *)text + at, number ? "\x82\x87\xbe" : "\x82\x87\x41\x09" "10.99.0.2");
    at += sprintf((char *)text + at, "\x04%c%s", length, path);
    if (!say(at))
        return 0;
    for (;;) {
        while (got < 9 || got < 9 + (length = text[0] << 16 | text[1] << 8 | text[2])) {
            if ((more = SSL_read(ssl, text + got, sizeof text - got)) <= 0)
                return 0;
            got += more;
        }
        /* The status 200 is one byte of its own. */
        if (text[3] == 1)
            puts(text[9] == 0x88 ? "200" : "another");
        if (text[3] <= 1 && text[4] & 1)
            return 1;
        got -= 9 + length;
        memmove(text, text + 9 + length, got);
    }
}
int main(int count, char **arguments) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    int frames = !strcmp(arguments[2], "2");
    if (frames)
        SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\2h2", 3);
    BIO *bio = BIO_new_ssl_connect(context);
    BIO_get_ssl(bio, &ssl);
    BIO_set_conn_hostname(bio, arguments[1]);
    if (BIO_do_handshake(bio) != 1)
        return 1;
    for (int number = 0; number < count - 3; number++)
        if (!(frames ? ask_by_frames(arguments[3 + number], number) : ask(arguments[3 + number])))
            return 2;
    return 0;
}
"#;

impl Bench {
    /// Builds the client, without shared libraries; `None`, said aloud, where a part of it is missing.
    fn linked_client(&self, name: &str, flags: &[&str]) -> Option<PathBuf> {
        let is_there = fs::exists(LIBRARY).unwrap_or(false);
        if !ebfw_test_need::met(is_there, LIBRARY) {
            return None;
        }
        self.build(
            name,
            CLIENT,
            &[&["-static"], flags, &["-lssl", "-lcrypto"]].concat(),
        )
    }

    /// Builds a program or library in the bench's folder; `None`, said aloud, without a compiler.
    pub(super) fn build(&self, name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
        let folder = self.server.folder();
        let text = format!("{name}.c");
        fs::write(folder.join(&text), source).expect("the folder is writable");
        let built = Command::new(program("cc")?)
            .args(["-o", name, &text])
            .args(flags)
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
    for (version, server) in [("1.1", NOTES), ("2", NOTES_HTTP2)] {
        let Some(bench) = Bench::noting(server, POLICY, &[]) else {
            return;
        };
        let (Some(client), Some(stripped)) = (
            bench.linked_client("linked", &[]),
            bench.linked_client("stripped", &["-s"]),
        ) else {
            return;
        };
        let server = format!("10.99.0.2:{PORT}");
        let arguments = [&server[..], version];
        let (said, status) = bench.said(
            &stripped,
            &[&arguments[..], &["/open", "/admin/stripped"]].concat(),
        );
        assert!(status.success());
        assert_eq!(said, "200\n200\n");
        bench.keeps(version, &["/open", "/admin/stripped"], &[]);
        assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
        eventually("its connection is counted", || {
            bench.standing() == "opaque 0 0 0 0 1"
        });
        let ask = bench.asking(&client, &arguments);
        bench.meet("/met", |_| ask(&["/met"]));
        for _ in 0..TRIES {
            ask(&["/admin/linked"]);
            ask(&["/before", "/between", "/admin/linked"]);
        }
        ask(&["/linked"]);
        let allowed = ["/before ", "/between ", "/linked "];
        bench.keeps(version, &allowed, &["/admin/linked"]);
        let standing = bench.standing();
        assert!(standing.starts_with("partly "), "{standing}");
    }
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
    bench.keeps("rustls", &["/open ", "/admin/rustls "], &[]);
    eventually("its connection is counted", || {
        bench.standing() == "opaque 0 0 0 0 1"
    });
    assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
}
