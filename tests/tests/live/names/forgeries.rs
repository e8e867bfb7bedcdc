//! Answers that must not count, beyond those of the parent: other sockets, other processes, too late, cut off.

use std::{
    io,
    net::{SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use ebfw_common::{abi::Counter, dns::ANSWER_NS};
use ebfw_tests::{
    lab::{
        Lab,
        net::{v4, v6},
        resolver::{A, AAAA, DNS, answer, asking, question, wire},
    },
    path,
};

use super::{GOOD_NAMES, RESOLVER, at, code, honest, tcp};

const ANY_NAME: &str =
    "defaultAction: Deny\nrules:\n- {name: any, action: Allow, match: {domains: ['*']}}\n";
const EPERM: Option<i32> = Some(libc::EPERM);

/// Whether peer `last` is out of reach.
fn is_closed(lab: &Lab, last: u8) -> bool {
    code(&lab.inside(move || tcp(at(v4(last))))) == EPERM
}

#[test]
fn an_answer_to_another_socket_teaches_nothing() {
    let Some(mut lab) = Lab::open() else { return };
    // Whoever asks for `relay` gets the answer to what the other socket asked.
    lab.resolver(|asked| {
        let name = asked.queries[0].name().to_ascii();
        if name.starts_with("relay") {
            let id = asked.metadata.id;
            vec![wire(&answer(&question(id, "2.good.example", A), &[v4(2)]))]
        } else {
            vec![]
        }
    });
    lab.policy(ANY_NAME);
    let unasked = lab.count(Counter::NameUnasked);
    lab.inside(|| {
        let (first, second) = (asking(v4(RESOLVER))?, asking(v4(RESOLVER))?);
        first.send(&wire(&question(7, "2.good.example", A)))?;
        second.send(&wire(&question(7, "relay.good.example", A)))?;
        second.recv(&mut [0; 512]).map(drop)
    })
    .unwrap();
    assert_eq!(lab.count(Counter::NameUnasked), unasked + 1);
    assert!(is_closed(&lab, 2));
}

#[test]
fn an_answer_that_comes_too_late_teaches_nothing() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        // Its lateness is what the test is about.
        std::thread::sleep(Duration::from_nanos(ANSWER_NS) + Duration::from_millis(200));
        honest(asked)
    });
    lab.policy(ANY_NAME);
    let unasked = lab.count(Counter::NameUnasked);
    lab.inside(|| {
        let socket = asking(v4(RESOLVER))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.send(&wire(&question(7, "2.good.example", A)))?;
        socket.recv(&mut [0; 512]).map(drop)
    })
    .unwrap();
    assert_eq!(lab.count(Counter::NameUnasked), unasked + 1);
    assert!(is_closed(&lab, 2));
}

#[test]
fn another_process_cannot_inject_an_answer() {
    let Some(mut lab) = Lab::open() else { return };
    // The resolver never answers: all that comes is forged.
    lab.resolver(|_| vec![]);
    lab.policy(ANY_NAME);
    let mut victim = lab.start(|line| {
        let socket = asking(v6(RESOLVER))?;
        socket.send(&wire(&question(7, "2.good.example", AAAA)))?;
        line.send(&socket)?;
        line.step();
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.recv(&mut [0; 512]).map(drop)
    });
    let socket: UdpSocket = victim.line().receive().unwrap();
    let to = socket.local_addr().unwrap();
    victim.reached();
    // Beside the workload and under no policy, from the resolver's own address.
    let forger = lab.start_in(None, move |_| {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, socket};
        let forger = socket(
            AddressFamily::Inet6,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let on = 1i32.to_ne_bytes();
        path::set(&forger, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &on)?;
        let from = SocketAddrV6::new("fd99::9".parse().map_err(io::Error::other)?, DNS, 0, 0);
        bind(forger.as_raw_fd(), &SockaddrIn6::from(from))?;
        let asked = question(7, "2.good.example", AAAA);
        UdpSocket::from(forger).send_to(&wire(&answer(&asked, &[v6(2)])), to)?;
        Ok(())
    });
    forger.finish().unwrap();
    victim.go();
    victim.finish().expect("the forged answer arrives");
    let result = lab.inside(|| tcp(at(v6(2))));
    assert_eq!(code(&result), EPERM);
}

#[test]
fn an_answer_that_is_cut_off_teaches_what_is_left_and_answers_its_question() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let name = asked.queries[0].name().to_ascii();
        let mut message = answer(asked, &[v4(2), v4(3)]);
        message.metadata.truncation = true;
        let mut bytes = wire(&message);
        if name.starts_with("middle") {
            // Servers that count bytes and not records.
            bytes.truncate(bytes.len() - 3);
        }
        let mut second = answer(asked, &[v4(4)]);
        second.metadata.truncation = true;
        vec![bytes, wire(&second)]
    });
    for (name, opens, why) in [
        ("whole.good.example", &[2, 3][..], "between records"),
        ("middle.good.example", &[2], "in the midst of one"),
        ("whole.evil.example", &[], "another name"),
    ] {
        lab.policy(GOOD_NAMES);
        lab.outdate_names();
        // As musl before 1.2.4: no second question, and none over TCP.
        lab.inside(move || {
            let socket = asking(v4(RESOLVER))?;
            socket.send(&wire(&question(7, name, A)))?;
            (0..2).try_for_each(|_| socket.recv(&mut [0; 512]).map(drop))
        })
        .unwrap();
        for peer in [2, 3, 4] {
            assert_eq!(
                is_closed(&lab, peer),
                !opens.contains(&peer),
                "{why}: peer {peer}"
            );
        }
    }
}
