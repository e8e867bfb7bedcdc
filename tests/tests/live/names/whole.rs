//! Names with the agent itself as its users run it: answers that it has to read, services that resolve for others, what it lists, what it hides.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ebfw_tests::lab::{
    Lab,
    agent::{Agent, Home},
    eventually,
    net::{v4, v6},
    recorder::Recorder,
    resolver::{
        A, AAAA, answer, ask, ask_stream, asking, framed, question, serve, serve_writes, wire,
    },
};

use hickory_proto::rr::RecordType;

use super::{
    super::claims::hello, GOOD_NAMES, NO_EVIL, RESOLVER, at, code, datagram, honest, tcp, zone,
};

const EPERM: Option<i32> = Some(libc::EPERM);

/// `127.0.0.1:PORT` with a port that is free.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// What is served there at /metrics.
fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the agent serves metrics");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("it listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text
}

/// The value of a counter.
fn value(metrics: &str, counter: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(counter));
    line.map_or(0, |value| value.trim().parse().expect("a number"))
}

#[test]
fn the_agent_reads_answers_that_come_in_pieces() {
    for policy in [GOOD_NAMES, NO_EVIL] {
        let Some(lab) = Lab::open() else { return };
        serve_writes(&lab.net().far, |asked| {
            let bytes = framed(&wire(&answer(&asked[0], &zone(&asked[0]))));
            let (first, second) = bytes.split_at(bytes.len() / 2);
            vec![first.to_vec(), second.to_vec()]
        })
        .expect("the port is free");
        let home = Home::new();
        home.write_policy(policy);
        let at_metrics = free_address();
        let _agent = Agent::start_with(&home, &lab, &[("EBFW_METRICS_ADDR", &at_metrics)]);
        for round in 0..5 {
            for (name, peer, expected) in
                [("2.good.example", 2, None), ("3.evil.example", 3, EPERM)]
            {
                let result = lab.inside(move || {
                    ask_stream(v4(RESOLVER), name, A)?;
                    tcp(at(v4(peer)))
                });
                assert_eq!(code(&result), expected, "{name}, round {round}");
            }
        }
        let read = value(
            &metrics(&at_metrics),
            "ebfw_answers_read_total{result=\"learned\"}",
        );
        assert_eq!(read, 10, "the agent has read them, and not the programs");
    }
}

/// fd99::2, fd99::3, and so on.
fn many(count: u16) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|number| Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number + 2).into())
}

#[test]
fn the_agent_reads_long_answers() {
    const COUNT: u16 = 500;
    let Some(lab) = Lab::open() else { return };
    let addresses: Vec<_> = many(COUNT).collect();
    serve(&lab.net().far, move |asked| {
        vec![wire(&answer(asked, &addresses))]
    })
    .expect("the port is free");
    let home = Home::new();
    home.write_policy(GOOD_NAMES);
    let agent = Agent::start(&home, &lab);
    let resolve = |name: &'static str| {
        move || {
            let socket = asking(v4(RESOLVER))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            // A client asks again when it hears nothing.
            for id in 0..20 {
                socket.send(&wire(&question(id, name, AAAA)))?;
                if socket.recv(&mut [0; 16384]).is_ok() {
                    return many(COUNT).try_for_each(|address| datagram(at(address)));
                }
            }
            Err(io::ErrorKind::TimedOut.into())
        }
    };
    assert_eq!(code(&lab.inside(resolve("many.evil.example"))), EPERM);
    lab.inside(resolve("many.good.example")).unwrap();
    // Stopped, it delays such an answer and learns nothing from it; afterwards it does.
    agent.pause();
    let unread = || {
        let socket = asking(v6(RESOLVER))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        for id in 100..120 {
            socket.send(&wire(&question(id, "more.good.example", AAAA)))?;
            if socket.recv(&mut [0; 16384]).is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    lab.inside(unread).unwrap();
    agent.resume();
    lab.inside(resolve("more.good.example")).unwrap();
}

#[test]
fn the_agent_shares_what_local_resolvers_learned() {
    for is_named in [true, false] {
        let Some(lab) = Lab::open() else { return };
        serve(&lab.net().far, honest).expect("the port is free");
        let service = lab.nested("cache.service");
        let home = Home::new();
        // A rule by cgroup makes each of them a workload of its own.
        let path = lab.path();
        home.write_policy(&format!(
            "{GOOD_NAMES}- {{name: own, action: Allow, match: {{cgroups: ['{path}/nobody'], cidrs: [192.0.2.0/24]}}}}\n"
        ));
        let services = if is_named {
            format!("['{path}/*.service']")
        } else {
            "[]".to_owned()
        };
        let config = home.write_config(&format!("dns: {{localResolvers: {services}}}\n"));
        let _agent = Agent::start_with(&home, &lab, &[("EBFW_CONFIG", &config)]);
        // One that was there before the agent, and one that starts later.
        let late = lab.nested("late.service");
        for (cgroup, peer, name) in [
            (&service, 2, "2.good.example"),
            (&late, 4, "4.good.example"),
        ] {
            let resolve = || {
                let process = lab.start_in(Some(cgroup), move |_| ask(v4(RESOLVER), name, A));
                process.finish().unwrap();
                code(&lab.inside(move || tcp(at(v4(peer)))))
            };
            if is_named {
                // The tree is looked at when it changes, which takes a moment.
                eventually("what the service resolved counts", || resolve().is_none());
            } else {
                assert_eq!(resolve(), EPERM, "{name} is another workload's");
            }
        }
        let evil = lab.start_in(Some(&service), |_| ask(v4(RESOLVER), "3.evil.example", A));
        evil.finish().unwrap();
        assert_eq!(code(&lab.inside(|| tcp(at(v4(3))))), EPERM);
        let listed = home.run(&["names"]).expect("ebfw runs");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert_eq!(listed.contains("(services)"), is_named, "{listed}");
    }
}

const HTTP: u16 = 8080;
const TLS: u16 = 443;

/// Says `bytes`, and waits until they are there.
fn say(to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0; 8])
}

