//! Requests inside TLS that a rule denies: they are judged before they are encrypted, so that the server never reads them.
//!
//! The server notes every byte that it decrypts. Each client asks for what is allowed first, on the same connection where it can, so that a
//! server that has read nothing is no proof of anything.

use std::fs;

use ebfw_tests::lab::{
    agent::{Agent, PROBES},
    eventually,
};

use super::{
    Bench,
    clients::url,
    server::{Program, program},
};

/// Everything is allowed but what is below `/admin`, and to delete.
pub(super) const POLICY: &str = "
defaultAction: Allow
rules:
- name: admin
  action: Deny
  match: {pathPrefix: /admin}
- name: delete
  action: Deny
  match: {methods: [DELETE]}
";

/// Some hosts are denied, and what they are asked for is not; to read at others is allowed.
const HOSTS: &str = "
defaultAction: Allow
rules:
- name: evil
  action: Deny
  match: {domains: ['*.evil.example']}
- name: good
  action: Allow
  match: {domains: ['*.good.example'], pathPrefix: /admin/good}
- name: admin
  action: Deny
  match: {pathPrefix: /admin}
";

/// Notes what it decrypts in a file of its own for each connection, and answers every head.
const SERVER: &str = r"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
try:
    # With Multipath TCP for who wants it.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError:
    listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('0.0.0.0', 8443))
listener.listen(64)
seen = open('seen', 'ab', buffering=0)
lock = threading.Lock()
def serve(sock):
    try:
        with context.wrap_socket(sock, server_side=True) as tls:
            read = b''
            while True:
                more = tls.recv(65536)
                if not more:
                    break
                with lock:
                    seen.write(more)
                read += more
                while b'\r\n\r\n' in read:
                    head, read = read.split(b'\r\n\r\n', 1)
                    length = 0
                    for line in head.split(b'\r\n'):
                        name, _, value = line.partition(b':')
                        if name.lower() == b'content-length':
                            length = int(value)
                    while len(read) < length:
                        more = tls.recv(65536)
                        if not more:
                            return
                        with lock:
                            seen.write(more)
                        read += more
                    read = read[length:]
                    tls.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    except OSError:
        pass
