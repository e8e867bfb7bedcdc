//! Requests in HTTP/1.

use ebfw_common::stream::{MAX_WAIT, Step, flag, why};

use crate::{
    cuts::{positions, said},
    drive::{Driver, Said},
};

fn request(name: Option<&str>, method: &str, path: &str) -> Said {
    let named = match name {
        None => 0,
        Some(name) if name.starts_with('<') => flag::LITERAL,
        Some(_) => flag::NAME,
    };
    Said::Head {
        name: name.map(Into::into),
        request: Some((method.into(), path.into())),
        flags: flag::REQUEST | named,
    }
}

fn malformed(why: u32) -> Said {
    Said::End(Step::Malformed, why)
}

const OPAQUE: Said = Said::End(Step::Opaque, why::NONE);

#[test]
fn a_request_is_complete_with_the_end_of_its_head() {
    for (bytes, name, method, path, why) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..],
            Some("a.example"),
            "GET",
            "/",
            "plain",
        ),
        (
            b"GET / HTTP/1.1\nHost: a.example\n\n",
            Some("a.example"),
            "GET",
            "/",
            "bare line feeds",
        ),
        (
            b"\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("a"),
            "GET",
            "/",
            "empty lines first",
        ),
        (
            b"GET /x?y=/../z HTTP/1.1\r\nHOST:\t A.Example.:8080 \t\r\n\r\n",
            Some("a.example"),
            "GET",
            "/x",
            "capitals, port, dot, query",
        ),
        (
            b"get /x HTTP/1.1\r\nhost: a:\r\n\r\n",
            Some("a"),
            "get",
            "/x",
            "methods have case, ports may be empty",
        ),
        (
            b"GET / HTTP/1.0\r\n\r\n",
            None,
            "GET",
            "/",
            "the old version needs no host",
        ),
        (
            b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
            None,
            "GET",
            "/",
            "an empty host",
        ),
        (
            b"GET / HTTP/1.1\r\nhosts: b\r\nhost: a\r\nx-host: c\r\n\r\n",
            Some("a"),
            "GET",
            "/",
            "names that look alike",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: 192.0.2.7:80\r\n\r\n",
            Some("<192.0.2.7>"),
            "GET",
            "/",
            "an address",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: [2001:db8::7]:80\r\n\r\n",
            Some("<2001:db8::7>"),
            "GET",
            "/",
            "an IPv6 address",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: [::]\r\n\r\n",
            Some("<::>"),
            "GET",
            "/",
            "an IPv6 address",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            Some("<::1>"),
            "GET",
            "/",
            "an IPv6 address",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: [1:2:3:4:5:6:7::]\r\n\r\n",
            Some("<1:2:3:4:5:6:7:0>"),
            "GET",
            "/",
            "an IPv6 address",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: [a:B:c:D:e:F:1:2345]\r\n\r\n",
            Some("<a:b:c:d:e:f:1:2345>"),
            "GET",
            "/",
            "an IPv6 address",
        ),
        (
            b"GET http://a.example/x HTTP/1.1\r\nHost: A.example:80\r\n\r\n",
            Some("a.example"),
            "GET",
            "/x",
            "an absolute target",
        ),
        (
            b"GET HTTPS://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Some("a.example"),
            "GET",
            "/",
            "an absolute target without a path",
        ),
        (
            b"GET http://a.example?x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Some("a.example"),
            "GET",
            "/",
            "an absolute target with a query",
        ),
        (
            b"GET http://a.example/ HTTP/1.0\r\n\r\n",
            Some("a.example"),
            "GET",
            "/",
            "an absolute target without a host",
        ),
        (
            b"GET http://[::1]/ HTTP/1.1\r\nHost: [0::1]:1\r\n\r\n",
            Some("<::1>"),
            "GET",
            "/",
            "an absolute target with an address",
        ),
        (
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("a"),
            "OPTIONS",
            "*",
            "an asterisk",
        ),
        (
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            Some("a.example"),
            "CONNECT",
            "a.example:443",
            "a tunnel",
        ),
        (
            b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            Some("<::1>"),
            "CONNECT",
            "[::1]:443",
            "a tunnel to an address",
        ),
        (
            b"ABCDEFGHIJKLMNOPQRSTUVWX /%41%2f%2ec/./b//c/../%7e%zz%4 HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("a"),
            "ABCDEFGHIJKLMNOPQRSTUVWX",
            "/A%2F.c/b/~%zz%4",
            "a long method, a path that is not normal",
        ),
        (
            b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\nx: \xc3\xa4\t\r\n\r\n",
            Some("a"),
            "GET",
            "/\u{e4}",
            "bytes that are not ASCII",
        ),
    ] {
        assert_eq!(
            positions(bytes),
            [(bytes.len(), request(name, method, path))],
            "{why}"
        );
    }
}

