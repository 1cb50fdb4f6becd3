//! A terminal of the container for one process: made in the container's devpts, its master sent to the caller's socket.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

const MULTIPLEXER: &str = "/dev/ptmx";
/// The device number of every terminal multiplexer.
const MULTIPLEXER_DEVICE: (u32, u32) = (5, 2);

/// Makes a terminal, the controlling one of this session and its standard streams, and sends the master through `socket`.
pub(super) fn make(socket: &UnixStream) -> io::Result<()> {
    let master = multiplexer()?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    // Not by name: `/dev/pts` of an image may be anything.
    let slave: OwnedFd = ioctl_tiocgptpeer(&master, flags)?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    nix::unistd::dup2_stdin(&slave)?;
    nix::unistd::dup2_stdout(&slave)?;
    nix::unistd::dup2_stderr(&slave)?;
    send(socket, &master)
}

/// Opens the multiplexer, and nothing that only has its name.
fn multiplexer() -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(MULTIPLEXER)?;
    let meta = file.metadata()?;
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if !meta.file_type().is_char_device() || (major, minor) != MULTIPLEXER_DEVICE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/ptmx is not a terminal multiplexer"));
    }
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(file)
}

fn send(socket: &UnixStream, master: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(MULTIPLEXER.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}