print('ready', flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// The same for HTTP/2: notes the method and the path of each request. Listens on the descriptor that it is told, if it is.
const SERVER_OF_HTTP2: &str = "
const fs = require('fs');
const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') };
const server = require('http2').createSecureServer(options, (request, response) => {
  fs.appendFileSync('seen', request.method + ' ' + request.url + ' \\n');
  request.resume();
  request.on('end', () => response.end('ok'));
});
server.on('sessionError', () => {});
const listener = process.argv[1] ? { fd: Number(process.argv[1]) } : { port: 8443, host: '0.0.0.0' };
server.listen(listener, () => console.log('ready'));
";

/// Gives a program for Node.js a listener of Multipath TCP, which that cannot make itself.
const LISTENER: &str = r"
import os, socket, sys
try:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError:
    listener = socket.socket()
listener.bind(('0.0.0.0', 8443))
listener.listen(64)
listener.set_inheritable(True)
os.execvp('node', ['node', '-e', sys.argv[1], str(listener.fileno())])
";

/// The servers that note.
pub(super) const NOTES: Program = ("python3", &["-c", SERVER]);
pub(super) const NOTES_HTTP2: Program = ("node", &["-e", SERVER_OF_HTTP2]);
/// The same over Multipath TCP, where the kernel has it.
pub(super) const NOTES_HTTP2_MULTIPATH: Program = ("python3", &["-c", LISTENER, SERVER_OF_HTTP2]);

impl Bench {
    /// With a server that notes what it decrypts.
    pub(super) fn noting(
        program: Program,
        policy: &str,
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        let bench = Self::prepare(program)?.watch_under(policy, settings);
        let refused = "requests inside TLS are not denied before they leave";
        let log = bench.agent.log.so_far();
        assert!(!log.iter().any(|line| line.contains(refused)), "{log:?}");
        Some(bench)
    }

    /// What the server has decrypted so far.
    pub(super) fn decrypted(&self) -> String {
        let noted = fs::read(self.server.folder().join("seen")).unwrap_or_default();
        String::from_utf8_lossy(&noted).into_owned()
    }

    /// What the agent says of itself.
    pub(super) fn status(&self) -> String {
        let status = self.home.run(&["status"]).expect("ebfw starts");
        String::from_utf8_lossy(&status.stdout).into_owned()
    }

    /// The server has read this, and nothing that is denied.
    pub(super) fn holds(&self, why: &str, allowed: &[&str]) {
        self.keeps(why, allowed, &["/admin", "DELETE"]);
    }

    /// The server has read what is `allowed`, and none of what is `denied`.
    pub(super) fn keeps(&self, why: &str, allowed: &[&str], denied: &[&str]) {
        eventually(&format!("{why}: {allowed:?} come"), || {
            let seen = self.decrypted();
            allowed.iter().all(|text| seen.contains(text))
        });
        let seen = self.decrypted();
        for denied in denied {
            assert!(
                !seen.contains(denied),
                "{why}: {denied} came: {seen}\n{}",
                self.status()
            );
        }
    }
}

/// What the event of each of them has.
const DENIED: &[&str] = &["\"dst\":\"10.99.0.2\"", "\"action\":\"deny\""];

/// Times that each client tries: a race would show.
const TRIES: usize = 100;

/// Runs what its first argument names against the server: each function makes requests that must come, whose paths begin with its name, and
/// then one that must not. Threads, slow writes and what not.
const CLIENT: &str = r"
import asyncio, socket, ssl, sys, threading, time
context = ssl._create_unverified_context()
def connect():
    sock = socket.create_connection(('10.99.0.2', 8443))
    sock.settimeout(5)
    return context.wrap_socket(sock)
def head(method, path, more=''):
    return ('%s %s HTTP/1.1\r\nHost: 10.99.0.2\r\n%s\r\n' % (method, path, more)).encode()
def answer(tls, count=1):
    got = b''
    while got.count(b'\r\n\r\nok') < count:
        more = tls.recv(65536)
        if not more:
            raise OSError('closed')
        got += more
def bytewise(tls, data):
    for byte in data:
        tls.sendall(bytes([byte]))
def first():
    connect().sendall(head('GET', '/admin/first'))
def bytes_():
    tls = connect()
    bytewise(tls, head('GET', '/bytes'))
    answer(tls)
    bytewise(tls, head('GET', '/admin/bytes'))
    answer(tls)
def split():
    tls = connect()
    tls.sendall(b'GET /split HT')
    tls.sendall(b'TP/1.1\r\nHost: 10.99.0.2\r\n\r\n')
    answer(tls)
    tls.sendall(b'GET /adm')
    tls.sendall(b'in/split HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n')
    answer(tls)
def pipelined():
    tls = connect()
    tls.sendall(head('GET', '/pipelined/1') + head('GET', '/pipelined/2'))
    answer(tls, 2)
    tls.sendall(head('GET', '/pipelined/3') + head('GET', '/admin/pipelined'))
    answer(tls)
def bodies():
    tls = connect()
    tls.sendall(head('POST', '/bodies/1', 'Content-Length: 300000\r\n'))
    tls.sendall(b'x' * 300000)
    answer(tls)
    tls.sendall(head('POST', '/bodies/2', 'Content-Length: 4\r\n') + b'body')
    answer(tls)
    tls.sendall(head('DELETE', '/bodies/3', 'Content-Length: 4\r\n') + b'body')
    answer(tls)
def long():
    tls = connect()
    tls.sendall(head('GET', '/long', 'Cookie: ' + 'x' * 20000 + '\r\n'))
    answer(tls)
    tls.sendall(head('DELETE', '/long', 'Cookie: ' + 'x' * 20000 + '\r\n'))
    answer(tls)
def absolute():
    tls = connect()
    tls.sendall(head('GET', 'https://10.99.0.2/absolute'))
    answer(tls)
    tls.sendall(head('GET', 'https://10.99.0.2//x/..//admin'))
    answer(tls)
def two_spaces():
    tls = connect()
    tls.sendall(head('GET', '/two_spaces'))
    answer(tls)
    tls.sendall(head('GET', ' /admin/two_spaces'))
    answer(tls)
def tab():
    tls = connect()
    tls.sendall(head('GET', '/tab'))
    answer(tls)
    tls.sendall(head('GET', '/admin/tab').replace(b' ', b'\t', 1))
    answer(tls)
def unusual():
    for line in ('\x20GET', 'GET\t', 'M' * 40, 'm' * 400):
        connect().sendall(head(line, '/admin/unusual'))
    tls = connect()
    tls.sendall(head('lower', '/unusual'))
    answer(tls)
def other_protocol():
    tls = connect()
    tls.sendall(b'EHLO example.com\r\n')
    time.sleep(0.5)
    tls.sendall(b'QUIT\r\n')
    time.sleep(0.5)
def threads():
    tls = connect()
    lock = threading.Lock()
    def ask(path):
        with lock:
            bytewise(tls, head('GET', path))
            answer(tls)
    def all():
        for number in range(5):
            ask('/threads/%d' % number)
    both = [threading.Thread(target=all) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    thread = threading.Thread(target=ask, args=('/admin/threads',))
    thread.start()
    thread.join()
async def ask(path, before=None):
    reader, writer = await asyncio.open_connection('10.99.0.2', 8443, ssl=context)
    if before:
        writer.write(head('GET', before))
        await reader.readuntil(b'ok')
    writer.write(head('GET', path))
    await asyncio.wait_for(reader.readuntil(b'ok'), 5)
def memory():
    asyncio.run(ask('/memory/1', '/memory/2'))
    asyncio.run(ask('/admin/memory'))
def memory_two():
    asyncio.run(ask('/memory_two'))
    asyncio.run(ask('/x/..%2f../admin/memory'))
def memory_again():
    asyncio.run(ask('/admin/memory', '/memory_again'))
def multipath():
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError:
        sock = socket.socket()
    # Nobody can destroy its socket: the client waits.
    sock.settimeout(1)
    sock.connect(('10.99.0.2', 8443))
    tls = context.wrap_socket(sock)
    tls.sendall(head('GET', '/multipath'))
    answer(tls)
    tls.sendall(head('GET', '/admin/multipath'))
    answer(tls)
def forked():
    import os
    tls = connect()
    tls.sendall(head('GET', '/forked'))
    answer(tls)
    for path in ('/forked/child', '/admin/forked'):
        child = os.fork()
        if child == 0:
            try:
                tls.sendall(head('GET', path))
                answer(tls)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
def flood():
    tls = connect()
    tls.sendall(head('POST', '/flood', 'Content-Length: 6000\r\n'))
    bytewise(tls, b'x' * 6000)
    answer(tls)
    tls.sendall(head('GET', '/admin/flood'))
    answer(tls)
def met():
    tls = connect()
    tls.sendall(head('GET', '/met'))
    answer(tls)
globals()[sys.argv[1]]()
";

#[test]
fn python_never_gets_a_denied_request_out() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let run = |what: &str| bench.run(&python, &["-c", CLIENT, what]);
    bench.meet("/met", |bench| bench.run(&python, &["-c", CLIENT, "met"]));
    for (what, allowed) in [
        ("first", &[][..]),
        ("bytes_", &["/bytes "]),
        ("split", &["/split "]),
        ("pipelined", &["/pipelined/1 ", "/pipelined/2 "]),
        ("bodies", &["/bodies/1 ", "/bodies/2 "]),
        ("long", &["GET /long "]),
        ("absolute", &["10.99.0.2/absolute "]),
        ("two_spaces", &["/two_spaces "]),
        ("tab", &["/tab "]),
        ("unusual", &["/unusual "]),
        ("threads", &["/threads/0 ", "/threads/4 "]),
        ("memory", &["/memory/1 ", "/memory/2 "]),
        ("memory_two", &["/memory_two "]),
        ("memory_again", &["/memory_again "]),
        ("multipath", &["/multipath "]),
        ("forked", &["/forked ", "/forked/child "]),
        ("flood", &["/flood "]),
    ] {
        let told = bench.seen(DENIED).len();
        run(what);
        bench.holds(what, allowed);
        eventually(&format!("{what}: the denial is told"), || {
            bench.seen(DENIED).len() > told
        });
    }
    // It is longer than what is copied, so that only the kernel has read it.
    let long = ["\"path\":\"\"", "\"reason\":\"unseen\""];
    assert!(!bench.seen(&[&long, DENIED].concat()).is_empty());
    run("other_protocol");
    bench.holds("another protocol", &["EHLO", "QUIT"]);
    run("met");
    for _ in 0..TRIES / 4 {
        run("first");
        run("memory_again");
    }
    bench.holds("again and again", &[]);
}

#[test]
fn a_denied_host_never_gets_out() {
    let Some(bench) = Bench::noting(NOTES, HOSTS, &[]) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let ask = |host: &str, path: &str| {
        let host = format!("Host: {host}");
        let get = ["-sk", "--http1.1", "-m", "5", "-H", &host];
        bench.run(&curl, &[&get[..], &[&url("/before"), &url(path)]].concat());
    };
    for _ in 0..TRIES / 10 {
        ask("a.evil.example", "/");
        ask("a.other.example", "/admin");
        ask("a.good.example", "/admin/bad");
        // What a server may take for another path, or another host.
        ask("a.other.example", "/x/..%2f../admin");
        ask("a.good.example\r\nHost: a.other.example", "/admin/good");
    }
    ask("a.other.example", "/other");
    bench.holds("hosts", &["/before ", "/other "]);
    assert!(!bench.decrypted().contains("evil.example"));
    // A rule that allows is the first that matches, though the name was not resolved: what is seen can only deny.
    ask("a.good.example", "/admin/good");
    eventually("what is allowed comes", || {
        bench.decrypted().contains("GET /admin/good ")
    });
}

#[test]
fn requests_of_http2_never_get_out() {
    let Some(bench) = Bench::noting(NOTES_HTTP2, POLICY, &[]) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let folder = bench.server.folder();
    let big: Vec<u8> = (0..100_000_u32)
        .flat_map(|number| number.to_le_bytes())
        .collect();
    fs::write(folder.join("big"), big).unwrap();
    let get = ["-sk", "--http2", "-m", "5"];
    let ask = |more: &[&str]| bench.run(&curl, &[&get[..], more].concat());
    let admin = url("/admin/http2");
    for _ in 0..TRIES / 2 {
        ask(&[&admin]);
        ask(&[&url("/first"), &admin]);
    }
    ask(&["-X", "DELETE", &url("/first")]);
    let upload = ["--data-binary", "@big"];
    ask(&[
        &upload[..],
        &[&url("/upload"), "--next", "-sk", "--http2", &url("/after")],
    ]
    .concat());
    ask(&[
        &upload[..],
        &[&url("/upload"), "--next", "-sk", "--http2", &admin],
    ]
    .concat());
    ask(&["-Z", &url("/1"), &url("/2"), &url("/3")]);
    // Another path to some servers.
    ask(&["--path-as-is", &url("/first"), &url("/x/..%2f../admin")]);
    let came = ["/first ", "POST /upload ", "/after ", "/1 ", "/2 ", "/3 "];
    bench.holds("curl", &came);
    let source = GO_CLIENT.replace(
        "&http.Transport{",
        "&http.Transport{ForceAttemptHTTP2: true, ",
    );
    let Some(client) = bench.go_program("client", &[], &source) else {
        return;
    };
    bench.meet("/met", |bench| bench.run(&client, &["/met"]));
    for _ in 0..TRIES / 4 {
        bench.run(&client, &["/before", "/admin/go"]);
        bench.run(&client, &["/admin/go"]);
    }
    bench.run(&client, &["/go"]);
    bench.holds("go", &["/before ", "/go "]);
}

#[test]
fn wget_never_gets_a_denied_request_out() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(wget) = program("wget") else { return };
    let get = |path: &str| {
        let (url, quick) = (url(path), ["-q", "-O", "/dev/null", "-T", "5", "-t", "1"]);
        let mut arguments = vec!["--no-check-certificate"];
        arguments.extend(quick);
        arguments.push(&url);
        bench.run(&wget, &arguments);
    };
    for _ in 0..TRIES {
        get("/admin/wget");
    }
    get("/wget");
    bench.holds("wget", &["/wget "]);
}

