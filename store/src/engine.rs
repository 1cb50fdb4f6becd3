//! The seam to an engine: tables of bytes, ordered, changed several at once.
//!
//! An engine knows nothing of records, of groups or of who sees what when; that is above it. One thread writes
//! ([`MetaStore::apply`], then [`MetaStore::flush`]), any number read at the same time.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::EngineError;
use crate::key::after_prefix;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Ordered tables of bytes with an atomic, durable change over several of them.
pub trait MetaStore: Send + Sync {
    /// The value at `key`, `None` if there is none. A table that does not exist is empty.
    ///
    /// # Errors
    /// [`EngineError`] when the files cannot be read.
    fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// The first `limit` pairs of `span`, in the order of their keys.
    ///
    /// # Errors
    /// [`EngineError`] when the files cannot be read.
    fn scan(&self, table: &'static str, span: &Span, limit: usize) -> Result<Vec<Pair>, EngineError>;

    /// The names of all tables, in no order.
    ///
    /// # Errors
    /// [`EngineError`] when the files cannot be read.
    fn tables(&self) -> Result<Vec<String>, EngineError>;

    /// Makes all changes of `batch` or none of them, also through a crash. Readers may see them from here on, or not
    /// before [`MetaStore::flush`].
    ///
    /// # Errors
    /// [`EngineError`]; the state of the batch is then unknown.
    fn apply(&self, batch: &Batch) -> Result<(), EngineError>;

    /// Returns when everything applied is on the disk and visible.
    ///
    /// # Errors
    /// [`EngineError`]; what was applied since the last flush is then in doubt.
    fn flush(&self) -> Result<(), EngineError>;
}

/// Part of a table: keys between two bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub from: Bound<Vec<u8>>,
    /// Where it ends.
    pub to: Bound<Vec<u8>>,
}

impl Span {
    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            from: Bound::Included(prefix.to_vec()),
            to: after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded),
        }
    }

    /// The part of it behind `key`.
    #[must_use]
    pub fn behind(mut self, key: &[u8]) -> Self {
        if self.starts_before_or_at(key) {
            self.from = Bound::Excluded(key.to_vec());
        }
        self
    }

    /// Whether no key can be in it. Ranges that are the wrong way round make the standard maps panic.
    pub fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => from >= to,
            _ => false,
        }
    }

    /// Both bounds, by reference.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice))
    }

    fn starts_before_or_at(&self, key: &[u8]) -> bool {
        match &self.from {
            Bound::Included(from) | Bound::Excluded(from) => from.as_slice() <= key,
            Bound::Unbounded => true,
        }
    }
}

/// Changes to make together: per table, per key, the new value or its removal.
#[derive(Debug, Default)]
pub struct Batch {
    tables: BTreeMap<&'static str, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, table: &'static str, key: Vec<u8>, value: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, Some(value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, table: &'static str, key: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, None);
    }

    /// The changes, table by table.
    pub fn tables(&self) -> &BTreeMap<&'static str, BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        &self.tables
    }
}
