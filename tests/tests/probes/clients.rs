//! One test for each client: the event of its request, or that there is none.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    server::{PORT, program},
};

impl Bench {
    /// Runs a program in the workload to its end.
    pub(super) fn run(&self, program: &Path, arguments: &[&str]) {
        self.said(program, arguments);
    }

    /// The same; what it writes to standard output, and how it ends.
    pub(super) fn said(&self, program: &Path, arguments: &[&str]) -> (String, ExitStatus) {
        let out = self.server.folder().join("out");
        let folder = self.server.folder().to_owned();
        let result = self.lab.inside(|| {
            let output = Command::new(program)
                .args(arguments)
                .current_dir(folder)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", "/nonexistent")
                .env("NODE_TLS_REJECT_UNAUTHORIZED", "0")
                .env("NODE_NO_WARNINGS", "1")
                .env("GIT_TERMINAL_PROMPT", "0")
                .stdin(Stdio::null())
                .stdout(File::create(&out)?)
                .output()?;
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            Ok(u64::try_from(output.status.into_raw()).unwrap_or(u64::MAX))
        });
        let status =
            result.unwrap_or_else(|error: io::Error| panic!("{}: {error}", program.display()));
        let said = fs::read(&out).expect("it was written");
        let said = String::from_utf8_lossy(&said).into_owned();
        (
            said,
            ExitStatus::from_raw(i32::try_from(status).expect("a status is small")),
        )
    }

    /// Builds a program in Go from its one file; `None`, said aloud, without a compiler.
    pub(super) fn go_program(&self, name: &str, flags: &[&str], source: &str) -> Option<PathBuf> {
        let go = program("go")?;
        let folder = self.server.folder();
        fs::write(folder.join("main.go"), source).expect("the folder is writable");
        let built = Command::new(go)
            .args(["build", "-o", name])
            .args(flags)
            .arg("main.go")
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .output()
            .expect("go starts");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        Some(folder.join(name))
    }

    /// Events about requests inside TLS whose line has all of `parts`.
    pub(super) fn seen(&self, parts: &[&str]) -> Vec<String> {
        let lines = self.agent.events.so_far().into_iter();
        lines
            .filter(|line| line.contains("\"kind\":\"https\""))
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .collect()
    }

    /// Runs a program with these arguments and the paths that it shall ask for.
    pub(super) fn asking<'a>(
        &'a self,
        program: &'a Path,
        arguments: &'a [&'a str],
    ) -> impl Fn(&[&str]) + 'a {
        move |paths| self.run(program, &[arguments, paths].concat())
    }

    /// Runs a program that is new to the agent until it is seen at `path`: its first requests may be over before it has been looked into.
    pub(super) fn meet(&self, path: &str, run: impl Fn(&Self)) {
        eventually("a new program is seen", || {
            run(self);
            !self.seen(&[path]).is_empty()
        });
    }

    /// Waits for exactly `count` events with `parts`; more are a failure as soon as a request that was made later is seen.
    pub(super) fn expect(&self, count: usize, parts: &[&str]) {
        eventually(&format!("{count} events with {parts:?}"), || {
            self.seen(parts).len() >= count
        });
        assert_eq!(self.seen(parts).len(), count, "{:?}", self.seen(parts));
    }
}

/// Where the server serves `path`.
pub(super) fn url(path: &str) -> String {
    format!("https://10.99.0.2:{PORT}{path}")
}

/// How events name the server.
const SERVER: &str = "\"dst\":\"10.99.0.2\",\"port\":8443,";

/// What every event of `program` has.
fn event<'a>(comm: &'a str, method: &'a str, path: &'a str) -> [String; 5] {
    [
        SERVER.to_owned(),
        format!("\"comm\":\"{comm}"),
        format!("\"method\":\"{method}\""),
        format!("\"path\":\"{path}\""),
        "\"domain\":\"10.99.0.2\"".to_owned(),
    ]
}

