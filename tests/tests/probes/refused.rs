//! Sockets on which nothing more may leave, at the kernel alone: no agent destroys them here.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
};

use ebfw_agent::{
    host::sockets,
    probes::trial::{Trial, Way},
};
use ebfw_common::plaintext::{Socket, kind};
use ebfw_tests::lab::{
    Lab, eventually,
    net::{v4, v6},
    recorder::Recorder,
};
use zerocopy::FromBytes as _;

use super::ALL;

const PORT: u16 = 9000;

/// A connection that a process of the workload has opened.
fn connection(lab: &Lab, address: IpAddr) -> TcpStream {
    let mut process = lab.start(|line| {
        line.send(&TcpStream::connect(SocketAddr::new(address, PORT))?)?;
        line.step();
        Ok(())
    });
    let stream = process.line().receive().expect("it is handed over");
    process.reached();
    process.go();
    process.finish().expect("it connects");
    stream
}

fn cookie(lab: &Lab, stream: &TcpStream) -> u64 {
    let own = stream.local_addr().expect("it is connected");
    let sockets = sockets::dump(&lab.net().near).expect("the kernel lists them");
    let mut sockets = sockets.iter();
    let found = sockets.find(|socket| socket.source.port() == own.port());
    found.expect("it is among them").cookie
}

#[tokio::test]
async fn nothing_leaves_on_a_refused_socket() {
    let Some(mut lab) = Lab::open() else { return };
    lab.policy(ALL);
    let mut trial = match Trial::load(lab.directory(), Way::Multi) {
        Ok(trial) => trial,
        Err(error) => return ebfw_test_need::not_run(&format!("probes by links: {error}")),
    };
    let _guard = trial
        .guard(lab.directory())
        .expect("the kernel attaches it");
    let recorder = Recorder::start(&lab.net().far, PORT);
    for (address, name) in [(v4(2), "four"), (v6(2), "six")] {
        let [refused, other, silent] = [(); 3].map(|()| connection(&lab, address));
        let [first, second, third] =
            ["first", "second", "third"].map(|word| format!("{word}-{name}"));
        (&refused).write_all(first.as_bytes()).unwrap();
        eventually("what is not refused arrives", || {
            recorder.has(first.as_bytes())
        });

        let key = cookie(&lab, &refused);
        trial.refuse(key).unwrap();
        (&refused).write_all(second.as_bytes()).unwrap();
        (&other).write_all(third.as_bytes()).unwrap();
        eventually("another socket is free", || recorder.has(third.as_bytes()));
        let mut told = None;
        eventually("the agent is told", || {
            trial.take(|record| {
                if record.header.kind == kind::REFUSED {
                    told = Socket::read_from_bytes(record.data).ok();
                }
            });
            told.is_some()
        });
        let told = told.unwrap();
        assert_eq!((told.cookie, told.destination_port), (key, PORT));
        let destination = IpAddr::from(told.destination.octets()).to_canonical();
        assert_eq!(destination, address);
        let source = refused.local_addr().unwrap();
        assert_eq!(told.source_port, source.port());
        assert!(!recorder.has(second.as_bytes()));

        // It was this that held it back: what is parked leaves as soon as it may.
        trial.release(key).unwrap();
        eventually("what was parked arrives", || {
            recorder.has(second.as_bytes())
        });

        // What carries nothing passes: the peer learns of the end, and answers how much came.
        trial.refuse(cookie(&lab, &silent)).unwrap();
        silent.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        (&silent).read_to_end(&mut answer).unwrap();
        assert!(!answer.is_empty());
    }
}
