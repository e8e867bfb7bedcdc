//! What the agent says of itself.

use std::process::Output;

use ebfw_tests::lab::{agent::Home, eventually};

use super::{Bench, clients::url, server::program};

fn ask(home: &Home, form: &str) -> Output {
    home.command(&["status", "--output", form])
        .output()
        .expect("ebfw starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn status_says_what_is_seen_and_whether_an_agent_runs() {
    let Some(bench) = Bench::open() else { return };
    let Some(curl) = program("curl") else { return };
    let path = bench.lab.path();
    let row = |table: &str| {
        let mut lines = table.lines().map(str::to_owned);
        lines
            .find(|line| line.starts_with(&path))
            .unwrap_or_default()
    };
    let before = ask(&bench.home, "table");
    let table = text(&before.stdout);
    assert!(before.status.success(), "{}", text(&before.stderr));
    assert!(row(&table).contains(" opaque "), "{table}");
    for part in [
        "mode      enforce",
        "ebfw_egress",
        "policy    policy file",
        "openssl",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    bench.run(&curl, &["-sk", &url("/seen")]);
    bench.expect(1, &["/seen"]);
    eventually("the request is counted", || {
        row(&text(&ask(&bench.home, "table").stdout))
            .ends_with("enforced  1         0       0       0     0")
    });
    let json = text(&ask(&bench.home, "json").stdout);
    for part in [
        "\"running\": true",
        "\"mode\": \"enforce\"",
        "\"standing\": \"governed\"",
        "\"tls\": \"enforced\"",
        "\"tls_requests\": 1",
    ] {
        assert!(json.contains(part), "{part} in {json}");
    }
    let Bench { agent, home, .. } = bench;
    agent.kill();
    let silent = ask(&home, "json");
    assert_eq!(silent.status.code(), Some(4));
    assert!(text(&silent.stdout).contains("\"running\": false"));
    assert!(
        text(&silent.stderr).contains("stays in force"),
        "{}",
        text(&silent.stderr)
    );
}