/// Runs a client and expects one event.
fn one(bench: &Bench, program: &Path, arguments: &[&str], comm: &str, method: &str, path: &str) {
    bench.run(program, arguments);
    let parts = event(comm, method, path);
    bench.expect(1, &parts.each_ref().map(String::as_str));
}

#[test]
fn curl_with_openssl() {
    let Some(bench) = Bench::open() else { return };
    let Some(curl) = program("curl") else { return };
    for (version, path) in [("--http1.1", "/one?x=1"), ("--http2", "/two")] {
        let url = url(path);
        one(&bench, &curl, &["-sk", version, &url], "curl", "GET", path);
    }
    // Several requests on one connection, and a body beyond what is copied.
    let big = bench.server.folder().join("big");
    fs::write(&big, vec![b'x'; 300_000]).unwrap();
    let upload = format!("@{}", big.display());
    for version in ["--http1.1", "--http2"] {
        let path = format!("/upload{version}");
        let (first, second) = (url(&path), url("/after"));
        bench.run(
            &curl,
            &[
                "-sk",
                version,
                "--data-binary",
                &upload,
                &first,
                "--next",
                "-sk",
                version,
                &second,
            ],
        );
        bench.expect(1, &[SERVER, "\"POST\"", &path]);
    }
    bench.expect(2, &[SERVER, "\"GET\"", "/after"]);
}

#[test]
fn wget_with_gnutls() {
    let Some(bench) = Bench::open() else { return };
    let Some(wget) = program("wget") else { return };
    let url = url("/wget");
    let arguments = ["-q", "-O", "/dev/null", "--no-check-certificate", &url];
    one(&bench, &wget, &arguments, "wget", "GET", "/wget");
}

#[test]
fn nss_by_its_own_calls() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl3.so";
    // A bare socket and a file first: what is written there is no plaintext of TLS.
    const PROGRAM: &str = r"
import ctypes, socket, sys
load = lambda name: ctypes.CDLL('/usr/lib/x86_64-linux-gnu/lib' + name + '.so')
nspr, nss, ssl = load('nspr4'), load('nss3'), load('ssl3')
pointer, integer = ctypes.c_void_p, ctypes.c_int
def call(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    return function(*arguments)
request = lambda path: ('GET ' + path + ' HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n').encode()
assert call(nss, 'NSS_NoDB_Init', integer, None) == 0
call(ssl, 'NSS_SetDomesticPolicy', integer)
address = socket.AF_INET.to_bytes(2, 'little') + (8443).to_bytes(2, 'big') + bytes([10, 99, 0, 2]) + bytes(100)
FOREVER = ctypes.c_uint32(0xffffffff)
def connect(prepare):
    socket = pointer(prepare(pointer(call(nspr, 'PR_OpenTCPSocket', pointer, 2))))
    assert call(nspr, 'PR_Connect', integer, socket, address, FOREVER) == 0
    return socket
bare = connect(lambda socket: socket.value)
text = request('/bare')
assert call(nspr, 'PR_Write', integer, bare, text, len(text)) == len(text)
accept = ctypes.CFUNCTYPE(integer, pointer, pointer, integer, integer)(lambda *_: 0)
def tls(socket):
    socket = pointer(call(ssl, 'SSL_ImportFD', pointer, None, socket))
    assert call(ssl, 'SSL_AuthCertificateHook', integer, socket, accept, None) == 0
    assert call(ssl, 'SSL_SetURL', integer, socket, b'10.99.0.2') == 0
    return socket.value
inside = connect(tls)
for path, name in (('/nss/write', 'PR_Write'), ('/nss/send', 'PR_Send')):
    text = request(path)
    more = (0, FOREVER) if name == 'PR_Send' else ()
    assert call(nspr, name, integer, inside, text, len(text), *more) == len(text)
call(nspr, 'PR_Close', integer, inside)
";
    let Some(bench) = Bench::open() else { return };
    let Some(python) = program("python3") else {
        return;
    };
    if !ebfw_test_need::met(fs::exists(LIBRARY).unwrap_or(false), LIBRARY) {
        return;
    }
    bench.run(&python, &["-c", PROGRAM]);
    for path in ["/nss/write", "/nss/send"] {
        let parts = event("python3", "GET", path);
        // Not the server: what follows a handshake at once the kernel holds back where Nagle's algorithm is on, and sends it later.
        let [_, rest @ ..] = parts.each_ref().map(String::as_str);
        bench.expect(1, &rest);
    }
    assert!(bench.seen(&["/bare"]).is_empty());
}

