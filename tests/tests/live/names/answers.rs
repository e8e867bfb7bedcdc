//! Answers that the programs cannot read alone: the agent reads them, and until it has, they count as lost.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, TcpStream},
    time::{Duration, Instant},
};

use ebfw_common::abi::{Counter, NameEvent, name_outcome};
use ebfw_tests::lab::{
    Lab, eventually,
    net::v4,
    process::{Answer, Process},
    resolver::{A, AAAA, DNS, answer, asking, framed, question, read_framed, wire},
};
use hickory_proto::op::Message;

use super::{GOOD_NAMES, RESOLVER, at, code, datagram, tcp};

const ANY_NAME: &str =
    "defaultAction: Deny\nrules:\n- {name: any, action: Allow, match: {domains: ['*']}}\n";

/// Asks over TCP, all questions in one write, and waits for as many answers.
fn ask_at_once(questions: &[Message]) -> io::Result<()> {
    let mut stream =
        TcpStream::connect_timeout(&(v4(RESOLVER), DNS).into(), Duration::from_secs(9))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let asked: Vec<u8> = questions
        .iter()
        .flat_map(|one| framed(&wire(one)))
        .collect();
    stream.write_all(&asked)?;
    questions
        .iter()
        .try_for_each(|_| read_framed(&mut stream).map(drop))
}

/// Reads answers as the agent does until `process` has ended; what was told of them.
fn serve<T: Answer>(lab: &mut Lab, process: Process<T>) -> (io::Result<T>, Vec<NameEvent>) {
    let mut told = Vec::new();
    eventually("the process ends", || {
        told.extend(lab.read_answers());
        process.is_heard()
    });
    (process.finish(), told)
}

fn outcomes(told: &[NameEvent]) -> Vec<u8> {
    told.iter().map(|event| event.outcome).collect()
}

/// fd99::2, fd99::3, and so on: `count` addresses, far beyond those that exist.
fn many(count: u16) -> Vec<IpAddr> {
    (0..count)
        .map(|number| Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number + 2).into())
        .collect()
}

#[test]
fn an_answer_over_tcp_is_learned_however_it_is_split() {
    let message = |asked: &Message| framed(&wire(&answer(asked, &[v4(2)])));
    let length = message(&question(7, "2.good.example", A)).len();
    for cut in [1, 2, 3, 13, 20, length / 2, length - 1] {
        let Some(mut lab) = Lab::open() else { return };
        lab.stream_resolver(move |asked| {
            let bytes = message(&asked[0]);
            let (first, second) = bytes.split_at(cut);
            vec![first.to_vec(), second.to_vec()]
        });
        lab.policy(GOOD_NAMES);
        let process = lab.start(|_| {
            ask_at_once(&[question(7, "2.good.example", A)])?;
            tcp(at(v4(2)))
        });
        let (result, told) = serve(&mut lab, process);
        assert_eq!(outcomes(&told), [name_outcome::LEARNED], "cut at {cut}");
        assert!(result.is_ok(), "cut at {cut}: {result:?}");
    }
}

#[test]
fn a_long_answer_over_tcp_is_learned_to_its_end() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| vec![framed(&wire(&answer(&asked[0], &many(1500))))]);
    lab.policy(GOOD_NAMES);
    let process = lab.start(|_| {
        ask_at_once(&[question(7, "many.good.example", AAAA)])?;
        many(1500)
            .into_iter()
            .try_for_each(|address| datagram(at(address)))
    });
    let (result, told) = serve(&mut lab, process);
    assert_eq!(outcomes(&told), [name_outcome::LEARNED]);
    assert_eq!(told[0].learned, 1500);
    assert!(result.is_ok(), "{result:?}");
    assert!(
        lab.metrics()
            .contains("ebfw_answers_read_total{result=\"learned\"}")
    );
}

#[test]
fn questions_at_once_are_both_answered() {
    // In one segment, in two, and in one with half of the next.
    for cut in [0, 30, 1000] {
        let Some(mut lab) = Lab::open() else { return };
        lab.stream_resolver(move |asked| {
            let bytes: Vec<u8> = asked
                .iter()
                .flat_map(|one| framed(&wire(&answer(one, &[v4(2), super::v6(2)]))))
                .collect();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            vec![first.to_vec(), second.to_vec()]
        });
        lab.policy(GOOD_NAMES);
        let process = lab.start(|_| {
            ask_at_once(&[
                question(7, "2.good.example", A),
                question(8, "2.good.example", AAAA),
            ])?;
            tcp(at(v4(2)))?;
            tcp(at(super::v6(2)))
        });
        let (result, told) = serve(&mut lab, process);
        assert!(result.is_ok(), "cut at {cut}: {result:?}");
        assert_eq!(outcomes(&told), [name_outcome::LEARNED; 2]);
    }
}

