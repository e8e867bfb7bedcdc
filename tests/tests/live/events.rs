//! What the kernel tells about a decision: who, where, which rule, and how often when there was no room to tell.

use std::{
    io,
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use ebfw_common::abi::{Address, Counter, FlowEvent, hook, reason, verdict};
use ebfw_tests::{
    lab::{
        Lab,
        net::{v4, v6},
    },
    path::{self, MARK, extension, tcp},
};

use super::{ALL_BUT_3, BAD, GOOD, NOTHING, ONLY_2, at, code};

const NAME: &str = "the-suspect";

/// Gives the process a name that tests look for.
fn rename() -> io::Result<()> {
    std::fs::write("/proc/thread-self/comm", NAME)
}

fn comm(event: &FlowEvent) -> String {
    let text = event.comm.split(|byte| *byte == 0).next();
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

/// The only event with this verdict.
fn only(lab: &mut Lab, verdict: u8) -> FlowEvent {
    let events = lab.events();
    let mut found = events.iter().filter(|event| event.verdict == verdict);
    match (found.next(), found.next()) {
        (Some(event), None) => *event,
        _ => panic!("not one event with verdict {verdict}: {events:?}"),
    }
}

#[test]
fn a_refused_connect_names_process_destination_and_rule() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(
        "
defaultAction: Allow
rules:
- {name: nothing, action: Deny, match: {ports: [1]}}
- {name: forbidden, action: Deny, match: {cidrs: [10.99.0.3/32, 'fd99::3/128']}}
",
    );
    for to in [v4(BAD), v6(BAD)] {
        lab.events();
        let mut process = lab.start(move |line| {
            rename()?;
            let result = tcp::plain(at(to));
            line.step();
            result
        });
        process.reached();
        let event = only(&mut lab, verdict::DENY);
        assert_eq!(event.hook, hook::CONNECT);
        assert_eq!(event.pid, process.pid());
        assert_eq!(comm(&event), NAME);
        assert_eq!((event.reason, event.rule), (reason::RULE, 1));
        assert_eq!(event.destination, Address::from(to));
        assert_eq!((event.has_ports, event.destination_port), (1, 80));
        assert_eq!(event.protocol, 6);
        assert_eq!(event.cgroup_id, lab.cgroup_id());
        process.go();
        assert_eq!(code(&process.finish()), Some(libc::EPERM));
    }
}

#[test]
fn a_refused_datagram_is_told_by_its_call() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    lab.events();
    let result = lab.inside(|| {
        rename()?;
        UdpSocket::bind("0.0.0.0:0")?
            .send_to(MARK, at(v4(BAD)))
            .map(drop)
    });
    assert_eq!(code(&result), Some(libc::EPERM));
    let event = only(&mut lab, verdict::DENY);
    assert_eq!((event.hook, event.protocol), (hook::SENDMSG, 17));
    assert_eq!(event.reason, reason::DEFAULT);
    assert_eq!(comm(&event), NAME);
}

#[test]
fn an_allowed_flow_is_told_once_with_its_source_and_process() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ONLY_2);
    for to in [v4(GOOD), v6(GOOD)] {
        lab.events();
        let mut process = lab.start(move |line| {
            rename()?;
            let mut stream = TcpStream::connect(at(to))?;
            for _ in 0..10 {
                io::Write::write_all(&mut stream, MARK)?;
                io::Read::read_exact(&mut stream, &mut [0; MARK.len()])?;
            }
            line.step();
            Ok(u64::from(stream.local_addr()?.port()))
        });
        process.reached();
        let event = only(&mut lab, verdict::ALLOW);
        assert_eq!(event.hook, hook::EGRESS);
        assert_eq!((event.reason, event.rule), (reason::RULE, 0));
        assert_eq!((event.pid, comm(&event)), (process.pid(), NAME.to_owned()));
        let own = if to.is_ipv4() { v4(1) } else { v6(1) };
        assert_eq!(event.source, Address::from(own));
        assert_eq!(event.destination, Address::from(to));
        process.go();
        let port = process.finish().unwrap();
        assert_eq!(u64::from(event.source_port), port);
    }
}

#[test]
fn a_source_route_is_told_as_such() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    lab.events();
    let (_, way) = extension::V4_DETOURS[0];
    assert!(lab.inside(move || way(at(v4(GOOD)))).is_err());
    let event = only(&mut lab, verdict::DENY);
    assert_eq!(
        (event.hook, event.reason),
        (hook::EGRESS, reason::SOURCE_ROUTE)
    );
}

#[test]
fn events_of_a_busy_workload_are_read_together() {
    const SEVERAL: usize = 100;
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(NOTHING);
    lab.events();
    let mut process = lab.start(|line| {
        for number in 0..=SEVERAL {
            let refused = path::udp::unconnected(([198, 18, 0, number as u8], 80).into());
            assert_eq!(code(&refused), Some(libc::EPERM));
            if number == 0 {
                line.step();
            }
        }
        line.step();
        Ok(())
    });
    process.reached();
    let start = Instant::now();
    assert_eq!(lab.next_events().len(), 1, "the first is read at once");
    process.go();
    process.reached();
    assert_eq!(lab.next_events().len(), SEVERAL);
    // Who waited meanwhile would be woken by each.
    let rest = Duration::from_millis(2);
    assert!(start.elapsed() >= rest, "read again too soon");
    process.go();
    process.finish().unwrap();
}

/// Calls of the flood.
const FLOOD: u64 = 1000;

#[test]
fn a_flood_is_told_in_a_few_events_that_add_up() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    lab.events();
    let suppressed = lab.count(Counter::EventSuppressed);
    let start = Instant::now();
    lab.inside(|| {
        for _ in 0..FLOOD {
            let socket = path::stream(at(v4(BAD)))?;
            let result = path::connect(&socket, at(v4(BAD)));
            assert_eq!(code(&result), Some(libc::EPERM));
        }
        Ok(())
    })
    .unwrap();
    // The first window may be almost over when the flood begins.
    let windows = start.elapsed().as_secs() + 2;
    let events = lab.events();
    let written = events.len() as u64;
    assert!(written <= windows * 10, "{written} events in {windows} s");
    let told: u64 = events
        .iter()
        .map(|event| 1 + u64::from(event.suppressed))
        .sum();
    let left: u64 = lab
        .left_out()
        .into_iter()
        .filter(|(key, _)| key.verdict == verdict::DENY && key.destination == v4(BAD).into())
        .map(|(_, count)| count)
        .sum();
    assert_eq!(told + left, FLOOD, "{written} events");
    let suppressed = lab.count(Counter::EventSuppressed) - suppressed;
    assert_eq!(written + suppressed, FLOOD);
}

#[test]
fn a_flood_of_one_workload_does_not_silence_another_destination() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    lab.events();
    lab.inside(|| {
        for _ in 0..100 {
            let _ = tcp::plain(at(v4(BAD)));
        }
        let _ = tcp::plain(at(v6(BAD)));
        Ok(())
    })
    .unwrap();
    let events = lab.events();
    let other = events
        .iter()
        .filter(|event| event.destination == Address::from(v6(BAD)));
    assert_eq!(other.count(), 1);
}
