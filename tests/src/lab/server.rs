//! Those the workload talks to: TCP servers that send back what they get, UDP servers that keep it.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use ebfw_agent::host::netns::Netns;
use nix::sys::socket::{Backlog, Shutdown, shutdown};

use crate::path;

/// A connection on which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// An echo server for TCP, and a socket that takes UDP, on one port of all addresses; both families.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    _datagrams: UdpSocket,
    /// `None` where the kernel has no SCTP. It accepts nothing: the kernel makes the association and takes the first data.
    _sctp: Option<OwnedFd>,
}

impl Server {
    /// Starts it in `place`.
    ///
    /// # Errors
    ///
    /// Where the port is taken.
    pub fn start(place: &Netns, port: u16) -> io::Result<Self> {
        let listener = place.enter(|| listen(port))??;
        let datagrams = place.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        let any = (Ipv6Addr::UNSPECIFIED, port).into();
        let sctp = place.enter(|| path::seldom::listen(any))?.ok();
        let accepting = listener.try_clone()?;
        thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                while let Ok((stream, _)) = accepting.accept() {
                    thread::spawn(move || echo(stream));
                }
            })?;
        Ok(Self {
            listener,
            _datagrams: datagrams,
            _sctp: sctp,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    // The standard library asks for 128. Where connects come faster than threads are started, the next SYN would be lost for a second,
    // which a benchmark takes for a refusal.
    nix::sys::socket::listen(&listener, Backlog::MAXALLOWABLE)?;
    // Absent where the kernel lacks TCP Fast Open, whose test says so.
    let _ = path::set(
        &listener,
        libc::IPPROTO_TCP,
        libc::TCP_FASTOPEN,
        &16i32.to_ne_bytes(),
    );
    Ok(listener)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut buffer = [0; 16384];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}
