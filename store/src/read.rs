//! Reading records, the same way from the committed state and from within a change.

use std::sync::Arc;

use crate::engine::{Pair, Span};
use crate::error::StoreError;
use crate::shared::Shared;
use crate::table::{Record, Table};

/// Bytes under the records. Only this crate implements it.
pub(crate) mod raw {
    use super::{Pair, Span, StoreError};

    /// Whether values are wanted, or keys only.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Values {
        /// Keys and values.
        Whole,
        /// Keys; the values are left empty.
        Omitted,
    }

    /// Bytes under the records.
    pub trait Raw {
        /// The value at `key`.
        fn raw_get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
        /// The first `limit` pairs of `span`.
        fn raw_scan(
            &self,
            table: &'static str,
            span: &Span,
            limit: usize,
            values: Values,
        ) -> Result<Vec<Pair>, StoreError>;
    }
}

use raw::{Raw, Values};

/// Reads records. Implemented by [`Reader`] and by [`crate::Tx`].
pub trait Read: Raw {
    /// The record at `key`, `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read or decoded.
    fn get<R: Record>(&self, table: &Table<R>, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.raw_get(table.name(), key)?.map(|value| table.decode(key, &value)).transpose()
    }

    /// Whether there is a record at `key`.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    fn contains<R: Record>(&self, table: &Table<R>, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.raw_get(table.name(), key)?.is_some())
    }

    /// All records whose key begins with `prefix` ([`crate::prefix`]), in the order of their keys. For tables that may be
    /// long use [`Read::scan_from`].
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read or decoded.
    fn scan<R: Record>(&self, table: &Table<R>, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.scan_from(table, prefix, None, usize::MAX)
    }

    /// One page of them: at most `limit`, behind the key `after`.
    ///
    /// # Errors
    /// [`StoreError`] when one cannot be read or decoded.
    fn scan_from<R: Record>(
        &self,
        table: &Table<R>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let pairs = self.raw_scan(table.name(), &span(prefix, after), limit, Values::Whole)?;
        pairs
            .into_iter()
            .map(|(key, value)| {
                let record = table.decode(&key, &value)?;
                Ok((key, record))
            })
            .collect()
    }

    /// The keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn keys<R: Record>(&self, table: &Table<R>, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.keys_from(table, prefix, None, usize::MAX)
    }

    /// One page of them: at most `limit`, behind the key `after`.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn keys_from<R: Record>(
        &self,
        table: &Table<R>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let pairs = self.raw_scan(table.name(), &span(prefix, after), limit, Values::Omitted)?;
        Ok(pairs.into_iter().map(|(key, _)| key).collect())
    }

    /// How many keys begin with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn count<R: Record>(&self, table: &Table<R>, prefix: &[u8]) -> Result<usize, StoreError> {
        Ok(self.raw_scan(table.name(), &span(prefix, None), usize::MAX, Values::Omitted)?.len())
    }

    /// Whether any key begins with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    fn any<R: Record>(&self, table: &Table<R>, prefix: &[u8]) -> Result<bool, StoreError> {
        Ok(!self.raw_scan(table.name(), &span(prefix, None), 1, Values::Omitted)?.is_empty())
    }
}

fn span(prefix: &[u8], after: Option<&[u8]>) -> Span {
    let span = Span::prefix(prefix);
    match after {
        Some(key) => span.behind(key),
        None => span,
    }
}

/// Reads what is committed and on disk. Each call sees one state; two calls may see two. What must be read from one
/// state, to decide on it, belongs into a request ([`crate::Store::submit`]).
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Raw for Reader {
    fn raw_get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.get(table, key)
    }

    fn raw_scan(
        &self,
        table: &'static str,
        span: &Span,
        limit: usize,
        values: Values,
    ) -> Result<Vec<Pair>, StoreError> {
        self.shared.scan(table, span, limit, values)
    }
}

impl Read for Reader {}
