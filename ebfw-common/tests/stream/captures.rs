//! What real clients send, as it was captured: gRPC in C++ (from Python) and in Go, five calls each over one connection, and curl.

use ebfw_common::stream::flag;

use crate::{cuts::said, drive::Said};

fn request(name: &str, method: &str, path: &str) -> Said {
    Said::Head {
        name: Some(name.into()),
        request: Some((method.into(), path.into())),
        flags: flag::REQUEST | flag::NAME,
    }
}

#[test]
fn calls_of_grpc_are_read() {
    let hello = request("greeter.example", "POST", "/helloworld.Greeter/SayHello");
    let bye = request("greeter.example", "POST", "/helloworld.Greeter/SayBye");
    for (bytes, client) in [
        (
            include_bytes!("captures/grpc-core-1.85.bin").as_slice(),
            "C++",
        ),
        (include_bytes!("captures/grpc-go-1.85.bin"), "Go"),
    ] {
        let mut expected = vec![hello.clone(); 4];
        expected.push(bye.clone());
        assert_eq!(said(bytes), expected, "{client}");
    }
}

#[test]
fn a_request_of_curl_is_read() {
    let bytes = include_bytes!("captures/curl-7.88.bin");
    assert_eq!(said(bytes), [request("shop.example", "PUT", "/b")]);
}
