//! Claims: what a TLS client says about whom it talks to, against what it resolved.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use ebfw_common::abi::{Counter, claim_kind, inspect, mode, reason, verdict};
use ebfw_tests::{
    lab::{
        Lab, eventually,
        net::{v4, v6},
        recorder::Recorder,
        resolver::{A, AAAA, answer, ask, wire},
    },
    path,
};

/// Only the names below good.example are allowed.
const GOOD_NAMES: &str = "
defaultAction: Deny
rules:
- name: good names
  action: Allow
  match: {domains: ['*.good.example']}
";

/// All is allowed but the names below evil.example.
const NO_EVIL: &str = "
defaultAction: Allow
rules:
- name: evil names
  action: Deny
  match: {domains: ['*.evil.example']}
";

const RESOLVER: u8 = 9;
const TLS: u16 = 443;
/// A client whose socket is destroyed hears of it within this time; without that it would wait for minutes.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A lab with a resolver for which `N.anything` is peer N, and a server that keeps what it gets.
fn lab(policy: &str) -> Option<(Lab, Recorder)> {
    let mut lab = Lab::open()?;
    lab.resolver(|asked| {
        let name = asked.queries[0].name().to_ascii();
        let peer = name.split('.').next().and_then(|first| first.parse().ok());
        let addresses: Vec<IpAddr> = peer.map_or(vec![], |peer| vec![v4(peer), v6(peer)]);
        vec![wire(&answer(asked, &addresses))]
    });
    let server = Recorder::start(&lab.net().far, TLS);
    lab.policy(policy);
    Some((lab, server))
}

/// A handshake message with these extensions.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    let mut all = Vec::new();
    for (kind, bytes) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        all.extend(bytes);
    }
    body.extend(u16::try_from(all.len()).unwrap().to_be_bytes());
    body.extend(all);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], &body[..]].concat()
}

fn server_name(name: &str) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).unwrap();
    let mut bytes = (length + 3).to_be_bytes().to_vec();
    bytes.push(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend(name.bytes());
    (0, bytes)
}

/// Puts a message into records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1, length[0], length[1]], part].concat()
        })
        .collect()
}

/// A hello that names `name`, and says something else before and behind it.
fn hello(name: &str) -> Vec<u8> {
    let around = (10, vec![0, 2, 0, 29]);
    let message = message(&[around.clone(), server_name(name), (51, vec![0; 40])]);
    records(&message, 1 << 14)
}

/// Resolves `names`, in both families.
fn resolve(names: &[&str]) -> io::Result<()> {
    for name in names {
        ask(v4(RESOLVER), name, A)?;
        ask(v4(RESOLVER), name, AAAA)?;
    }
    Ok(())
}

fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(AT_ONCE))?;
    Ok(stream)
}

/// Sends `parts` one after the other, and waits until the server says that it has all of them.
fn converse(mut stream: TcpStream, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        stream.write_all(part)?;
    }
    all_came(stream, parts.iter().map(|part| part.len()).sum())
}

fn all_came(mut stream: TcpStream, length: usize) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    assert_eq!(u64::from_ne_bytes(sum), length as u64);
    Ok(())
}

fn say(to: SocketAddr, parts: &[&[u8]]) -> io::Result<()> {
    converse(open(to)?, parts)
}

fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, TLS)
}

/// Whether the client was told at once: its socket is destroyed, so that what it does fails with an error and not by waiting.
fn is_ended(result: &io::Result<()>) -> bool {
    let code = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(
        code,
        Some(libc::ECONNABORTED | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)
    )
}

#[test]
fn names_on_one_address_are_told_apart() {
    for policy in [GOOD_NAMES, NO_EVIL] {
        let Some((mut lab, server)) = lab(policy) else {
            return;
        };
        for to in [v4(2), v6(2)] {
            let both = ["2.good.example", "2.evil.example"];
            lab.tended(move || {
                resolve(&both)?;
                say(at(to), &[&hello("2.good.example")])
            })
            .unwrap();
            let unread = lab.count(Counter::DecisionDeny);
            let evil = lab.tended(move || say(at(to), &[&hello("2.evil.example")]));
            assert!(is_ended(&evil), "{to}: {evil:?}");
            assert!(lab.count(Counter::DecisionDeny) > unread);
        }
        assert!(server.has(b"2.good.example"));
        assert!(!server.has(b"2.evil.example"));
        assert!(server.connections().len() >= 2);
    }
}