#[test]
fn what_is_internal_is_counted_and_not_shown() {
    if ebfw_test_need::left_to_the_machine("which events are shown") {
        return;
    }
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, honest).expect("the port is free");
    let _servers = [HTTP, TLS].map(|port| Recorder::start(&lab.net().far, port));
    let home = Home::new();
    home.write_policy(NO_EVIL);
    let config = home.write_config(
        "exclude: {cidrs: [10.99.0.4/32, 10.99.0.3/32], domainSuffixes: [Quiet.example., evil.example]}\n",
    );
    let at_metrics = free_address();
    let agent = Agent::start_with(
        &home,
        &lab,
        &[("EBFW_CONFIG", &config), ("EBFW_METRICS_ADDR", &at_metrics)],
    );
    let request = |name: &str| format!("GET /{name} HTTP/1.1\r\nHost: {name}:{HTTP}\r\n\r\n");
    // The last ones are loud: what was to come of the others has come by then.
    for (peer, name) in [
        (2, "2.quiet.example"),
        (4, "4.loud.example"),
        (3, "3.evil.example"),
        (2, "2.loud.example"),
    ] {
        let said = request(name);
        let _ = lab.inside(move || {
            ask(v4(RESOLVER), name, A)?;
            say((v4(peer), HTTP).into(), said.as_bytes())
        });
        let _ = lab.inside(move || say((v4(peer), TLS).into(), &hello(name)));
    }
    for kind in ["dns", "http", "tls"] {
        let kind = format!("\"kind\":\"{kind}\"");
        agent
            .events
            .wait_for(&[&kind, "\"domain\":\"2.loud.example\""]);
    }
    let shown = agent.events.so_far();
    let with = |parts: &[&str]| {
        let has = |line: &&String| parts.iter().all(|part| line.contains(part));
        shown.iter().filter(has).count()
    };
    assert_eq!(with(&["2.quiet.example"]), 0, "{shown:#?}");
    // A question has a name, and the resolver is no destination of interest.
    assert_eq!(with(&["4.loud.example"]), 1, "{shown:#?}");
    assert_eq!(with(&["4.loud.example", "\"kind\":\"dns\""]), 1);
    // What is denied is shown whatever it is; the question for it is not denied.
    assert_eq!(with(&["3.evil.example"]), 0, "{shown:#?}");
    assert!(with(&["\"deny\"", "10.99.0.3"]) >= 1, "{shown:#?}");
    let metrics = metrics(&at_metrics);
    for (kind, hidden) in [("dns", 2), ("http", 2), ("tls", 2)] {
        let counter = format!("ebfw_filtered_total{{kind=\"{kind}\"}}");
        assert_eq!(value(&metrics, &counter), hidden, "{kind}: {metrics}");
    }
    assert!(value(&metrics, "ebfw_filtered_total{kind=\"connect\"}") >= 2);
}

