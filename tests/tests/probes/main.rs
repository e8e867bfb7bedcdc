//! Requests inside TLS as real programs make them: OpenSSL, GnuTLS, Go, Node.js with an OpenSSL of its own. Needs root.
//! Each program that this machine lacks is said aloud.

mod clients;
mod server;

use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home},
};

/// Governed, and everything is allowed.
const ALL: &str = "defaultAction: Allow\nrules: []\n";

/// A lab with an agent that looks inside TLS, and a server at the far end; `None`, said aloud, where this machine cannot.
struct Bench {
    agent: Agent,
    _home: Home,
    server: server::Server,
    lab: Lab,
}

impl Bench {
    fn open() -> Option<Self> {
        let lab = Lab::open()?;
        let server = server::Server::start(&lab)?;
        let home = Home::new();
        home.write_policy(ALL);
        let agent = Agent::start(&home, &lab);
        agent.log.wait_for(&["requests inside TLS are observed"]);
        Some(Self {
            agent,
            _home: home,
            server,
            lab,
        })
    }
}
