//! A short soak; `cargo xtask bench soak --seconds 3600` is the long one.

use std::{path::Path, process::Command};

use super::server::program;

#[test]
fn processes_come_and_go_while_their_library_is_replaced() {
    const SOAK: &str = env!("CARGO_BIN_EXE_bench-soak");
    if !ebfw_test_need::root()
        || program("openssl").is_none()
        || ebfw_tests::tls::library().is_none()
    {
        return;
    }
    // Virtual machines get the tests without the programs beside them.
    if !Path::new(SOAK).exists() {
        return ebfw_test_need::not_run("the soak: its program is not here");
    }
    let soak = Command::new(SOAK)
        .args(["--seconds", "20", "--processes", "60"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&soak.stdout);
    assert!(
        soak.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&soak.stderr)
    );
    eprintln!("{said}");
}
