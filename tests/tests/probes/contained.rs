//! Requests inside TLS that a rule denies: each client, with what it speaks, on a fresh connection and on one that has served it. The server
//! never answers what is denied, and no client gives up by itself within the test: whoever fails has lost its connection to the agent.
//!
//! That the request does not arrive is not claimed: it may be on its way by then.

use std::{
    path::PathBuf,
    process::{Command, ExitStatus},
};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    clients::url,
    server::{PORT, program},
};

const POLICY: &str = "
defaultAction: Allow
rules:
- name: no-secrets
  action: Deny
  match: {pathPrefix: /secret}
";

/// Denied, and never answered.
const DENIED: &str = "/secret/never";

impl Bench {
    fn contained() -> Option<Self> {
        Self::open_under(POLICY, &[])
    }

    /// Waits for the event that `comm` was denied a request, and checks that the allowed ones before it were told as such.
    fn expect_denied(&self, comm: &str, allowed: &str) {
        let comm = format!("\"comm\":\"{comm}");
        let denied = [
            &comm[..],
            "\"path\":\"/secret/never\"",
            "\"action\":\"deny\",\"rule\":\"no-secrets\",\"mode\":\"enforce\"",
        ];
        eventually("the denied request is told", || {
            !self.seen(&denied).is_empty()
        });
        if !allowed.is_empty() {
            let path = format!("\"path\":\"{allowed}\"");
            let seen = self.seen(&[&comm, &path, "\"action\":\"allow\""]);
            assert!(!seen.is_empty(), "{:?}", self.agent.events.so_far());
        }
    }
}

/// Lines that a client has written, one a request: a status, or what went wrong.
fn lines((said, _): (String, ExitStatus)) -> Vec<String> {
    said.lines().map(str::to_owned).collect()
}

#[test]
fn curl_http1_and_http2() {
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let (good, bad) = (url("/good"), url(DENIED));
    for version in ["--http1.1", "--http2"] {
        let ask = |urls: &[&str]| {
            let mut arguments = vec![
                "-sk",
                "--max-time",
                "60",
                version,
                "-w",
                "%{http_code} %{exitcode}\\n",
            ];
            for url in urls {
                arguments.extend(["-o", "/dev/null", url]);
            }
            lines(bench.said(&curl, &arguments))
        };
        assert_eq!(
            ask(&[&good, &good]),
            ["200 0", "200 0"],
            "{version}: {:?}",
            bench.agent.events.so_far()
        );
        // 28: it has waited for too long.
        let is_cut = |line: &str| line.starts_with("000 ") && !matches!(line, "000 0" | "000 28");
        let kept = ask(&[&good, &bad]);
        assert!(
            kept.len() == 2 && kept[0] == "200 0" && is_cut(&kept[1]),
            "{kept:?}"
        );
        let fresh = ask(&[&bad]);
        assert!(fresh.len() == 1 && is_cut(&fresh[0]), "{fresh:?}");
        let after = ask(&[&bad, &good]);
        assert_eq!(
            after.last().map(String::as_str),
            Some("200 0"),
            "a new connection is free"
        );
    }
    bench.expect_denied("curl", "/good");
}

/// A client in Python: asks for each path on one connection, and says what became of it.
const HTTP_CLIENT: &str = "
import http.client, ssl, sys
for paths in sys.argv[1:]:
    connection = http.client.HTTPSConnection('10.99.0.2', 8443, context=ssl._create_unverified_context(), timeout=60)
    for path in paths.split(','):
        try:
            connection.request('GET', path)
            answer = connection.getresponse()
            answer.read()
            print(answer.status)
        except TimeoutError:
            print('waited')
        except (OSError, http.client.HTTPException):
            print('cut')
";

