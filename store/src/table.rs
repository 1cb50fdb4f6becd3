//! Typed tables and the form of a record on disk: one version byte, then postcard.
//!
//! A record is written with its current version and read with any that its type can still migrate. Do not use serde's
//! `skip`, `flatten` or `untagged` on records: postcard has no field names to find its way by.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::key::printable;

/// What can be kept in a table.
pub trait Record: Serialize + DeserializeOwned {
    /// The version that is written. Raise it with every change of the fields, and read the old form in `migrate`.
    const VERSION: u8;

    /// Reads the form that an older `version` wrote, `None` if that is not possible.
    fn migrate(version: u8, bytes: &[u8]) -> Option<Self> {
        let _ = (version, bytes);
        None
    }
}

/// A table by name, and what it holds.
pub struct Table<R> {
    name: &'static str,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Table<R> {
    /// The table `name`. Names that begin with `_` belong to this crate.
    pub const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn encode(&self, key: &[u8], record: &R) -> Result<Vec<u8>, StoreError> {
        postcard::to_extend(record, vec![R::VERSION]).map_err(|error| StoreError::Encode {
            table: self.name,
            key: printable(key),
            detail: error.to_string(),
        })
    }

    pub(crate) fn decode(&self, key: &[u8], value: &[u8]) -> Result<R, StoreError> {
        let damaged = |detail| StoreError::Damaged { table: self.name, key: printable(key), detail };
        let (&version, bytes) = value.split_first().ok_or_else(|| damaged("it is empty"))?;
        if version > R::VERSION {
            let (key, known) = (printable(key), R::VERSION);
            return Err(StoreError::Newer { table: self.name, key, found: version, known });
        }
        if version < R::VERSION {
            return R::migrate(version, bytes).ok_or_else(|| damaged("its version cannot be migrated"));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((record, [])) => Ok(record),
            Ok(_) => Err(damaged("it is longer than it should be")),
            Err(_) => Err(damaged("it cannot be decoded")),
        }
    }
}

impl<R> fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Old {
        name: String,
    }
    impl Record for Old {
        const VERSION: u8 = 1;
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct New {
        name: String,
        size: u64,
    }
    impl Record for New {
        const VERSION: u8 = 2;
        fn migrate(version: u8, bytes: &[u8]) -> Option<Self> {
            let old: Old = (version == 1).then(|| postcard::from_bytes(bytes).ok())??;
            Some(Self { name: old.name, size: 0 })
        }
    }

    const OLD: Table<Old> = Table::new("t");
    const NEW: Table<New> = Table::new("t");

    #[test]
    fn an_old_record_is_migrated_and_a_newer_one_is_refused() {
        let old = OLD.encode(b"k", &Old { name: "a".to_owned() }).unwrap();
        assert_eq!(NEW.decode(b"k", &old).unwrap(), New { name: "a".to_owned(), size: 0 });
        let new = NEW.encode(b"k", &New { name: "a".to_owned(), size: 3 }).unwrap();
        assert!(matches!(OLD.decode(b"k", &new), Err(StoreError::Newer { found: 2, known: 1, .. })));
        assert!(matches!(NEW.decode(b"k", &[0, 1]), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_a_guess() {
        let good = NEW.encode(b"k", &New { name: "abc".to_owned(), size: 300 }).unwrap();
        let mut longer = good.clone();
        longer.push(0);
        for bad in [&[][..], &good[..good.len() - 1], &good[..1], &longer] {
            assert!(matches!(NEW.decode(b"k", bad), Err(StoreError::Damaged { .. })), "{bad:?}");
        }
    }
}
