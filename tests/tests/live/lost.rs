//! Hellos whose first copy is really lost on the way, at a router: what arrives is what was judged, whoever sends it again and what is in it by
//! then.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use ebfw_tests::{
    lab::{
        Lab,
        net::v4,
        recorder::Recorder,
        resolver::{A, answer, ask, wire},
        router::{self, Router},
    },
    path::{self, raw::Headers},
};

use super::{
    ALL,
    claims::{gift, hello},
    said::{GOOD_NAMES, NO_EVIL, RESOLVER, all_came, is_ended},
};

const GOOD: &str = "2.good.example";
const EVIL: &str = "2.evil.example";
const TLS: u16 = 443;
/// The kernel sends again after 0.2 s, then after twice as long each time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab in which both names stand for a peer behind a router.
fn lab(policy: &str) -> Option<(Lab, Router, Recorder)> {
    let mut lab = Lab::open()?;
    let router = Router::between(lab.net()).expect("root makes namespaces");
    lab.resolver(|asked| vec![wire(&answer(asked, &[IpAddr::V4(router::FAR)]))]);
    let server = Recorder::start(&lab.net().far, TLS);
    lab.policy(policy);
    lab.inside(|| {
        ask(v4(RESOLVER), GOOD, A)?;
        ask(v4(RESOLVER), EVIL, A)
    })
    .expect("the resolver answers");
    Some((lab, router, server))
}

fn peer() -> SocketAddr {
    (router::FAR, TLS).into()
}

/// How many routers a socket's packets pass at most.
fn hops(stream: &TcpStream, hops: i32) -> io::Result<()> {
    path::set(stream, libc::IPPROTO_IP, libc::IP_TTL, &hops.to_ne_bytes())
}

/// Segments that the kernel has sent again.
fn sent_again(stream: &TcpStream) -> io::Result<u64> {
    // SAFETY: zeros are a value of this type.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as is said, and lives through the call.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.tcpi_total_retrans.into())
}

/// Connects, has `send` send `length` bytes that get no further than to the router, calls `meanwhile`, and waits until the server says that it
/// has so many. Returns how often something was sent again.
fn lose(
    length: usize,
    send: impl FnOnce(&TcpStream) -> io::Result<()>,
    meanwhile: impl FnOnce(),
) -> io::Result<u64> {
    let stream = TcpStream::connect_timeout(&peer(), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    hops(&stream, 1)?;
    send(&stream)?;
    meanwhile();
    hops(&stream, 64)?;
    all_came(&stream, length)?;
    sent_again(&stream)
}

#[test]
fn a_hello_that_got_lost_is_sent_again_as_it_was() {
    for policy in [GOOD_NAMES, NO_EVIL] {
        let Some((mut lab, _router, server)) = lab(policy) else {
            return;
        };
        for piece in [usize::MAX, 40] {
            let say = |name: &'static str| {
                move || {
                    let bytes = hello(name);
                    let send = |mut stream: &TcpStream| {
                        bytes
                            .chunks(piece)
                            .try_for_each(|part| stream.write_all(part))
                    };
                    lose(bytes.len(), send, || {})
                }
            };
            let again = lab.tended(say(GOOD)).unwrap();
            assert!(again > 0, "nothing got lost");
            let evil = lab.tended(say(EVIL)).map(drop);
            assert!(is_ended(&evil), "{evil:?}");
        }
        assert_eq!(server.connections(), [hello(GOOD), hello(GOOD)]);
    }
}

/// A file in memory, which others may change while it is on its way.
struct Page {
    file: File,
}

impl Page {
    fn new(bytes: &[u8]) -> io::Result<Self> {
        let file = nix::sys::memfd::memfd_create(c"hello", nix::sys::memfd::MFdFlags::empty())?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        Ok(Self { file })
    }

    fn replace(&self, bytes: &[u8]) {
        let written = nix::sys::uio::pwrite(&self.file, bytes, 0).expect("memory is left");
        assert_eq!(written, bytes.len());
    }