#[test]
fn a_question_whose_length_is_sent_before_it_counts() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| vec![wire(&answer(asked, &[v4(2)]))]);
    // The id stands where the length would; some are lengths that fit.
    for (id, name, expected) in [
        (7, "2.good.example", None),
        (0x2f31, "2.good.example", None),
        (0x0100, "2.good.example", None),
        (8, "2.evil.example", Some(libc::EPERM)),
    ] {
        lab.policy(GOOD_NAMES);
        lab.outdate_names();
        let process = lab.start(move |_| {
            let mut stream =
                TcpStream::connect_timeout(&(v4(RESOLVER), DNS).into(), Duration::from_secs(9))?;
            stream.set_nodelay(true)?;
            let asked = framed(&wire(&question(id, name, A)));
            let (length, message) = asked.split_at(2);
            stream.write_all(length)?;
            stream.write_all(message)?;
            read_framed(&mut stream)?;
            tcp(at(v4(2)))
        });
        let (result, _) = serve(&mut lab, process);
        assert_eq!(code(&result), expected, "{id:#x} {name}: {result:?}");
    }
}

/// As many questions of one packet are noted.
const AT_ONCE: u16 = 32;

#[test]
fn no_question_of_a_packet_is_lost_silently() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| {
        asked
            .iter()
            .map(|one| {
                let number = one.metadata.id;
                let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number);
                framed(&wire(&answer(one, &[address.into()])))
            })
            .collect()
    });
    lab.policy(GOOD_NAMES);
    let full = lab.count(Counter::NameFull);
    let process = lab.start(|_| {
        let questions: Vec<_> = (0..AT_ONCE + 1)
            .map(|id| question(id, &format!("n{id}.good.example"), AAAA))
            .collect();
        ask_at_once(&questions)?;
        let closed = (0..AT_ONCE + 1).filter(|number| {
            let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, *number);
            datagram((address, 443).into()).is_err()
        });
        Ok(closed.fold(0, |bits, number| bits << 16 | u64::from(number) | 1 << 15))
    });
    let (closed, _) = serve(&mut lab, process);
    assert_eq!(
        closed.unwrap(),
        u64::from(AT_ONCE) | 1 << 15,
        "only the one beyond"
    );
    assert_eq!(lab.count(Counter::NameFull) - full, 1);
    let told = lab.name_events();
    let asked = |event: &&NameEvent| event.outcome == name_outcome::FULL;
    let beyond: Vec<_> = told.iter().filter(asked).collect();
    assert!(
        matches!(beyond[..], [event] if event.question.starts_with(b"\x03n32\x04good")),
        "{beyond:?}"
    );
}

#[test]
fn an_answer_of_many_labels_over_tcp_is_learned_to_its_end() {
    // In one segment, with more labels than the programs walk over: no owner is a pointer, as simple servers send them.
    let Some(mut lab) = Lab::open() else { return };
    let name = "l.".repeat(20) + "good.example";
    lab.stream_resolver(|asked| {
        let mut message = wire(&answer(&asked[0], &[]));
        let count = 40u8;
        let owner = &message[12..message.len() - 4].to_vec();
        message[3] = 0;
        message[7] = count;
        for last in 0..count {
            message.extend(
                [
                    owner,
                    &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 99, 0, 100 + last][..],
                ]
                .concat(),
            );
        }
        vec![framed(&message)]
    });
    lab.policy(GOOD_NAMES);
    let process = lab.start(move |_| {
        ask_at_once(&[question(7, &name, A)])?;
        datagram(at(v4(100)))?;
        datagram(at(v4(139)))
    });
    let (result, told) = serve(&mut lab, process);
    assert_eq!(outcomes(&told), [name_outcome::LEARNED]);
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn an_answer_without_one_question_teaches_nothing_and_is_told() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| {
        let mut message = answer(asked, &[v4(2)]);
        message.queries.clear();
        let bare = wire(&message);
        message.queries = vec![asked.queries[0].clone(); 2];
        vec![bare, wire(&message), wire(&answer(asked, &[v4(3)]))]
    });
    lab.policy(GOOD_NAMES);
    let unreadable = lab.count(Counter::NameUnreadable);
    let result = lab.inside(|| {
        let socket = asking(v4(RESOLVER))?;
        socket.send(&wire(&question(7, "2.good.example", A)))?;
        for _ in 0..3 {
            socket.recv(&mut [0; 512])?;
        }
        datagram(at(v4(3)))?;
        datagram(at(v4(2)))
    });
    assert_eq!(
        code(&result),
        Some(libc::EPERM),
        "the answer that made sense counts, the others do not"
    );
    assert_eq!(lab.count(Counter::NameUnreadable), unreadable + 2);
}

