//! What tests about what clients say share: names, a resolver for them, and conversations that the server confirms.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use ebfw_tests::lab::{
    Lab,
    net::{v4, v6},
    recorder::Recorder,
    resolver::{A, AAAA, answer, ask, wire},
};
use hickory_proto::op::Message;

/// Only the names below good.example are allowed.
pub(super) const GOOD_NAMES: &str = "
defaultAction: Deny
rules:
- name: good names
  action: Allow
  match: {domains: ['*.good.example']}
";

/// All is allowed but the names below evil.example.
pub(super) const NO_EVIL: &str = "
defaultAction: Allow
rules:
- name: evil names
  action: Deny
  match: {domains: ['*.evil.example']}
";

/// The trusted resolver, in both families.
pub(super) const RESOLVER: u8 = 9;
/// A client whose socket is destroyed hears of it within this time; without that it would wait for minutes.
pub(super) const AT_ONCE: Duration = Duration::from_secs(2);

/// The answer of a resolver for which `N.anything` is peer N.
pub(super) fn peers(asked: &Message) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_ascii();
    let peer = name.split('.').next().and_then(|first| first.parse().ok());
    let addresses: Vec<IpAddr> = peer.map_or(vec![], |peer| vec![v4(peer), v6(peer)]);
    vec![wire(&answer(asked, &addresses))]
}

/// A lab with that resolver, and a server at `port` that keeps what it gets.
pub(super) fn lab(policy: &str, port: u16) -> Option<(Lab, Recorder)> {
    let mut lab = Lab::open()?;
    lab.resolver(peers);
    let server = Recorder::start(&lab.net().far, port);
    lab.policy(policy);
    Some((lab, server))
}

/// Resolves `names`, in both families.
pub(super) fn resolve(names: &[&str]) -> io::Result<()> {
    for name in names {
        ask(v4(RESOLVER), name, A)?;
        ask(v4(RESOLVER), name, AAAA)?;
    }
    Ok(())
}

pub(super) fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(AT_ONCE))?;
    Ok(stream)
}

/// Sends `parts` one after the other, and waits until the server says that it has all of them.
pub(super) fn converse(mut stream: &TcpStream, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        stream.write_all(part)?;
    }
    all_came(stream, parts.iter().map(|part| part.len()).sum())
}

/// Ends what is said, and waits until the server says that it has so many bytes.
pub(super) fn all_came(mut stream: &TcpStream, length: usize) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    assert_eq!(u64::from_ne_bytes(sum), length as u64);
    Ok(())
}

/// Connects and says `parts`.
pub(super) fn say(to: SocketAddr, parts: &[&[u8]]) -> io::Result<()> {
    converse(&open(to)?, parts)
}

/// Whether the client was told at once: its socket is destroyed, so that what it does fails with an error and not by waiting.
pub(super) fn is_ended(result: &io::Result<()>) -> bool {
    let code = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(
        code,
        Some(libc::ECONNABORTED | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)
    )
}
