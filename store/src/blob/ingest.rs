//! One upload: bytes in, hashed on the way, at the end a blob.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::time::SystemTime;

use model::{Algorithm, Digest, Hasher};
use rustix::fs::{Advice, fadvise};

use super::error::{BlobError, IoContext};
use super::layout::IngestDir;
use super::{Hold, IngestKey, IngestStatus, Inner};
use crate::atomic::sync_parent;
use crate::failpoint;

/// After so many bytes the kernel is asked to begin writing them, so that the sync at the end has little left to do.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// How much is read at once where bytes are hashed again.
const READ_BYTES: usize = 256 * 1024;

/// An open ingest. Dropping it lets go of it; what was written stays and can be resumed.
#[derive(Debug)]
pub struct Ingest {
    inner: Arc<Inner>,
    dir: IngestDir,
    file: File,
    reference: String,
    offset: u64,
    total: u64,
    started_at: SystemTime,
    updated_at: SystemTime,
    algorithm: Algorithm,
    /// Has seen everything up to `offset`; `None` if it has yet to be shown what an earlier opening wrote.
    hasher: Option<Hasher>,
    /// Up to where the kernel was asked to write.
    submitted: u64,
    committed: bool,
    _hold: Hold,
}

/// What became of an ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The name of the blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether there was such a blob already, which then was kept.
    pub already_existed: bool,
}

impl Ingest {
    pub(super) fn open(
        inner: Arc<Inner>,
        hold: Hold,
        key: &IngestKey,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Self, BlobError> {
        let dir = inner.layout.ingest(key);
        let now = SystemTime::now();
        let known = dir.status().during("looking up an ingest")?;
        let resumable = known.is_some() && dir.is_of_this_boot().during("looking up an ingest")?;
        let (started_at, known_total) = match known {
            Some((_, status)) if resumable => (status.started_at, status.total),
            _ => {
                if let Err(error) = dir.make(key, total, now) {
                    // Nothing is to be left of it; the first error is the one to tell.
                    let _ = dir.remove();
                    return Err(error).during("making an ingest");
                }
                (now, total)
            }
        };
        let total = if total == 0 { known_total } else { total };
        if total != known_total {
            dir.note_total(total).during("making an ingest")?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(!resumable);
        let mut file = options.open(dir.data()).during("opening an ingest")?;
        let offset = file.seek(SeekFrom::End(0)).during("opening an ingest")?;
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        Ok(Self {
            inner,
            dir,
            file,
            reference: key.reference.clone(),
            offset,
            total,
            started_at,
            updated_at: now,
            algorithm,
            hasher: (offset == 0).then(|| Hasher::new(algorithm)),
            submitted: offset,
            committed: false,
            _hold: hold,
        })
    }

    /// How far it is.
    pub fn status(&self) -> IngestStatus {
        IngestStatus {
            reference: self.reference.clone(),
            offset: self.offset,
            total: self.total,
            started_at: self.started_at,
            updated_at: self.updated_at,
        }
    }

    /// Bytes so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file that the bytes go into, for reading them by position while more come. A cut takes them away from it too.
    ///
    /// # Errors
    /// What the system said.
    pub fn file(&self) -> Result<File, BlobError> {
        self.file.try_clone().during("opening an ingest")
    }

    /// Notes the promised size.
    ///
    /// # Errors
    /// What the file system said.
    pub fn set_total(&mut self, total: u64) -> Result<(), BlobError> {
        if self.total != total {
            self.dir.note_total(total).during("noting the size of an ingest")?;
            self.total = total;
        }
        Ok(())
    }

    /// The digest of what is there so far.
    ///
    /// # Errors
    /// What the file system said, if it has to be read again.
    pub fn digest(&mut self) -> Result<Digest, BlobError> {
        Ok(self.hasher()?.clone().finish())
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// What the file system said. None of the bytes is then in.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher()?;
        let written = self.file.write_all(bytes);
        if written.is_err() {
            // Part of it may be in the file; the next write must go on where the hash is.
            self.cut(self.offset)?;
        }
        written.during("writing content")?;
        self.hasher()?.update(bytes);
        self.offset += bytes.len() as u64;
        self.updated_at = SystemTime::now();
        self.begin_writeback();
        Ok(())
    }

    /// Drops everything behind `size`.
    ///
    /// # Errors
    /// [`BlobError::OutOfRange`] when there are not that many bytes, or what the file system said.
    pub fn truncate(&mut self, size: u64) -> Result<(), BlobError> {
        if size > self.offset {
            return Err(BlobError::OutOfRange { offset: size, end: self.offset });
        }
        if size < self.offset {
            self.cut(size)?;
            self.offset = size;
            self.submitted = self.submitted.min(size);
            self.hasher = (size == 0).then(|| Hasher::new(self.algorithm));
            self.updated_at = SystemTime::now();
        }
        Ok(())
    }

    /// Makes it a blob. Returns when that is on disk.
    ///
    /// `size` and `expected` are checked where given. The digest has the algorithm of the expected one.
    ///
    /// # Errors
    /// [`BlobError::Size`], [`BlobError::Digest`], or what the file system said. The ingest is then left to be resumed.
    pub fn commit(mut self, size: Option<u64>, expected: Option<&Digest>) -> Result<Committed, BlobError> {
        if let Some(wanted) = size.filter(|wanted| *wanted != self.offset) {
            return Err(BlobError::Size { got: self.offset, wanted });
        }
        if let Some(algorithm) = expected.map(Digest::algorithm).filter(|algorithm| *algorithm != self.algorithm) {
            (self.algorithm, self.hasher) = (algorithm, None);
        }
        let digest = self.digest()?;
        if let Some(wanted) = expected.filter(|wanted| **wanted != digest) {
            return Err(BlobError::Digest { got: digest, wanted: wanted.clone() });
        }
        let path = self.inner.layout.blob(&digest);
        let already_existed = path.try_exists().during("looking up content")?;
        if already_existed {
            // Whoever made it may not have come to this yet.
            sync_parent(&path).during("syncing the content folder")?;
        } else {
            self.file.set_permissions(Permissions::from_mode(0o444)).during("protecting content")?;
            failpoint("content-before-sync");
            self.file.sync_all().during("syncing content")?;
            failpoint("content-before-name");
            fs::rename(self.dir.data(), &path).during("naming content")?;
            failpoint("content-named");
            sync_parent(&path).during("syncing the content folder")?;
        }
        failpoint("content-durable");
        self.committed = true;
        // The blob is there; what may be left of the ingest is garbage that the next sweep takes.
        if let Err(error) = self.dir.remove() {
            tracing::warn!(ingest = %self.dir.path().display(), %error, "committed ingest not removed");
        }
        Ok(Committed { digest, size: self.offset, already_existed })
    }

    /// Removes it, with what was written.
    ///
    /// # Errors
    /// What the file system said.
    pub fn abort(mut self) -> Result<(), BlobError> {
        self.committed = true;
        self.dir.remove().during("removing an ingest")
    }

    /// Copies everything that `from` yields to the end of the ingest, in pieces; how many bytes that were.
    ///
    /// # Errors
    /// What `from` or the file system said. Pieces before that are in.
    pub fn copy_from(&mut self, from: &mut dyn Read) -> Result<u64, BlobError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut copied = 0;
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(got) => {
                    Self::write(self, &buffer[..got])?;
                    copied += got as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("reading what is to be ingested"),
            }
        }
    }

