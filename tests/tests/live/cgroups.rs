//! Which workload a socket belongs to: nested cgroups, siblings, cgroups that nobody has looked at yet, sockets that change hands.

use std::{
    fs,
    io::{self, Write as _},
    net::{TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use ebfw_common::abi::Counter;
use ebfw_tests::{
    lab::{
        Lab, cgroup_id, eventually,
        net::{v4, v6},
    },
    path::{MARK, tcp, udp},
};

use super::{ALL_BUT_3, BAD, GOOD, ONLY_2, at, code};

const EPERM: Option<i32> = Some(libc::EPERM);

#[test]
fn a_process_does_not_leave_its_workload_by_nesting() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ONLY_2);
    let inner = lab.nested("inner");
    // Deeper than the kernel programs look for the cgroup itself.
    let deep = (0..20).fold("inner".to_owned(), |path, level| {
        let path = format!("{path}/{level}");
        let _ = lab.nested(&path);
        path
    });
    let innermost = lab.directory().join(deep);
    for directory in [inner, innermost] {
        for (to, expected) in [(v4(GOOD), None), (v4(BAD), EPERM), (v6(BAD), EPERM)] {
            lab.wire().clear();
            let procs = directory.join("cgroup.procs");
            let result = lab.inside(|| {
                fs::write(procs, "0")?;
                tcp::plain(at(to))
            });
            assert_eq!(code(&result), expected, "{to}: {result:?}");
            assert_eq!(lab.wire().to(to).is_empty(), expected.is_some(), "{to}");
        }
    }
}

#[test]
fn a_socket_stays_with_the_workload_when_its_process_moves_out() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ONLY_2);
    let outside = lab.directory().parent().unwrap().join("cgroup.procs");
    for (to, expected) in [(v4(GOOD), None), (v4(BAD), EPERM)] {
        let outside = outside.clone();
        let result = lab.inside(|| {
            let datagrams = UdpSocket::bind("0.0.0.0:0")?;
            fs::write(outside, "0")?;
            datagrams.send_to(MARK, at(to)).map(drop)
        });
        assert_eq!(code(&result), expected, "{to}: {result:?}");
    }
    // What it makes out there is not the workload's any more.
    let result = lab.inside(|| {
        fs::write(outside, "0")?;
        udp::unconnected(at(v6(BAD)))
    });
    assert!(result.is_ok(), "{result:?}");
    assert!(lab.wire().to(v4(BAD)).is_empty());
    assert_eq!(lab.wire().to(v6(BAD)).len(), 1);
}

#[test]
fn siblings_have_rules_of_their_own() {
    let Some(mut lab) = Lab::open() else { return };
    let (first, second) = (lab.nested("first"), lab.nested("second"));
    let path = lab.path();
    lab.policy(&format!(
        "
defaultAction: Deny
rules:
- {{name: first, action: Allow, match: {{cgroups: ['{path}/first'], cidrs: [10.99.0.2/32]}}}}
- {{name: second, action: Allow, match: {{cgroups: ['{path}/second'], cidrs: [10.99.0.3/32]}}}}
"
    ));
    for (directory, number, expected) in [
        (&first, 2, None),
        (&first, 3, EPERM),
        (&second, 2, EPERM),
        (&second, 3, None),
    ] {
        lab.wire().clear();
        let to = at(v4(number));
        let process = lab.start_in(Some(directory), move |_| tcp::plain(to));
        let result = process.finish();
        assert_eq!(code(&result), expected, "{directory:?} to {to}: {result:?}");
        let arrived = lab.wire().to(to.ip());
        assert_eq!(arrived.is_empty(), expected.is_some(), "{directory:?}");
    }
    for number in [2, 3] {
        let result = lab.inside(move || tcp::plain(at(v4(number))));
        assert_eq!(code(&result), EPERM, "the cgroup above has neither rule");
    }
}

/// Below the workload there may be cgroups with rules of their own, so a new one is nobody's until the agent has looked.
fn with_rules_below(lab: &Lab) -> String {
    let path = lab.path();
    format!(
        "
defaultAction: Deny
rules:
- {{name: late, action: Allow, match: {{cgroups: ['{path}/late*'], cidrs: [10.99.0.2/32]}}}}
"
    )
}