#[test]
fn git_over_https() {
    let Some(bench) = Bench::open() else { return };
    let Some(git) = program("git") else { return };
    let url = url("/repo.git");
    bench.run(&git, &["-c", "http.sslVerify=false", "ls-remote", &url]);
    bench.expect(
        1,
        &[
            SERVER,
            "\"GET\"",
            "/repo.git/info/refs?service=git-upload-pack",
            "\"comm\":\"git-remote-http",
        ],
    );
}

#[test]
fn python_with_urllib() {
    const PROGRAM: &str = "
import ssl, sys, urllib.request
context = ssl._create_unverified_context()
for path in ('/first', '/second'):
    urllib.request.urlopen(sys.argv[1] + path, context=context).read()
";
    let Some(bench) = Bench::open() else { return };
    let Some(python) = program("python3") else {
        return;
    };
    let base = url("");
    bench.run(&python, &["-c", PROGRAM, &base]);
    for path in ["/first", "/second"] {
        let parts = event("python3", "GET", path);
        bench.expect(1, &parts.each_ref().map(String::as_str));
    }
}

#[test]
fn node_with_an_openssl_of_its_own() {
    const PROGRAM: &str = "
const https = require('https'), agent = new https.Agent({ keepAlive: true }), base = process.argv[1];
const ask = (path, then) => https.get({ host: '10.99.0.2', port: 8443, path, agent }, (response) => {
  response.resume();
  response.on('end', then);
});
ask(base + '/https', () => ask(base + '/https', async () => {
  agent.destroy();
  await fetch('https://10.99.0.2:8443' + base + '/fetch', { method: 'POST', body: 'x'.repeat(9000) });
  process.exit(0);
}));
";
    let Some(bench) = Bench::open() else { return };
    let Some(node) = program("node") else { return };
    bench.meet("/early/fetch", |bench| {
        bench.run(&node, &["-e", PROGRAM, "/early"]);
    });
    bench.run(&node, &["-e", PROGRAM, "/node"]);
    bench.expect(
        1,
        &[
            SERVER,
            "\"POST\"",
            "\"/node/fetch\"",
            "\"domain\":\"10.99.0.2\"",
        ],
    );
    bench.expect(2, &[SERVER, "\"GET\"", "\"/node/https\""]);
}

#[test]
fn go_with_and_without_symbols() {
    const PROGRAM: &str = r#"package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, version := range []string{"http/1.1", "h2"} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: version == "h2"}
		client := &http.Client{Transport: transport}
		for range 2 {
			answer, err := client.Post(os.Args[1]+"/go/"+version, "text/plain", strings.NewReader("hello"))
			if err != nil {
				panic(err)
			}
			io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}
	}
}
"#;
    let Some(bench) = Bench::open() else { return };
    for (name, flags) in [("plain", &[][..]), ("stripped", &["-ldflags=-s -w"])] {
        let Some(own) = bench.go_program(name, flags, PROGRAM) else {
            return;
        };
        // By a path of their own: what is seen of the first requests may still be on its way when the others are made.
        bench.meet(&format!("/early/{name}/go/h2"), |bench| {
            bench.run(&own, &[&url(&format!("/early/{name}"))]);
        });
        bench.run(&own, &[&url(&format!("/{name}"))]);
        let comm = format!("\"comm\":\"{name}\"");
        for version in ["http/1.1", "h2"] {
            let path = format!("\"/{name}/go/{version}\"");
            bench.expect(2, &[SERVER, &comm, "\"POST\"", &path]);
        }
    }
}
