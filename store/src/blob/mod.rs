//! Blobs: content in files, named by its digest.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>                    whole and verified, never changed, mode 0444
//! <root>/ingest/<sha256 of namespace/reference>/    an upload under way
//!     data  ref  startedat  updatedat  total
//! ```
//!
//! Ingest, verify, sync, rename: a blob is under its name only when every byte of it is on disk and was hashed here. An
//! ingest that is dropped, or whose process dies, stays and can be resumed; a crash leaves garbage, never half a blob.
//! Who sees which blob is metadata ([`crate::tables::CONTENT`]) and not known here; nor is any lock against garbage
//! collection: whoever deletes blobs must keep out those who are about to record one.

mod error;
mod ingest;
mod layout;
mod read;
mod verify;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use model::{Digest, Namespace};

pub use error::BlobError;
pub use ingest::{Committed, Ingest};
pub use read::BlobReader;

use error::IoContext;
use layout::{IngestDir, Layout};
use verify::Verification;

/// The longest reference of an ingest, in bytes.
pub const MAX_REFERENCE_BYTES: usize = 4096;

/// Names an ingest: a reference in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IngestKey {
    /// The namespace.
    pub namespace: Namespace,
    /// What the client calls it, without the namespace.
    pub reference: String,
}

/// How far an ingest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// What the client calls it, without the namespace.
    pub reference: String,
    /// Bytes that are there.
    pub offset: u64,
    /// Bytes that were promised, 0 if none were.
    pub total: u64,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When it last grew.
    pub updated_at: SystemTime,
}

/// A blob, as found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The folder of blobs. Clones share it.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// The folders of ingests that are open. In memory only: whoever held one in an earlier process is gone.
    open: Mutex<HashSet<PathBuf>>,
    verification: Verification,
}

