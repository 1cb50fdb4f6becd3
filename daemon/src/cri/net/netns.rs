//! Network namespaces: made by a thread that leaves the daemon's for it and ends, kept by a mount.
//!
//! A namespace belongs to the thread that is in it, so nothing is forked and no other thread is touched. The file it is mounted on is
//! its name for plugins and for the containers of the pod.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use model::error::{Classify, Kind, io_kind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Why there is no network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be made.
    #[error("cannot make network namespace {}: {step}", path.display())]
    Make {
        /// Its file.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It cannot be removed.
    #[error("cannot remove network namespace {}", path.display())]
    Remove {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("cannot enter network namespace {}", path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for NetnsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Make { source, .. } | Self::Remove { source, .. } | Self::Enter { source, .. } => io_kind(source),
        }
    }
}

/// Runs `work` on a thread of its own, which may do with its namespaces what it likes: it ends with them.
fn apart<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new().name("netns".into()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that did it ended early")))
}

/// Makes a network namespace with its `lo` up, mounted at `path`. Blocks.
///
/// # Errors
/// It cannot be made; nothing is left then.
pub fn make(path: &Path) -> Result<(), NetnsError> {
    let failed = |step| move |source| NetnsError::Make { path: path.to_owned(), step, source };
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(failed("folder"))?;
    }
    File::create_new(path).map_err(failed("file"))?;
    let at = path.to_owned();
    let made = apart(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        loopback_up()?;
        mount(Some("/proc/thread-self/ns/net"), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made.map_err(failed("unshare and mount"))
}

/// Removes a network namespace; it is well if it is gone. Blocks.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    let failed = |source| NetnsError::Remove { path: path.to_owned(), source };
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // No mount, or no file.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(failed(error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Whether `path` is a network namespace. Blocks.
pub fn is_there(path: &Path) -> bool {
    let own = fs::metadata("/proc/self/ns/net").map(|of| of.dev());
    matches!((fs::metadata(path), own), (Ok(file), Ok(device)) if file.dev() == device)
}

/// Runs `work` in the network namespace at `path`, on a thread of its own: sockets that it makes belong there for ever. Blocks.
///
/// # Errors
/// It cannot be entered, or `work` failed.
pub fn within<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetnsError> {
    let failed = |source| NetnsError::Enter { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    apart(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .map_err(failed)
}

/// Switches on the first interface of this thread's namespace, which is always `lo`, by rtnetlink (rtnetlink(7)).
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const IFF_UP: u32 = 1;
    const LO: i32 = 1;
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    // A header of 16 bytes and an `ifinfomsg` of 16 more.
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LO.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // The code follows the header, negated; 0 says that it is done.
    let code = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_namespace_is_made_used_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/ns");
        make(&path).unwrap();
        assert!(is_there(&path));
        assert!(make(&path).is_err(), "a second one of that name");
        // `lo` is up there, and it is not ours.
        let listener = within(&path, || TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        within(&path, move || TcpStream::connect(("127.0.0.1", port))).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!is_there(&path) && !path.exists());
        assert!(within(&path, || Ok(())).is_err());
    }
}