#[test]
fn python_http_client() {
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let said = bench.said(
        &python,
        &[
            "-c",
            HTTP_CLIENT,
            "/good,/good",
            &format!("/good,{DENIED}"),
            DENIED,
            "/good",
        ],
    );
    assert_eq!(lines(said), ["200", "200", "200", "cut", "cut", "200"]);
    bench.expect_denied("python3", "/good");
}

#[test]
fn python_urllib() {
    const PROGRAM: &str = "
import ssl, sys, urllib.request
context = ssl._create_unverified_context()
for url in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(url, context=context, timeout=60).status)
    except TimeoutError:
        print('waited')
    except OSError as error:
        print('waited' if isinstance(getattr(error, 'reason', None), TimeoutError) else 'cut')
";
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let said = bench.said(
        &python,
        &["-c", PROGRAM, &url("/good"), &url(DENIED), &url("/good")],
    );
    assert_eq!(lines(said), ["200", "cut", "200"]);
    bench.expect_denied("python3", "/good");
}

#[test]
fn python_requests() {
    const PROGRAM: &str = "
import requests, sys, urllib3
urllib3.disable_warnings()
for paths in sys.argv[1:]:
    session = requests.Session()
    for path in paths.split(','):
        try:
            print(session.get('https://10.99.0.2:8443' + path, verify=False, timeout=60).status_code)
        except requests.exceptions.Timeout:
            print('waited')
        except requests.exceptions.ConnectionError:
            print('cut')
";
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(python) = python_with("requests") else {
        return;
    };
    bench.meet("/early", |bench| {
        bench.run(&python, &["-c", PROGRAM, "/early"])
    });
    let kept = format!("/good,{DENIED}");
    let said = bench.said(&python, &["-c", PROGRAM, &kept, DENIED, "/good,/good"]);
    assert_eq!(lines(said), ["200", "cut", "cut", "200", "200"]);
    bench.expect_denied("python", "/good");
}

/// A Python that has a module; `None`, said aloud, where there is none.
fn python_with(module: &str) -> Option<PathBuf> {
    let code = format!("import sys, {module}; print(sys.executable)");
    let output = Command::new("python3").args(["-c", &code]).output();
    let path = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    ebfw_test_need::met(path.is_some(), &format!("the Python module {module}"))
        .then_some(path)
        .flatten()
}

#[test]
fn wget_with_gnutls_is_contained() {
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(wget) = program("wget") else { return };
    let ask = |urls: &[&str]| {
        let fixed = [
            "-q",
            "-O",
            "/dev/null",
            "--no-check-certificate",
            "--tries=1",
            "--timeout=60",
        ];
        bench.said(&wget, &[&fixed[..], urls].concat()).1.code()
    };
    let (good, bad) = (url("/good"), url(DENIED));
    assert_eq!(ask(&[&good, &good]), Some(0));
    // 4: the network failed it.
    assert_eq!(ask(&[&good, &bad]), Some(4));
    assert_eq!(ask(&[&bad]), Some(4));
    bench.expect_denied("wget", "/good");
}

#[test]
fn git_is_contained() {
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(git) = program("git") else { return };
    for (path, code, action) in [
        ("/open.git", 0, "\"action\":\"allow\""),
        ("/secret/never/closed.git", 128, "\"action\":\"deny\""),
    ] {
        let address = url(path);
        let (_, status) = bench.said(&git, &["-c", "http.sslVerify=false", "ls-remote", &address]);
        assert_eq!(status.code(), Some(code), "{path}");
        let path = format!("\"path\":\"{path}/info/refs?service=git-upload-pack\"");
        eventually(&format!("{path} is told"), || {
            !bench.seen(&[&path, action]).is_empty()
        });
    }
}

