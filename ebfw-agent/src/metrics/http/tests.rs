//! A raw client against the server: what is answered, what is refused, and what a bad client cannot hold up.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;
use crate::events::event::{Kind, Mode};

const PATIENCE: Duration = Duration::from_secs(10);

struct Agent {
    server: Server,
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

async fn agent(limits: Limits) -> Agent {
    let (metrics, readiness) = (Arc::new(Metrics::new(Mode::Enforce)), Readiness::new());
    let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let server = listener.serve_within(limits, Arc::clone(&metrics), readiness.clone());
    Agent {
        server,
        metrics,
        readiness,
    }
}

impl Agent {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }

    /// Sends `bytes` and reads until the server closes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str) -> String {
        self.say(
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
    }
}

/// Everything until the end of the connection, in whatever way it ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server ends the connection");
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let agent = agent(Limits::DEFAULT).await;
    agent.metrics.event(Kind::Connect);
    let answer = agent.request("GET", "/metrics").await;
    assert_eq!(status(&answer), "200");
    assert!(
        answer.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        ),
        "{answer}"
    );
    assert!(
        body(&answer).contains("ebfw_events_total{kind=\"connect\"} 1\n"),
        "{answer}"
    );
    assert!(body(&answer).ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn every_path_and_method_has_its_answer() {
    let agent = agent(Limits::DEFAULT).await;
    for (method, path, expected, why) in [
        ("GET", "/healthz", "200", "the process lives"),
        ("GET", "/readyz", "200", "nothing is pending"),
        ("GET", "/metrics?x=y", "200", "a query is ignored"),
        ("HEAD", "/metrics", "200", "HEAD is GET without a body"),
        ("HEAD", "/healthz", "200", "HEAD is GET without a body"),
        ("POST", "/metrics", "405", "nothing can be changed"),
        ("DELETE", "/healthz", "405", "nothing can be changed"),
        ("OPTIONS", "/readyz", "405", "nothing can be changed"),
        ("GET", "/", "404", "there is nothing at the root"),
        ("GET", "/metrics/", "404", "another path"),
        ("GET", "/../../etc/passwd", "404", "there are no files"),
        (
            "POST",
            "/nowhere",
            "404",
            "the path comes before the method",
        ),
    ] {
        let answer = agent.request(method, path).await;
        assert_eq!(
            status(&answer),
            expected,
            "{method} {path}: {why}\n{answer}"
        );
        if method == "HEAD" {
            assert_eq!(body(&answer), "", "{why}");
        }
        if expected == "405" {
            assert!(
                answer.to_lowercase().contains("allow: get,head"),
                "{answer}"
            );
        }
    }
    assert!(
        body(&agent.request("GET", "/nowhere").await).contains("/metrics, /healthz and /readyz")
    );
}

#[tokio::test]
async fn readiness_lists_what_is_pending() {
    let agent = agent(Limits::DEFAULT).await;
    let programs = agent.readiness.pending("programs attached");
    let policy = agent.readiness.pending("policy loaded");

    let answer = agent.request("GET", "/readyz").await;
    assert_eq!(status(&answer), "503");
    assert_eq!(
        body(&answer),
        "pending: programs attached\npending: policy loaded\n"
    );
    assert_eq!(
        status(&agent.request("GET", "/healthz").await),
        "200",
        "alive although not ready"
    );

    programs.ready();
    policy.ready();
    assert_eq!(body(&agent.request("GET", "/readyz").await), "ready\n");
}

#[tokio::test]
async fn one_connection_serves_several_scrapes() {
    let agent = agent(Limits::DEFAULT).await;
    let mut stream = agent.connect().await;
    for close in ["keep-alive", "close"] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: {close}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    assert_eq!(rest(&mut stream).await.matches("HTTP/1.1 200").count(), 2);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let agent = agent(Limits::DEFAULT).await;
    let many = format!(
        "GET /healthz HTTP/1.1\r\n{}\r\n",
        "A: b\r\n".repeat(MAX_HEADERS + 1)
    );
    let long = format!(
        "GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n",
        "x".repeat(2 * MAX_HEAD)
    );
    let path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    for (bytes, why) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], "TLS"),
        (b"hello\r\n\r\n", "no HTTP"),
        (
            b"GET /healthz HTTP/9.9\r\n\r\n",
            "a version that does not exist",
        ),
        (
            b"GET /healthz HTTP/1.1\r\nA\x00: b\r\n\r\n",
            "a zero in a header's name",
        ),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "two lengths",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (many.as_bytes(), "too many headers"),
        (long.as_bytes(), "too long a header"),
        (path.as_bytes(), "too long a path"),
    ] {
        let answer = agent.say(bytes).await;
        assert!(
            answer.is_empty() || status(&answer).starts_with('4'),
            "{why}: {answer}"
        );
    }
    assert_eq!(
        status(&agent.request("GET", "/healthz").await),
        "200",
        "and the server still serves"
    );
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_cut_off() {
    let head = Duration::from_millis(50);
    let agent = agent(Limits {
        head,
        ..Limits::DEFAULT
    })
    .await;
    for (bytes, why) in [
        (&b""[..], "says nothing"),
        (b"GET /metr", "stops in the request line"),
        (b"GET /metrics HTTP/1.1\r\nA: ", "stops in a header"),
    ] {
        let answer = agent.say(bytes).await;
        assert!(
            answer.is_empty() || status(&answer).starts_with('4'),
            "{why}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let agent = agent(Limits {
        connection: Duration::from_millis(100),
        ..Limits::DEFAULT
    })
    .await;
    let mut stream = agent.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    // Writing fails once the server has given up.
    let given_up = async { while stream.write_all(&request).await.is_ok() {} };
    timeout(PATIENCE, given_up)
        .await
        .expect("the server ends the connection");
}