/// Asks for the paths that it is told, one after the other, on one connection.
const GO_CLIENT: &str = r#"package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for _, path := range os.Args[1:] {
		answer, err := client.Get("https://10.99.0.2:8443" + path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
}
"#;

#[test]
fn go_never_gets_a_denied_request_out() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(client) = bench.go_program("client", &[], GO_CLIENT) else {
        return;
    };
    bench.meet("/met", |bench| bench.run(&client, &["/met"]));
    for _ in 0..TRIES / 4 {
        bench.run(&client, &["/before", "/admin/go"]);
        bench.run(&client, &["/admin/go"]);
    }
    bench.run(&client, &["/go"]);
    bench.holds("go", &["/before ", "/go "]);
}

#[test]
fn node_never_gets_a_denied_request_out() {
    const CLIENT: &str = "
const https = require('https');
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (path) => new Promise((done) => {
  const request = https.get({ host: '10.99.0.2', port: 8443, path, agent, timeout: 5000 }, (answer) => {
    answer.resume();
    answer.on('end', done);
  });
  request.on('error', done);
  request.on('timeout', () => request.destroy());
});
(async () => { for (const path of process.argv.slice(1)) await ask(path); process.exit(0); })();
";
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(node) = program("node") else { return };
    let ask = bench.asking(&node, &["-e", CLIENT]);
    bench.meet("/met", |_| ask(&["/met"]));
    for _ in 0..TRIES / 10 {
        ask(&["/admin/node"]);
        ask(&["/before", "/admin/node"]);
        // Another path to some servers, before the socket is known.
        ask(&["/x/..%2f../admin/node"]);
    }
    ask(&["/node"]);
    bench.holds("node", &["/before ", "/node "]);
}