#[test]
fn a_new_cgroup_loses_its_packets_until_it_is_classified_then_connects() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(&with_rules_below(&lab));
    let late = lab.nested("late");
    let dropped = lab.count(Counter::PendingDropped);
    let mut process = lab.start_in(Some(&late), |line| {
        let lost = udp::unconnected(at(v4(GOOD)));
        line.step();
        lost.and(tcp::plain(at(v4(GOOD))))
    });
    process.reached();
    process.go();
    eventually("the kernel asks whose it is", || {
        lab.asked_to_classify(cgroup_id(&late))
    });
    eventually("the first packet of the connection is lost", || {
        lab.count(Counter::PendingDropped) >= dropped + 2
    });
    assert!(lab.wire().to(v4(GOOD)).is_empty(), "nothing may leave yet");
    assert!(!process.is_heard(), "the process waits");
    lab.classify();
    let result = process.finish();
    assert!(result.is_ok(), "late, but it connects: {result:?}");
    let arrived = lab.wire().to(v4(GOOD));
    assert!(arrived.iter().any(|frame| frame.carries(MARK)));
}

#[test]
fn a_new_cgroup_is_denied_what_its_rules_deny() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(&with_rules_below(&lab));
    let late = lab.nested("late");
    let process = lab.start_in(Some(&late), |_| tcp::plain(at(v4(BAD))));
    eventually("the kernel asks whose it is", || {
        lab.asked_to_classify(cgroup_id(&late))
    });
    lab.classify();
    eventually("the connection ends", || {
        lab.tend();
        process.is_heard()
    });
    let result = process.finish();
    assert_eq!(code(&result), Some(libc::ECONNABORTED), "{result:?}");
    assert!(lab.wire().to(v4(BAD)).is_empty());
    let process = lab.start_in(Some(&late), |_| tcp::plain(at(v4(BAD))));
    assert_eq!(
        code(&process.finish()),
        EPERM,
        "the next is refused at once"
    );
}

#[test]
fn a_socket_handed_out_of_the_workload_counts_for_the_workload() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    let mut maker = lab.start(|line| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        line.send(&socket)
    });
    let socket: OwnedFd = taken(&mut maker);
    maker.finish().unwrap();
    let socket = UdpSocket::from(socket);
    assert_eq!(code(&socket.send_to(MARK, at(v4(BAD)))), EPERM);
    socket.send_to(MARK, at(v4(GOOD))).unwrap();
    assert!(lab.wire().to(v4(BAD)).is_empty());
    assert_eq!(lab.wire().to(v4(GOOD)).len(), 1);
}

#[test]
fn a_connection_handed_out_of_the_workload_counts_for_the_workload() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(super::ALL);
    // Its maker stays, without the socket: a namespace without any process could not be found.
    let mut maker = lab.start(|line| {
        line.send(&TcpStream::connect(at(v4(BAD)))?)?;
        line.step();
        Ok(())
    });
    let mut stream: TcpStream = taken(&mut maker);
    maker.reached();
    lab.policy(ALL_BUT_3);
    lab.wire().clear();
    stream.write_all(MARK).unwrap();
    eventually("the connection is cut", || lab.tend() > 0);
    assert_eq!(code(&stream.write_all(MARK)), Some(libc::ECONNABORTED));
    assert!(
        lab.wire()
            .to(v4(BAD))
            .iter()
            .all(|frame| !frame.carries(MARK))
    );
}

#[test]
fn a_socket_handed_into_the_workload_counts_for_its_maker() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL_BUT_3);
    let socket = lab.net().near.enter(|| UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.unwrap().unwrap();
    let mut user = lab.start(|line| {
        let socket: UdpSocket = line.receive::<OwnedFd>()?.into();
        socket.send_to(MARK, at(v4(BAD))).map(drop)
    });
    user.line().send(&socket).unwrap();
    user.finish().unwrap();
    assert_eq!(lab.wire().to(v4(BAD)).len(), 1);
}

/// The socket that a process hands over.
fn taken<S: From<OwnedFd>>(process: &mut ebfw_tests::lab::process::Process<()>) -> S {
    process
        .line()
        .receive()
        .unwrap_or_else(|error: io::Error| panic!("no socket: {error}"))
}
