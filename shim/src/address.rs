//! The socket of a shim: its name, making it, finding out whether someone is behind it.
//!
//! The name follows from the daemon, the namespace and the group alone, so that a second container of the same group,
//! and a `start` that is repeated, come to the same socket. It is a path, never an abstract name: a container on the
//! host's network could reach that.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where sockets are made when the daemon does not say.
pub(crate) const DEFAULT_DIR: &str = "/run/containerd/s";

/// The longest path a client can connect to: `sun_path` less its end, as upstream counts it.
const MAX_PATH_BYTES: usize = 106;

/// How often making the socket is tried when others remove and make it at the same time.
const ATTEMPTS: usize = 5;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// The folder is too deep.
    #[error("socket path {} is longer than {MAX_PATH_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    /// The folder could not be made.
    #[error("cannot make socket directory {}", path.display())]
    Dir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What came of [`claim`].
#[derive(Debug)]
pub(crate) enum Claim {
    /// Nobody was there: this listener is ours.
    Mine(UnixListener),
    /// A shim of the same group answers there already.
    Shared,
}

/// The path of the socket for a group of one daemon.
pub(crate) fn path(dir: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    let name = joined(&[daemon, namespace, group]);
    dir.join(model::Digest::sha256(name.as_bytes()).hex())
}

/// The form in which an address is printed and stored.
pub(crate) fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// The path in an address.
pub(crate) fn from_url(url: &str) -> &str {
    url.strip_prefix("unix://").unwrap_or(url)
}

/// Makes the socket, or finds that someone answers there. One that nobody answers on is removed.
///
/// # Errors
/// See [`AddressError`].
pub(crate) fn claim(path: &Path) -> Result<Claim, AddressError> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(AddressError::TooLong(path.to_owned()));
    }
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| AddressError::Dir { path: dir.to_owned(), source })?;
    }
    let failed = |source| AddressError::Listen { path: path.to_owned(), source };
    let mut attempt = 0;
    loop {
        attempt += 1;
        match UnixListener::bind(path) {
            Ok(listener) => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
                return Ok(Claim::Mine(listener));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS => {
                if answers(path) {
                    return Ok(Claim::Shared);
                }
                let _ = std::fs::remove_file(path);
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Whether a server accepts connections there.
pub(crate) fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Takes over a socket that someone else made for us.
///
/// # Errors
/// It is no listening socket.
pub(crate) fn adopt(fd: OwnedFd) -> io::Result<UnixListener> {
    if !rustix::net::sockopt::socket_acceptconn(&fd)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor passed on is no listening socket"));
    }
    Ok(UnixListener::from(fd))
}

/// Joins as paths are joined: one slash between, `.` and empty parts gone, `..` resolved. Daemons in Go compute the same
/// name with `path.Join`.
fn joined(parts: &[&str]) -> String {
    let rooted = parts.iter().find(|part| !part.is_empty()).is_some_and(|part| part.starts_with('/'));
    let mut names: Vec<&str> = Vec::new();
    for name in parts.iter().flat_map(|part| part.split('/')) {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => {
                names.pop();
            }
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    let path = names.join("/");
    if rooted { format!("/{path}") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_as_paths() {
        assert_eq!(joined(&["/run//containerd/./containerd.sock", "ns", "c"]), "/run/containerd/containerd.sock/ns/c");
        assert_eq!(joined(&["/a/../../b", "", "c"]), "/b/c");
        assert_eq!(joined(&["", "ns", "c"]), "ns/c");
    }

    #[test]
    fn the_path_is_the_hash_of_the_names() {
        let path = path(Path::new(DEFAULT_DIR), "/run/containerd/containerd.sock", "default", "test");
        assert_eq!(path.parent(), Some(Path::new(DEFAULT_DIR)));
        let wanted = model::Digest::sha256(b"/run/containerd/containerd.sock/default/test");
        assert_eq!(path.file_name().unwrap().to_str(), Some(wanted.hex()));
        assert!(path.as_os_str().len() <= MAX_PATH_BYTES);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s").join("socket");
        let Claim::Mine(listener) = claim(&path).unwrap() else { panic!("nobody else is there") };
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(claim(&path).unwrap(), Claim::Shared));
        drop(listener);
        assert!(matches!(claim(&path).unwrap(), Claim::Mine(_)));
    }

    #[test]
    fn a_path_too_long_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(100)).join("socket");
        assert!(matches!(claim(&path), Err(AddressError::TooLong(_))));
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn only_a_listening_socket_is_adopted() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(adopt(one.into()).is_err());
    }
}
