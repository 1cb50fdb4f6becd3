//! Out-of-memory notices: an eventfd with v1, inotify on `memory.events` with v2.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::{CgroupError, files};

/// Enough for a few inotify events; the rest is read at the next call.
const BUFFER: usize = 1024;

/// Wakes its poller (readable, level-triggered) when a process of the cgroup may have been killed for memory.
#[derive(Debug)]
pub struct OomWatch {
    /// Readable on news.
    fd: OwnedFd,
    folder: PathBuf,
    /// The file with the counter `oom_kill`.
    counter: &'static str,
    /// Its value when last asked.
    seen: u64,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomWatch {
    pub(super) fn v1(folder: &Path) -> Result<Self, CgroupError> {
        const COUNTER: &str = "memory.oom_control";
        let io = |source: std::io::Error| CgroupError::Io { path: folder.join(COUNTER), source };
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| io(errno.into()))?;
        let control = File::open(folder.join(COUNTER)).map_err(io)?;
        let request = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        files::write(folder, "cgroup.event_control", &request)?;
        Ok(Self::new(fd, folder, COUNTER))
    }

    pub(super) fn v2(folder: &Path) -> Result<Self, CgroupError> {
        const COUNTER: &str = "memory.events";
        let path = folder.join(COUNTER);
        let io = |errno: rustix::io::Errno| CgroupError::Io { path: path.clone(), source: errno.into() };
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(io)?;
        inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY).map_err(io)?;
        Ok(Self::new(fd, folder, COUNTER))
    }

    fn new(fd: OwnedFd, folder: &Path, counter: &'static str) -> Self {
        let seen = count(folder, counter).unwrap_or(0);
        Self { fd, folder: folder.to_owned(), counter, seen }
    }

    /// How many kills since the last call; also makes the descriptor quiet again. Call it too when the container's
    /// init has ended: the kernel may tell of the exit before it tells of the cause.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when the cgroup was removed: stop polling.
    pub fn kills(&mut self) -> Result<u64, CgroupError> {
        let mut buffer = [0; BUFFER];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|read| read > 0) {}
        let now = count(&self.folder, self.counter).ok_or_else(|| CgroupError::Gone { path: self.folder.clone() })?;
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        Ok(new)
    }
}

fn count(folder: &Path, file: &str) -> Option<u64> {
    files::text(folder, file)?;
    Some(files::table(folder, file).get("oom_kill").copied().unwrap_or(0))
}
