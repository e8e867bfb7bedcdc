//! Flows of offline tests: words and JSON lines in, canonical text out.

use ebfw_policy::{
    evaluate::{Decision, Dimension, Reason},
    flow::{Flow, FlowError},
};

use crate::{policy, verdict};

#[test]
fn a_flow_that_cannot_be_read_says_why() {
    let cases = [
        ("", "the flow is empty"),
        ("   ", "the flow is empty"),
        ("443", "`443` is not of the form key=value"),
        ("prt=443", "did you mean `port`?"),
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
        ("stage=now", "the only stage is `connect`"),
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
        ("{\"labels\": \"a=b\"}", "an object of texts is wanted"),
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
