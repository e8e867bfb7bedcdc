//! gRPC with its own client for Go, and BoringSSL by the client of its own tool.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Bench,
    server::{PORT, program},
};

impl Bench {
    /// Builds the client; `None`, said aloud, without a compiler or the module.
    pub(super) fn grpc_client(&self) -> Option<PathBuf> {
        let go = program("go")?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/grpc");
        if !ebfw_test_need::met(source.is_dir(), "the source of a client of gRPC") {
            return None;
        }
        let client = self.server.folder().join("grpc-client");
        let built = Command::new(go)
            .args(["build", "-o"])
            .arg(&client)
            .arg(".")
            .current_dir(&source)
            .env("GOFLAGS", "-mod=readonly")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .output()
            .expect("go starts");
        eprintln!("{}", String::from_utf8_lossy(&built.stderr));
        ebfw_test_need::met(built.status.success(), "gRPC from Go's module proxy").then_some(client)
    }
}

#[test]
fn paths_of_grpc() {
    let Some(bench) = Bench::open() else { return };
    let Some(client) = bench.grpc_client() else {
        return;
    };
    let server = format!("10.99.0.2:{PORT}");
    bench.meet("/early.Service/Method", |bench| {
        bench.run(&client, &[&server, "/early.Service/Method"]);
    });
    let methods = [
        "/shop.Orders/Put",
        "/shop.Orders/Get",
        "/grpc.health.v1.Health/Check",
    ];
    bench.run(&client, &[&[&server[..]], &methods[..]].concat());
    for method in methods {
        let path = format!("\"path\":\"{method}\"");
        let parts = ["\"method\":\"POST\"", "\"domain\":\"10.99.0.2\"", &path];
        bench.expect(1, &[&parts[..], &["\"comm\":\"grpc-client\""]].concat());
    }
}

/// Debian's, built for Android's tools.
#[test]
fn boringssl_by_its_own_client() {
    let Some(bench) = Bench::open() else { return };
    let Some(shell) = program("sh") else { return };
    if program("bssl-tool").is_none() {
        return;
    }
    // It is asked until it is seen: its library is not among those that have probes before anybody uses them.
    let ask = |path: &str| {
        format!(
            "printf 'GET {path} HTTP/1.1\\r\\nHost: 10.99.0.2\\r\\n\\r\\n' | bssl-tool client -alpn-protos http/1.1 -connect 10.99.0.2:{PORT}"
        )
    };
    bench.meet("/early", |bench| bench.run(&shell, &["-c", &ask("/early")]));
    bench.run(&shell, &["-c", &ask("/boring")]);
    bench.expect(
        1,
        &["\"GET\"", "\"path\":\"/boring\"", "\"comm\":\"bssl-tool\""],
    );
}
