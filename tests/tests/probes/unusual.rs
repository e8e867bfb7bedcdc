//! Libraries used in ways of which few programs make use: writes to BIOs, handshakes that the first write begins, records of odd lengths, early
//! data, and what is sent through io_uring. Each asks for what is allowed on the same connections, so that silence proves something.

use std::path::{Path, PathBuf};

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    denied::POLICY,
    server::{PORT, Program, program},
};

/// Connections that each way makes: half of them ask for what is denied first.
const TRIES: usize = 10;
/// Notes what it decrypts, early data as such.
const SERVER: Program = (
    "python3",
    &[
        "-c",
        include_str!("../../clients/libraries/openssl_server.py"),
    ],
);
const OPENSSL: &str = include_str!("../../clients/libraries/openssl_client.py");
const GNUTLS: &str = include_str!("../../clients/libraries/gnutls_client.py");

/// A bench with that server, and Python; `None`, said aloud, where something is missing.
fn with_python() -> Option<(Bench, PathBuf)> {
    let bench = Bench::noting(SERVER, POLICY, &[])?;
    Some((bench, program("python3")?))
}

/// Connections on which `way` asks for what is denied, at once and after what is allowed, and one on which all is allowed.
fn connections(way: &str) -> Vec<String> {
    let denied = [
        format!("/admin/{way}"),
        format!("/before/{way},/admin/{way}"),
    ];
    let all = denied.iter().cycle().take(TRIES).cloned();
    all.chain([format!("/first/{way},/second/{way}")]).collect()
}

/// What is spoken inside.
#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

impl Version {
    /// Tells the client.
    fn prefix(self) -> &'static str {
        match self {
            Self::Http1 => "",
            Self::Http2 => "h2-",
        }
    }
}

impl Bench {
    /// Lets OpenSSL ask in this way with each version of HTTP.
    fn openssl_keeps_back(&self, python: &Path, way: &str, first: &str) {
        for version in [Version::Http1, Version::Http2] {
            let way = &format!("{}{way}", version.prefix());
            self.keeps_back(python, &["-c", OPENSSL, way], (way, version), first);
            self.is_enforced(way);
        }
    }

    /// Lets a program ask in this way; the server reads what is allowed, the `first` request of a connection as such, and nothing else.
    fn keeps_back(
        &self,
        python: &Path,
        client: &[&str],
        (way, version): (&str, Version),
        first: &str,
    ) {
        let connections = connections(way);
        let connections: Vec<_> = connections.iter().map(String::as_str).collect();
        self.run(python, &[client, &connections].concat());
        let allowed = match version {
            Version::Http1 => [
                format!("GET /before/{way} "),
                format!("{first}GET /first/{way} "),
                format!("GET /second/{way} "),
            ],
            // Behind its length stands a path as it is.
            Version::Http2 => [
                format!("/before/{way}"),
                format!("{first}PRI * HTTP/2.0\r\n"),
                format!("/second/{way}"),
            ],
        };
        self.holds(way, &allowed.each_ref().map(String::as_str));
    }

    /// All that `ebfw status` says of the workload is that nothing has left that should not.
    pub(super) fn is_enforced(&self, way: &str) {
        eventually(&format!("{way}: it is enforced"), || {
            let standing = self.standing();
            let columns: Vec<_> = standing.split(' ').collect();
            // Those that were seen and those that were denied aside.
            matches!(columns[..], ["enforced", _, "0", _, "0", "0"])
        });
    }
}

#[test]
fn openssl_in_other_ways_never_gets_a_denied_request_out() {
    let Some((bench, python)) = with_python() else {
        return;
    };
    for way in [
        "bio",
        "reset",
        "cleared",
        "again",
        "implicit",
        "encrypt-then-mac",
        "longer-mac",
        "fragments",
        "short",
        "padded",
        "updated",
    ] {
        bench.openssl_keeps_back(&python, way, "");
    }
}

/// Go gives the memory of connections that nobody has closed to new ones.
#[test]
fn go_connections_that_lie_where_others_were_never_get_a_denied_request_out() {
    const CLIENT: &str = r#"package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
)