impl BlobStore {
    /// Opens the folder `root`, which is made if it does not exist. One process at a time may use it.
    ///
    /// # Errors
    /// [`BlobError`] when the folders cannot be made.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let layout = Layout::make(root).during("making the content folders")?;
        Ok(Self { inner: Arc::new(Inner { layout, open: Mutex::default(), verification: Verification::default() }) })
    }

    /// Compares each blob with its name before it is read, from now on or no more. Once is enough as long as its file stays the
    /// same. Whoever is given only the path of a blob is not covered.
    pub fn verify_on_read(&self, wanted: bool) {
        self.inner.verification.set_wanted(wanted);
    }

    /// The size of a blob, `None` if there is none of that name.
    ///
    /// # Errors
    /// [`BlobError`] when the file system fails.
    pub fn info(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during("looking up content"),
        }
    }

    /// Where a blob is, or would be. Only for those who hand it to the kernel or to another program.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.layout.blob(digest)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`] if blobs are compared, or what the file system said.
    pub fn file(&self, digest: &Digest) -> Result<File, BlobError> {
        match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BlobError::NotFound { digest: digest.clone() })
            }
            file => {
                let mut file = file.during("opening content")?;
                self.inner.verification.check(digest, &mut file)?;
                Ok(file)
            }
        }
    }

    /// Reads a blob from any offset.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], or what the file system said.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader, BlobError> {
        BlobReader::new(self.file(digest)?)
    }

    /// Reads a whole blob that is expected to be small, a manifest for one.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::TooLarge`] when it has more than `limit` bytes, or what the file system said.
    pub fn read(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, BlobError> {
        self.reader(digest)?.read_whole(limit)
    }

    /// Begins an ingest, or resumes the one that has this key. It is open to one at a time.
    ///
    /// `total` is the promised size, 0 if none was; `expected` tells which hash to compute on the way.
    ///
    /// # Errors
    /// [`BlobError::Locked`] while somebody else has it open, [`BlobError::Reference`] for a reference that cannot be
    /// one, or what the file system said.
    pub fn ingest(&self, key: &IngestKey, total: u64, expected: Option<&Digest>) -> Result<Ingest, BlobError> {
        let hold = self.hold(key)?;
        Ingest::open(Arc::clone(&self.inner), hold, key, total, expected)
    }

    /// How far the ingest with this key is.
    ///
    /// # Errors
    /// [`BlobError::NoIngest`], or what the file system said.
    pub fn status(&self, key: &IngestKey) -> Result<IngestStatus, BlobError> {
        let status = self.inner.layout.ingest(key).status().during("looking up an ingest")?;
        status.map(|(_, status)| status).ok_or_else(|| BlobError::NoIngest { reference: key.reference.clone() })
    }

    /// Every ingest of a namespace.
    ///
    /// # Errors
    /// What the file system said.
    pub fn statuses(&self, namespace: &Namespace) -> Result<Vec<IngestStatus>, BlobError> {
        let all = self.ingests()?;
        Ok(all.into_iter().filter(|(owner, _)| owner == namespace).map(|(_, status)| status).collect())
    }

    /// Every ingest there is, with its namespace.
    ///
    /// # Errors
    /// What the file system said.
    pub fn ingests(&self) -> Result<Vec<(Namespace, IngestStatus)>, BlobError> {
        let mut found = Vec::new();
        for dir in self.inner.layout.ingests().during("listing ingests")? {
            found.extend(dir.status().during("looking up an ingest")?);
        }
        Ok(found)
    }

    /// Removes the ingest with this key and what was written to it.
    ///
    /// # Errors
    /// [`BlobError::NoIngest`], [`BlobError::Locked`] while it is open, or what the file system said.
    pub fn abort(&self, key: &IngestKey) -> Result<(), BlobError> {
        let hold = self.hold(key)?;
        let dir = self.inner.layout.ingest(key);
        let known = dir.status().during("looking up an ingest")?.is_some();
        dir.remove().during("removing an ingest")?;
        drop(hold);
        if known { Ok(()) } else { Err(BlobError::NoIngest { reference: key.reference.clone() }) }
    }

    /// Removes a blob; whether there was one. After a crash it may be there again.
    ///
    /// # Errors
    /// What the file system said.
    pub fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        match fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).during("removing content"),
        }
    }

    /// Every blob there is, in no order.
    ///
    /// # Errors
    /// What the file system said, per folder or per file.
    pub fn walk(&self) -> Result<impl Iterator<Item = Result<BlobInfo, BlobError>>, BlobError> {
        let files = self.inner.layout.blobs().during("listing content")?;
        Ok(files.filter_map(|file| match file {
            Ok((Some(digest), entry)) => match entry.metadata() {
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                metadata => {
                    let info = metadata.map(|metadata| BlobInfo { digest, size: metadata.len() });
                    Some(info.during("looking up content"))
                }
            },
            Ok((None, _)) => None,
            Err(error) => Some(Err(error).during("listing content")),
        }))
    }

    /// Files and folders that no part of this crate would have made, or that a crash left and nobody can resume.
    ///
    /// # Errors
    /// What the file system said.
    pub fn strays(&self) -> Result<Vec<PathBuf>, BlobError> {
        let mut strays = Vec::new();
        for file in self.inner.layout.blobs().during("listing content")? {
            let (digest, entry) = file.during("listing content")?;
            if digest.is_none() {
                strays.push(entry.path());
            }
        }
        for dir in self.inner.layout.ingests().during("listing ingests")? {
            if dir.status().during("looking up an ingest")?.is_none() {
                strays.push(dir.path().to_owned());
            }
        }
        Ok(strays)
    }

    /// Removes the folders of ingests that a crash left and that nobody can resume; how many.
    ///
    /// # Errors
    /// What the file system said.
    pub fn remove_stray_ingests(&self) -> Result<usize, BlobError> {
        let mut removed = 0;
        for dir in self.inner.layout.ingests().during("listing ingests")? {
            // Held for its removal: it may be just about to get its data.
            let Some(_hold) = Hold::take(&self.inner, dir.path()) else { continue };
            if dir.status().during("looking up an ingest")?.is_none() {
                dir.remove().during("removing an ingest")?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn hold(&self, key: &IngestKey) -> Result<Hold, BlobError> {
        let reference = || key.reference.clone();
        if key.reference.is_empty() || key.reference.len() > MAX_REFERENCE_BYTES {
            return Err(BlobError::Reference { length: key.reference.len() });
        }
        let dir: IngestDir = self.inner.layout.ingest(key);
        Hold::take(&self.inner, dir.path()).ok_or_else(|| BlobError::Locked { reference: reference() })
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.open.lock().expect("no holder of the list of open ingests panics")
    }
}

/// Keeps everybody else out of an ingest's folder.
#[derive(Debug)]
struct Hold {
    inner: Arc<Inner>,
    dir: PathBuf,
}

impl Hold {
    fn take(inner: &Arc<Inner>, dir: &Path) -> Option<Self> {
        inner.open().insert(dir.to_owned()).then(|| Self { inner: Arc::clone(inner), dir: dir.to_owned() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.open().remove(&self.dir);
    }
}
