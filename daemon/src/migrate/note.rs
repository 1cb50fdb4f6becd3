//! The note of a migration: what it brought, so that it can be taken back.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use model::Digest;
use serde::{Deserialize, Serialize};
use store::record::{ContainerRecord, ContentRecord, ImageRecord, SnapshotRecord};
use store::{Read, Record, Store, StoreError, Table, Tx, key, tables};

use super::MigrateError;

/// The note, below the root folder: one line of JSON per thing.
const NAME: &str = "migrated";

/// Something that was brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Brought {
    /// A file.
    Blob { digest: String },
    /// A folder of a snapshot, its driver, its key there and its folder.
    Backend { driver: String, key: String, parent: Option<String>, folder: PathBuf },
    /// A record, by namespace and name, and what it was like.
    Image { namespace: String, name: String, like: String },
    /// A record.
    Content { namespace: String, digest: String, like: String },
    /// A record.
    Container { namespace: String, id: String, like: String },
    /// A record.
    Snapshot {
        namespace: String,
        snapshotter: String,
        name: String,
        backend_key: String,
        parent: Option<String>,
        like: String,
    },
    /// A record.
    Lease { namespace: String, id: String },
}

/// The fingerprint of a record.
pub(super) fn like(record: &impl std::fmt::Debug) -> String {
    Digest::sha256(format!("{record:?}").as_bytes()).hex()[..16].to_owned()
}

/// Writes the note, line by line.
pub(super) struct Note {
    file: fs::File,
    path: PathBuf,
}

impl Note {
    /// Goes on with the note below `root`.
    pub(super) fn open(root: &Path) -> Result<Self, MigrateError> {
        let path = root.join(NAME);
        let file =
            fs::File::options().create(true).append(true).open(&path).map_err(MigrateError::io("open", &path))?;
        Ok(Self { file, path })
    }

    /// Adds a line; it is written before what it is about.
    pub(super) fn add(&mut self, brought: &Brought) -> Result<(), MigrateError> {
        let mut line = serde_json::to_vec(brought).expect("plain values have a JSON form");
        line.push(b'\n');
        self.file.write_all(&line).map_err(MigrateError::io("write", &self.path))
    }

    /// Makes it durable.
    pub(super) fn sync(&self) -> Result<(), MigrateError> {
        self.file.sync_all().map_err(MigrateError::io("write", &self.path))
    }
}

/// Takes a migration back: removes what it brought and nobody has changed since. What it did, one line each.
///
/// # Errors
/// There was none, or something cannot be removed; what is left can be taken back by another attempt.
pub fn undo(root: &Path, store: &Store) -> Result<Vec<String>, MigrateError> {
    let path = root.join(NAME);
    let file = match fs::File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(MigrateError::NoNote { path }),
        file => file.map_err(MigrateError::io("open", &path))?,
    };
    let lines = BufReader::new(file).lines().collect::<Result<Vec<_>, _>>().map_err(MigrateError::io("read", &path))?;
    let mut said = Vec::new();
    let mut kept = 0;
    // From the last to the first: children before parents, records before files.
    for line in lines.iter().rev() {
        let Ok(brought) = serde_json::from_str::<Brought>(line) else { continue };
        match store.write({
            let brought = brought.clone();
            move |tx| forget(tx, &brought)
        })? {
            Outcome::Gone => {}
            Outcome::Kept(why) => {
                kept += 1;
                said.push(why);
                continue;
            }
        }
        match &brought {
            Brought::Backend { folder, .. } => remove(folder)?,
            Brought::Blob { digest } => {
                let Ok(digest) = digest.parse::<Digest>() else { continue };
                let file = crate::home::content(root).join("blobs").join(digest.algorithm().name()).join(digest.hex());
                let _ = fs::remove_file(file);
            }
            _ => {}
        }
    }
    fs::remove_file(&path).map_err(MigrateError::io("remove", &path))?;
    said.push(format!("taken back: {} things, {kept} kept because they are in use or were changed since", lines.len()));
    Ok(said)
}

