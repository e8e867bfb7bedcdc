//! Says what was not as it should be. The servers are the witnesses: what they never saw did not leave.

use std::net::SocketAddrV4;

/// What curl says when it could not connect.
const CURL_COULD_NOT_CONNECT: i32 = 7;

/// Everything that the acts left, the allowed server before the denied one.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// curl's exit status without a policy.
    pub(super) free: [Option<i32>; 2],
    /// curl's exit status under the agent.
    pub(super) governed: [Option<i32>; 2],
    /// The exit status of `ebfw exec`, whose curl calls the denied server last.
    pub(super) executed: Option<i32>,
    /// Connections that the servers accepted under a policy.
    pub(super) connections: [usize; 2],
    /// What the agent wrote.
    pub(super) events: Vec<String>,
}

/// One line for each thing that is wrong.
pub(super) fn complaints(
    observed: &Observed,
    allowed: SocketAddrV4,
    denied: SocketAddrV4,
) -> Vec<String> {
    let Observed {
        free,
        governed,
        executed,
        connections,
        events,
    } = observed;
    let has_event = |server: SocketAddrV4, action: &str| {
        let words = [
            "CONNECT ".to_owned(),
            format!("-> {server} "),
            format!("action={action} "),
        ];
        events
            .iter()
            .any(|event| words.iter().all(|word| event.contains(word)))
    };
    let checks = [
        (
            *free == [Some(0); 2],
            "without a policy a server could not be reached",
        ),
        (
            governed[0] == Some(0),
            "under the agent the allowed server could not be reached",
        ),
        (
            governed[1] == Some(CURL_COULD_NOT_CONNECT),
            "under the agent curl was not refused the denied server",
        ),
        (
            *executed == Some(CURL_COULD_NOT_CONNECT),
            "under ebfw exec curl was not refused the denied server, or its status was lost",
        ),
        (
            connections[0] == 2,
            "the allowed server did not see one connection under the agent and one under ebfw exec",
        ),
        (connections[1] == 0, "the denied server saw a connection"),
        (
            has_event(allowed, "Allow"),
            "there is no event of the allowed connection",
        ),
        (
            has_event(denied, "Deny"),
            "there is no event of the denied connection",
        ),
    ];
    checks
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, complaint)| format!("{complaint}: {observed:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: SocketAddrV4 =
        SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 10), 8080);
    const DENIED: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 20), 8080);

    fn good() -> Observed {
        Observed {
            free: [Some(0); 2],
            governed: [Some(0), Some(7)],
            executed: Some(7),
            connections: [2, 0],
            events: vec![
                "CONNECT  198.51.100.2 -> 198.51.100.10:8080  action=Allow rule=first".into(),
                "CONNECT  0.0.0.0 -> 198.51.100.20:8080  action=Deny rule=(default)".into(),
            ],
        }
    }

    #[test]
    fn nothing_is_said_against_a_demo_that_went_well() {
        assert_eq!(complaints(&good(), ALLOWED, DENIED), Vec::<&str>::new());
    }

    #[test]
    fn each_thing_that_goes_wrong_is_one_complaint() {
        type Change = fn(&mut Observed);
        let cases: [(Change, &str); 8] = [
            (|o| o.free[1] = Some(7), "the denied server was never up"),
            (
                |o| o.governed[0] = Some(7),
                "the allowed server is refused too",
            ),
            (
                |o| o.governed[1] = Some(28),
                "the denied server times out instead of being refused",
            ),
            (|o| o.executed = None, "ebfw exec was killed"),
            (|o| o.connections[0] = 1, "a connection is missing"),
            (|o| o.connections[1] = 1, "a connection leaked"),
            (|o| drop(o.events.remove(0)), "an event is missing"),
            (
                |o| o.events[1] = o.events[1].replace("Deny", "Allow"),
                "an event lies",
            ),
        ];
        for (change, why) in cases {
            let mut observed = good();
            change(&mut observed);
            assert_eq!(complaints(&observed, ALLOWED, DENIED).len(), 1, "{why}");
        }
    }
}