#[test]
fn ebfw_names_lists_what_was_learned() {
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, honest).expect("the port is free");
    let home = Home::new();
    home.write_policy(GOOD_NAMES);
    let agent = Agent::start(&home, &lab);
    lab.inside(|| {
        ask(v4(RESOLVER), "2.GOOD.example", A)?;
        ask(v6(RESOLVER), "3.evil.example", AAAA)?;
        tcp(at(v4(2)))
    })
    .unwrap();
    assert_eq!(code(&lab.inside(|| tcp(at(v6(3))))), EPERM);
    let list = |arguments: &[&str]| {
        let output = home.run(arguments).expect("ebfw runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it writes text")
    };
    let check = |state: &str| {
        let table = list(&["names"]);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["WORKLOAD", "NAME", "ADDRESS", "LEFT", "CLASS"]);
        let path = lab.path();
        for (line, name, address, is_meant) in [
            (&lines[1], "2.good.example", "10.99.0.2", true),
            (&lines[2], "3.evil.example", "fd99::3", false),
        ] {
            assert_eq!(line[..3], [&*path, name, address], "{state}: {table}");
            let left: u64 = line[3].strip_suffix('s').unwrap().parse().unwrap();
            // The answer lives for 60 seconds, and 30 more.
            assert!((1..=90).contains(&left), "{state}: {table}");
            assert_eq!(line[4] != "0", is_meant, "{state}: {table}");
        }
        assert_eq!(lines.len(), 3, "{state}: {table}");
        let json = list(&["names", "-o", "json"]);
        for part in [
            format!("\"workload\": \"{path}\""),
            "\"name\": \"3.evil.example\"".to_owned(),
            "\"address\": \"fd99::3\"".to_owned(),
            "\"class\": 0".to_owned(),
        ] {
            assert!(json.contains(&part), "{state}: {part} in {json}");
        }
    };
    check("the agent runs");
    agent.kill();
    check("the agent is gone");
}

/// Names that one workload can have.
const QUOTA: u64 = 30_000;
/// Addresses in one answer, which the programs read at once.
const IN_ANSWER: u16 = 140;

/// The addresses of `qN.…`.
fn of_question(number: u16, index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 1, number, index + 1)
}

/// For `qN.…` many addresses, each named by a pointer; what [`honest`] says for others.
fn flood(asked: &hickory_proto::op::Message) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_ascii();
    let number = name
        .strip_prefix('q')
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    let Some(number) = number else {
        return honest(asked);
    };
    let mut message = wire(asked);
    message[2] |= 0x80;
    message[6..8].copy_from_slice(&IN_ANSWER.to_be_bytes());
    for index in 0..IN_ANSWER {
        message.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
        message.extend(of_question(number, index).octets());
    }
    assert!(message.len() <= 4096);
    vec![message]
}

