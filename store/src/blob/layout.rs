//! Names on disk. No other file of this module builds a path.

use std::fs::{self, DirBuilder, DirEntry};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::{Algorithm, Digest, Namespace};

use super::{IngestKey, IngestStatus};
use crate::atomic::{sync_dir, sync_parent};

/// The folders below the root.
#[derive(Debug)]
pub(super) struct Layout {
    blobs: PathBuf,
    ingests: PathBuf,
}

impl Layout {
    /// Makes the folders.
    pub(super) fn make(root: &Path) -> io::Result<Self> {
        let layout = Self { blobs: root.join("blobs"), ingests: root.join("ingest") };
        let private = |dir: &Path| DirBuilder::new().recursive(true).mode(0o700).create(dir);
        private(&layout.ingests)?;
        for algorithm in Algorithm::ALL {
            private(&layout.blobs.join(algorithm.name()))?;
        }
        sync_dir(&layout.blobs)?;
        sync_dir(root)?;
        sync_parent(root)?;
        Ok(layout)
    }

    /// The file of a blob.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().name()).join(digest.hex())
    }

    /// Every file among the blobs, with the digest that its name says, if it says one.
    pub(super) fn blobs(&self) -> io::Result<impl Iterator<Item = io::Result<(Option<Digest>, DirEntry)>>> {
        let mut folders = Vec::new();
        for algorithm in Algorithm::ALL {
            folders.push((algorithm, fs::read_dir(self.blobs.join(algorithm.name()))?));
        }
        Ok(folders.into_iter().flat_map(|(algorithm, entries)| {
            entries.map(move |entry| {
                let entry = entry?;
                let digest =
                    entry.file_name().to_str().and_then(|hex| format!("{}:{hex}", algorithm.name()).parse().ok());
                Ok((digest, entry))
            })
        }))
    }

    /// The folder of an ingest.
    pub(super) fn ingest(&self, key: &IngestKey) -> IngestDir {
        IngestDir { path: self.ingests.join(Digest::sha256(qualified(key).as_bytes()).hex()) }
    }

    /// The folders of all ingests.
    pub(super) fn ingests(&self) -> io::Result<Vec<IngestDir>> {
        fs::read_dir(&self.ingests)?.map(|entry| Ok(IngestDir { path: entry?.path() })).collect()
    }
}

/// The folder of one ingest.
#[derive(Debug)]
pub(super) struct IngestDir {
    path: PathBuf,
}

impl IngestDir {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes so far.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Makes the folder and the notes in it. They are not synced: after a power cut the ingest begins again.
    pub(super) fn make(&self, key: &IngestKey, total: u64, started_at: SystemTime) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        fs::write(self.path.join("ref"), qualified(key))?;
        fs::write(self.path.join("startedat"), format!("{}\n{}", encode_time(started_at), boot_id()))?;
        self.note_total(total)?;
        self.note_update(started_at)
    }

    pub(super) fn note_total(&self, total: u64) -> io::Result<()> {
        fs::write(self.path.join("total"), total.to_string())
    }

    pub(super) fn note_update(&self, updated_at: SystemTime) -> io::Result<()> {
        fs::write(self.path.join("updatedat"), encode_time(updated_at))
    }

    /// How far it is, `None` if there is nothing that could be resumed.
    pub(super) fn status(&self) -> io::Result<Option<(Namespace, IngestStatus)>> {
        let Some(data) = absent_is_none(fs::metadata(self.data()))? else { return Ok(None) };
        let Some(name) = self.note("ref")? else { return Ok(None) };
        let Some((namespace, reference)) = name.split_once('/') else { return Ok(None) };
        let Ok(namespace) = Namespace::new(namespace) else { return Ok(None) };
        let changed = data.modified()?;
        let started_at = self.note("startedat")?.and_then(|note| decode_time(note.lines().next()?));
        let updated_at = self.note("updatedat")?.and_then(|note| decode_time(&note));
        let status = IngestStatus {
            reference: reference.to_owned(),
            offset: data.len(),
            total: self.note("total")?.and_then(|total| total.parse().ok()).unwrap_or(0),
            started_at: started_at.unwrap_or(changed),
            updated_at: updated_at.map_or(changed, |noted| noted.max(changed)),
        };
        Ok(Some((namespace, status)))
    }

    /// Whether its bytes were written since the machine started. Those of an earlier start may be gone though the file
    /// has its length: nothing of an ingest is synced before its commit.
    pub(super) fn is_of_this_boot(&self) -> io::Result<bool> {
        Ok(self.note("startedat")?.is_some_and(|note| note.lines().nth(1) == Some(boot_id().as_str())))
    }

    /// Removes the folder; the data first, so that what a crash leaves is not taken for an ingest.
    pub(super) fn remove(&self) -> io::Result<()> {
        absent_is_none(fs::remove_file(self.data()))?;
        absent_is_none(fs::remove_dir_all(&self.path))?;
        Ok(())
    }

    fn note(&self, name: &str) -> io::Result<Option<String>> {
        absent_is_none(fs::read_to_string(self.path.join(name)))
    }
}

/// A namespace holds no slash, so this names one ingest only.
fn qualified(key: &IngestKey) -> String {
    format!("{}/{}", key.namespace, key.reference)
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Seconds and nanoseconds since 1970.
fn encode_time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

fn decode_time(text: &str) -> Option<SystemTime> {
    let (seconds, nanos) = text.split_once('.')?;
    let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_to_the_nanosecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 12);
        assert_eq!(decode_time(&encode_time(time)), Some(time));
        for bad in ["", "1", "1.x", "x.1", "1.1000000000", "18446744073709551615.0"] {
            assert_eq!(decode_time(bad), None, "{bad}");
        }
    }
}
