//! Destroys the TCP sockets of denied flows, in whatever network namespace they are, so that nothing parked in them leaves later.
//!
//! Decides nothing: each [`Request`] comes from who denied the flow. A request that is lost is repeated by the socket's next packet.

pub mod diag;
mod namespaces;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ebfw_common::abi::{Address, Request};

use self::{
    diag::{Diag, Family},
    namespaces::Namespaces,
};
use super::{
    cgroup::{CgroupId, CgroupPath, Hierarchy},
    netns::Netns,
};

/// Requests that may wait. A full queue loses the newest, which the socket's next packet repeats.
const QUEUE: usize = 1024;
/// Time for one request: a search through many namespaces gives up after it.
const BUDGET: Duration = Duration::from_millis(200);
/// Pause after which idle namespaces are let go.
const IDLE: Duration = Duration::from_secs(2);

/// Finds the path of a cgroup.
pub type PathOf = Box<dyn Fn(CgroupId) -> Option<CgroupPath> + Send>;

/// Whether this kernel destroys sockets: asks for one that cannot exist.
pub fn probe() -> io::Result<()> {
    let mut diag = Diag::open()?;
    // Loads the module where TCP diagnosis is one; without it even a dump fails.
    diag.dump(Family::V4)?;
    let nothing = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    match diag.destroy(Family::V4, nothing, nothing, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sockets destroyed.
    pub destroyed: AtomicU64,
    /// Sockets that were gone already, or are in no namespace that the agent can enter.
    pub gone: AtomicU64,
    /// Requests that the kernel refused.
    pub failed: AtomicU64,
    /// Requests that did not fit into the queue.
    pub overrun: AtomicU64,
}

/// What became of one request.
#[derive(Debug)]
pub enum Outcome {
    /// The socket is destroyed.
    Destroyed,
    /// No namespace has it.
    Gone,
    /// The kernel refused.
    Failed(io::Error),
}

/// What is done when a request has been carried out.
type Done = Box<dyn FnOnce(&Outcome) + Send>;

/// A request in the queue.
struct Order {
    request: Request,
    done: Option<Done>,
}

/// Destroys sockets on a thread of its own, until dropped.
#[derive(Debug)]
pub struct Destroyer {
    queue: Option<SyncSender<Order>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Destroyer {
    /// Starts the thread. `path_of`: where a request's cgroup is, to look into the namespaces of its processes first.
    pub fn start(hierarchy: Hierarchy, path_of: PathOf) -> io::Result<Self> {
        let (queue, orders) = sync_channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let mut worker = Worker::new(hierarchy, path_of)?;
        let results = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("ebfw-destroy".to_owned())
            .spawn(move || worker.run(&orders, &results))?;
        Ok(Self {
            queue: Some(queue),
            counts,
            thread: Some(thread),
        })
    }

    /// Hands in a request; never waits.
    pub fn request(&self, request: Request) {
        self.order(Order {
            request,
            done: None,
        });
    }

    /// As [`Destroyer::request`]; `done` learns what became of it, on the destroyer's thread. Where the queue is full it learns nothing.
    pub fn request_then(&self, request: Request, done: impl FnOnce(&Outcome) + Send + 'static) {
        self.order(Order {
            request,
            done: Some(Box::new(done)),
        });
    }

    fn order(&self, order: Order) {
        if self
            .queue
            .as_ref()
            .is_none_or(|queue| queue.try_send(order).is_err())
        {
            self.counts.overrun.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Destroyer {
    fn drop(&mut self) {
        // The thread ends with the queue.
        self.queue = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that destroys sockets has panicked");
        }
    }
}

/// Carries requests out; also without a thread around it, for tests and single calls.
pub struct Worker {
    namespaces: Namespaces,
    path_of: PathOf,
}

impl Worker {
    /// A worker of the calling thread's namespace.
    pub fn new(hierarchy: Hierarchy, path_of: PathOf) -> io::Result<Self> {
        Ok(Self {
            namespaces: Namespaces::new(hierarchy)?,
            path_of,
        })
    }

    fn run(&mut self, orders: &Receiver<Order>, counts: &Counts) {
        loop {
            match orders.recv_timeout(IDLE) {
                Ok(Order { request, done }) => {
                    let outcome = self.destroy(&request);
                    count(counts, &request, &outcome);
                    if let Some(done) = done {
                        done(&outcome);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.namespaces.release_idle(Instant::now());
        }
    }

    /// Destroys the socket of `request`, looking through the namespaces, the likeliest first.
    pub fn destroy(&mut self, request: &Request) -> Outcome {
        let Some(target) = Target::of(request) else {
            return Outcome::Gone;
        };
        let Self {
            namespaces,
            path_of,
        } = self;
        let cgroup = CgroupId(request.cgroup_id);
        namespaces.try_each(
            cgroup,
            || path_of(cgroup),
            Instant::now() + BUDGET,
            |diag| target.destroy(diag),
        )
    }
}

fn count(counts: &Counts, request: &Request, outcome: &Outcome) {
    let counter = match outcome {
        Outcome::Destroyed => &counts.destroyed,
        Outcome::Gone => &counts.gone,
        Outcome::Failed(error) => {
            tracing::warn!(%error, cgroup = request.cgroup_id, "failed to destroy the socket of a denied flow; its packets stay dropped");
            &counts.failed
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The socket that a request means.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    family: Family,
    source: SocketAddr,
    destination: SocketAddr,
    cookie: u64,
}

impl Target {
    /// `None` for a request that names no TCP socket: 0 is no cookie (`__sock_gen_cookie`, net/core/sock_diag.c, counts from 1).
    fn of(request: &Request) -> Option<Self> {
        let family = match request.family {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let end = |address: Address, port| {
            SocketAddr::new(IpAddr::from(address.octets()).to_canonical(), port)
        };
        (request.protocol == libc::IPPROTO_TCP as u32 && request.cookie != 0).then(|| Self {
            family,
            source: end(request.source, request.source_port),
            destination: end(request.destination, request.destination_port),
            cookie: request.cookie,
        })
    }

    /// Destroys it if it is in the namespace of `diag`; `None` if it is not. First by its ends, which is cheap; then by its cookie
    /// alone, for sockets that the ends do not find: bound to a device, or with addresses that NAT changed under the packet.
    fn destroy(&self, diag: &mut Diag) -> io::Result<bool> {
        for family in [self.family, self.family.other()] {
            if found(diag.destroy(family, self.source, self.destination, self.cookie))? {
                return Ok(true);
            }
        }
        for family in [self.family, self.family.other()] {
            if let Some(listed) = diag
                .dump(family)?
                .iter()
                .find(|socket| socket.cookie == self.cookie)
            {
                return found(diag.destroy_listed(listed));
            }
        }
        Ok(false)
    }
}

/// Reads the kernel's answer. ENOENT: not in this namespace, or closed. ESTALE: the ends are another socket's (`sock_diag_check_cookie`
/// makes it ENOENT or ESTALE by version).
fn found(answer: io::Result<()>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The TCP sockets of a namespace, both families.
pub fn dump(netns: &Netns) -> io::Result<Vec<diag::TcpSocket>> {
    let mut diag = netns.enter(Diag::open)??;
    let mut sockets = diag.dump(Family::V4)?;
    sockets.extend(diag.dump(Family::V6)?);
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use ebfw_common::abi::request;
    use zerocopy::FromZeros;

    use super::*;

    fn request() -> Request {
        Request {
            kind: request::DESTROY,
            protocol: 6,
            cookie: 7,
            family: 4,
            source: Address::mapped([10, 0, 0, 1]),
            destination: Address::mapped([10, 0, 0, 2]),
            source_port: 1000,
            destination_port: 443,
            ..Request::new_zeroed()
        }
    }

    #[test]
    fn a_request_that_names_no_tcp_socket_is_left_alone() {
        for (request, why) in [
            (
                Request {
                    protocol: 17,
                    ..request()
                },
                "UDP",
            ),
            (
                Request {
                    cookie: 0,
                    ..request()
                },
                "no cookie would match by addresses alone",
            ),
            (
                Request {
                    family: 0,
                    ..request()
                },
                "no family",
            ),
            (Request::new_zeroed(), "nothing"),
        ] {
            assert_eq!(Target::of(&request), None, "{why}");
        }
    }

    #[test]
    fn mapped_addresses_are_read_as_ipv4() {
        let target = Target::of(&request()).unwrap();
        assert_eq!(target.destination, "10.0.0.2:443".parse().unwrap());
        assert_eq!(target.source, "10.0.0.1:1000".parse().unwrap());
    }

    #[test]
    fn only_absence_lets_the_search_go_on() {
        let answer = |code| found(Err(io::Error::from_raw_os_error(code)));
        assert!(found(Ok(())).unwrap());
        assert!(!answer(libc::ENOENT).unwrap() && !answer(libc::ESTALE).unwrap());
        assert!(answer(libc::EPERM).is_err() && answer(libc::EOPNOTSUPP).is_err());
    }
}