#[test]
fn every_request_of_a_connection_is_read() {
    let get = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let one = request(Some("a"), "GET", "/1");
    let two = request(Some("b"), "PUT", "/2");
    for (second, why) in [
        (&b"PUT /2 HTTP/1.1\r\nHost: b\r\n\r\n"[..], "no body"),
        (b"PUT /2 HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n", "an empty body"),
        (b"PUT /2 HTTP/1.1\r\nContent-Length: 28\r\nHost: b\r\ncontent-length: 28 \r\n\r\nPUT /3 HTTP/1.1\r\nHost: c\r\n\r\n", "a body that looks like a request"),
        (b"PUT /2 HTTP/1.1\r\nExpect: 100-continue\r\ntransfer-encoding: Chunked\r\nHost: b\r\n\r\n1\r\nx\r\n00A;name=\"value\"\r\n0123456789\r\n0\r\n\r\n", "chunks"),
        (b"PUT /2 HTTP/1.1\r\nTransfer-Encoding:chunked\r\nHost: b\r\n\r\n3\r\n\r\n\r\r\n0;x\r\nTrailer: x\r\nupgrade: y\r\n\r\n", "fields behind the chunks"),
        (b"\r\nPUT /2 HTTP/1.1\r\nHost: b\r\n\r\n\r\n", "empty lines around it"),
    ] {
        let bytes = [&get, second, &get].concat();
        assert_eq!(said(&bytes), [one.clone(), two.clone(), one.clone()], "{why}");
    }
    let mut driver = Driver::new(false);
    driver.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nx");
    assert_eq!(driver.stream.advance(u64::MAX), 9_999_999_999_999_999_998);
    driver.feed(&get);
    assert_eq!(
        driver.said.last().map(|(_, said)| said),
        Some(&one),
        "the longest body"
    );
}

