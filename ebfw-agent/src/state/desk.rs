//! Where an agent is asked for its state: an abstract socket that is called after the pin directory, so that it needs no folder that can be
//! written and goes with the process. In the agent's network namespace; only root, or whoever runs the agent, is answered and believed.

use std::{
    io::{self, Read as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use super::State;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an answer at most: a node of ten thousand workloads says less.
const MAX_ANSWER: u64 = 64 << 20;

/// The agent's end.
#[derive(Debug)]
pub struct Desk(UnixListener);

/// Somebody who wants to know.
#[derive(Debug)]
pub struct Asked(UnixStream);

impl Desk {
    /// Opens it. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where another process has the name.
    pub fn open(pin_dir: &Path) -> io::Result<Self> {
        let listener = StdListener::bind_addr(&address(pin_dir)?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self)
    }

    /// Waits until somebody asks who may. May be cancelled.
    pub async fn next(&self) -> Asked {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    if stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) {
                        return Asked(stream);
                    }
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

impl Asked {
    /// Tells it, in a task of its own: who asks may be slow.
    pub fn answer(self, state: &State) {
        let text = serde_json::to_vec(state).expect("strings and numbers have a JSON form");
        let Self(mut stream) = self;
        tokio::spawn(async move {
            // Who does not read in time, or has gone, gets nothing.
            let _ = timeout(PATIENCE, stream.write_all(&text)).await;
        });
    }
}

/// Asks the agent of a pin directory; `None`: there is none.
pub(super) fn ask(pin_dir: &Path) -> anyhow::Result<Option<State>> {
    let mut stream = match StdStream::connect_addr(&address(pin_dir)?) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error).context("failed to ask the agent"),
    };
    let peer = getsockopt(&stream, PeerCredentials).context("failed to see who answers")?;
    if !is_trusted(peer.uid()) {
        bail!(
            "process {} of user {} answers in the agent's place: it is not believed",
            peer.pid(),
            peer.uid()
        );
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    let read = stream.by_ref().take(MAX_ANSWER).read_to_end(&mut text);
    read.context("the agent does not answer")?;
    if text.is_empty() {
        bail!("the agent answers only root and the user that it runs as");
    }
    let state = serde_json::from_slice(&text);
    state
        .context("the agent's answer makes no sense to this version of ebfw")
        .map(Some)
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// The name is a digest: paths may be longer than names of sockets.
fn address(pin_dir: &Path) -> io::Result<SocketAddr> {
    let digest = Sha256::digest(pin_dir.as_os_str().as_bytes());
    let digits: String = digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    SocketAddr::from_abstract_name(format!("ebfw-status-{digits}"))
}

#[cfg(test)]
mod tests {
    use super::{super::samples::state, *};

    #[tokio::test]
    async fn who_asks_is_told_and_without_an_agent_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        assert!(ask(&path).unwrap().is_none());
        let desk = Desk::open(&path).unwrap();
        assert!(Desk::open(&path).is_err(), "one agent a directory");
        let question = tokio::task::spawn_blocking({
            let path = path.clone();
            move || ask(&path)
        });
        desk.next().await.answer(&state());
        assert_eq!(question.await.unwrap().unwrap(), Some(state()));
        drop(desk);
        assert!(ask(&path).unwrap().is_none(), "it goes with the agent");
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let desk = Desk::open(&path).unwrap();
        for answer in [&b""[..], b"{}", b"\xff"] {
            let question = tokio::task::spawn_blocking({
                let path = path.clone();
                move || ask(&path)
            });
            let Asked(mut stream) = desk.next().await;
            stream.write_all(answer).await.unwrap();
            drop(stream);
            assert!(question.await.unwrap().is_err(), "{answer:?}");
        }
    }
}
