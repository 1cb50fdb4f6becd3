//! Unix sockets that clients dial: made with the right owner and mode before anybody can see them, removed at the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::Socket;

/// The mode of a socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// The mode of a folder that is made for a socket.
const FOLDER_MODE: u32 = 0o711;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another process listens on {}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else is in its place, and not ours to remove.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which path.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

/// A bound socket. Dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    inode: u64,
}

/// Listens on a socket, in place of a stale one if there is one.
///
/// It is made under another name, given its owner and mode, and renamed into its place, so that at no time can anybody connect
/// who must not.
///
/// # Errors
/// Somebody listens there, or the path cannot be used.
pub fn bind(socket: &Socket) -> Result<(UnixListener, Bound), SocketError> {
    let path = &socket.address;
    let failed = |what| move |source| SocketError::Io { what, path: path.clone(), source };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("make the folder of"))?;
    }
    check_free(path)?;
    let hidden = hidden(path);
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear the way for")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden).map_err(failed("listen on"))?;
    let placed = fs::set_permissions(&hidden, Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| chown(&hidden, Some(socket.uid), Some(socket.gid)))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::rename(&hidden, path))
        .and_then(|()| fs::symlink_metadata(path));
    match placed {
        Ok(metadata) => Ok((listener, Bound { path: path.clone(), inode: metadata.ino() })),
        Err(error) => {
            // The first failure is the one to tell.
            let _ = fs::remove_file(&hidden);
            Err(failed("set owner and mode of")(error))
        }
    }
}

/// Where a socket is made: one byte longer than its path, which the kernel still takes.
fn hidden(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    name.into()
}

fn check_free(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { what: "look at", path: path.to_owned(), source }),
        Ok(metadata) => metadata,
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        // Nobody listens any more: its process ended without removing it.
        Err(_) => Ok(()),
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(path: PathBuf) -> Socket {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Socket { address: path, uid, gid }
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/a.sock");
        let (_listener, bound) = bind(&socket(path.clone())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_living_socket_is_not_taken_and_a_stale_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (listener, bound) = bind(&socket(path.clone())).unwrap();
        assert!(matches!(bind(&socket(path.clone())), Err(SocketError::InUse { .. })));
        drop(listener);
        let (_second, second_bound) = bind(&socket(path.clone())).unwrap();
        drop(bound);
        UnixStream::connect(&path).expect("the old guard leaves the new socket alone");
        drop(second_bound);
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&socket(path.clone())), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn the_longest_path_that_the_configuration_allows_can_be_bound() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let length = crate::config::MAX_SOCKET_PATH_BYTES - folder.path().as_os_str().len() - 1;
        let path = folder.path().join("x".repeat(length));
        bind(&socket(path)).unwrap();
    }
}
