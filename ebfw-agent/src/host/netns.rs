//! Network namespaces: open one, make one, run something inside of one.
//!
//! A thread that has entered another namespace never runs anything else: each use has a thread of its own.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic,
    path::Path,
    thread,
};

use nix::{
    getsockopt_impl,
    sched::{CloneFlags, setns, unshare},
    sockopt_impl,
    sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
};

sockopt_impl!(
    /// The cookie of a socket's network namespace, which BPF programs see (kernel 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The cookie of the calling thread's namespace; `None` on kernels before 5.14, which give programs cookies but tell them nobody else.
pub fn own_cookie() -> io::Result<Option<u64>> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    match getsockopt(&socket, NetnsCookie) {
        Ok(cookie) => Ok(Some(cookie).filter(|&cookie| cookie != 0)),
        Err(nix::errno::Errno::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What tells namespaces apart: device and inode on nsfs (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// The namespace that `path` (a file of nsfs) names, without opening it.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace that a file names: /proc/PID/ns/net or a bind mount of it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            id: NetnsId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            file,
        })
    }

    /// A new namespace with nothing but a loopback device that is down. It goes when its last user goes.
    pub fn fresh() -> io::Result<Self> {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::own()
        })
    }

    /// Tells it from others.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside of the namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        apart(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }
}

/// Runs `work` on a fresh thread that ends with it.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("ebfw-netns".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_told_by_any_of_its_names() {
        let own = Netns::own().unwrap().id();
        assert_eq!(Netns::of_process(std::process::id()).unwrap().id(), own);
        assert_eq!(NetnsId::at(Path::new("/proc/self/ns/net")).unwrap(), own);
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert!(Netns::of_process(u32::MAX).is_err());
    }
}