#[test]
fn what_servers_do_not_read_alike_is_malformed() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\n{fields}\r\n");
    let host = |fields: &str| head(&format!("Host: a\r\n{fields}"));
    for (text, expected, why) in [
        (head("Host: a\r\nHost: a\r\n"), why::TWO_HOSTS, "two hosts"),
        (
            head("Host: a\r\nhost:\r\n"),
            why::TWO_HOSTS,
            "two hosts, one empty",
        ),
        (head("x: y\r\n"), why::NO_HOST, "no host"),
        (head("Host: a b\r\n"), why::NAME, "a space in a host"),
        (head("Host: a,b\r\n"), why::NAME, "a list of hosts"),
        (head("Host: a@b\r\n"), why::NAME, "a user"),
        (head("Host: a/b\r\n"), why::NAME, "a path"),
        (head("Host: %61\r\n"), why::NAME, "an escape"),
        (head("Host: a\u{e4}\r\n"), why::NAME, "not ASCII"),
        (head("Host: a:b\r\n"), why::NAME, "a port that is no number"),
        (
            head("Host: a:123456\r\n"),
            why::NAME,
            "a port that is too long",
        ),
        (head("Host: :80\r\n"), why::NAME, "a port alone"),
        (head("Host: a:80:80\r\n"), why::NAME, "two ports"),
        (head("Host: .\r\n"), why::NAME, "a dot"),
        (head("Host: a..b\r\n"), why::NAME, "an empty label"),
        (
            head(&format!("Host: {}\r\n", "a".repeat(254))),
            why::NAME,
            "too long",
        ),
        (head("Host: [::1\r\n"), why::NAME, "an open bracket"),
        (head("Host: []\r\n"), why::NAME, "no address"),
        (head("Host: [:]\r\n"), why::NAME, "no address"),
        (head("Host: [1]\r\n"), why::NAME, "no address"),
        (head("Host: [1::2::3]\r\n"), why::NAME, "two gaps"),
        (head("Host: [1:::3]\r\n"), why::NAME, "three colons"),
        (head("Host: [:1::]\r\n"), why::NAME, "a colon first"),
        (head("Host: [1::2:]\r\n"), why::NAME, "a colon last"),
        (
            head("Host: [1:2:3:4:5:6:7]\r\n"),
            why::NAME,
            "too few groups",
        ),
        (
            head("Host: [1:2:3:4:5:6:7:8:9]\r\n"),
            why::NAME,
            "too many groups",
        ),
        (
            head("Host: [1:2:3:4:5:6:7:8::]\r\n"),
            why::NAME,
            "too many groups",
        ),
        (head("Host: [12345::]\r\n"), why::NAME, "a long group"),
        (
            head("Host: [::ffff:1.2.3.4]\r\n"),
            why::NAME,
            "two kinds in one",
        ),
        (head("Host: [fe80::1%25eth0]\r\n"), why::NAME, "a zone"),
        (
            head("Host: [::1]x\r\n"),
            why::NAME,
            "bytes behind an address",
        ),
        (host("a : b\r\n"), why::FIELD, "a space before the colon"),
        (host(" a: b\r\n"), why::FIELD, "a folded line"),
        (host("\ta: b\r\n"), why::FIELD, "a folded line"),
        (host(": b\r\n"), why::FIELD, "a field without a name"),
        (host("a\r\n"), why::FIELD, "a line without a colon"),
        (
            host("\u{e4}: b\r\n"),
            why::FIELD,
            "a name that is not ASCII",
        ),
        (host("a: b\0\r\n"), why::FIELD, "a zero"),
        (host("a: b\x7f\r\n"), why::FIELD, "a control character"),
        (host("a: b\rc\r\n"), why::LINE, "a bare CR in a value"),
        (host("\ra: b\r\n"), why::LINE, "a bare CR before a field"),
        (
            host("Content-Length: 1\r\nContent-Length: 2\r\n"),
            why::BODY,
            "two lengths",
        ),
        (
            host("Content-Length: 1, 1\r\n"),
            why::BODY,
            "a list of lengths",
        ),
        (
            host("Content-Length: 1 1\r\n"),
            why::BODY,
            "a space in a length",
        ),
        (host("Content-Length: +1\r\n"), why::BODY, "a sign"),
        (host("Content-Length: 0x1\r\n"), why::BODY, "hexadecimal"),
        (host("Content-Length:\r\n"), why::BODY, "no length"),
        (
            host("Content-Length: 11111111111111111111\r\n"),
            why::BODY,
            "a length that overflows",
        ),
        (
            host("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            why::BODY,
            "both",
        ),
        (
            host("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            why::BODY,
            "both",
        ),
        (
            host("Transfer-Encoding: gzip, chunked\r\n"),
            why::BODY,
            "another coding",
        ),
        (
            host("Transfer-Encoding: xchunked\r\n"),
            why::BODY,
            "another coding",
        ),
        (
            host("Transfer-Encoding: chunked chunked\r\n"),
            why::BODY,
            "another coding",
        ),
        (
            host("Transfer-Encoding: identity\r\n"),
            why::BODY,
            "another coding",
        ),
        (host("Transfer-Encoding:\r\n"), why::BODY, "no coding"),
        (
            host("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            why::BODY,
            "two codings",
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            why::BODY,
            "chunks in the old version",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n".into(),
            why::BODY,
            "a tunnel with a body",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            why::BODY,
            "a tunnel with a body",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: b\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a tunnel elsewhere",
        ),
        (
            "CONNECT /a HTTP/1.1\r\nHost: b\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a tunnel to a path",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nHost: aa\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://aa/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://1.2.3.4/ HTTP/1.1\r\nHost: 1.2.3.5\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://[::1]/ HTTP/1.1\r\nHost: [::2]\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://[::1]/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::TWO_HOSTS,
            "a target elsewhere",
        ),
        (
            "GET http://a/ HTTP/1.1\r\n\r\n".into(),
            why::NO_HOST,
            "a target without a host",
        ),
        (
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::NAME,
            "a user",
        ),
        (
            "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::NAME,
            "no authority",
        ),
        (
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "another scheme",
        ),
        (
            "GET http:a HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a scheme without an authority",
        ),
        (
            "GET http:/\x0fa HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a control character",
        ),
        (
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "an asterisk",
        ),
        (
            "OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "an asterisk and more",
        ),
        (
            "GET x HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a relative target",
        ),
        (
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "two spaces",
        ),
        (
            "POST  / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "two spaces",
        ),
        (
            "POST\t/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a tab",
        ),
        (
            "POST /  HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "two spaces",
        ),
        (
            "POST / HTTP/1.1 \r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a space behind the version",
        ),
        (
            "POST / HTTP/1.1\rHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a bare CR",
        ),
        (
            "POST / HTTP/1.2\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "another version",
        ),
        (
            "POST / HTTP/1.10\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "another version",
        ),
        (
            "POST / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "another version",
        ),
        (
            "POST / http/1.1\r\nHost: a\r\n\r\n".into(),
            why::REQUEST_LINE,
            "a version in small letters",
        ),
        ("POST /\r\n".into(), why::REQUEST_LINE, "no version"),
        ("POST http://a\r\n".into(), why::NAME, "no version"),
        ("GET x\r\n".into(), why::REQUEST_LINE, "no version"),
        ("GET\r\n".into(), why::REQUEST_LINE, "nothing else"),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".into(),
            why::REQUEST_LINE,
            "another's connection",
        ),
        (
            "\r\n\r\n\0\r\nQUIT\n".into(),
            why::REQUEST_LINE,
            "another's connection",
        ),
        ("\rGET / HTTP/1.1\r\n".into(), why::LINE, "a bare CR first"),
        (
            "\r\nEHLO a\r\n".into(),
            why::REQUEST_LINE,
            "another protocol behind an empty line",
        ),
        (
            format!("{} / HTTP/1.1\r\n", "A".repeat(25)),
            why::REQUEST_LINE,
            "a long method",
        ),
        ("GET /a#b HTTP/1.1\r\n".into(), why::TARGET, "a fragment"),
        ("GET /a?#b HTTP/1.1\r\n".into(), why::TARGET, "a fragment"),
        ("GET /a\\b HTTP/1.1\r\n".into(), why::TARGET, "a backslash"),
        ("GET /a\tb HTTP/1.1\r\n".into(), why::TARGET, "a tab"),
        ("GET /a?\0 HTTP/1.1\r\n".into(), why::TARGET, "a zero"),
        ("GET /a\r\n".into(), why::TARGET, "no version"),
        (
            format!("GET {} HTTP/1.1\r\n", "/a".repeat(66)),
            why::TARGET,
            "too deep",
        ),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(66_000)),
            why::TARGET,
            "too long",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\rx".into(),
            why::REQUEST_LINE,
            "almost HTTP/2",
        ),
    ] {
        let expected = if why == "no version" {
            None
        } else {
            Some(expected)
        };
        let found = if text.len() > 10_000 {
            let mut driver = Driver::new(false);
            driver.feed(text.as_bytes());
            driver.said.into_iter().map(|(_, said)| said).collect()
        } else {
            said(text.as_bytes())
        };
        match expected {
            Some(expected) => assert_eq!(found, [malformed(expected)], "{why}: {text}"),
            None => assert!(
                matches!(found[..], [Said::End(Step::Malformed, _)]),
                "{why}: {text}"
            ),
        }
    }
}

