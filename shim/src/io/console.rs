//! The terminal of a process: the runtime makes it inside the container and sends the master's descriptor to a socket.

use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

/// The longest name a socket can be reached by, less its end.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A socket in the bundle that waits for one terminal. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The bundle; a short name for the socket leads through it when the path is too long.
    folder: OwnedFd,
}

impl ConsoleSocket {
    /// Makes the socket `name` in `bundle`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(bundle: &Path, name: &str) -> io::Result<Self> {
        let folder = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = bundle.join(name);
        let _ = std::fs::remove_file(&path);
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        let listener = UnixListener::bind(short)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path, folder })
    }

    /// The name by which a runtime that we start can reach it.
    pub(crate) fn path(&self) -> PathBuf {
        if self.path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
            return self.path.clone();
        }
        let folder = format!("/proc/{}/fd/{}", std::process::id(), self.folder.as_raw_fd());
        Path::new(&folder).join(self.path.file_name().unwrap_or_default())
    }

    /// Takes the terminal that the runtime has sent. The runtime sends it before it ends, so this is called when it has
    /// ended and need not wait.
    ///
    /// # Errors
    /// Nobody has connected, or what came was no descriptor.
    pub(crate) fn receive(&self) -> io::Result<OwnedFd> {
        let (socket, _) = self.listener.accept()?;
        socket.set_nonblocking(true)?;
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let master = master.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no terminal was sent"))?;
        if !rustix::termios::isatty(&master) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what was sent is no terminal"));
        }
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tells the terminal how large its window is.
///
/// # Errors
/// The terminal is gone.
pub(crate) fn resize(master: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    Ok(tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}
