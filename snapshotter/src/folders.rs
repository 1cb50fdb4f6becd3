//! The numbered folders of a driver: one for each snapshot, `snapshots/<number>` below its root.
//!
//! A number is taken from the store before its folder is made, and never given out again. Until the snapshot is written down,
//! and while one is removed, its number is busy; a folder that is neither busy nor in a record is garbage of a crash or of an
//! interrupted removal, which [`Folders::sweep`] removes.

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, mkdirat, open};
use rustix::io::Errno;
use store::Store;

use crate::SnapshotError;
use crate::fs::{FOLDER, names, open_folder, remove_all};

/// Numbers that are taken from the store at once; a stop loses the unused ones.
const BLOCK: u64 = 64;

pub(crate) struct Folders {
    dir: PathBuf,
    /// The folder `dir`.
    fd: OwnedFd,
    store: Store,
    counter: String,
    numbers: Mutex<Numbers>,
}

struct Numbers {
    free: Range<u64>,
    busy: HashSet<u64>,
}

/// A number that nobody else works on. Its folder is removed with it, unless it is kept.
pub(crate) struct Claim<'f> {
    folders: &'f Folders,
    pub(crate) id: u64,
    /// The folder.
    pub(crate) fd: OwnedFd,
    keep: bool,
}

impl Folders {
    /// The folders below `root`, which is made if it does not exist.
    pub(crate) fn open(root: &Path, store: Store, driver: &str) -> Result<Self, SnapshotError> {
        let dir = root.join("snapshots");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(SnapshotError::io("make", &dir))?;
        let fd =
            open(&dir, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(SnapshotError::io("open", &dir))?;
        let numbers = Mutex::new(Numbers { free: 0..0, busy: HashSet::new() });
        Ok(Self { dir, fd, store, counter: format!("snapshots/{driver}"), numbers })
    }

    /// The folder of a snapshot.
    pub(crate) fn path(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Opens the folder of a snapshot.
    pub(crate) fn folder(&self, id: u64) -> Result<OwnedFd, SnapshotError> {
        open_folder(&self.fd, id.to_string().as_bytes()).map_err(SnapshotError::io("open", self.path(id)))
    }

    /// Makes the folder of a snapshot again that a crash took before it was on disk.
    pub(crate) fn restore(&self, id: u64) -> Result<OwnedFd, SnapshotError> {
        match mkdirat(&self.fd, id.to_string(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.folder(id),
            Err(error) => Err(SnapshotError::io("make", self.path(id))(error)),
        }
    }

    /// Makes a folder with a new number.
    pub(crate) fn claim(&self) -> Result<Claim<'_>, SnapshotError> {
        loop {
            let id = self.take_number()?;
            match mkdirat(&self.fd, id.to_string(), Mode::RWXU) {
                Ok(()) => {
                    let fd = self.folder(id).inspect_err(|_| self.release(id))?;
                    return Ok(Claim { folders: self, id, fd, keep: false });
                }
                // Garbage from before the records were lost, which has to wait for its turn.
                Err(Errno::EXIST) => self.release(id),
                Err(error) => {
                    self.release(id);
                    return Err(SnapshotError::io("make", self.path(id))(error));
                }
            }
        }
    }

    /// Removes the folder of a snapshot that is in no record any more. What cannot be removed stays for [`Self::sweep`].
    pub(crate) fn remove(&self, id: u64) {
        // A sweep may have come first: to it the folder is garbage since the record is gone.
        if self.lock().busy.insert(id) {
            self.remove_files(id);
            self.release(id);
        }
    }

    /// Removes every folder that is neither busy nor among those that `owned` lists, after `release` let go of it.
    pub(crate) fn sweep(
        &self,
        owned: impl FnOnce() -> Result<HashSet<u64>, SnapshotError>,
        release: impl Fn(u64),
    ) -> Result<(), SnapshotError> {
        // In this order, whatever happens at the same time: a folder that is listed and no longer busy is in a record by now.
        let listed = names(&self.fd).map_err(SnapshotError::io("list", &self.dir))?;
        let busy = self.lock().busy.clone();
        let owned = owned()?;
        let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse::<u64>().ok();
        for id in listed.iter().filter_map(|(name, _)| number(name)) {
            if !busy.contains(&id) && !owned.contains(&id) && self.lock().busy.insert(id) {
                tracing::info!(snapshot = id, root = %self.dir.display(), "folder without a snapshot removed");
                release(id);
                let removed = remove_all(&self.fd, id.to_string().as_bytes());
                self.release(id);
                removed.map_err(SnapshotError::io("remove", self.path(id)))?;
            }
        }
        Ok(())
    }

    /// Writes the names of the folders to disk.
    pub(crate) fn sync_names(&self) -> Result<(), SnapshotError> {
        rustix::fs::fsync(&self.fd).map_err(SnapshotError::io("sync", &self.dir))
    }

    /// Writes everything below to disk.
    pub(crate) fn sync(&self) -> Result<(), SnapshotError> {
        rustix::fs::syncfs(&self.fd).map_err(SnapshotError::io("sync", &self.dir))
    }

    fn take_number(&self) -> Result<u64, SnapshotError> {
        let mut numbers = self.lock();
        let id = match numbers.free.next() {
            Some(id) => id,
            None => {
                // Others that need a number have to wait for this one request too, so the lock is kept.
                let counter = self.counter.clone();
                numbers.free = self.store.write(move |tx| {
                    let first = tx.next_id(&counter)?;
                    for _ in 1..BLOCK {
                        tx.next_id(&counter)?;
                    }
                    Ok::<_, SnapshotError>(first..first + BLOCK)
                })?;
                numbers.free.next().expect("a block is not empty")
            }
        };
        numbers.busy.insert(id);
        Ok(id)
    }

    fn release(&self, id: u64) {
        self.lock().busy.remove(&id);
    }

    fn remove_files(&self, id: u64) {
        if let Err(error) = remove_all(&self.fd, id.to_string().as_bytes()) {
            tracing::warn!(snapshot = id, root = %self.dir.display(), %error, "folder of a removed snapshot stays until the next cleanup");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        // Nothing that panics runs under the lock and leaves half a change.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// The snapshot is written down, so its folder stays.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.folders.remove_files(self.id);
        }
        self.folders.release(self.id);
    }
}
