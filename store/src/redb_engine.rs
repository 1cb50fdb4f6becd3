//! redb behind the seam: one file, one transaction per group, kept open from `apply` to `flush`.
//!
//! A file that redb was killed while making has no magic number yet and does not open; so it is made under another name.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Mutex;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, TableDefinition, TableError, TableHandle, WriteTransaction,
};

use crate::atomic::sync_dir;
use crate::engine::{Batch, MetaStore, Pair, Span};
use crate::error::EngineError;

/// Memory for pages, in bytes.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

const READING: &str = "reading from redb";
const WRITING: &str = "writing to redb";
const UNPOISONED: &str = "a panic while a transaction is open stops the store";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type ReadOnlyTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;
type Entry = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);

/// A redb database in a folder of its own.
pub(crate) struct RedbEngine {
    database: Database,
    /// What is applied but not flushed: redb makes a transaction durable and visible in one step.
    open: Mutex<Option<WriteTransaction>>,
}

impl RedbEngine {
    pub(crate) fn open(home: &Path) -> Result<Self, EngineError> {
        let path = home.join("meta.redb");
        if !path.exists() {
            make(home, &path)?;
        }
        let database = match builder().open(&path) {
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(EngineError::Locked),
            opened => opened.during("opening redb")?,
        };
        Ok(Self { database, open: Mutex::new(None) })
    }

    /// Runs `read` on a table as it was last committed, `None` if it does not exist.
    fn reading<T>(
        &self,
        table: &'static str,
        read: impl FnOnce(ReadOnlyTable) -> Result<T, redb::StorageError>,
    ) -> Result<Option<T>, EngineError> {
        let transaction = self.database.begin_read().during(READING)?;
        match transaction.open_table(definition(table)) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => read(table.during(READING)?).during(READING).map(Some),
        }
    }
}

impl MetaStore for RedbEngine {
    fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.reading(table, |table| Ok(table.get(key)?.map(|value| value.value().to_vec())))?;
        Ok(value.flatten())
    }

    fn scan(&self, table: &'static str, span: &Span, limit: usize) -> Result<Vec<Pair>, EngineError> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let owned = |(key, value): Entry| (key.value().to_vec(), value.value().to_vec());
        let pairs = self.reading(table, |table| {
            table.range::<&[u8]>(span.bounds())?.take(limit).map(|pair| pair.map(owned)).collect()
        })?;
        Ok(pairs.unwrap_or_default())
    }

    fn tables(&self) -> Result<Vec<String>, EngineError> {
        let transaction = self.database.begin_read().during(READING)?;
        let tables = transaction.list_tables().during(READING)?;
        Ok(tables.map(|table| table.name().to_owned()).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut open = self.open.lock().expect(UNPOISONED);
        let transaction = match open.take() {
            Some(transaction) => transaction,
            None => self.database.begin_write().during(WRITING)?,
        };
        for (name, changes) in batch.tables() {
            let mut table = transaction.open_table(definition(name)).during(WRITING)?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()).map(drop),
                    None => table.remove(key.as_slice()).map(drop),
                }
                .during(WRITING)?;
            }
        }
        *open = Some(transaction);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let open = self.open.lock().expect(UNPOISONED).take();
        open.map_or(Ok(()), |transaction| transaction.commit().during("committing to redb"))
    }
}

/// Makes an empty database. It gets its name when it is whole: one that redb was killed while making it would not open.
fn make(home: &Path, path: &Path) -> Result<(), EngineError> {
    let io = |source| EngineError::Io { what: "making a redb database", source };
    let unfinished = home.join("meta.redb.unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    drop(builder().create(&unfinished).during("making a redb database")?);
    File::open(&unfinished).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&unfinished, path).and_then(|()| sync_dir(home)).map_err(io)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn definition(name: &'static str) -> Definition {
    TableDefinition::new(name)
}

/// Says what was being done when redb failed.
trait During<T> {
    fn during(self, what: &'static str) -> Result<T, EngineError>;
}

impl<T, E: Into<redb::Error>> During<T> for Result<T, E> {
    fn during(self, what: &'static str) -> Result<T, EngineError> {
        self.map_err(|error| match error.into() {
            redb::Error::Io(source) => EngineError::Io { what, source },
            error => EngineError::Engine { what, detail: error.to_string() },
        })
    }
}
