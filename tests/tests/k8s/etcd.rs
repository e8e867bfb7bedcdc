//! The cluster's database, behind the API server's back: what it does while the API server is away.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use k8s_openapi::ByteString;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

const ADDRESS: &str = "127.0.0.1:2379";

/// Deletes a key, and makes the database forget what was before, so that no watch can go on where it stood.
pub(crate) fn delete_and_compact(key: &str) {
    let deleted = call("deleterange", &json!({ "key": ByteString(key.into()) }));
    assert_eq!(deleted["deleted"], "1", "{key}: {deleted}");
    let revision = &deleted["header"]["revision"];
    let compacted = call(
        "compaction",
        &json!({ "revision": revision, "physical": true }),
    );
    assert!(compacted["header"].is_object(), "{compacted}");
}

/// Over its gateway for HTTP, in the node's network.
fn call(what: &str, request: &Value) -> Value {
    let text = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let node = File::open("/proc/1/ns/net").expect("the node has a network");
            setns(node, CloneFlags::CLONE_NEWNET).expect("an administrator may enter it");
            let mut stream = TcpStream::connect(ADDRESS).expect("etcd listens");
            let body = request.to_string();
            let length = body.len();
            write!(
                stream,
                "POST /v3/kv/{what} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .expect("etcd reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("etcd answers");
            answer
        });
        asked.join().expect("etcd is asked")
    });
    let (_, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
}