#[tokio::test]
async fn many_idle_clients_do_not_keep_a_probe_from_its_answer() {
    let agent = agent(Limits {
        connections: 4,
        ..Limits::DEFAULT
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(agent.connect().await);
    }
    assert_eq!(status(&agent.request("GET", "/healthz").await), "200");
    assert_eq!(
        rest(&mut idle[0]).await,
        "",
        "the oldest was ended to make room"
    );
}

#[tokio::test]
async fn many_clients_of_one_address_take_no_connection_of_another() {
    let agent = agent(Limits {
        connections: 4,
        ..Limits::DEFAULT
    })
    .await;
    let probe = TcpSocket::new_v4().unwrap();
    probe.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut probe = probe.connect(agent.server.address()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(agent.connect().await);
    }
    assert_eq!(rest(&mut idle[0]).await, "", "room was made");
    probe
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&rest(&mut probe).await), "200");
}

#[tokio::test]
async fn a_burst_of_connections_keeps_no_probe_waiting() {
    let agent = agent(Limits::DEFAULT).await;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    // One thread serves and asks in a test, so that all of these wait to be accepted. What has no room is sent again after a second.
    let second = Duration::from_secs(1);
    let connect = || std::net::TcpStream::connect_timeout(&agent.server.address(), second);
    let idle: Vec<_> = (0..2000).map(|_| connect().unwrap()).collect();
    let answer = timeout(second, agent.request("GET", "/healthz")).await;
    assert_eq!(status(&answer.unwrap()), "200");
    drop(idle);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = Listener::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let error = Listener::bind(&[taken.address(), "127.0.0.1:0".parse().unwrap()]).unwrap_err();
    let text = format!("{:#}", anyhow::Error::new(error));
    assert_eq!(text.matches("in use").count(), 1, "{text}");
    assert!(text.contains(&taken.address().to_string()), "{text}");
    assert!(
        text.contains("in use") && text.contains("EBFW_METRICS_ADDR"),
        "{text}"
    );
}

#[tokio::test]
async fn a_node_without_the_first_address_uses_the_second() {
    let candidates = [
        "[2001:db8::1]:0".parse().unwrap(),
        "127.0.0.1:0".parse().unwrap(),
    ];
    assert!(Listener::bind(&candidates).unwrap().address().is_ipv4());
    assert!(
        Listener::bind(&candidates[..1]).is_err(),
        "and says so if there is none"
    );
    assert!(Listener::bind(&[]).is_err());
}

#[tokio::test]
async fn shutting_down_frees_the_port_and_waits_for_no_idle_client() {
    let agent = agent(Limits::DEFAULT).await;
    let mut idle = agent.connect().await;
    let mut half = agent.connect().await;
    half.write_all(b"GET /metr").await.unwrap();
    assert_eq!(status(&agent.request("GET", "/healthz").await), "200");
    let address = agent.server.address();
    timeout(PATIENCE, agent.server.shut_down())
        .await
        .expect("it ends");
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut half).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}
