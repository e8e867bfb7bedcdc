//! Denied requests of more clients: git, HTTP/2 of Node.js, gRPC, and one stream among many.

use super::{
    Bench,
    clients::url,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::{PORT, program},
};

/// Times that each client tries.
const TRIES: usize = 10;

/// Debian's git uses GnuTLS. Each server speaks one version of HTTP.
#[test]
fn git_never_gets_a_denied_request_out() {
    for (version, server) in [("HTTP/1.1", NOTES), ("HTTP/2", NOTES_HTTP2)] {
        let Some(bench) = Bench::noting(server, POLICY, &[]) else {
            return;
        };
        let Some(git) = program("git") else { return };
        let version = format!("http.version={version}");
        let ask = |path: &str| {
            let settings = ["-c", "http.sslVerify=false", "-c", &version];
            bench.run(&git, &[&settings[..], &["ls-remote", &url(path)]].concat());
        };
        for _ in 0..TRIES {
            ask("/admin/closed.git");
        }
        ask("/open.git");
        bench.holds(&version, &["GET /open.git/info/refs"]);
    }
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