#[test]
fn chunks_that_servers_do_not_read_alike_are_malformed() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, expected, why) in [
        ("\r\n", why::BODY, "no size"),
        (";x\r\n", why::BODY, "no size"),
        ("x\r\n", why::BODY, "no number"),
        ("0x1\r\n", why::BODY, "a prefix"),
        ("-1\r\n", why::BODY, "a sign"),
        (" 1\r\n", why::BODY, "a space"),
        ("1 \r\n", why::BODY, "a space"),
        ("1\n", why::BODY, "a bare line feed"),
        ("1;x\n", why::BODY, "a bare line feed"),
        ("1;x\0\r\n", why::BODY, "a zero"),
        ("1\rx", why::BODY, "a bare CR"),
        ("1\r\nxy\r\n", why::BODY, "a chunk that is too long"),
        ("2\r\nx\r\n\r\n", why::BODY, "a chunk that is too short"),
        ("1\r\nx\n0\r\n", why::BODY, "a bare line feed"),
        ("1000000000000000\r\n", why::BODY, "a size that overflows"),
        ("0\r\nHost: b\r\n\r\n", why::TWO_HOSTS, "a host behind"),
        (
            "0\r\nContent-Length: 1\r\n\r\n",
            why::BODY,
            "a length behind",
        ),
        (
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
            why::BODY,
            "a coding behind",
        ),
        ("0\r\n x\r\n\r\n", why::FIELD, "a folded line behind"),
    ] {
        let said = said(format!("{head}{body}").as_bytes());
        assert_eq!(said[1..], [malformed(expected)], "{why}: {body}");
    }
}

