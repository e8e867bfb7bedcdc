//! A server that keeps what it gets, connection by connection: what really reached an application at the far end.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use ebfw_agent::host::netns::Netns;
use nix::sys::socket::{Shutdown, shutdown};

type Connections = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

/// The server.
#[derive(Debug)]
pub struct Recorder {
    listener: TcpListener,
    connections: Connections,
}

impl Recorder {
    /// Starts it at `port` of all addresses in `place`. Each client that has no more to say is told how many bytes came.
    ///
    /// # Panics
    ///
    /// Where the port is taken.
    #[must_use]
    pub fn start(place: &Netns, port: u16) -> Self {
        let listener = place
            .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
            .expect("the namespace exists")
            .expect("the port is free");
        Self::on(listener)
    }

    /// Starts it on a socket that listens.
    ///
    /// # Panics
    ///
    /// Where there are no descriptors left.
    #[must_use]
    pub fn on(listener: TcpListener) -> Self {
        let connections = Connections::default();
        let accepting = listener.try_clone().expect("descriptors are left");
        let kept = Arc::clone(&connections);
        thread::spawn(move || {
            while let Ok((stream, from)) = accepting.accept() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || record(stream, from, &kept));
            }
        });
        Self {
            listener,
            connections,
        }
    }

    /// The bytes of each connection so far.
    #[must_use]
    pub fn connections(&self) -> Vec<Vec<u8>> {
        let kept = self.connections.lock();
        let kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Whether `bytes` came in on some connection.
    #[must_use]
    pub fn has(&self, bytes: &[u8]) -> bool {
        self.connections()
            .iter()
            .any(|got| got.windows(bytes.len()).any(|window| window == bytes))
    }
}

impl AsRawFd for Recorder {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

fn record(mut stream: TcpStream, from: SocketAddr, kept: &Connections) -> io::Result<()> {
    let mut buffer = [0; 16384];
    let mut sum = 0u64;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.write_all(&sum.to_ne_bytes());
        }
        sum += length as u64;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter_mut().find(|(known, _)| *known == from) {
            Some((_, bytes)) => bytes.extend(&buffer[..length]),
            None => kept.push((from, buffer[..length].to_vec())),
        }
    }
}