    fn send(&self, stream: &TcpStream, length: usize) -> io::Result<()> {
        let mut from = 0;
        // SAFETY: the offset lives through the call.
        let sent = unsafe {
            libc::sendfile(
                stream.as_raw_fd(),
                self.file.as_raw_fd(),
                &raw mut from,
                length,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        assert_eq!(usize::try_from(sent), Ok(length));
        Ok(())
    }
}

/// Sends without a copy, from memory that can be changed.
fn zero_copy(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    path::set(
        stream,
        libc::SOL_SOCKET,
        libc::SO_ZEROCOPY,
        &1i32.to_ne_bytes(),
    )?;
    path::send(stream, bytes, libc::MSG_ZEROCOPY)
}

/// A way to have the kernel send again what was not there the first time.
type Way = fn() -> io::Result<u64>;

/// All of them.
const WAYS: [(&str, Way); 3] = [
    ("pages given to a pipe", || {
        let mut page = hello(GOOD);
        let at = page.as_mut_ptr();
        rewritten(at, |stream| gift(stream, &page))
    }),
    ("no copy", || {
        let mut page = hello(GOOD);
        let at = page.as_mut_ptr();
        rewritten(at, |stream| zero_copy(stream, &page))
    }),
    ("a file", || {
        let page = Page::new(&hello(GOOD))?;
        let length = hello(GOOD).len();
        lose(
            length,
            |stream| page.send(stream, length),
            || page.replace(&hello(EVIL)),
        )
    }),
];

/// Sends a good hello, which lies at `page`, and writes an evil one over it before it is sent again.
fn rewritten(page: *mut u8, send: impl FnOnce(&TcpStream) -> io::Result<()>) -> io::Result<u64> {
    let evil = hello(EVIL);
    lose(evil.len(), send, || {
        // SAFETY: the callers' page is as long as the hello, theirs alone, and not read by them any more.
        unsafe { page.copy_from_nonoverlapping(evil.as_ptr(), evil.len()) };
    })
}

#[test]
fn a_hello_that_changes_after_it_got_lost_does_not_arrive() {
    for (why, way) in WAYS {
        // Where nothing is asked of it, the other hello does arrive: the way is one.
        for (policy, arrives) in [(ALL, true), (GOOD_NAMES, false), (NO_EVIL, false)] {
            let Some((mut lab, _router, server)) = lab(policy) else {
                return;
            };
            let result = lab.tended(way);
            if arrives {
                let again = result.unwrap_or_else(|error| panic!("{why}: {error}"));
                assert!(again > 0, "{why}: nothing got lost");
                assert!(server.has(EVIL.as_bytes()), "{why}");
            } else {
                let result = result.map(drop);
                assert!(is_ended(&result), "{why}: {result:?}");
                assert!(server.connections().is_empty(), "{why}");
            }
        }
    }
}

/// The sum that a TCP segment between the two carries (RFC 9293, 3.1).
fn sum(segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("it is short");
    let mut bytes = [router::NEAR.octets(), router::FAR.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(segment);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends `bytes` with a header of its own, as the next of a connection whose last segment from the peer is `last`.
fn forge(last: &[u8], bytes: &[u8]) -> io::Result<()> {
    let from = &last[20..];
    let mut segment = [&from[2..4], &from[..2], &from[8..12]].concat();
    let peers = u32::from_be_bytes([from[4], from[5], from[6], from[7]]);
    // A SYN takes a number.
    segment.extend((peers + 1).to_be_bytes());
    // PSH and ACK.
    segment.extend([0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(bytes);
    let sum = sum(&segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0];
    let length = u16::try_from(20 + segment.len()).expect("it is short");
    packet.extend(length.to_be_bytes());
    packet.extend([0, 9, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(router::NEAR.octets());
    packet.extend(router::FAR.octets());
    packet.extend(segment);
    Headers::open(peer())?.send(&packet, peer())
}

/// A good hello gets lost; in its place a raw socket sends an evil one. Answers how many bytes came.
fn impostor() -> io::Result<u64> {
    let listening: OwnedFd = path::socket(peer(), libc::SOCK_RAW, libc::IPPROTO_TCP)?;
    let mut stream = TcpStream::connect_timeout(&peer(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    hops(&stream, 1)?;
    stream.write_all(&hello(GOOD))?;
    let mut last = [0; 128];
    let length = nix::unistd::read(&listening, &mut last)?;
    assert_eq!(last[33] & 0x3f, 0x12, "the first that came is its SYN-ACK");
    // A refusal is no news to the one who tries.
    let _ = forge(&last[..length], &hello(EVIL));
    hops(&stream, 64)?;
    stream.shutdown(Shutdown::Write)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    Ok(u64::from_ne_bytes(sum))
}

#[test]
fn a_raw_socket_cannot_take_the_place_of_a_hello_that_got_lost() {
    for (policy, arrives) in [(ALL, true), (GOOD_NAMES, false), (NO_EVIL, false)] {
        let Some((mut lab, _router, server)) = lab(policy) else {
            return;
        };
        lab.tended(impostor).unwrap();
        let expected = if arrives { hello(EVIL) } else { hello(GOOD) };
        assert_eq!(server.connections(), [expected], "{policy}");
    }
}