#[test]
fn what_is_not_http_is_opaque() {
    for (bytes, why) in [
        (&b"SSH-2.0-OpenSSH_10.0p2 Debian-7\r\n"[..], "SSH"),
        (
            b"SSH-2.0-libssh2_1.11.0_DEV_and_more\r\n",
            "SSH with a long banner",
        ),
        (b"EHLO mail.example\r\n", "SMTP"),
        (
            b"MAIL FROM:<a@example.org> SIZE=1000 BODY=8BITMIME\r\n",
            "SMTP",
        ),
        (b"USER anonymous\n", "FTP"),
        (b"NICK a\r\nUSER a 0 * :a\r\n", "IRC"),
        (b"*1\r\n$4\r\nPING\r\n", "Redis"),
        (b"set key 0 0 5\r\n", "memcached"),
        (b"a001 LOGIN me secret\r\n", "IMAP"),
        (b"AMQP\0\0\x09\x01", "AMQP"),
        (b"JRMI\0\x02K", "Java RMI"),
        (b"0\x0c\x02\x01\x01", "LDAP"),
        (b"x\x80\x01", "bytes of no line"),
        (b"0\x84\0\0\0\x10", "LDAP in long form"),
        (b"{\"jsonrpc\":", "JSON"),
        (b"<?xml version='1.0'?>", "XMPP"),
    ] {
        assert_eq!(said(bytes), [OPAQUE], "{why}");
    }
}

#[test]
fn blanks_before_a_request_make_it_malformed() {
    // Python's servers split the first line at white space, wherever it stands.
    let malformed = [Said::End(Step::Malformed, why::REQUEST_LINE)];
    for blank in [b' ', b'\t', 0x0b, 0x0c, 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0] {
        for line in [
            "GET /a HTTP/1.1\r\n",
            "PUT /a HTTP/1.0\r\n",
            "GET /a\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "PUT http://a/ HTTP/1.1\r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "x y HTTP/1.1\r\n",
        ] {
            for blanks in [1, 2, 40] {
                let bytes = [&vec![blank; blanks], line.as_bytes()].concat();
                assert_eq!(
                    said(&bytes),
                    malformed,
                    "{blanks} times {blank:#x} before {line:?}"
                );
            }
        }
        for (rest, why) in [
            (&b"hello\r\n"[..], "a word"),
            (b"hello world\r\n", "two words"),
            (b"\0", "a zero"),
            (b"{\"a\": 1}", "JSON"),
            (b"x\x80\x01", "bytes of no line"),
        ] {
            assert_eq!(
                said(&[&[blank], rest].concat()),
                [OPAQUE],
                "{blank:#x} before {why}"
            );
        }
    }
}

