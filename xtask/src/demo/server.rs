//! A server that greets every connection, in a network namespace, and counts them.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::namespace::Namespace;

/// Lives in a thread of its own until the program ends.
pub(super) struct Server {
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Returns as soon as connections are accepted.
    pub(super) fn start(
        namespace: &Namespace,
        address: SocketAddrV4,
        name: &'static str,
    ) -> Result<Self> {
        let path = namespace.path();
        let file =
            File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let (report, bound) = mpsc::channel();
        let counter = Arc::clone(&connections);
        thread::spawn(move || {
            let listener = listen(&file, address);
            let listening = listener
                .as_ref()
                .ok()
                .and_then(|listener| listener.try_clone().ok());
            if report.send(listener.map(drop)).is_err() {
                return;
            }
            let Some(listener) = listening else { return };
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                greet(stream, name);
            }
        });
        bound
            .recv()
            .context("the server's thread ended")?
            .with_context(|| format!("failed to listen on {address}"))?;
        Ok(Self { connections })
    }

    /// How many were accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Moves the calling thread, and no other, into the namespace.
fn listen(namespace: &File, address: SocketAddrV4) -> Result<TcpListener> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    Ok(TcpListener::bind(address)?)
}

/// A client that goes away early is no matter.
fn greet(mut stream: TcpStream, name: &str) {
    let mut request = [0; 1024];
    drop(stream.read(&mut request));
    let body = format!("hello from {name}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    drop(stream.write_all((head + &body).as_bytes()));
}
