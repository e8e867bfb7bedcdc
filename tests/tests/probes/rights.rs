//! What an agent with fewer capabilities says of what it does not see.

use std::thread;

use caps::{CapSet, Capability};

use super::{Bench, clients::url, server::program};

#[test]
fn an_agent_that_may_not_look_into_processes_says_so() {
    let Some(unwatched) = Bench::prepare(super::server::ANSWERS) else {
        return;
    };
    let Some(curl) = program("curl") else { return };
    let watch = || {
        // The bounding set belongs to the thread and is inherited by what it starts.
        caps::drop(None, CapSet::Bounding, Capability::CAP_SYS_PTRACE).unwrap();
        unwatched.watch()
    };
    let bench = thread::scope(|scope| scope.spawn(watch).join()).unwrap();
    let want = "not all requests inside TLS are seen";
    bench.run(&curl, &["-sk", &url("/seen")]);
    // The host's own libraries need no look into anybody.
    bench.expect(1, &["/seen"]);
    let line = bench.agent.log.wait_for(&[want]);
    assert!(line.contains("CAP_SYS_PTRACE"), "{line}");
    let said = |log: Vec<String>| log.iter().filter(|line| line.contains(want)).count();
    bench.run(&curl, &["-sk", &url("/again")]);
    bench.expect(1, &["/again"]);
    assert_eq!(said(bench.agent.log.so_far()), 1, "once");
    drop(bench);
    let Some(bench) = Bench::open() else { return };
    bench.run(&curl, &["-sk", &url("/seen")]);
    bench.expect(1, &["/seen"]);
    assert_eq!(said(bench.agent.log.so_far()), 0, "nothing is missing");
}
