//! Denied requests of NSS: libcurl as it is built with that library, from Python.

use super::{
    Bench,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::program,
};

/// Times that it tries.
const TRIES: usize = 10;

/// Asks for the paths that it is told, one after the other, on one connection; its first argument is the number of a version of HTTP.
const CLIENT: &str = r"
import ctypes, sys
curl = ctypes.CDLL('/usr/lib/x86_64-linux-gnu/libcurl-nss.so.4')
pointer, long = ctypes.c_void_p, ctypes.c_long
curl.curl_easy_init.restype = pointer
curl.curl_version.restype = ctypes.c_char_p
assert b'NSS' in curl.curl_version(), curl.curl_version()
# As curl.h numbers them.
URL, WRITE, VERSION, PEER, HOST, TIMEOUT = 10002, 20011, 84, 64, 81, 13
kept = ctypes.CFUNCTYPE(ctypes.c_size_t, pointer, ctypes.c_size_t, ctypes.c_size_t, pointer)(lambda data, size, count, own: size * count)
handle = pointer(curl.curl_easy_init())
def option(number, value):
    assert curl.curl_easy_setopt(handle, ctypes.c_int(number), value) == 0
option(WRITE, kept)
for number, value in ((VERSION, int(sys.argv[1])), (PEER, 0), (HOST, 0), (TIMEOUT, 5)):
    option(number, long(value))
for path in sys.argv[2:]:
    option(URL, ('https://10.99.0.2:8443' + path).encode())
    print(curl.curl_easy_perform(handle))
";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libcurl-nss.so.4";
/// `CURL_HTTP_VERSION_1_1` and `CURL_HTTP_VERSION_2TLS`.
const VERSIONS: [(&str, super::server::Program); 2] = [("2", NOTES), ("4", NOTES_HTTP2)];

#[test]
fn nss_never_gets_a_denied_request_out() {
    let Some(python) = program("python3") else {
        return;
    };
    let is_there = std::fs::exists(LIBRARY).unwrap_or(false);
    if !ebfw_test_need::met(is_there, LIBRARY) {
        return;
    }
    for (version, server) in VERSIONS {
        let Some(bench) = Bench::noting(server, POLICY, &[]) else {
            return;
        };
        let arguments = ["-c", CLIENT, version];
        let ask = bench.asking(&python, &arguments);
        bench.meet("/met", |_| ask(&["/met"]));
        for _ in 0..TRIES {
            ask(&["/admin/nss"]);
            ask(&["/before", "/between", "/admin/nss"]);
        }
        ask(&["/nss"]);
        bench.holds(version, &["/before ", "/between ", "/nss "]);
    }
}
