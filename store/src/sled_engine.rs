//! sled 0.34.7 behind the seam, used in the one way that survived the crash tests:
//!
//! - a snapshot that was left half-written is removed before opening, since sled would read it and refuse to open;
//! - no background flusher: only `flush` decides what is durable;
//! - `sled::Db::flush` ends in `sync_file_range`, which flushes neither the disk's cache nor metadata. So every flush is
//!   followed by a sync of our own of the data file, and of any file and folder that changed beside it;
//! - small values only (see `chunks`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use crate::atomic::sync_dir;
use crate::engine::{Batch, MetaStore, Pair, Span};
use crate::error::EngineError;

/// sled's page cache, in bytes.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// A sled database in a folder of its own.
pub(crate) struct SledEngine {
    database: sled::Db,
    trees: RwLock<HashMap<&'static str, sled::Tree>>,
    files: Mutex<Files>,
}

impl SledEngine {
    pub(crate) fn open(home: &Path) -> Result<Self, EngineError> {
        remove_half_snapshots(home).map_err(io_failed("removing a half-written snapshot of sled"))?;
        let database = sled::Config::new().path(home).cache_capacity(CACHE_BYTES).flush_every_ms(None).open().map_err(
            |error| match error {
                // The only sign of a lock that sled gives is its text.
                sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => EngineError::Locked,
                error => failed("opening sled")(error),
            },
        )?;
        let files = Files::open(home).map_err(io_failed("syncing sled's files"))?;
        Ok(Self { database, trees: RwLock::default(), files: Mutex::new(files) })
    }

    fn tree(&self, name: &'static str) -> Result<sled::Tree, EngineError> {
        const UNPOISONED: &str = "no holder of the list of trees panics";
        if let Some(tree) = self.trees.read().expect(UNPOISONED).get(name) {
            return Ok(tree.clone());
        }
        let tree = self.database.open_tree(name).map_err(failed("opening a tree of sled"))?;
        self.trees.write().expect(UNPOISONED).insert(name, tree.clone());
        Ok(tree)
    }
}

impl MetaStore for SledEngine {
    fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.tree(table)?.get(key).map_err(failed("reading from sled"))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: &'static str, span: &Span, limit: usize) -> Result<Vec<Pair>, EngineError> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let tree = self.tree(table)?;
        let pairs = tree.range::<&[u8], _>(span.bounds());
        pairs
            .take(limit)
            .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(failed("reading from sled")))
            .collect()
    }

    fn tables(&self) -> Result<Vec<String>, EngineError> {
        // The unnamed tree that sled always has is not used here.
        let names = self.database.tree_names().into_iter().filter(|name| &**name != b"__sled__default");
        names
            .map(|name| {
                String::from_utf8(name.to_vec()).map_err(|error| EngineError::Engine {
                    what: "listing the trees of sled",
                    detail: error.to_string(),
                })
            })
            .collect()
    }

    fn apply(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut trees = Vec::with_capacity(batch.tables().len());
        let mut changes = Vec::with_capacity(batch.tables().len());
        for (name, entries) in batch.tables() {
            trees.push(self.tree(name)?);
            changes.push(entries);
        }
        if trees.is_empty() {
            return Ok(());
        }
        let run = |views: &Vec<TransactionalTree>| {
            for (view, entries) in views.iter().zip(&changes) {
                for (key, value) in *entries {
                    match value {
                        Some(value) => view.insert(key.as_slice(), value.as_slice())?,
                        None => view.remove(key.as_slice())?,
                    };
                }
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        };
        trees.as_slice().transaction(run).map_err(|error| match error {
            TransactionError::Storage(error) => failed("writing to sled")(error),
            TransactionError::Abort(()) => EngineError::Engine {
                what: "writing to sled",
                detail: "a transaction that never aborts was aborted".to_owned(),
            },
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.database.flush().map_err(failed("flushing sled"))?;
        let mut files = self.files.lock().expect("no holder of the list of files panics");
        files.sync().map_err(io_failed("syncing sled's files"))
    }
}

/// The files that sled writes, and what was last seen of the folders they are in.
struct Files {
    data: File,
    folders: Vec<Folder>,
}

struct Folder {
    path: PathBuf,
    changed: Option<(i64, i64)>,
}

impl Files {
    fn open(home: &Path) -> io::Result<Self> {
        let data = File::open(home.join("db"))?;
        let folders = [home.to_owned(), home.join("blobs")].map(|path| Folder { path, changed: None });
        let mut files = Self { data, folders: folders.into() };
        files.sync()?;
        Ok(files)
    }

    /// Syncs the data, and whatever appeared beside it since the last time.
    fn sync(&mut self) -> io::Result<()> {
        self.data.sync_data()?;
        for folder in &mut self.folders {
            let metadata = fs::metadata(&folder.path)?;
            let changed = Some((metadata.mtime(), metadata.mtime_nsec()));
            if folder.changed != changed {
                sync_files(&folder.path)?;
                folder.changed = changed;
            }
        }
        Ok(())
    }
}

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        match File::open(entry.path()).and_then(|file| file.sync_all()) {
            // sled may remove an old snapshot or a value's file at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    sync_dir(folder)
}

fn remove_half_snapshots(home: &Path) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "half-written snapshot removed");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn io_failed(what: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |source| EngineError::Io { what, source }
}

fn failed(what: &'static str) -> impl Fn(sled::Error) -> EngineError {
    move |error| match error {
        sled::Error::Io(source) => EngineError::Io { what, source },
        error => EngineError::Engine { what, detail: error.to_string() },
    }
}