#[test]
fn answers_about_what_is_no_name_are_not_taken_for_forged() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| vec![wire(&answer(asked, &[v4(2)]))]);
    lab.policy(ANY_NAME);
    // As resolvers that validate ask for the root's keys.
    for (labels, expected, why) in [
        (&[][..], vec![], "the root"),
        (
            &[&b"a.b"[..], b"example"],
            vec![name_outcome::UNREADABLE],
            "a dot inside of a label",
        ),
    ] {
        let unasked = lab.count(Counter::NameUnasked);
        let result = lab.inside(move || {
            let mut asked = question(7, "x.", A);
            let name = hickory_proto::rr::Name::from_labels(labels.iter().copied());
            asked.queries[0].set_name(name.expect("labels of any bytes"));
            let socket = asking(v4(RESOLVER))?;
            socket.send(&wire(&asked))?;
            socket.recv(&mut [0; 512])?;
            tcp(at(v4(2)))
        });
        assert_eq!(code(&result), Some(libc::EPERM), "{why}");
        let mut told = outcomes(&lab.name_events());
        told.retain(|outcome| *outcome != name_outcome::ASKED);
        assert_eq!(told, expected, "{why}");
        assert_eq!(lab.count(Counter::NameUnasked), unasked, "{why}");
    }
}

#[test]
fn a_long_datagram_is_learned_before_the_client_has_it() {
    let Some(mut lab) = Lab::open() else { return };
    lab.resolver(|asked| vec![wire(&answer(asked, &many(500)))]);
    lab.policy(GOOD_NAMES);
    let held = lab.count(Counter::AnswerHeld);
    let process = lab.start(|_| {
        let socket = asking(v4(RESOLVER))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        // A client asks again when it hears nothing.
        let mut asked = 0u64;
        loop {
            socket.send(&wire(&question(7, "many.good.example", AAAA)))?;
            asked += 1;
            if socket.recv(&mut [0; 16384]).is_ok() {
                break;
            }
        }
        many(500)
            .into_iter()
            .try_for_each(|address| datagram(at(address)))?;
        Ok(asked)
    });
    let (result, told) = serve(&mut lab, process);
    assert_eq!(
        result.unwrap(),
        2,
        "the first answer is lost, the second not"
    );
    assert_eq!(lab.count(Counter::AnswerHeld), held + 1);
    assert_eq!(outcomes(&told), [name_outcome::LEARNED; 2]);
    assert_eq!(told[0].learned, 500);
}

#[test]
fn without_an_agent_answers_are_late_and_teach_nothing() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| {
        // More than the programs read at once, even where TCP puts it together.
        vec![framed(&wire(&answer(&asked[0], &many(300))))]
    });
    lab.policy(GOOD_NAMES);
    let unread = lab.count(Counter::NameUnreadable);
    let start = Instant::now();
    let result = lab.inside(|| {
        ask_at_once(&[question(7, "2.good.example", AAAA)])?;
        tcp(at(super::v6(2)))
    });
    assert_eq!(code(&result), Some(libc::EPERM), "{result:?}");
    let elapsed = start.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(15)).contains(&elapsed),
        "{elapsed:?}"
    );
    assert!(lab.count(Counter::NameUnreadable) > unread);
    // The agent comes back, and reads what waits.
    assert_eq!(outcomes(&lab.read_answers()), [name_outcome::LEARNED]);
    lab.inside(|| tcp(at(super::v6(2)))).unwrap();
}

#[test]
fn what_no_rule_needs_is_not_held_back() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| {
        let bytes = framed(&wire(&answer(&asked[0], &[v4(2)])));
        vec![bytes[..9].to_vec(), bytes[9..].to_vec()]
    });
    lab.policy("defaultAction: Allow\nrules: []\n");
    let held = lab.count(Counter::AnswerHeld);
    lab.inside(|| ask_at_once(&[question(7, "2.good.example", A)]))
        .unwrap();
    assert_eq!(lab.count(Counter::AnswerHeld), held);
    // It is read all the same, for the policy that comes next.
    assert_eq!(outcomes(&lab.read_answers()), [name_outcome::LEARNED]);
    lab.policy(GOOD_NAMES);
    lab.inside(|| tcp(at(v4(2)))).unwrap();
}