// Whether the connection goes on.
func ask(connection *tls.Conn, path string) bool {
	fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n", path)
	count, _ := connection.Read(make([]byte, 4096))
	return count > 0
}

func main() {
	places, again := map[string]bool{}, 0
	for range 20 {
		raw, err := net.Dial("tcp", "10.99.0.2:8443")
		if err != nil {
			panic(err)
		}
		connection := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		place := fmt.Sprintf("%p", connection)
		if places[place] {
			again++
		}
		places[place] = true
		if connection.Handshake() == nil {
			for _, path := range os.Args[1:] {
				if !ask(connection, path) {
					break
				}
			}
		}
		raw.Close()
		connection = nil
		runtime.GC()
	}
	fmt.Println(again)
}
"#;
    let Some((bench, _)) = with_python() else {
        return;
    };
    let Some(client) = bench.go_program("again", &[], CLIENT) else {
        return;
    };
    bench.meet("/met", |bench| bench.run(&client, &["/met"]));
    let (said, _) = bench.said(&client, &["/before", "/admin/go"]);
    bench.holds("go", &["GET /before "]);
    let again: usize = said.trim().parse().unwrap();
    assert!(again > 0, "no place was used twice");
}

/// What goes out before the handshake is over: the server would take it, and answers it at once.
#[test]
fn early_data_never_gets_a_denied_request_out() {
    let Some((bench, python)) = with_python() else {
        return;
    };
    let Some(openssl) = program("openssl") else {
        return;
    };
    for way in ["early", "early-long"] {
        bench.openssl_keeps_back(&python, way, "early:");
    }
    let gnutls = ("gnutls", Version::Http1);
    bench.keeps_back(&python, &["-c", GNUTLS], gnutls, "early:");
    bench.is_enforced("gnutls");
    // By a real client, with a ticket for all of its attempts.
    bench.run(&python, &["-c", OPENSSL, "ticket", "/ticket"]);
    let server = format!("10.99.0.2:{PORT}");
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n");
        std::fs::write(bench.server.folder().join("request"), request).unwrap();
        let ticket = ["-sess_in", "ticket.pem", "-early_data", "request"];
        bench.run(
            &openssl,
            &[&["s_client", "-connect", &server], &ticket[..]].concat(),
        );
    };
    for _ in 0..TRIES / 2 {
        ask("/admin/s_client");
    }
    ask("/s_client");
    bench.holds("s_client", &["early:GET /s_client "]);
    bench.is_enforced("s_client");
}

/// What the thread itself sends through io_uring is as any other; what threads of the kernel send is not known to be its own, and that is counted.
#[test]
fn io_uring_is_enforced_where_the_thread_sends_and_else_opaque() {
    let Some((bench, python)) = with_python() else {
        return;
    };
    bench.openssl_keeps_back(&python, "uring", "");
    let ask = |way: &str, connection: &str| {
        bench.run(&python, &["-c", OPENSSL, way, connection]);
    };
    ask("uring-polled", "/polled,/admin/polled");
    ask("beside", "/polled/2,/beside,/admin/polled/2,/admin/beside");
    for path in ["/admin/polled", "/admin/polled/2"] {
        let path = format!("\"path\":\"{path}\"");
        bench.expect(1, &[&path]);
        for known in ["\"dst\"", "\"action\""] {
            let told = bench.seen(&[&path, known]);
            assert!(told.is_empty(), "{told:?}");
        }
    }
    bench.expect(1, &["\"path\":\"/admin/beside\"", "\"action\":\"deny\""]);
    let seen = bench.decrypted();
    for (path, comes) in [
        ("/admin/polled ", true),
        ("/admin/polled/2 ", true),
        ("/beside ", true),
        ("/admin/beside ", false),
    ] {
        assert_eq!(
            seen.contains(&format!("GET {path}")),
            comes,
            "{path}: {seen}"
        );
    }
    let standing = bench.standing();
    assert!(standing.starts_with("partly "), "{standing}");
}