#[test]
fn behind_an_upgrade_comes_http_or_a_tunnel() {
    let upgrade = |to: &str| {
        format!("GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n")
            .into_bytes()
    };
    let connect = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_vec();
    let get = b"GET /1 HTTP/1.1\r\nHost: b\r\n\r\n".to_vec();
    let one = request(Some("b"), "GET", "/1");
    let upgraded = request(Some("a"), "GET", "/u");
    let tunnel = request(Some("a"), "CONNECT", "a:443");
    let frame = b"\x81\x85\x01\x02\x03\x04abcde".to_vec();
    let hello = b"\x16\x03\x01\0\x05".to_vec();
    let broken = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let empty = b"\r\n".to_vec();
    for (parts, expected, why) in [
        (
            vec![&upgrade("websocket"), &frame],
            vec![upgraded.clone(), OPAQUE],
            "frames",
        ),
        (
            vec![&upgrade("websocket"), &get, &frame],
            vec![upgraded.clone(), one.clone(), malformed(why::REQUEST_LINE)],
            "frames without an upgrade",
        ),
        (
            vec![&upgrade("x"), &get, &get],
            vec![upgraded.clone(), one.clone(), one.clone()],
            "not upgraded",
        ),
        (
            vec![&upgrade("x"), &broken],
            vec![upgraded.clone(), malformed(why::TWO_HOSTS)],
            "not upgraded, and malformed",
        ),
        (vec![&upgrade("h2c"), &preface], vec![upgraded], "HTTP/2"),
        (
            vec![&get, &preface],
            vec![one.clone(), malformed(why::REQUEST_LINE)],
            "HTTP/2 behind a request that did not ask for it",
        ),
        (
            vec![&empty, &preface],
            vec![malformed(why::REQUEST_LINE)],
            "HTTP/2 begins with its first byte",
        ),
        (
            vec![&connect, &hello],
            vec![tunnel.clone(), OPAQUE],
            "TLS in a tunnel",
        ),
        (
            vec![&connect, &get],
            vec![tunnel, one.clone()],
            "a tunnel that was refused",
        ),
        (
            vec![&get, &hello],
            vec![one.clone(), malformed(why::REQUEST_LINE)],
            "TLS without a tunnel",
        ),
        (vec![&preface], vec![], "HTTP/2"),
    ] {
        let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
        assert_eq!(said(&bytes), expected, "{why}");
    }
    let mut body = upgrade("x");
    body.truncate(body.len() - 2);
    body.extend(b"Content-Length: 3\r\n\r\nGET\x81");
    assert_eq!(said(&body)[1], OPAQUE, "a body before the tunnel");
}

#[test]
fn what_never_comes_to_a_head_is_malformed() {
    let long = |start: &str, rest: &str| {
        let mut driver = Driver::new(false);
        driver.feed(start.as_bytes());
        for _ in 0..70_000 / rest.len() {
            driver.feed(rest.as_bytes());
        }
        driver
            .said
            .into_iter()
            .map(|(_, said)| said)
            .collect::<Vec<_>>()
    };
    let one = request(Some("a"), "POST", "/");
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (start, rest, expected, why) in [
        ("POST /?", "x", vec![malformed(why::LONG)], "a query"),
        (post, "x: y\r\n", vec![malformed(why::LONG)], "fields"),
        ("\r\n", "\r\n", vec![malformed(why::LONG)], "empty lines"),
        (
            "hello",
            "x",
            vec![malformed(why::LONG)],
            "a line of another protocol",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n",
            vec![one.clone(), malformed(why::LONG)],
            "empty lines behind a request",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "1\r\nx\r\n",
            vec![one.clone()],
            "chunks are judged already",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n",
            "xxxx",
            vec![one],
            "a body is judged already",
        ),
    ] {
        assert_eq!(long(start, rest), expected, "{why}");
    }
}

#[test]
fn a_long_value_is_too_long_at_the_same_byte_however_it_is_read() {
    let begin = b"GET / HTTP/1.1\r\nHost: a.example\r\nCookie: ";
    let end = b"\r\n\r\n";
    let fits = MAX_WAIT as usize - begin.len() - end.len();
    for (length, said) in [
        (fits, request(Some("a.example"), "GET", "/")),
        (fits + 1, malformed(why::LONG)),
        (fits + 70, malformed(why::LONG)),
    ] {
        let bytes = [&begin[..], &vec![b'x'; length], end].concat();
        let [fast, slow] = [false, true].map(|slow| {
            let mut driver = Driver::new(slow);
            for packet in bytes.chunks(1448) {
                driver.feed(packet);
            }
            driver.said
        });
        assert_eq!(fast, slow, "{length} bytes");
        let last = fast.into_iter().next_back().map(|(_, said)| said);
        assert_eq!(last, Some(said), "{length} bytes");
    }
}
