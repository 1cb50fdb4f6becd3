//! Out-of-memory notices: an eventfd with v1, inotify on `memory.events` with v2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::CgroupError;

/// Wakes its poller (readable, level-triggered) when a process of the cgroup may have been killed for memory.
#[derive(Debug)]
pub struct OomWatch {
    /// Readable on news.
    fd: OwnedFd,
    /// The file with the counter `oom_kill`.
    counter: PathBuf,
    /// Its value when last asked.
    seen: u64,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomWatch {
    /// How many kills since the last call; also makes the descriptor quiet again. Call it too when the container's
    /// init has ended: the kernel may tell of the exit before it tells of the cause.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when the cgroup was removed: stop polling.
    pub fn kills(&mut self) -> Result<u64, CgroupError> {
        let _ = (&self.counter, self.seen);
        todo!()
    }
}
