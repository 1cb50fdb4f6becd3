//! The daemon's folders: made with their modes, locked against a second daemon, and the identity that is kept there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::api::introspection::Identity;
use crate::config::Config;

/// Mode of the root: nobody else's business.
const ROOT_MODE: u32 = 0o700;

/// Mode of the state: containers with their own user namespaces pass through it.
const STATE_MODE: u32 = 0o711;

/// How long an ended predecessor may take to let go: a child of it that was not yet executed holds its locks too.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another daemon uses the same folder.
    #[error("another daemon uses {}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
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

/// The folders, ours alone until this is dropped.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    _locks: [File; 2],
}

impl Home {
    /// Makes the folders and locks them.
    ///
    /// # Errors
    /// Another daemon has one of them, or the file system refuses.
    pub fn open(config: &Config) -> Result<Self, HomeError> {
        let locks = [claim(&config.root, ROOT_MODE)?, claim(&config.state, STATE_MODE)?];
        Ok(Self { root: config.root.clone(), _locks: locks })
    }

    /// The folder of the metadata store.
    pub fn metadata(&self) -> PathBuf {
        self.root.join("meta")
    }

    /// The folder of the blobs.
    pub fn content(&self) -> PathBuf {
        content(&self.root)
    }

    /// The folder of a snapshot driver.
    pub fn snapshots(&self, driver: &str) -> PathBuf {
        self.root.join("snapshots").join(driver)
    }

    /// Who this daemon is: the UUID is made once and kept.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn identity(&self) -> Result<Identity, HomeError> {
        let path = self.root.join("io.containerd.grpc.v1.introspection/uuid");
        let failed = |what| {
            let path = path.clone();
            move |source| HomeError::Io { what, path, source }
        };
        let kept = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read")(error)),
        };
        let uuid = if kept.is_empty() {
            let new = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed("make a UUID for"))?;
            let new = new.trim().to_owned();
            let folder = path.parent().expect("the path was joined from several parts");
            DirBuilder::new().recursive(true).mode(ROOT_MODE).create(folder).map_err(failed("make the folder of"))?;
            store::atomic::replace(&path, new.as_bytes(), 0o600).map_err(failed("write"))?;
            new
        } else {
            kept
        };
        // Without /proc/self/ns the clients merely cannot tell in which namespace the pid is.
        let pid_namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
        Ok(Identity { uuid, pid: std::process::id(), pid_namespace })
    }
}

/// The folder of the blobs below a root.
pub fn content(root: &Path) -> PathBuf {
    root.join("content")
}

/// Makes a folder and locks it. The lock goes with the process, however it ends.
fn claim(folder: &Path, mode: u32) -> Result<File, HomeError> {
    let failed = |what| move |source| HomeError::Io { what, path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(failed("make the folder"))?;
    fs::set_permissions(folder, Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    let path = folder.join("daemon.lock");
    let mut lock =
        File::options().create(true).truncate(false).write(true).open(path).map_err(failed("make the lock in"))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(HomeError::InUse { folder: folder.to_owned() }),
            Err(error) => return Err(failed("lock")(error.into())),
        }
    }
    // For people only, so a failure changes nothing.
    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        Config { root: folder.join("root"), state: folder.join("state"), ..Config::default() }
    }

    #[test]
    fn folders_have_their_modes_and_one_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let home = Home::open(&config).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&config.root), mode(&config.state)), (ROOT_MODE, STATE_MODE));
        let other_state = Config { state: folder.path().join("other"), ..config.clone() };
        assert!(matches!(Home::open(&other_state), Err(HomeError::InUse { folder }) if folder == config.root));
        drop(home);
        Home::open(&config).unwrap();
    }

    #[test]
    fn the_uuid_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&config(folder.path())).unwrap();
        let first = home.identity().unwrap();
        assert_eq!(first.uuid.len(), 36);
        assert_eq!(home.identity().unwrap(), first);
    }
}
