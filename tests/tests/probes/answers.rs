//! The status of answers, as real clients read them.

use super::{Bench, clients::url, server::program};

const ON: [(&str, &str); 1] = [("EBFW_INSPECT_RESPONSES", "true")];

#[test]
fn each_request_has_its_status() {
    const PYTHON: &str = "
import ssl, sys, urllib.request, urllib.error
context = ssl._create_unverified_context()
for path in ('/python/200', '/python/404'):
    try:
        urllib.request.urlopen(sys.argv[1] + path, context=context).read()
    except urllib.error.HTTPError as error:
        error.read()
";
    let Some(bench) = Bench::open_with(&ON) else {
        return;
    };
    let (Some(curl), Some(python)) = (program("curl"), program("python3")) else {
        return;
    };
    for version in ["--http1.1", "--http2"] {
        // Several on one connection, one of them with a body that is longer than what a read brings.
        let paths = ["200", "404", "long", "503"].map(|what| format!("/{what}{version}/{what}"));
        let urls = paths.each_ref().map(|path| url(path));
        let mut arguments = vec!["-sk", version];
        arguments.extend(
            urls.iter()
                .flat_map(|url| ["-o", "/dev/null", url.as_str()]),
        );
        bench.run(&curl, &arguments);
        for (path, status) in paths.iter().zip([200, 404, 200, 503]) {
            let path = format!("\"path\":\"{path}\"");
            bench.expect(2, &[&path, "\"comm\":\"curl\""]);
            bench.expect(1, &[&path, &format!("\"status\":{status}")]);
        }
    }
    bench.run(&python, &["-c", PYTHON, &url("")]);
    for status in [200, 404] {
        let path = format!("\"path\":\"/python/{status}\"");
        bench.expect(2, &[&path]);
        bench.expect(
            1,
            &[&path, &format!("\"status\":{status}"), "\"method\":\"GET\""],
        );
    }
}

#[test]
fn nobody_is_told_who_did_not_ask() {
    let Some(bench) = Bench::open() else { return };
    let Some(curl) = program("curl") else { return };
    for path in ["/quiet", "/after"] {
        bench.run(&curl, &["-sk", "-o", "/dev/null", &url(path)]);
        bench.expect(1, &[&format!("\"path\":\"{path}\"")]);
    }
    assert!(bench.seen(&["\"status\""]).is_empty());
}
