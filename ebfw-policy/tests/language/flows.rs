//! Flows of offline tests: words and JSON lines in, canonical text out.

use ebfw_common::stream::{Http2, Step, Stream};
use ebfw_policy::{
    evaluate::{Decision, Dimension, Reason},
    flow::{Flow, FlowError},
};
use fastrand::Rng;

use crate::{policy, verdict};

#[test]
fn a_flow_that_cannot_be_read_says_why() {
    let cases = [
        ("", "the flow is empty"),
        ("   ", "the flow is empty"),
        ("443", "`443` is not of the form key=value"),
        ("prt=443", "did you mean `port`?"),
        ("prot=tcp", "did you mean `protocol`?"),
        ("domain='a.example'", "without quotes and wildcards"),
        ("claimed=*.example", "without quotes and wildcards"),
        ("zzz=1", "the keys are pod, namespace"),
        (
            "port=443 port=443",
            "`port` gives what another key gives already",
        ),
        ("ns=a namespace=a", "`namespace` gives"),
        ("pod=a/b name=b", "`name` gives"),
        ("dst=192.0.2.1 ip=192.0.2.1", "`ip` gives"),
        ("domain=a.example sni=a.example", "`sni` gives"),
        ("domain=a.example resolved=b.example", "`resolved` gives"),
        ("claimed=a.example host=b.example", "`host` gives"),
        ("label.a=b label.a=c", "`label.a` gives"),
        ("stage=connect stage=connect", "`stage` gives"),
        ("port=65536", "`port=65536`: a port is 0 to 65535"),
        ("port=+1", "a port is 0 to 65535"),
        ("port=", "a port is 0 to 65535"),
        ("dst=github.com", "an IPv4 or IPv6 address is wanted"),
        ("dst=", "an IPv4 or IPv6 address is wanted"),
        ("pod=web", "a pod is NAMESPACE/NAME"),
        ("pod=team/web/1", "a pod is NAMESPACE/NAME"),
        ("pod=/web", "a value is missing"),
        ("protocol=TPC", "TCP, UDP, SCTP, ICMP or a number"),
        ("protocol=", "a number"),
        ("domain=", "a value is missing"),
        ("domain=a..b", "a DNS name is wanted"),
        ("domain=https://a.example", "a DNS name is wanted"),
        ("domain=bücher.example", "`xn--` form"),
        ("resolved=a.example,", "a value is missing"),
        ("cgroup=a", "begins with `/`"),
        ("cgroup=/a/../b", "no `.` or `..`"),
        ("stage=now", "`connect` or `tls` is wanted"),
        ("stage=tls stage=connect", "`stage` gives"),
        ("expect=held", "allow, deny or modify"),
        ("label.=x", "unknown key `label.`"),
        ("method=\u{1b}[2J", "control characters"),
    ];
    for (text, says) in cases {
        let error = Flow::parse(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn a_line_that_cannot_be_read_says_why() {
    let cases = [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{\"port\": 443", "not a JSON object"),
        ("{}", "the flow is empty"),
        ("{\"domain\": \"\"}", "the flow is empty"),
        ("{\"prt\": 443}", "did you mean `port`?"),
        ("{\"port\": 443, \"port\": 80}", "`port` gives"),
        ("{\"port\": 1.5}", "a port is 0 to 65535"),
        ("{\"port\": true}", "a text or a number is wanted"),
        ("{\"labels\": \"a=b\"}", "expected an object at column"),
        ("{\"labels\": {\"a\":\"b\",\"a\":\"c\"}}", "`label.a` gives"),
        ("{\"labels\": {}, \"labels\": {\"\":\"c\"}}", "`label.KEY`"),
        (
            "{\"port\":1} {\"port\":2}",
            "trailing characters at column 12",
        ),
        ("{\"labels\": {\"a\": [1]}}", "a text or a number is wanted"),
        ("{\"path\": \"/a b\"}", "white space"),
    ];
    for (line, says) in cases {
        let error = Flow::parse_json(line).expect_err(line).to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
    assert_eq!(Flow::parse_json("{}"), Err(FlowError::Empty));
}

#[test]
fn words_and_json_say_the_same() {
    let words = "namespace=payments name=web uid=u-1 label.app=web dst=203.0.113.5 port=443 domain=api.example.com method=GET path=/a?b protocol=6";
    let json = r#"{"namespace":"payments","name":"web","uid":"u-1","labels":{"app":"web"},"dst":"203.0.113.5","port":443,"domain":"api.example.com","method":"GET","path":"/a?b","protocol":"tcp","claimed":null}"#;
    assert_eq!(Flow::parse(words).unwrap(), Flow::parse_json(json).unwrap());
    let empty = r#"{"labels":{"app":"","tier":null},"name":""}"#;
    assert_eq!(
        Flow::parse("label.app=").unwrap(),
        Flow::parse_json(empty).unwrap()
    );
    let lists = r#"{"resolved":["a.example","b.example"],"claimed":"c.example","stage":"connect","expect":"Deny"}"#;
    assert_eq!(
        Flow::parse("resolved=a.example,b.example claimed=c.example stage=connect expect=deny")
            .unwrap(),
        Flow::parse_json(lists).unwrap()
    );
}

#[test]
fn the_canonical_text_reads_back_as_the_same_flow() {
    let cases = [
        (
            "port=443 dst=203.0.113.5 pod=payments/web",
            "pod=payments/web dst=203.0.113.5 port=443",
        ),
        ("name=web", "name=web"),
        ("ns=a label.z=1 label.b=", "namespace=a label.b= label.z=1"),
        (
            "sni=GitHub.com. protocol=6",
            "protocol=TCP domain=github.com",
        ),
        (
            "resolved=a.example claimed=b.example",
            "resolved=a.example claimed=b.example",
        ),
        (
            "resolved=a.example,b.example",
            "resolved=a.example,b.example",
        ),
        (
            "ip=::ffff:192.0.2.1 protocol=58",
            "protocol=58 dst=192.0.2.1",
        ),
        (
            "method=GET path=/a stage=connect cgroup=/a//b/",
            "cgroup=/a/b method=GET path=/a stage=connect",
        ),
        ("domain=a.example stage=tls", "domain=a.example stage=tls"),
        ("port=1 expect=allow", "port=1"),
    ];
    for (text, want) in cases {
        let flow = Flow::parse(text).unwrap();
        assert_eq!(flow.to_string(), want);
        assert_eq!(Flow::parse(want).unwrap().facts(), flow.facts(), "{text}");
        assert_eq!(
            Flow::parse(want).unwrap().workload(),
            flow.workload(),
            "{text}"
        );
    }
    assert_eq!(
        Flow::parse("port=1 expect=ALLOW").unwrap().expect(),
        Some(Decision::Allow)
    );
}

#[test]
fn at_connect_time_what_the_payload_tells_is_still_to_come() {
    let policy = policy(
        "rules:\n- {action: Deny, match: {domains: [evil.example]}}\n- {action: Deny, match: {ports: [80], methods: [PUT]}}\n",
    );
    let waits = |flow: &str| {
        let verdict = verdict(&policy, flow);
        (verdict.decision, verdict.reason)
    };
    let cases = [
        (
            "resolved=evil.example stage=connect",
            (Decision::Deny, Reason::Rule),
            "all names are denied",
        ),
        (
            "resolved=evil.example,good.example stage=connect",
            (Decision::Held, Reason::Waiting(Dimension::Domains)),
            "the claim will tell",
        ),
        (
            "dst=192.0.2.1 stage=connect",
            (Decision::Held, Reason::Waiting(Dimension::Domains)),
            "the claim will tell",
        ),
        (
            "domain=good.example stage=connect",
            (Decision::Held, Reason::Waiting(Dimension::Domains)),
            "the claim is still to come",
        ),
        (
            "domain=good.example",
            (Decision::Allow, Reason::Default),
            "the claim is there",
        ),
        (
            "dst=192.0.2.1 protocol=udp stage=connect",
            (Decision::Allow, Reason::Default),
            "UDP tells nothing later",
        ),
        (
            "dst=192.0.2.1 port=80 method=PUT",
            (Decision::Deny, Reason::Rule),
            "the request is there",
        ),
        (
            "dst=192.0.2.1",
            (Decision::Allow, Reason::Default),
            "absent facts rule the rules out",
        ),
    ];
    for (flow, want, why) in cases {
        assert_eq!(waits(flow), want, "{flow}: {why}");
    }
}

/// Rules that wait for a path, for a name, and for nothing.
const WAITING: &str = "
defaultAction: Deny
rules:
- {name: smtp, action: Allow, match: {ports: [25]}}
- {name: ssh, action: Deny, match: {ports: [22]}}
- {name: private, action: Deny, match: {ports: [80], pathPrefix: /admin}}
- {name: web, action: Allow, match: {ports: [80]}}
- {name: named, action: Allow, match: {domains: [good.example], ports: [8080]}}
";

#[test]
fn connect_has_an_authority_or_in_http2_a_path() {
    let policy = policy(WAITING);
    for (target, expected) in [
        ("", "web"),
        ("path=host.example:443", "web"),
        ("path=/chat", "web"),
        ("path=/admin/chat", "private"),
    ] {
        let flow = format!("port=80 method=CONNECT {target}");
        let verdict = verdict(&policy, flow.trim());
        let rule = verdict.rule.map(|rule| rule.name.to_string());
        assert_eq!(rule.as_deref(), Some(expected), "{target}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_denied_where_a_rule_waits_for_it() {
    let policy = policy(WAITING);
    let deep = format!("/{}", "a/".repeat(70));
    let targets = [
        ("/a/..%2fadmin", true),
        ("/a/%2e%2e%2Fadmin", true),
        ("/a/..%5cadmin", true),
        ("/a/..;/admin", true),
        ("/a;/..;x/admin", true),
        ("/admin%00.png", true),
        ("/a\\admin", true),
        ("/a#/admin", true),
        ("/a%2f..", true),
        (&deep, true),
        ("admin", true),
        ("http://user@good.example/a", true),
        ("/a/../b", false),
        ("/a%2fadmin", false),
        ("/a;x/b", false),
        ("/a?..%2fadmin", false),
        ("http://good.example/a", false),
        ("*", false),
    ];
    for (target, ambiguous) in targets {
        let judged = |flow: &str| {
            let verdict = verdict(&policy, &format!("{flow} path={target}"));
            (
                verdict.decision,
                verdict.rule.map(|rule| rule.name.to_string()),
                verdict.reason,
            )
        };
        let by = |decision, rule: &str| (decision, Some(rule.to_owned()), Reason::Rule);
        let refused = (Decision::Deny, None, Reason::Ambiguous);
        let or_refused = |else_| if ambiguous { refused.clone() } else { else_ };
        assert_eq!(
            judged("port=80"),
            or_refused(by(Decision::Allow, "web")),
            "{target}"
        );
        // An Allow by name can still be taken away.
        assert_eq!(
            judged("port=8080 domain=good.example"),
            or_refused(by(Decision::Allow, "named")),
            "{target}"
        );
        // Where nobody waits for what is said, nobody reads it.
        assert_eq!(judged("port=25"), by(Decision::Allow, "smtp"), "{target}");
        assert_eq!(judged("port=22"), by(Decision::Deny, "ssh"), "{target}");
        assert_eq!(
            judged("port=443"),
            (Decision::Deny, None, Reason::Default),
            "{target}"
        );
        let still_to_come = judged("port=80 stage=connect");
        assert_eq!(still_to_come.0, Decision::Held, "{target}");
        // In UDP no request is read.
        let datagram = judged("port=80 protocol=udp");
        assert_eq!(datagram, by(Decision::Allow, "web"), "{target}");
    }
}

/// What a reader says of a request with this target: the path, or `None` where it may be read in two ways. Both versions of HTTP say the same.
fn read(target: &str) -> Option<String> {
    let mut stream = Stream::default();
    stream.begin(b'G');
    let head = format!("GET {target} HTTP/1.1\r\nHost: good.example\r\n\r\n");
    let step = head
        .bytes()
        .map(|byte| stream.step(byte))
        .find(|step| *step != Step::More);
    let path = |stream: &Stream| {
        let (_, path) = stream.facts().request().expect("a whole request");
        String::from_utf8_lossy(path).into_owned()
    };
    let first = match step {
        Some(Step::Head) => Some(path(&stream)),
        Some(Step::Malformed) => None,
        step => panic!("{target}: {step:?}"),
    };
    let (mut stream, mut http2) = (Stream::default(), Http2::default());
    stream.begin(b'P');
    let mut last = Step::More;
    for byte in over_http2(target) {
        last = match last {
            Step::Http2 => stream.step_http2(&mut http2, byte),
            Step::Head | Step::Malformed => break,
            _ if stream.protocol() == ebfw_common::stream::protocol::HTTP2 => {
                stream.step_http2(&mut http2, byte)
            }
            _ => stream.step(byte),
        };
        while last == Step::Again {
            last = stream.step_http2(&mut http2, byte);
        }
    }
    let second = (last == Step::Head).then(|| path(&stream));
    assert_eq!(first, second, "{target}: HTTP/1 and HTTP/2");
    first
}

/// A connection of HTTP/2 with one request, each field as it is (RFC 7541, 6.2.2).
fn over_http2(target: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(1, "good.example"), (4, target)] {
        block.extend([index, u8::try_from(value.len()).expect("it is short")]);
        block.extend(value.bytes());
    }
    let length = u8::try_from(block.len()).expect("it is short");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, length, 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

#[test]
fn paths_are_judged_as_the_reader_reads_them() {
    const PIECES: [&str; 30] = [
        "/", "/", "/", "a", "admin", "..", ".", "%2e", "%2E%2e", "%2f", "%2F", "%5c", ";", "%3b",
        "%00", "%", "%4", "%61", "\\", "#", "?", "*", "~", "%7e", "b", "ADMIN", "%25", "%2", "=",
        "&",
    ];
    let policy = policy(WAITING);
    let (mut ambiguous, mut private) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let mut target = "/".to_owned();
        for _ in 0..rng.usize(..9) {
            target.push_str(PIECES[rng.usize(..PIECES.len())]);
        }
        let found = verdict(&policy, &format!("port=80 path={target}"));
        let expected = match read(&target) {
            None => (Decision::Deny, None, Reason::Ambiguous),
            Some(path) => {
                let is_private = path == "/admin" || path.starts_with("/admin/");
                private += u32::from(is_private);
                if is_private {
                    (Decision::Deny, Some(2), Reason::Rule)
                } else {
                    (Decision::Allow, Some(3), Reason::Rule)
                }
            }
        };
        ambiguous += u32::from(expected.2 == Reason::Ambiguous);
        let found = (
            found.decision,
            found.rule.map(|rule| rule.index),
            found.reason,
        );
        assert_eq!(found, expected, "{target}");
    }
    assert!(ambiguous > 1000 && private > 100, "{ambiguous} {private}");
}

#[test]
fn in_tls_there_is_a_name_and_no_request() {
    let judged = |strict: bool, flow: &str| {
        let text = format!(
            "strictL7: {strict}\nrules:\n- {{name: admin, action: Deny, match: {{domains: [a.example], pathPrefix: /admin}}}}\n\
             - {{name: api, action: Deny, match: {{domains: [api.example]}}}}\n- {{name: get, action: Allow, match: {{methods: [GET]}}}}\n"
        );
        let verdict = verdict(&policy(&text), flow);
        let opaque = verdict.opaque.len();
        (
            verdict.decision,
            verdict.rule.map(|rule| rule.name.to_string()),
            opaque,
        )
    };
    let deny = |name: &str, opaque| (Decision::Deny, Some(name.to_owned()), opaque);
    let cases = [
        (
            false,
            "domain=a.example stage=tls",
            (Decision::Allow, None, 2),
            "what cannot be known rules out",
        ),
        (
            true,
            "domain=a.example stage=tls",
            deny("admin", 0),
            "or counts against the flow",
        ),
        (
            true,
            "domain=a.example",
            (Decision::Allow, None, 0),
            "a request that is not given is absent",
        ),
        (
            true,
            "domain=a.example path=/ method=GET stage=tls",
            deny("admin", 0),
            "nobody reads it",
        ),
        (
            true,
            "domain=api.example stage=tls",
            deny("api", 0),
            "the name is read",
        ),
        (
            true,
            "domain=api.example stage=tls protocol=udp",
            deny("api", 0),
            "or resolved",
        ),
    ];
    for (strict, flow, want, why) in cases {
        assert_eq!(
            judged(strict, flow),
            want,
            "{flow}, strictL7 {strict}: {why}"
        );
    }
}
