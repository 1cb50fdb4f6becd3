//! Fifos that clients made: opening their ends without ever blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// Whether there is a fifo of that name.
pub(crate) fn is_fifo(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Opens the writing end once a client has opened the reading end, and a reading end of our own behind it, so that the
/// client may go and come back without breaking the writer. `None` until there is a client.
///
/// Opening both at once would always succeed, but then output could end up in a fifo that no client ever opens.
///
/// # Errors
/// The fifo is gone.
pub(crate) fn open_writer(path: &Path) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    match rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(writer) => Ok(Some((writer, open_reader(path)?))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the reading end; with or without a writer.
///
/// # Errors
/// The fifo is gone.
pub(crate) fn open_reader(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a writing end beside a reading end of our own, so that the reader sees no end before this is closed.
///
/// # Errors
/// The fifo is gone, or nobody has its reading end.
pub(crate) fn open_keeper(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}
