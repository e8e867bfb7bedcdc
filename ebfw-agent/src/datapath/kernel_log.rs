//! What the kernel programs say through aya-log, as lines of the agent's own log. For debugging the kernel side only.
//!
//! Compiled in with the feature `kernel-log`; `cargo xtask build --features log` switches both sides on.

use std::io;

use aya::Ebpf;
use aya_log::{EbpfLogger, Error};
use tokio::{io::unix::AsyncFd, task::JoinHandle};
use tracing_log::LogTracer;

use super::LoadError;

/// The ring that aya-log-ebpf writes. Never pinned: each load of the programs has its own.
const RING: &str = "AYA_LOGS";

/// Forwards until dropped.
#[derive(Debug)]
pub struct KernelLog(JoinHandle<()>);

impl KernelLog {
    /// Takes the ring of the object. The programs have to be loaded by then: they name the ring by its descriptor.
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Option<Self>, LoadError> {
        let failed = |source| LoadError::Io {
            what: format!("read the ring buffer {RING}"),
            source,
        };
        let logger = match EbpfLogger::init_with_logger(ebpf, LogTracer::new()) {
            Ok(logger) => logger,
            Err(Error::MapNotFound) => {
                tracing::warn!(
                    "the kernel programs say nothing for debugging: build them with `cargo xtask build --features log`"
                );
                return Ok(None);
            }
            Err(error) => return Err(failed(io::Error::other(error))),
        };
        // SAFETY: the logger owns its ring and keeps its descriptor open until it is dropped, after the registration.
        let ring = unsafe { AsyncFd::register(logger) }.map_err(|error| failed(error.into()))?;
        Ok(Some(Self(tokio::spawn(forward(ring)))))
    }
}

async fn forward(mut ring: AsyncFd<EbpfLogger<LogTracer>>) {
    // Fails only when the runtime ends.
    while let Ok(mut ready) = ring.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}
