//! Denied requests of more clients: git, HTTP/2 of Node.js and Python, gRPC, and one stream among many.

use super::{
    Bench,
    clients::url,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::{PORT, program},
};

/// Times that each client tries.
const TRIES: usize = 10;

#[test]
fn git_never_gets_a_denied_request_out() {
    let Some(bench) = Bench::noting(NOTES, POLICY, &[]) else {
        return;
    };
    let Some(git) = program("git") else { return };
    let ask = |path: &str| {
        let address = url(path);
        bench.run(&git, &["-c", "http.sslVerify=false", "ls-remote", &address]);
    };
    for _ in 0..TRIES {
        ask("/admin/closed.git");
    }
    ask("/open.git");
    bench.holds("git", &["GET /open.git/info/refs"]);
}

#[test]
fn node_over_http2_never_gets_a_denied_request_out() {
    const CLIENT: &str = "
const session = require('http2').connect('https://10.99.0.2:8443');
session.on('error', () => {});
const ask = (path) => new Promise((done) => {
  if (session.destroyed) return done();
  const stream = session.request({ ':path': path });
  stream.on('error', () => {});
  stream.on('close', done);
  stream.resume();
});
(async () => { for (const path of process.argv.slice(1)) await ask(path); process.exit(0); })();
";
    let Some(bench) = Bench::noting(NOTES_HTTP2, POLICY, &[]) else {
        return;
    };
    let Some(node) = program("node") else { return };
    let ask = bench.asking(&node, &["-e", CLIENT]);
    bench.meet("/met", |_| ask(&["/met"]));
    for _ in 0..TRIES {
        ask(&["/admin/node"]);
        ask(&["/x/..%2f../admin/node"]);
        ask(&["/before", "/between", "/admin/node"]);
    }
    ask(&["/node"]);
    bench.holds("node", &["/before ", "/between ", "/node "]);
}

/// Frames by hand: what comes first, then a request for each path, of which the server answers one before the next is made.
#[test]
fn python_and_git_over_http2_never_get_a_denied_request_out() {
    const CLIENT: &str = r"
import socket, ssl, sys
context = ssl._create_unverified_context()
context.set_alpn_protocols(['h2'])
tls = context.wrap_socket(socket.create_connection(('10.99.0.2', 8443)))
tls.settimeout(5)
def frame(kind, flags, stream, data=b''):
    return len(data).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + data
def text(value):
    return bytes([len(value)]) + value.encode()
tls.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0))
read = b''
for number, path in enumerate(sys.argv[1:]):
    stream = 2 * number + 1
    authority = b'\x41' + text('10.99.0.2') if number == 0 else b'\xbe'
    request = frame(1, 5, stream, b'\x82\x87' + authority + b'\x04' + text(path))
    size = 1 if 'bytes' in path else len(request)
    for at in range(0, len(request), size):
        tls.sendall(request[at:at + size])
    ended = False
    while not ended:
        more = tls.recv(65536)
        if not more:
            raise OSError('closed')
        read += more
        while len(read) >= 9 and len(read) >= 9 + int.from_bytes(read[:3], 'big'):
            length, kind, flags = int.from_bytes(read[:3], 'big'), read[3], read[4]
            ended |= int.from_bytes(read[5:9], 'big') == stream and kind in (0, 1) and flags & 1 == 1
            read = read[9 + length:]
";
    let Some(bench) = Bench::noting(NOTES_HTTP2, POLICY, &[]) else {
        return;
    };
    let Some(python) = program("python3") else {
        return;
    };
    let ask = bench.asking(&python, &["-c", CLIENT]);
    bench.meet("/met", |_| ask(&["/met"]));
    for _ in 0..TRIES {
        ask(&["/admin/python"]);
        ask(&["/before", "/between", "/admin/python"]);
        // A byte a call, some of which are equal.
        ask(&["/bytes/2277", "/admin/bytes"]);
    }
    ask(&["/python"]);
    bench.holds(
        "python",
        &["/before ", "/between ", "/bytes/2277 ", "/python "],
    );
    let (status, path) = (bench.status(), bench.lab.path());
    let row = status.lines().find(|line| line.starts_with(&path));
    let late = row.and_then(|row| row.split_whitespace().rev().nth(1));
    assert_eq!(late, Some("0"), "{status}");
    let Some(git) = program("git") else { return };
    let settings = ["-c", "http.sslVerify=false", "-c", "http.version=HTTP/2"];
    for path in ["/admin/closed.git", "/open.git"] {
        bench.run(&git, &[&settings[..], &["ls-remote", &url(path)]].concat());
    }
    bench.holds("git", &["GET /open.git/info/refs"]);
}

/// What else is under way on the connection is lost with it; on another one it comes.
#[test]
fn one_denied_stream_among_many_never_gets_out() {
    let Some(bench) = Bench::noting(NOTES_HTTP2, POLICY, &[]) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let good: Vec<String> = (0..20)
        .map(|number| url(&format!("/many/{number}")))
        .collect();
    let ask = |denied: Option<&String>| {
        let mut arguments = vec!["-sk", "--http2", "-Z", "-m", "5"];
        arguments.extend(good.iter().take(10).map(String::as_str));
        arguments.extend(denied.map(String::as_str));
        arguments.extend(good.iter().skip(10).map(String::as_str));
        bench.run(&curl, &arguments);
    };
    let denied = url("/admin/stream");
    for _ in 0..TRIES {
        ask(Some(&denied));
    }
    bench.holds("among many", &[]);
    ask(None);
    bench.holds("without it", &["/many/0 ", "/many/19 "]);
}

#[test]
fn denied_methods_of_grpc_never_get_out() {
    const ORDERS: &str = "
defaultAction: Allow
rules:
- name: put
  action: Deny
  match: {pathPrefix: /admin.Orders/Put}
";
    let Some(bench) = Bench::noting(NOTES_HTTP2, ORDERS, &[]) else {
        return;
    };
    let Some(client) = bench.grpc_client() else {
        return;
    };
    let server = format!("10.99.0.2:{PORT}");
    let ask = |methods: &[&str]| bench.run(&client, &[&[&server[..]], methods].concat());
    bench.meet("/early.Service/Method", |bench| {
        bench.run(&client, &[&server, "/early.Service/Method"]);
    });
    for _ in 0..TRIES {
        ask(&["/admin.Orders/Put"]);
        ask(&["/shop.Orders/Get", "/admin.Orders/Put"]);
    }
    ask(&["/shop.Orders/List"]);
    bench.holds("grpc", &["/shop.Orders/Get ", "/shop.Orders/List "]);
}