#[test]
fn node_https_fetch_and_http2() {
    const PROGRAM: &str = "
const https = require('https'), http2 = require('http2'), base = 'https://10.99.0.2:8443';
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const get = (path) => new Promise((done) => {
  https.get(base + path, { agent }, (answer) => {
    answer.resume();
    answer.on('end', () => done(answer.statusCode));
  }).on('error', () => done('cut'));
});
const fetched = (path) => fetch(base + path).then(async (answer) => { await answer.text(); return answer.status; }, () => 'cut');
const over = (session) => (path) => new Promise((done) => {
  if (session.destroyed) return done('cut');
  const stream = session.request({ ':path': path });
  let status = 'cut';
  stream.on('response', (headers) => { status = headers[':status']; });
  stream.on('error', () => {});
  stream.on('close', () => done(status));
  stream.resume();
});
const connect = () => { const session = http2.connect(base); session.on('error', () => {}); return over(session); };
(async () => {
  const [prefix, denied] = process.argv.slice(1);
  for (const ask of [get, fetched, connect()]) {
    console.log(await ask(prefix + '/good'), denied ? await ask(denied) : '');
  }
  if (denied) for (const ask of [get, fetched, connect()]) console.log(await ask(denied));
  process.exit(0);
})();
";
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(node) = program("node") else { return };
    bench.meet("/early/good", |bench| {
        bench.run(&node, &["-e", PROGRAM, "/early"])
    });
    let allowed = lines(bench.said(&node, &["-e", PROGRAM, "/all"]));
    assert_eq!(allowed, ["200 ", "200 ", "200 "]);
    let said = lines(bench.said(&node, &["-e", PROGRAM, "/some", DENIED]));
    assert_eq!(said, ["200 cut", "200 cut", "200 cut", "cut", "cut", "cut"]);
    bench.expect_denied("node", "/some/good");
}

#[test]
fn go_http1_and_http2() {
    const PROGRAM: &str = r#"package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, version := range []string{"http/1.1", "h2"} {
		for _, paths := range os.Args[2:] {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: version == "h2"}
			client := &http.Client{Transport: transport}
			for _, path := range strings.Split(paths, ",") {
				answer, err := client.Get(os.Args[1] + path)
				if err != nil {
					fmt.Println("cut")
					continue
				}
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				fmt.Println(answer.StatusCode)
			}
		}
	}
}
"#;
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(own) = bench.go_program("client", &[], PROGRAM) else {
        return;
    };
    let base = url("");
    bench.meet("/early", |bench| bench.run(&own, &[&base, "/early"]));
    let kept = format!("/good,{DENIED}");
    let said = lines(bench.said(&own, &[&base, &kept, DENIED, "/good,/good"]));
    let expected = ["200", "cut", "cut", "200", "200"];
    assert_eq!(said, [expected, expected].concat());
    bench.expect_denied("client", "/good");
}

#[test]
fn where_a_deny_is_only_told_everybody_is_served() {
    let Some(bench) = Bench::open_under(POLICY, &[("EBFW_ENFORCE_DRY_RUN", "true")]) else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let said = bench.said(&python, &["-c", HTTP_CLIENT, "/good,/secret/plans,/good"]);
    assert_eq!(lines(said), ["200", "200", "200"]);
    let denied = [
        "\"/secret/plans\"",
        "\"action\":\"deny\",\"rule\":\"no-secrets\",\"mode\":\"dry-run\"",
    ];
    bench.expect(1, &denied);
    bench.expect(
        2,
        &["\"/good\"", "\"action\":\"allow\"", "\"mode\":\"dry-run\""],
    );
}