fn remove(folder: &Path) -> Result<(), MigrateError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MigrateError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

enum Outcome {
    Gone,
    Kept(String),
}

fn forget(tx: &mut Tx<'_>, brought: &Brought) -> Result<Outcome, StoreError> {
    let kept = |what: &str, why: &str| Ok(Outcome::Kept(format!("kept {what}: {why}")));
    match brought {
        Brought::Image { namespace, name, like } => {
            if !unchanged::<ImageRecord>(tx, &tables::IMAGES, &key(&[namespace, name])?, like)? {
                return kept(name, "it was changed");
            }
            tx.delete(&tables::IMAGES, &key(&[namespace, name])?)?;
        }
        Brought::Container { namespace, id, like } => {
            if !unchanged::<ContainerRecord>(tx, &tables::CONTAINERS, &key(&[namespace, id])?, like)? {
                return kept(id, "it was changed");
            }
            tx.delete(&tables::CONTAINERS, &key(&[namespace, id])?)?;
        }
        Brought::Content { namespace, digest, like } => {
            if !unchanged::<ContentRecord>(tx, &tables::CONTENT, &key(&[namespace, digest])?, like)? {
                return kept(digest, "its labels were changed");
            }
            tx.delete(&tables::CONTENT, &key(&[namespace, digest])?)?;
            tx.delete(&tables::BLOB_HOLDERS, &key(&[digest, namespace])?)?;
        }
        Brought::Snapshot { namespace, snapshotter, name, backend_key, parent, like } => {
            if tx.any(&tables::SNAPSHOT_CHILDREN, &store::prefix(&[namespace, snapshotter, name])?)? {
                return kept(name, "another snapshot stands on it");
            }
            if !unchanged::<SnapshotRecord>(tx, &tables::SNAPSHOTS, &key(&[namespace, snapshotter, name])?, like)? {
                return kept(name, "it was changed");
            }
            tx.delete(&tables::SNAPSHOTS, &key(&[namespace, snapshotter, name])?)?;
            tx.delete(&tables::SNAPSHOT_HOLDERS, &key(&[snapshotter, backend_key, namespace, name])?)?;
            if let Some(parent) = parent {
                tx.delete(&tables::SNAPSHOT_CHILDREN, &key(&[namespace, snapshotter, parent, name])?)?;
            }
        }
        Brought::Lease { namespace, id } => {
            for key in tx.keys(&tables::LEASE_RESOURCES, &store::prefix(&[namespace, id])?)? {
                tx.delete(&tables::LEASE_RESOURCES, &key)?;
            }
            tx.delete(&tables::LEASES, &key(&[namespace, id])?)?;
        }
        Brought::Backend { driver, key: of, parent, .. } => {
            if tx.any(&tables::SNAPSHOT_HOLDERS, &store::prefix(&[driver, of])?)?
                || tx.any(&tables::BACKEND_CHILDREN, &store::prefix(&[driver, of])?)?
            {
                return kept(of, "it is in use");
            }
            tx.delete(&tables::BACKEND_SNAPSHOTS, &key(&[driver, of])?)?;
            if let Some(parent) = parent {
                tx.delete(&tables::BACKEND_CHILDREN, &key(&[driver, parent, of])?)?;
            }
        }
        Brought::Blob { digest } => {
            if tx.any(&tables::BLOB_HOLDERS, &store::prefix(&[digest])?)? {
                return kept(digest, "a namespace has it");
            }
        }
    }
    Ok(Outcome::Gone)
}

/// Whether a record is as it came, or gone.
fn unchanged<R: Record + std::fmt::Debug>(
    tx: &Tx<'_>,
    table: &Table<R>,
    key: &[u8],
    wanted: &str,
) -> Result<bool, StoreError> {
    Ok(tx.get(table, key)?.is_none_or(|record| like(&record) == wanted))
}