#[test]
fn split_answers_that_nobody_asked_for_teach_nothing() {
    type Forge = fn(&Message) -> Message;
    let forgeries: [(Forge, &str); 3] = [
        (
            |asked| {
                let mut forged = answer(asked, &[v4(2)]);
                forged.metadata.id = forged.metadata.id.wrapping_add(1);
                forged
            },
            "another id",
        ),
        (
            |asked| {
                let id = asked.metadata.id;
                answer(&question(id, "y.evil.example", A), &[v4(2)])
            },
            "another question",
        ),
        (
            |asked| {
                let id = asked.metadata.id;
                answer(&question(id, "x.evil.example", AAAA), &[super::v6(2)])
            },
            "another type",
        ),
    ];
    for (forge, why) in forgeries {
        let Some(mut lab) = Lab::open() else { return };
        lab.stream_resolver(move |asked| {
            let bytes = framed(&wire(&forge(&asked[0])));
            vec![bytes[..9].to_vec(), bytes[9..].to_vec()]
        });
        lab.policy(ANY_NAME);
        let process = lab.start(|_| ask_at_once(&[question(7, "x.evil.example", A)]));
        let (result, told) = serve(&mut lab, process);
        result.unwrap();
        assert_eq!(outcomes(&told), [name_outcome::UNASKED], "{why}");
        for to in [v4(2), super::v6(2)] {
            let result = lab.inside(move || tcp(at(to)));
            assert_eq!(code(&result), Some(libc::EPERM), "{why}");
        }
    }
}

#[test]
fn a_second_split_answer_teaches_nothing() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| {
        let first = framed(&wire(&answer(&asked[0], &[v4(4)])));
        let second = framed(&wire(&answer(&asked[0], &[v4(2)])));
        vec![[first, second].concat()]
    });
    lab.policy(ANY_NAME);
    let asked = || question(7, "x.evil.example", A);
    let process = lab.start(move |_| {
        let mut stream = TcpStream::connect((v4(RESOLVER), DNS))?;
        stream.write_all(&framed(&wire(&asked())))?;
        read_framed(&mut stream)?;
        read_framed(&mut stream).map(drop)
    });
    let (result, told) = serve(&mut lab, process);
    result.unwrap();
    assert_eq!(
        outcomes(&told),
        [name_outcome::LEARNED, name_outcome::UNASKED]
    );
    let result = lab.inside(|| tcp(at(v4(2))));
    assert_eq!(code(&result), Some(libc::EPERM));
    lab.inside(|| tcp(at(v4(4)))).unwrap();
}

#[test]
fn garbage_does_not_stop_what_comes_behind_it() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|asked| {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut writes: Vec<Vec<u8>> = (0..60)
            .map(|_| {
                let mut garbage = vec![0; rng.usize(0..400)];
                rng.fill(&mut garbage);
                // A header that leads the reader on, or not.
                if garbage.len() > 12 && rng.bool() {
                    garbage[2..12].copy_from_slice(&[0x80, 0, 0, 1, 0, 9, 0, 0, 0, 0]);
                }
                framed(&garbage)
            })
            .collect();
        writes.push(framed(&wire(&answer(&asked[0], &[v4(2)]))));
        vec![writes.concat()]
    });
    lab.policy(GOOD_NAMES);
    let process = lab.start(|_| {
        let mut stream = TcpStream::connect((v4(RESOLVER), DNS))?;
        stream.write_all(&framed(&wire(&question(7, "2.good.example", A))))?;
        for _ in 0..61 {
            read_framed(&mut stream)?;
        }
        tcp(at(v4(2)))
    });
    let (result, told) = serve(&mut lab, process);
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(told.len(), 61);
    assert_eq!(told[60].outcome, name_outcome::LEARNED);
}

#[test]
fn a_stream_that_never_completes_a_message_is_not_kept_waiting() {
    let Some(mut lab) = Lab::open() else { return };
    lab.stream_resolver(|_| vec![vec![0xff, 0xff, 1, 2, 3]]);
    lab.policy(GOOD_NAMES);
    let process = lab.start(|_| {
        let mut stream = TcpStream::connect((v4(RESOLVER), DNS))?;
        stream.write_all(&framed(&wire(&question(7, "2.good.example", A))))?;
        stream.read_exact(&mut [0; 5])
    });
    let (result, told) = serve(&mut lab, process);
    result.unwrap();
    assert!(told.is_empty(), "{told:?}");
}