/// Host and name of the handshake are two claims: the second one counts too.
#[test]
fn a_host_that_is_not_allowed_is_denied_on_an_allowed_connection() {
    const POLICY: &str = "
defaultAction: Deny
rules:
- name: fronts
  action: Deny
  match: {domains: [behind.example]}
- name: all
  action: Allow
  match: {cidrs: [10.99.0.0/16]}
";
    let Some(bench) = Bench::open_under(POLICY, &[]) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    for (host, path, expected) in [
        ("front.example", "/good", "200"),
        ("behind.example", "/never", "000"),
    ] {
        let header = format!("Host: {host}");
        let connect = format!("front.example:{PORT}:10.99.0.2");
        let address = format!("https://front.example:{PORT}{path}");
        let arguments = [
            "-sk",
            "--max-time",
            "60",
            "--resolve",
            &connect,
            "-H",
            &header,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{exitcode}",
            &address,
        ];
        let (said, _) = bench.said(&curl, &arguments);
        assert!(
            said.starts_with(expected) && !said.ends_with(" 28"),
            "{host}: {said}"
        );
    }
    bench.expect(
        1,
        &[
            "\"domain\":\"front.example\"",
            "\"action\":\"allow\",\"rule\":\"all\"",
        ],
    );
    let denied = [
        "\"domain\":\"behind.example\"",
        "\"action\":\"deny\",\"rule\":\"fronts\"",
    ];
    eventually("the denied host is told", || {
        !bench.seen(&denied).is_empty()
    });
}

/// asyncio keeps TLS in memory and sends by itself, on the same thread.
#[test]
fn python_asyncio() {
    const PROGRAM: &str = "
import asyncio, ssl, sys
async def main():
    for paths in sys.argv[1:]:
        reader, writer = await asyncio.open_connection('10.99.0.2', 8443, ssl=ssl._create_unverified_context())
        for path in paths.split(','):
            try:
                writer.write(f'GET {path} HTTP/1.1\\r\\nHost: 10.99.0.2\\r\\n\\r\\n'.encode())
                await writer.drain()
                head = await asyncio.wait_for(reader.readuntil(b'\\r\\n\\r\\n'), 60)
                print(head.split()[1].decode())
                await asyncio.wait_for(reader.readexactly(len('ok')), 60)
            except (asyncio.TimeoutError, TimeoutError):
                print('waited')
            except (OSError, asyncio.IncompleteReadError):
                print('cut')
        writer.transport.abort()
asyncio.run(main())
";
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let kept = format!("/good,{DENIED}");
    let said = bench.said(&python, &["-c", PROGRAM, &kept, DENIED, "/good,/good"]);
    assert_eq!(lines(said), ["200", "cut", "cut", "200", "200"]);
    bench.expect_denied("python3", "/good");
}

/// Where one thread encrypts and another one sends, nobody knows what goes where: nothing is denied, and that is said.
#[test]
fn what_cannot_be_placed_is_opaque_and_counted() {
    const PROGRAM: &str = "
import queue, socket, ssl, threading
sock = socket.create_connection(('10.99.0.2', 8443))
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl._create_unverified_context().wrap_bio(incoming, outgoing)
to_send = queue.Queue()
def send():
    while (piece := to_send.get()) is not None:
        sock.sendall(piece)
sender = threading.Thread(target=send)
sender.start()
def until_done(step):
    while True:
        try:
            result = step()
        except ssl.SSLWantReadError:
            result = None
        if outgoing.pending:
            to_send.put(outgoing.read())
        if result is not None:
            return result
        incoming.write(sock.recv(65536))
until_done(lambda: tls.do_handshake() or True)
until_done(lambda: tls.write(b'GET /secret/plans HTTP/1.1\\r\\nHost: 10.99.0.2\\r\\n\\r\\n'))
print(until_done(lambda: tls.read(65536)).split()[1].decode())
to_send.put(None)
sender.join()
";
    let Some(bench) = Bench::contained() else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let said = bench.said(&python, &["-c", PROGRAM]);
    assert_eq!(lines(said), ["200"]);
    bench.expect(1, &["\"path\":\"/secret/plans\""]);
    assert!(bench.seen(&["/secret/plans", "\"action\""]).is_empty());
    let status = bench.home.run(&["status"]).expect("ebfw starts");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let path = bench.lab.path();
    let row = status.lines().find(|line| line.starts_with(&path));
    assert!(
        row.is_some_and(|row| row.ends_with("observed  1         1       0       0     1")),
        "{status}"
    );
}