/// The probes end with their agent, however that ends; what the firewall itself decides stays.
#[test]
fn requests_leave_while_no_agent_runs_unless_tls_is_closed() {
    let strict = format!("strictL7: true{POLICY}");
    for (policy, comes) in [(&strict[..], false), (POLICY, true)] {
        let Some(Bench {
            agent,
            home,
            server,
            lab,
        }) = Bench::noting(NOTES, policy, &[])
        else {
            return;
        };
        let Some(python) = program("python3") else {
            return;
        };
        agent.kill();
        let ask = || {
            let mut client = super::spawn(&lab, &python, &["-c", CLIENT, "first"]);
            client.wait().expect("it is our child");
            let seen = fs::read(server.folder().join("seen")).unwrap_or_default();
            String::from_utf8_lossy(&seen).contains("/admin/first ")
        };
        if comes {
            eventually("it comes", ask);
        } else {
            assert!(!ask());
        }
        fs::write(server.folder().join("seen"), "").unwrap();
        let agent = Agent::start_with(&home, &lab, &[PROBES]);
        agent.log.wait_for(&["requests inside TLS are observed by"]);
        assert!(!ask(), "with the next agent");
    }
}

/// That the server reads what is denied where nobody keeps it away: else the other tests would prove nothing.
#[test]
fn what_is_only_told_comes() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[("EBFW_ENFORCE_DRY_RUN", "true")]) else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    bench.meet("/met", |bench| bench.run(&python, &["-c", CLIENT, "met"]));
    for (what, came) in [
        ("bytes_", "/admin/bytes "),
        ("pipelined", "/admin/pipelined "),
        ("bodies", "DELETE /bodies/3 "),
        ("memory", "/admin/memory "),
    ] {
        bench.run(&python, &["-c", CLIENT, what]);
        eventually(what, || bench.decrypted().contains(came));
    }
}

#[test]
fn curl_never_gets_a_denied_request_out() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let get = ["-sk", "--http1.1", "-m", "5"];
    let (open, admin, other) = (url("/open"), url("/admin/x"), url("/after"));
    let with = |more: &[&str]| -> Vec<String> {
        get.iter()
            .chain(more)
            .map(|&text| text.to_owned())
            .collect()
    };
    let run = |arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        bench.run(&curl, &arguments)
    };
    for _ in 0..TRIES {
        run(with(&[&admin]));
    }
    run(with(&[&open]));
    bench.holds("a path", &["GET /open "]);
    run(with(&["-X", "DELETE", &open]));
    run(with(&["--path-as-is", &url("/a/../%61dmin")]));
    // On a connection that was used before.
    run(with(&[&url("/first"), &admin]));
    run(with(&[
        "-d",
        "body",
        &url("/post"),
        "--next",
        "-sk",
        "--http1.1",
        &admin,
    ]));
    run(with(&[&other]));
    bench.holds("others", &["GET /first ", "POST /post ", "GET /after "]);
    bench
        .agent
        .events
        .wait_for(&["\"https\"", "\"action\":\"deny\"", "/admin/x"]);
}
