//! HTTP in clear text: every request on a connection is judged by whom and what it asks for.

use std::{io, net::SocketAddr};

use ebfw_common::abi::{claim_kind, inspect, verdict};
use ebfw_test_need::tool;
use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home, PROBES},
    net::{v4, v6},
    recorder::Recorder,
};

use super::said::{self, NO_EVIL, is_ended, resolve, say as say_to};

/// Reading below /public of good names is allowed, and nothing else.
const READ_ONLY: &str = "
defaultAction: Deny
rules:
- name: read
  action: Allow
  match: {domains: ['*.good.example'], methods: [GET, HEAD], pathPrefix: /public}
";

/// All is allowed but to delete.
const NO_DELETE: &str = "
defaultAction: Allow
rules:
- name: delete
  action: Deny
  match: {methods: [DELETE]}
";

/// Any port: it is not the port that makes it HTTP.
const HTTP: u16 = 8123;
fn lab(policy: &str) -> Option<(Lab, Recorder)> {
    let (lab, server) = said::lab(policy, HTTP)?;
    lab.inside(|| resolve(&["2.good.example", "2.evil.example"]))
        .expect("the resolver answers");
    Some((lab, server))
}

fn say(parts: &[&[u8]]) -> io::Result<()> {
    say_to(SocketAddr::new(v4(2), HTTP), parts)
}

const GOOD: &str = "GET /public/a HTTP/1.1\r\nHost: 2.good.example\r\n\r\n";

/// What a client says under [`READ_ONLY`], and what must come of it.
struct Case {
    why: &'static str,
    said: String,
    /// Whether its last request must not come.
    denied: bool,
}

fn allowed(why: &'static str, said: impl Into<String>) -> Case {
    Case {
        why,
        said: said.into(),
        denied: false,
    }
}

fn denied(why: &'static str, said: impl Into<String>) -> Case {
    Case {
        why,
        said: said.into(),
        denied: true,
    }
}

/// As [`denied`], behind a request that is allowed.
fn denied_after(why: &'static str, first: &str, said: &str) -> Case {
    Case {
        why,
        said: [first, said].concat(),
        denied: true,
    }
}

