//! One change, while its closure runs.
//!
//! It sees the committed state, what earlier requests of its group changed, and its own writes. All I/O besides reading
//! records is out of place here: every other change waits.

use crate::engine::{Pair, Span};
use crate::error::StoreError;
use crate::key::printable;
use crate::overlay::{Overlay, entry_bytes, scan_over};
use crate::read::Read;
use crate::read::raw::{Raw, Values};
use crate::shared::Shared;
use crate::table::{Record, Table};

/// The most that one change may write, in bytes: what the committer must hold in memory and the engine must take at
/// once. Larger work is to be cut into several changes.
pub const MAX_TX_BYTES: usize = 4 * 1024 * 1024;

/// The table of [`Tx::next_id`]: a big-endian number per name.
const COUNTERS: &str = "_counters";

/// One change to several tables: what the closure of a request works on.
pub struct Tx<'a> {
    shared: &'a Shared,
    group: &'a Overlay,
    own: Overlay,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(shared: &'a Shared, group: &'a Overlay) -> Self {
        Self { shared, group, own: Overlay::default() }
    }

    /// What it wrote.
    pub(crate) fn into_changes(self) -> Overlay {
        self.own
    }

    /// Sets the record at `key`.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be encoded, or when the change gets larger than [`MAX_TX_BYTES`].
    pub fn put<R: Record>(&mut self, table: &Table<R>, key: &[u8], record: &R) -> Result<(), StoreError> {
        let value = table.encode(key, record)?;
        self.set(table.name(), key, Some(value))
    }

    /// Removes the record at `key`, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when the change gets larger than [`MAX_TX_BYTES`].
    pub fn delete<R: Record>(&mut self, table: &Table<R>, key: &[u8]) -> Result<(), StoreError> {
        self.set(table.name(), key, None)
    }

    /// The next number of the counter `name`, which begins at 1. No number is given out twice, except after a request
    /// that failed: its numbers were never used.
    ///
    /// # Errors
    /// [`StoreError`] when the counter cannot be read.
    pub fn next_id(&mut self, name: &str) -> Result<u64, StoreError> {
        let key = name.as_bytes();
        let damaged = || StoreError::Damaged { table: COUNTERS, key: printable(key), detail: "it is no number" };
        let last = match self.raw_get(COUNTERS, key)? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| damaged())?),
            None => 0,
        };
        let next = last.checked_add(1).ok_or_else(damaged)?;
        self.set(COUNTERS, key, Some(next.to_be_bytes().to_vec()))?;
        Ok(next)
    }

    fn set(&mut self, table: &'static str, key: &[u8], value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let bytes = self.own.bytes() + entry_bytes(key, value.as_ref());
        if bytes > MAX_TX_BYTES {
            return Err(StoreError::TooLarge { bytes, limit: MAX_TX_BYTES });
        }
        self.own.set(table, key.to_vec(), value);
        Ok(())
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("bytes", &self.own.bytes()).finish_non_exhaustive()
    }
}

impl Raw for Tx<'_> {
    fn raw_get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.own.get(table, key).or_else(|| self.group.get(table, key)) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => self.shared.get(table, key),
        }
    }

    fn raw_scan(
        &self,
        table: &'static str,
        span: &Span,
        limit: usize,
        values: Values,
    ) -> Result<Vec<Pair>, StoreError> {
        scan_over(&[self.group, &self.own], table, span, limit, |span, limit| {
            self.shared.scan(table, span, limit, values)
        })
    }
}

impl Read for Tx<'_> {}
