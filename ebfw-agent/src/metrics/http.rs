//! The HTTP server for `/metrics`, `/healthz` and `/readyz`.
//! Every connection has limits: slow, large and many clients cost little and cannot keep a probe from being answered.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    select,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time,
};

use super::{Metrics, Readiness};

/// What a client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once; one more ends the oldest of whoever holds most of them.
    connections: usize,
    /// How long a request's head may take, and how long a connection may idle between requests.
    head: Duration,
    /// How long a connection lives; a client that reads slowly is cut off then, one in order connects again.
    connection: Duration,
}

impl Limits {
    /// Probes and two scrapers need five connections, and seconds. There are more, so that of one address that opens them as fast as it can
    /// a probe too is answered before its turn to be ended comes.
    const DEFAULT: Self = Self {
        connections: 256,
        head: Duration::from_secs(10),
        connection: Duration::from_secs(120),
    };
}

/// Bytes and number of header lines of a request's head.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Connections that wait to be accepted; the kernel drops what is more, and a client tries again after a second. As many as it allows by default.
const BACKLOG: u32 = 4096;
/// How long answers under way may take at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);
/// How long to wait when no connection can be accepted (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The metrics address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to listen on {address} for metrics: {cause}; set EBFW_METRICS_ADDR to another address, or to nothing for none"
)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why; said in the message before what to do, hence not once more as its source.
    pub cause: io::Error,
}

/// A port that is taken but not served yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on the first of `candidates` whose family the node has.
    ///
    /// # Errors
    /// Where the port is taken, or no candidate is an address of this node.
    pub fn bind(candidates: &[SocketAddr]) -> Result<Self, BindError> {
        let mut refused = None;
        for &address in candidates {
            match listen(address) {
                Ok(listener) => {
                    let address = listener
                        .local_addr()
                        .map_err(|cause| BindError { address, cause })?;
                    return Ok(Self { listener, address });
                }
                Err(cause) => {
                    let absent = is_absent(&cause);
                    refused = Some(BindError { address, cause });
                    if !absent {
                        break;
                    }
                }
            }
        }
        Err(refused.unwrap_or_else(|| BindError {
            address: SocketAddr::from(([0; 4], 0)),
            cause: io::ErrorKind::InvalidInput.into(),
        }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to answer.
    #[must_use]
    pub fn serve(self, metrics: Arc<Metrics>, readiness: Readiness) -> Server {
        self.serve_within(Limits::DEFAULT, metrics, readiness)
    }

    fn serve_within(self, limits: Limits, metrics: Arc<Metrics>, readiness: Readiness) -> Server {
        let (stop, stopped) = watch::channel(());
        let address = self.address;
        let router = router(metrics, readiness);
        let task = tokio::spawn(accept(self.listener, limits, router, stopped));
        Server {
            address,
            stop,
            task,
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart need not wait for the old connections' time to pass.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The node lacks the address's family or the address itself.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT))
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The running server. It ends when it is shut down or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and finishes the answers that are under way.
    pub async fn shut_down(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the metrics server ended badly");
        }
    }
}

fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics).with_state(metrics))
        .route(
            "/healthz",
            get(|| async { plain(StatusCode::OK, "ok\n".into()) }),
        )
        .route("/readyz", get(serve_readiness).with_state(readiness))
        .fallback(|| async {
            plain(
                StatusCode::NOT_FOUND,
                "not found; there are /metrics, /healthz and /readyz\n".into(),
            )
        })
}

async fn serve_metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.encode()).into_response()
}

async fn serve_readiness(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return plain(StatusCode::OK, "ready\n".into());
    }
    let lines = missing.iter().map(|what| format!("pending: {what}\n"));
    plain(StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, PLAIN)], text).into_response()
}

async fn accept(
    listener: TcpListener,
    limits: Limits,
    router: Router,
    mut stop: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    let mut oldest_first: Vec<(IpAddr, AbortHandle)> = Vec::new();
    loop {
        select! {
            biased;
            _ = stop.changed() => break,
            Some(_) = connections.join_next() => oldest_first.retain(|(_, connection)| !connection.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if oldest_first.len() >= limits.connections
                        && let Some(at) = superfluous(&oldest_first)
                    {
                        oldest_first.remove(at).1.abort();
                    }
                    let connection = connections.spawn(converse(stream, limits, router.clone(), stop.clone()));
                    oldest_first.push((peer.ip(), connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection for metrics");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if time::timeout(SHUTDOWN_LIMIT, finish).await.is_err() {
        connections.shutdown().await;
    }
}

/// Which connection makes room for another: the oldest of the address that has most, so that nobody loses one to somebody else's many.
fn superfluous(oldest_first: &[(IpAddr, AbortHandle)]) -> Option<usize> {
    let mut held: HashMap<IpAddr, usize> = HashMap::new();
    for (peer, _) in oldest_first {
        *held.entry(*peer).or_default() += 1;
    }
    let most = held.values().max()?;
    oldest_first
        .iter()
        .position(|(peer, _)| held[peer] == *most)
}

/// One connection from its first byte to its last.
async fn converse(
    stream: TcpStream,
    limits: Limits,
    router: Router,
    mut stop: watch::Receiver<()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A client's failures are its own: it sends no HTTP, or goes away.
    select! {
        _ = connection.as_mut() => (),
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        () = time::sleep(limits.connection) => (),
    }
}

#[cfg(test)]
mod tests;
