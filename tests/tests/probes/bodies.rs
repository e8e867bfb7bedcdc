//! Beginnings of bodies, as real clients send them.

use std::fs;

use super::{Bench, clients::url, server::program};

const CAPTURE: [(&str, &str); 2] = [("EBFW_INSPECT_BODY", "true"), ("EBFW_BODY_LIMIT", "5000")];
const JSON: &str = "Content-Type: application/json";
const LOGIN: &str = r#"{"user":"me","password":"hunter2"}"#;

/// The body of the one event with `path`.
fn body(bench: &Bench, path: &str) -> String {
    let path = format!("\"path\":\"{path}\"");
    bench.expect(1, &[&path]);
    let line = bench.seen(&[&path]).remove(0);
    let Some(at) = line.find("\"body\":") else {
        return String::new();
    };
    let body = &line[at..];
    let last = body
        .find("\"redacted\":")
        .expect("a body says whether something is left out");
    let end = body[last..].find('}').expect("an object has an end");
    body[..=last + end].to_owned()
}

#[test]
fn curl_with_each_version_of_http() {
    let Some(bench) = Bench::open_with(&CAPTURE) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let long = bench.server.folder().join("long");
    fs::write(&long, vec![b'x'; 300_000]).unwrap();
    let long = format!("@{}", long.display());
    for version in ["--http1.1", "--http2"] {
        let path = |what: &str| format!("/{what}{version}");
        let run = |what: &str, arguments: &[&str]| {
            let url = url(&path(what));
            bench.run(&curl, &[&["-sk", version, &url], arguments].concat());
            body(&bench, &path(what))
        };
        assert_eq!(
            run("json", &["-H", JSON, "-d", LOGIN]),
            r#""body":{"contentType":"application/json","size":34,"captured":34,"text":"{\"user\":\"me\",\"password\":\"(redacted)\"}","truncated":false,"redacted":true}"#,
            "{version}"
        );
        assert_eq!(
            run("form", &["-d", "user=me&token=abc"]),
            r#""body":{"contentType":"application/x-www-form-urlencoded","size":17,"captured":17,"text":"user=me&token=(redacted)","truncated":false,"redacted":true}"#,
            "{version}"
        );
        let text = "Content-Type: text/plain";
        let chunked = "Transfer-Encoding: chunked";
        assert_eq!(
            run("chunks", &["-H", text, "-H", chunked, "-d", "hello"]),
            r#""body":{"contentType":"text/plain","size":5,"captured":5,"text":"hello","truncated":false,"redacted":false}"#,
            "{version}"
        );
        let part = run("part", &["-F", "file=secret"]);
        assert!(
            part.contains("\"contentType\":\"multipart/form-data"),
            "{part}"
        );
        assert!(
            !part.contains("\"text\"") && !part.contains("secret"),
            "{part}"
        );
        // As much as is asked for, though it comes in one write that is longer.
        let upload = run("long", &["-H", text, "--data-binary", &long]);
        let expected = format!(
            r#""body":{{"contentType":"text/plain","size":300000,"captured":5000,"text":"{}","truncated":true,"redacted":false}}"#,
            "x".repeat(5000)
        );
        assert_eq!(upload, expected, "{version}");
        assert_eq!(run("none", &[]), "", "{version}");
    }
}

#[test]
fn node_whose_first_write_is_tried_until_the_handshake_is_done() {
    const PROGRAM: &str = "
const body = JSON.stringify({ text: 'x'.repeat(4900), api_key: 1 });
const request = require('https').request({ host: '10.99.0.2', port: 8443, path: process.argv[1], method: 'POST',
  headers: { 'content-type': 'application/json', 'content-length': body.length } }, (response) => {
  response.resume();
  response.on('end', () => process.exit(0));
});
request.end(body);
";
    let Some(bench) = Bench::open_with(&CAPTURE) else {
        return;
    };
    let Some(node) = program("node") else { return };
    bench.meet("/early", |bench| {
        bench.run(&node, &["-e", PROGRAM, "/early"]);
    });
    bench.run(&node, &["-e", PROGRAM, "/node"]);
    let body = body(&bench, "/node");
    for part in [
        r#""contentType":"application/json","size":4923,"captured":4923"#,
        r#"xx\",\"api_key\":\"(redacted)\"}"#,
        r#""truncated":false,"redacted":true"#,
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[test]
fn without_the_setting_there_are_none_and_without_redaction_all_is_shown() {
    let Some(curl) = program("curl") else { return };
    let arguments = |url| vec!["-sk", url, "-H", JSON, "-d", LOGIN];
    let address = url("/login");
    let Some(bench) = Bench::open() else { return };
    bench.run(&curl, &arguments(&address));
    assert_eq!(body(&bench, "/login"), "");
    drop(bench);
    let settings = [CAPTURE[0], ("EBFW_REDACT", "off")];
    let Some(bench) = Bench::open_with(&settings) else {
        return;
    };
    bench.run(&curl, &arguments(&address));
    let shown = body(&bench, "/login");
    assert!(shown.contains(r#"\"password\":\"hunter2\""#), "{shown}");
}