    /// The hasher, which has seen every byte.
    fn hasher(&mut self) -> Result<&mut Hasher, BlobError> {
        if self.hasher.is_none() {
            let mut hasher = Hasher::new(self.algorithm);
            let mut at = 0;
            let mut buffer = vec![0; READ_BYTES];
            while at < self.offset {
                let wanted = usize::try_from(self.offset - at).unwrap_or(READ_BYTES).min(READ_BYTES);
                let got = self.file.read_at(&mut buffer[..wanted], at).during("reading an ingest again")?;
                if got == 0 {
                    // Somebody else cut the file; only then can it be shorter than what we counted.
                    return Err(BlobError::OutOfRange { offset: self.offset, end: at });
                }
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            self.hasher = Some(hasher);
        }
        Ok(self.hasher.as_mut().expect("set above"))
    }

    fn cut(&mut self, size: u64) -> Result<(), BlobError> {
        self.file.set_len(size).during("cutting an ingest")?;
        self.file.seek(SeekFrom::Start(size)).during("cutting an ingest")?;
        Ok(())
    }

    /// Asks the kernel to begin writing what came since the last time. Pages that are being written stay in memory, so
    /// whoever reads the blob next finds them there.
    fn begin_writeback(&mut self) {
        let length = self.offset - self.submitted;
        if length >= WRITEBACK_BYTES {
            // Only a hint: a file system that does not take it is slower at the end.
            let _ = fadvise(&self.file, self.submitted, std::num::NonZeroU64::new(length), Advice::DontNeed);
            self.submitted = self.offset;
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::write(self, bytes).map_err(|error| match error {
            BlobError::Io { source, .. } | BlobError::Space { source, .. } => source,
            error => std::io::Error::other(error),
        })?;
        Ok(bytes.len())
    }

    /// Does nothing: an ingest is synced once, at its commit.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.committed {
            // Only the time of the last change is lost if this fails.
            let _ = self.dir.note_update(self.updated_at);
        }
    }
}
