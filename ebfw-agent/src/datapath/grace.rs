//! Grace periods: what a slot no longer points to may still be read by a program that has just taken the old word.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::syscall;

/// A map of maps of its own, which no program reads. A change of any such map returns when every program that ran before has ended
/// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c, since Linux 4.20): the kernel's promise for just this use.
///
/// Not `membarrier(MEMBARRIER_CMD_GLOBAL)`: it waits for nothing where a single processor is online, and there a program can be preempted
/// too.
pub(super) struct GracePeriods {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriods {
    /// # Errors
    ///
    /// What the kernel says to two small maps.
    pub(super) fn prepare() -> io::Result<Self> {
        let inner = syscall::create_array(None)?;
        Ok(Self {
            outer: syscall::create_array(Some(inner.as_fd()))?,
            inner,
        })
    }

    /// Waits until no program that ran when this was called runs any more.
    ///
    /// # Errors
    ///
    /// What the kernel says; then nothing may be deleted that a program could still read.
    pub(super) fn wait(&self) -> io::Result<()> {
        syscall::set_inner(self.outer.as_fd(), self.inner.as_fd())
    }
}