fn cases() -> Vec<Case> {
    let evil = "GET /public/a HTTP/1.1\r\nHost: 2.evil.example\r\n\r\n";
    let post = "POST /public/a HTTP/1.1\r\nHost: 2.good.example\r\nContent-Length: 0\r\n\r\n";
    let chunked = "GET /public/b HTTP/1.1\r\nHost: 2.good.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let sized = "GET /public/c HTTP/1.1\r\nHost: 2.good.example\r\nContent-Length: 5\r\n\r\nPOST ";
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\n{fields}\r\n");
    let upgrade = head(
        "GET /public/a",
        "Host: 2.good.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
    );
    vec![
        allowed("a request", GOOD),
        allowed(
            "capitals and a port",
            head("GET /public", "hOsT: 2.GOOD.example:8123\r\n"),
        ),
        allowed(
            "with a query",
            head("GET /public/a?x=/../../secret", "Host: 2.good.example\r\n"),
        ),
        allowed(
            "absolute form",
            head(
                "GET http://2.good.example/public/x",
                "Host: 2.good.example\r\n",
            ),
        ),
        allowed(
            "a dot at the end of the name, and a port",
            head("GET /public/a", "Host: 2.good.example.:8123\r\n"),
        ),
        allowed(
            "a path that is not normal",
            head("GET //x/..///%70ublic/./a", "Host: 2.good.example\r\n"),
        ),
        allowed(
            "an encoded slash inside",
            head("GET /public/a%2Fb", "Host: 2.good.example\r\n"),
        ),
        allowed("many requests", GOOD.repeat(100)),
        allowed("a chunked body", [chunked, GOOD].concat()),
        allowed("a body that looks like a request", [sized, GOOD].concat()),
        denied("another name on the same address", evil),
        denied(
            "a name that was not resolved",
            evil.replace("2.evil", "7.good"),
        ),
        denied("another method", post),
        denied(
            "another path",
            head("GET /private", "Host: 2.good.example\r\n"),
        ),
        denied(
            "a path that only begins alike",
            head("GET /publicity", "Host: 2.good.example\r\n"),
        ),
        denied(
            "a path that leads out",
            head("GET /public/../private", "Host: 2.good.example\r\n"),
        ),
        denied(
            "a path that leads out, encoded",
            head("GET /public/%2e%2E/private", "Host: 2.good.example\r\n"),
        ),
        denied(
            "an encoded slash is no border",
            head("GET /public%2Fa", "Host: 2.good.example\r\n"),
        ),
        denied(
            "a path that leads out with some servers",
            head("GET /public/..%2fprivate", "Host: 2.good.example\r\n"),
        ),
        denied(
            "a path that leads out with others",
            head("GET /public/..;/private", "Host: 2.good.example\r\n"),
        ),
        denied("no path", head("OPTIONS *", "Host: 2.good.example\r\n")),
        denied(
            "a tunnel",
            head("CONNECT 2.good.example:443", "Host: 2.good.example:443\r\n"),
        ),
        denied(
            "an address instead of a name",
            head("GET /public/a", "Host: [fd99::3]:8123\r\n"),
        ),
        denied(
            "an absolute target with another name and no host",
            "GET http://2.evil.example/public/a HTTP/1.0\r\n\r\n".to_owned(),
        ),
        denied(
            "two hosts",
            head(
                "GET /public/a",
                "Host: 2.good.example\r\nHost: 2.evil.example\r\n",
            ),
        ),
        denied(
            "a host that the target contradicts",
            head(
                "GET http://2.evil.example/public/a",
                "Host: 2.good.example\r\n",
            ),
        ),
        denied("no host", head("GET /public/a", "X: 2.good.example\r\n")),
        denied(
            "a folded field",
            head("GET /public/a", "X: a\r\n b\r\nHost: 2.good.example\r\n"),
        ),
        denied(
            "a space before the colon",
            head("GET /public/a", "Host : 2.good.example\r\n"),
        ),
        denied(
            "a bare CR",
            head(
                "GET /public/a",
                "X: a\rHost: 2.evil.example\r\nHost: 2.good.example\r\n",
            ),
        ),
        denied(
            "two lengths of a body",
            head(
                "GET /public/a",
                "Host: 2.good.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            ),
        ),
        denied_after("the second request of a connection", GOOD, post),
        denied_after("the second request names another host", GOOD, evil),
        denied_after("behind a chunked body", chunked, post),
        denied_after("behind a body", sized, post),
        denied_after("after a hundred", &GOOD.repeat(100), post),
        allowed("an upgrade that is not taken", [&upgrade, GOOD].concat()),
        denied_after("a tunnel, whatever is in it", &upgrade, "\u{81}\u{5}hello"),
        denied_after("behind an upgrade that is not taken", &upgrade, post),
    ]
}

#[test]
fn every_request_is_judged() {
    let Some((mut lab, server)) = lab(READ_ONLY) else {
        return;
    };
    for Case { why, said, denied } in cases() {
        for piece in [usize::MAX, 1, 7, 61] {
            if said.len() / piece > 600 {
                continue;
            }
            let result = lab.tended(|| {
                let parts: Vec<_> = said.as_bytes().chunks(piece).collect();
                say(&parts)
            });
            let case = format!("{why}, in pieces of {piece}: {result:?}");
            if !denied {
                assert!(result.is_ok(), "{case}");
                assert!(
                    server.connections().contains(&said.clone().into_bytes()),
                    "{case}"
                );
            } else {
                assert!(is_ended(&result), "{case}");
            }
        }
    }
    // The request begins, but its head is never complete.
    for Case { why, said, denied } in cases() {
        let whole = said.as_bytes();
        if denied {
            assert!(
                !server
                    .connections()
                    .iter()
                    .any(|got| got.starts_with(whole)),
                "{why}"
            );
        }
    }
}

#[test]
fn methods_are_judged_whatever_the_name_is() {
    let Some((mut lab, server)) = lab(NO_DELETE) else {
        return;
    };
    let head = |method: &str| format!("{method} /a HTTP/1.1\r\nHost: anything.example\r\n\r\n");
    let result = lab.tended(|| say(&[head("GET").as_bytes(), head("DELETE").as_bytes()]));
    assert!(is_ended(&result), "{result:?}");
    assert!(server.has(b"GET /a"));
    let result = lab.tended(|| say(&[b" \t", head("DELETE").as_bytes()]));
    assert!(is_ended(&result), "behind blanks: {result:?}");
    assert!(!server.has(b"DELETE"));
    lab.tended(|| say(&[head("GET").as_bytes(), head("PUT").as_bytes()]))
        .unwrap();
    let opaque = lab.tended(|| say(&[b"\0\0\0 neither TLS nor HTTP"]));
    assert!(opaque.is_ok(), "{opaque:?}");
    let upgrade = head("GET").replace("\r\n\r\n", "\r\nUpgrade: websocket\r\n\r\n");
    let tunnel = lab.tended(|| say(&[upgrade.as_bytes(), b"\x81\x05hello"]));
    assert!(tunnel.is_ok(), "{tunnel:?}");
}

#[test]
fn real_clients_are_told_apart() {
    if !tool("curl") {
        return;
    }
    let Some((mut lab, server)) = lab(NO_EVIL) else {
        return;
    };
    lab.inspect(inspect::HEADS);
    for (name, reaches) in [("2.good.example", true), ("2.evil.example", false)] {
        let result = lab.tended(|| {
            let url = format!("http://{name}:{HTTP}/x");
            let resolve = format!("{name}:{HTTP}:10.99.0.2");
            let status = std::process::Command::new("curl")
                .args([
                    "-s",
                    "-o",
                    "/dev/null",
                    "--max-time",
                    "3",
                    "--resolve",
                    &resolve,
                    &url,
                ])
                .status()?;
            // 28: nobody answers; 52, 55, 56: the connection ended.
            Ok(status.code().unwrap_or(-1) as u64)
        });
        assert_eq!(result.unwrap() == 28, reaches, "{name}");
        let host = format!("Host: {name}:{HTTP}");
        assert_eq!(server.has(host.as_bytes()), reaches, "{name}");
    }
    let claims = lab.claims();
    let told: Vec<_> = claims
        .iter()
        .map(|claim| (claim.kind, claim.flow.verdict))
        .collect();
    assert_eq!(
        told,
        [
            (claim_kind::HTTP, verdict::ALLOW),
            (claim_kind::HTTP, verdict::DENY)
        ]
    );
}

#[test]
fn the_agent_tells_requests_and_keeps_secrets() {
    let Some(lab) = Lab::open() else { return };
    let _server = Recorder::start(&lab.net().far, HTTP);
    let home = Home::new();
    home.write_policy(NO_DELETE);
    let agent = Agent::start_with(&home, &lab, &[PROBES, ("EBFW_INSPECT_HEADERS", "true")]);
    let said = |method: &str| {
        format!(
            "{method} /a/../b?q=1 HTTP/1.1\r\nHost: Example.com\r\nCookie: secret\r\nAccept: */*\r\n\r\n"
        )
    };
    // The addresses of IPv4 are among those without events.
    let to = SocketAddr::new(v6(2), HTTP);
    lab.inside(|| say_to(to, &[said("GET").as_bytes()]))
        .unwrap();
    let event = agent.events.wait_for(&["\"kind\":\"http\"", "\"allow\""]);
    for part in [
        r#""domain":"example.com""#,
        r#""method":"GET""#,
        r#""path":"/b?q=1""#,
        r#"{"name":"Cookie","value":"(redacted)"}"#,
        r#"{"name":"Accept","value":"*/*"}"#,
        r#""port":8123"#,
        r#""rule":"(default)""#,
        r#""pid":"#,
    ] {
        assert!(event.contains(part), "{part} in {event}");
    }
    let denied = lab.inside(|| say_to(to, &[said("DELETE").as_bytes()]));
    assert!(is_ended(&denied), "the agent itself ends it: {denied:?}");
    let event = agent.events.wait_for(&["\"kind\":\"http\"", "\"deny\""]);
    assert!(event.contains(r#""rule":"delete""#), "{event}");
    assert!(!event.contains("secret"), "{event}");
}
