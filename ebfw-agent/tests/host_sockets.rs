//! Destroying real TCP sockets in network namespaces of the test's own. Needs root.
#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

mod host_support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use ebfw_agent::host::{
    cgroup::{CgroupPath, Hierarchy},
    netns::Netns,
    sockets::{self, Destroyer, Outcome, Worker, diag::TcpSocket},
};
use ebfw_common::abi::{Address, Request, request};
use ebfw_test_need::root;
use host_support::cgroup;
use nix::sys::socket::{setsockopt, sockopt};

/// A namespace whose loopback is up. A process in it names it under /proc, as a pod's would.
struct Place {
    netns: Netns,
    holder: std::process::Child,
}

impl Place {
    fn new() -> Self {
        let netns = Netns::fresh().unwrap();
        let up = || {
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        };
        assert!(netns.enter(up).unwrap(), "ip link set lo up");
        let holder = netns
            .enter(|| {
                Command::new("sleep")
                    .arg("1000")
                    .stdin(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .unwrap();
        Self { netns, holder }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

/// A connection inside of a namespace: the client's end and the server's.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(place: &Place, address: &str) -> Self {
        Self::by(place, address, |to| TcpStream::connect(to).unwrap())
    }

    fn by(
        place: &Place,
        address: &str,
        connect: impl FnOnce(SocketAddr) -> TcpStream + Send,
    ) -> Self {
        let make = || {
            let listener = TcpListener::bind(address).unwrap();
            let client = connect(listener.local_addr().unwrap());
            Self {
                client,
                server: listener.accept().unwrap().0,
            }
        };
        place.netns.enter(make).unwrap()
    }

    /// What the kernel program would write for the client's end.
    fn request(&self) -> Request {
        let (source, destination) = (
            self.client.local_addr().unwrap(),
            self.client.peer_addr().unwrap(),
        );
        Request {
            kind: request::DESTROY,
            protocol: 6,
            cgroup_id: 0,
            cookie: cookie(&self.client),
            source: Address::from(source.ip()),
            destination: Address::from(destination.ip()),
            source_port: source.port(),
            destination_port: destination.port(),
            family: if source.ip().to_canonical().is_ipv4() {
                4
            } else {
                6
            },
        }
    }
}

fn cookie(stream: &TcpStream) -> u64 {
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: SO_COOKIE writes 8 bytes, which `cookie` has, and its length into `length`; both live through the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!((result, length), (0, 8));
    cookie
}

fn worker() -> Worker {
    Worker::new(Hierarchy::find().unwrap(), Box::new(|_| None)).unwrap()
}

/// The client's end in a dump of the namespace.
fn listed(place: &Place, cookie: u64) -> Option<TcpSocket> {
    sockets::dump(&place.netns)
        .unwrap()
        .into_iter()
        .find(|socket| socket.cookie == cookie)
}

#[test]
fn this_kernel_destroys_sockets() {
    if !root() {
        return;
    }
    sockets::probe().unwrap();
}

#[test]
fn a_blocked_reader_gets_econnaborted_and_its_neighbour_nothing() {
    if !root() {
        return;
    }
    let place = Place::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut denied, mut allowed) = (Pair::new(&place, address), Pair::new(&place, address));
        let request = denied.request();
        let reader = thread::spawn(move || {
            (
                denied.client.read(&mut [0; 8]).unwrap_err().kind(),
                denied.server,
            )
        });
        let outcome = worker().destroy(&request);
        assert!(
            matches!(outcome, Outcome::Destroyed),
            "{address}: {outcome:?}"
        );
        let (kind, mut server) = reader.join().unwrap();
        assert_eq!(kind, ErrorKind::ConnectionAborted, "{address}");
        assert_eq!(
            server.read(&mut [0; 8]).unwrap_err().kind(),
            ErrorKind::ConnectionReset,
            "{address}: the peer is told"
        );
        allowed.client.write_all(b"x").unwrap();
        assert_eq!(
            allowed.server.read(&mut [0; 8]).unwrap(),
            1,
            "{address}: another connection lives on"
        );
    }
}

#[test]
fn an_ipv6_socket_that_speaks_ipv4_is_found_whatever_family_is_told() {
    if !root() {
        return;
    }
    let place = Place::new();
    for family in [4, 6] {
        let connect = |to: SocketAddr| {
            let IpAddr::V4(v4) = to.ip() else {
                unreachable!("the listener is bound to IPv4")
            };
            TcpStream::connect((v4.to_ipv6_mapped(), to.port())).unwrap()
        };
        let pair = Pair::by(&place, "127.0.0.1:0", connect);
        let outcome = worker().destroy(&Request {
            family,
            ..pair.request()
        });
        assert!(
            matches!(outcome, Outcome::Destroyed),
            "family {family}: {outcome:?}"
        );
        assert_eq!(listed(&place, cookie(&pair.client)), None);
    }
}

#[test]
fn a_socket_that_its_ends_do_not_find_is_found_by_its_cookie() {
    if !root() {
        return;
    }
    let place = Place::new();
    let bound = Pair::new(&place, "127.0.0.1:0");
    setsockopt(&bound.client, sockopt::BindToDevice, &"lo".into()).unwrap();
    let translated = Pair::new(&place, "127.0.0.1:0");
    for (pair, request, why) in [
        (
            &bound,
            bound.request(),
            "bound to a device: a look-up without the device passes it over",
        ),
        (
            &translated,
            Request {
                destination: Address::mapped([192, 0, 2, 1]),
                destination_port: 9,
                ..translated.request()
            },
            "the packet's destination is the one after DNAT",
        ),
    ] {
        let outcome = worker().destroy(&request);
        assert!(matches!(outcome, Outcome::Destroyed), "{why}: {outcome:?}");
        assert_eq!(listed(&place, cookie(&pair.client)), None, "{why}");
    }
}

#[test]
fn data_parked_in_a_socket_whose_process_is_gone_goes_with_it() {
    if !root() {
        return;
    }
    let place = Place::new();
    let mut pair = Pair::new(&place, "127.0.0.1:0");
    pair.client.set_nonblocking(true).unwrap();
    // The server never reads: its window closes and the rest waits in the client's socket.
    let full = loop {
        if let Err(error) = pair.client.write(&[b'x'; 65536]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let (request, cookie) = (pair.request(), cookie(&pair.client));
    let Pair { client, mut server } = pair;
    drop(client);
    assert!(
        listed(&place, cookie).is_some(),
        "no process has it, yet it waits to deliver"
    );

    let outcome = worker().destroy(&request);
    assert!(matches!(outcome, Outcome::Destroyed), "{outcome:?}");
    assert_eq!(listed(&place, cookie), None);
    let end = server.read_to_end(&mut Vec::new());
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::ConnectionReset,
        "the stream never ends as if it were whole"
    );
}

#[test]
fn a_cookie_that_is_gone_or_another_sockets_destroys_nothing() {
    if !root() {
        return;
    }
    let place = Place::new();
    let pair = Pair::new(&place, "127.0.0.1:0");
    let request = pair.request();
    let other = Request {
        cookie: request.cookie + 1_000_000,
        ..request
    };
    assert!(
        matches!(worker().destroy(&other), Outcome::Gone),
        "the ends are right, the socket is not"
    );
    assert!(listed(&place, request.cookie).is_some());
    assert!(matches!(worker().destroy(&request), Outcome::Destroyed));
    assert!(matches!(worker().destroy(&request), Outcome::Gone), "twice");
}

#[test]
fn the_cgroup_leads_to_the_namespace_and_the_dump_names_the_cgroup() {
    if !root() {
        return;
    }
    let (hierarchy, owned) = cgroup("sockets");
    let place = Place::new();
    owned.admit(place.holder.id()).unwrap();
    let pair = Pair::new(&place, "127.0.0.1:0");
    let path: CgroupPath = owned.path().clone();
    let own = hierarchy.id(&hierarchy.own().unwrap()).unwrap();
    let seen = listed(&place, cookie(&pair.client)).unwrap();
    assert_eq!(
        seen.cgroup_id,
        Some(own.0),
        "the cgroup that made the socket"
    );
    assert_eq!(
        (seen.source, seen.destination),
        (
            pair.client.local_addr().unwrap(),
            pair.client.peer_addr().unwrap()
        )
    );

    let destroyer = Destroyer::start(hierarchy, Box::new(move |_| Some(path.clone()))).unwrap();
    destroyer.request(Request {
        cgroup_id: owned.id().0,
        ..pair.request()
    });
    destroyer.request(Request {
        cgroup_id: owned.id().0,
        ..pair.request()
    });
    let until = Instant::now() + Duration::from_secs(10);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    while count(&destroyer.counts().destroyed) + count(&destroyer.counts().gone) < 2 {
        assert!(Instant::now() < until, "{:?}", destroyer.counts());
        thread::yield_now();
    }
    assert_eq!(
        (
            count(&destroyer.counts().destroyed),
            count(&destroyer.counts().gone)
        ),
        (1, 1)
    );
    drop(destroyer);
    drop(place);
}
