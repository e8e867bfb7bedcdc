//! Requests inside TLS as real programs make them: OpenSSL, GnuTLS, Go, Node.js with an OpenSSL of its own. Needs root.
//! Each program that this machine lacks is said aloud.

mod answers;
mod bodies;
mod boringssl;
mod clients;
mod contained;
mod denied;
mod denied_clients;
mod evasions;
mod frames;
mod grpc;
mod java;
mod linked;
mod nss;
mod refused;
mod replaced;
mod server;
mod soak;
mod status;
mod unusual;
mod ways;

use std::{
    path::Path,
    process::{Child, Stdio},
};

use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home, PROBES},
};

/// Governed, and everything is allowed.
const ALL: &str = "defaultAction: Allow\nrules: []\n";

/// A lab with a server at the far end, and an agent that looks inside TLS.
struct Bench {
    agent: Agent,
    home: Home,
    server: server::Server,
    lab: Lab,
}

/// The same before the agent comes.
struct Unwatched {
    server: server::Server,
    lab: Lab,
}

impl Bench {
    /// Opens it; `None`, said aloud, where this machine cannot.
    fn open() -> Option<Self> {
        Self::open_with(&[])
    }

    /// The same with more settings of the agent.
    fn open_with(settings: &[(&str, &str)]) -> Option<Self> {
        Self::open_under(ALL, settings)
    }

    /// The same under a policy.
    fn open_under(policy: &str, settings: &[(&str, &str)]) -> Option<Self> {
        Some(Self::prepare(server::ANSWERS)?.watch_under(policy, settings))
    }

    /// Opens all but the agent.
    fn prepare(program: server::Program) -> Option<Unwatched> {
        let lab = Lab::open()?;
        let server = server::Server::start(&lab, program)?;
        Some(Unwatched { server, lab })
    }

    /// Starts a program in the workload.
    fn spawn(&self, program: &Path, arguments: &[&str]) -> Child {
        spawn(&self.lab, program, arguments)
    }
}

impl Unwatched {
    /// Starts the agent.
    fn watch(self) -> Bench {
        self.watch_under(ALL, &[])
    }

    /// The same under a policy, with more settings.
    fn watch_under(self, policy: &str, settings: &[(&str, &str)]) -> Bench {
        let Self { server, lab } = self;
        let home = Home::new();
        home.write_policy(policy);
        // The lab's addresses are private ones, whose flows events leave out by default.
        let config = home.write_config("exclude: {cidrs: []}\n");
        let own = [PROBES, ("EBFW_CONFIG", &config[..])];
        let settings = [&own, settings].concat();
        let agent = Agent::start_with(&home, &lab, &settings);
        agent.log.wait_for(&["requests inside TLS are observed by"]);
        Bench {
            agent,
            home,
            server,
            lab,
        }
    }

    /// As [`Bench::spawn`].
    fn spawn(&self, program: &Path, arguments: &[&str]) -> Child {
        spawn(&self.lab, program, arguments)
    }
}

/// Starts a program in the workload's cgroup and namespace.
fn spawn(lab: &Lab, program: &Path, arguments: &[&str]) -> Child {
    let mut command = lab.command(program);
    command.args(arguments).stdin(Stdio::null());
    let start = || command.spawn();
    let child = lab.net().near.enter(start).expect("the namespace exists");
    child.expect("the shell starts")
}