#[test]
fn a_workload_that_is_full_learns_no_more_and_others_do() {
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, flood).expect("the port is free");
    let other = lab.nested("other");
    let home = Home::new();
    // A rule by cgroup makes each of them a workload of its own.
    let path = lab.path();
    home.write_policy(&format!(
        "{GOOD_NAMES}- {{name: own, action: Allow, match: {{cgroups: ['{path}/other'], cidrs: [192.0.2.0/24]}}}}\n"
    ));
    let at_metrics = free_address();
    let agent = Agent::start_with(&home, &lab, &[("EBFW_METRICS_ADDR", &at_metrics)]);
    let beside = |peer: u8, name: &'static str| {
        let process = lab.start_in(Some(&other), move |_| {
            if !name.is_empty() {
                ask(v4(RESOLVER), name, A)?;
            }
            tcp(at(v4(peer)))
        });
        code(&process.finish())
    };
    assert_eq!(beside(2, "2.good.example"), None);
    let questions = u16::try_from(QUOTA / u64::from(IN_ANSWER)).expect("few") + 1;
    let may = |number: u16, index: u16| {
        code(&lab.inside(move || datagram(at(of_question(number, index).into()))))
    };
    lab.inside(move || {
        (0..questions)
            .try_for_each(|number| ask(v6(RESOLVER), &format!("q{number}.good.example"), AAAA))
    })
    .unwrap();
    let counters = metrics(&at_metrics);
    assert_eq!(value(&counters, "ebfw_names_learned_total"), QUOTA + 1);
    let over = u64::from(questions) * u64::from(IN_ANSWER) - QUOTA;
    let refused = "ebfw_names_refused_total{reason=\"full\"}";
    assert_eq!(value(&counters, refused), over);
    // What was learned stays, what is new is not learned.
    assert_eq!(may(0, 0), None);
    assert_eq!(may(questions - 2, IN_ANSWER - 1), None);
    assert_eq!(may(questions - 1, IN_ANSWER - 1), EPERM);
    // The questions alone were more than the events of a second; that one is told all the same.
    let event = agent.events.wait_for(&["\"outcome\":\"full\""]);
    let last = format!("q{}.good.example", questions - 1);
    let learned = format!("\"learned\":{}", QUOTA % u64::from(IN_ANSWER));
    assert!(event.contains(&last) && event.contains(&learned), "{event}");
    let late = lab.inside(|| {
        ask(v4(RESOLVER), "4.good.example", A)?;
        tcp(at(v4(4)))
    });
    assert_eq!(code(&late), EPERM, "no room for another name");
    // The other workload lost nothing, and goes on.
    assert_eq!(beside(2, ""), None);
    assert_eq!(beside(5, "5.good.example"), None);
    assert_eq!(beside(3, "3.evil.example"), EPERM);
    assert!(value(&metrics(&at_metrics), refused) > over);
}

#[test]
fn an_address_has_four_names_and_says_when_there_are_more() {
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, |asked| vec![wire(&answer(asked, &[v4(2)]))]).expect("the port is free");
    let home = Home::new();
    home.write_policy(GOOD_NAMES);
    let agent = Agent::start(&home, &lab);
    let ask_for = |name: &'static str| {
        lab.inside(move || {
            ask(v4(RESOLVER), name, A)?;
            tcp(at(v4(2)))
        })
    };
    for name in ["a.evil.example", "b.evil.example", "c.evil.example"] {
        assert_eq!(code(&ask_for(name)), EPERM, "{name}");
    }
    ask_for("d.good.example").unwrap();
    // The names of others do not take an allowed one away, and the same name again needs no room.
    ask_for("e.evil.example").unwrap();
    ask_for("d.good.example").unwrap();
    let event = agent.events.wait_for(&["\"outcome\":\"full\""]);
    assert!(event.contains("e.evil.example"), "{event}");
    assert!(event.contains("\"learned\":0"), "{event}");
}

#[test]
fn workloads_that_learn_all_they_can_leave_room_for_others() {
    let Some(lab) = Lab::open() else { return };
    serve(&lab.net().far, flood).expect("the port is free");
    let home = Home::new();
    // A rule by cgroup makes each of them a workload of its own.
    let path = lab.path();
    home.write_policy(&format!(
        "{GOOD_NAMES}- {{name: own, action: Allow, match: {{cgroups: ['{path}/w*'], cidrs: [192.0.2.0/24]}}}}\n"
    ));
    let _agent = Agent::start(&home, &lab);
    let questions = u16::try_from(QUOTA / u64::from(IN_ANSWER)).expect("few");
    // Each learns all that it may: of the room in all, half of what the ones before it have left.
    for number in 1..=4u16 {
        let greedy = lab.nested(&format!("w{number}"));
        let questions = questions / number + 1;
        let process = lab.start_in(Some(&greedy), move |_| {
            ask_until_heard(v6(RESOLVER), "q0.good.example", AAAA)?;
            (1..questions)
                .try_for_each(|number| ask(v6(RESOLVER), &format!("q{number}.good.example"), AAAA))
        });
        process.finish().unwrap();
    }
    let late = lab.nested("w5");
    let process = lab.start_in(Some(&late), |_| {
        ask_until_heard(v4(RESOLVER), "5.good.example", A)?;
        tcp(at(v4(5)))
    });
    assert_eq!(code(&process.finish()), None);
}

/// Asks again until an answer comes, as clients do: what a new cgroup sends is lost until the agent has classified it.
fn ask_until_heard(resolver: IpAddr, name: &str, kind: RecordType) -> io::Result<()> {
    let socket = asking(resolver)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    for id in 0..100 {
        socket.send(&wire(&question(id, name, kind)))?;
        if socket.recv(&mut [0; 4096]).is_ok() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
