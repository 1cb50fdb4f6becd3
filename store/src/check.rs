//! Looks whether every record and every file has an owner, and says what does not fit. It repairs nothing: what is
//! garbage, collection takes; what is damage, a person must see.
//!
//! It reads record by record from a store that goes on working, so a finding may be of a moment that has passed. What
//! two runs a while apart both find is real.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use model::Digest;

use crate::blob::{BlobError, BlobStore};
use crate::error::StoreError;
use crate::key::{key, key_parts, printable};
use crate::read::{Read, Reader};
use crate::table::{Record, Table};
use crate::tables;

/// How many records are in memory at a time.
const PAGE: usize = 500;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A record cannot be read. Damage.
    Unreadable {
        /// What the store says.
        error: String,
    },
    /// A namespace has a blob that is not there, or has another size. Damage.
    MissingBlob {
        /// The namespace.
        namespace: String,
        /// The blob.
        digest: String,
        /// The recorded size.
        recorded: u64,
        /// The size on disk, `None` if there is no such file.
        found: Option<u64>,
    },
    /// A record names another that does not exist. Damage.
    Dangling {
        /// The table of the record.
        table: &'static str,
        /// Its key, made printable.
        key: String,
        /// What it names.
        names: String,
    },
    /// An index and its table disagree. Damage.
    Index {
        /// The table of the entry without a counterpart.
        table: &'static str,
        /// Its key, made printable.
        key: String,
    },
    /// A blob that no namespace has. Garbage.
    UnownedBlob {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A file or folder that nobody would have made, or that a crash left. Garbage.
    Stray {
        /// Where.
        path: PathBuf,
    },
}

impl Finding {
    /// Whether something is lost or wrong, not merely left over.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::UnownedBlob { .. } | Self::Stray { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { error } => f.write_str(error),
            Self::MissingBlob { namespace, digest, recorded, found: None } => {
                write!(f, "content {digest} of {recorded} bytes in namespace {namespace} has no file")
            }
            Self::MissingBlob { namespace, digest, recorded, found: Some(found) } => {
                write!(f, "content {digest} in namespace {namespace} has {found} bytes, not {recorded}")
            }
            Self::Dangling { table, key, names } => write!(f, "{key} in {table} names {names}, which does not exist"),
            Self::Index { table, key } => write!(f, "{key} in {table} has no counterpart"),
            Self::UnownedBlob { digest, size } => write!(f, "content {digest} of {size} bytes is in no namespace"),
            Self::Stray { path } => write!(f, "{} belongs to nothing", path.display()),
        }
    }
}

/// Why a check could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The metadata cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs cannot be listed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Checks all metadata, and the blobs.
///
/// # Errors
/// [`CheckError`] when the store or the folders cannot be read at all.
pub fn check(reader: &Reader, blobs: &BlobStore) -> Result<Vec<Finding>, CheckError> {
    let mut check = Check { reader, findings: Vec::new() };
    check.tables()?;
    check.content(blobs)?;
    check.snapshots()?;
    check.backend_snapshots()?;
    check.leases()?;
    for path in blobs.strays()? {
        check.findings.push(Finding::Stray { path });
    }
    Ok(check.findings)
}

struct Check<'a> {
    reader: &'a Reader,
    findings: Vec<Finding>,
}

impl Check<'_> {
    /// Every record can be read, and its namespace exists.
    fn tables(&mut self) -> Result<(), StoreError> {
        self.readable(&tables::IDENTITY)?;
        self.readable(&tables::NAMESPACES)?;
        self.readable(&tables::EVENTS)?;
        self.readable(&tables::JOURNAL)?;
        self.in_namespaces(&tables::IMAGES)?;
        self.in_namespaces(&tables::CONTAINERS)?;
        self.in_namespaces(&tables::SANDBOXES)?;
        self.in_namespaces(&tables::CONTENT)?;
        self.in_namespaces(&tables::INGESTS)?;
        self.in_namespaces(&tables::SNAPSHOTS)?;
        self.in_namespaces(&tables::LEASES)?;
        self.in_namespaces(&tables::LEASE_RESOURCES)?;
        self.readable(&tables::BACKEND_SNAPSHOTS)
    }

    fn readable<R: Record>(&mut self, table: &Table<R>) -> Result<(), StoreError> {
        self.each(table, |_, _, _| Ok(()))
    }

    fn in_namespaces<R: Record>(&mut self, table: &Table<R>) -> Result<(), StoreError> {
        let mut known = BTreeMap::new();
        self.each(table, |check, name, _| {
            let namespace = key_parts(name).and_then(|parts| parts.first().map(|part| (*part).to_owned()));
            let namespace = namespace.unwrap_or_default();
            let exists = match known.get(&namespace) {
                Some(exists) => *exists,
                None => {
                    let exists = check.reader.contains(&tables::NAMESPACES, &key(&[&namespace])?)?;
                    known.insert(namespace.clone(), exists);
                    exists
                }
            };
            if !exists {
                check.dangling(table, name, format!("namespace {namespace}"));
            }
            Ok(())
        })
    }

    /// Content and its index agree, what is recorded is there, and what is there is recorded.
    fn content(&mut self, blobs: &BlobStore) -> Result<(), CheckError> {
        self.each(&tables::CONTENT, |check, name, record| {
            let Some([namespace, digest]) = parts(name) else {
                check.index(&tables::CONTENT, name);
                return Ok(());
            };
            if !check.reader.contains(&tables::BLOB_HOLDERS, &key(&[digest, namespace])?)? {
                check.index(&tables::CONTENT, name);
            }
            let found = digest.parse().ok().and_then(|digest: Digest| blobs.info(&digest).ok().flatten());
            if found != Some(record.size) {
                check.findings.push(Finding::MissingBlob {
                    namespace: namespace.to_owned(),
                    digest: digest.to_owned(),
                    recorded: record.size,
                    found,
                });
            }
            Ok(())
        })?;
        self.each(&tables::BLOB_HOLDERS, |check, name, _| {
            let swapped = parts(name).map(|[digest, namespace]| key(&[namespace, digest])).transpose()?;
            check.counterpart(&tables::BLOB_HOLDERS, name, &tables::CONTENT, swapped)
        })?;
        for blob in blobs.walk()? {
            let blob = blob?;
            if !self.reader.any(&tables::BLOB_HOLDERS, &crate::prefix(&[blob.digest.as_str()])?)? {
                self.findings.push(Finding::UnownedBlob { digest: blob.digest, size: blob.size });
            }
        }
        Ok(())
    }

    /// Snapshots have their parents and their entries in both indexes.
    fn snapshots(&mut self) -> Result<(), StoreError> {
        self.each(&tables::SNAPSHOTS, |check, name, record| {
            let Some([namespace, snapshotter, own]) = parts(name) else {
                check.index(&tables::SNAPSHOTS, name);
                return Ok(());
            };
            let held = key(&[snapshotter, &record.backend_key, namespace, own])?;
            if !check.reader.contains(&tables::SNAPSHOT_HOLDERS, &held)? {
                check.index(&tables::SNAPSHOTS, name);
            }
            let Some(parent) = &record.parent else { return Ok(()) };
            if !check.reader.contains(&tables::SNAPSHOTS, &key(&[namespace, snapshotter, parent])?)? {
                check.dangling(&tables::SNAPSHOTS, name, format!("parent {parent}"));
            }
            if !check.reader.contains(&tables::SNAPSHOT_CHILDREN, &key(&[namespace, snapshotter, parent, own])?)? {
                check.index(&tables::SNAPSHOTS, name);
            }
            Ok(())
        })?;
        self.each(&tables::SNAPSHOT_HOLDERS, |check, name, _| {
            let of = parts(name).map(|[snapshotter, _, namespace, own]| key(&[namespace, snapshotter, own]));
            check.counterpart(&tables::SNAPSHOT_HOLDERS, name, &tables::SNAPSHOTS, of.transpose()?)
        })?;
        self.each(&tables::SNAPSHOT_CHILDREN, |check, name, _| {
            let of = parts(name).map(|[namespace, snapshotter, _, own]| key(&[namespace, snapshotter, own]));
            check.counterpart(&tables::SNAPSHOT_CHILDREN, name, &tables::SNAPSHOTS, of.transpose()?)
        })
    }

    /// The drivers' snapshots have their parents, and each number is used once.
    fn backend_snapshots(&mut self) -> Result<(), StoreError> {
        let mut numbers = BTreeSet::new();
        self.each(&tables::BACKEND_SNAPSHOTS, |check, name, record| {
            let Some([driver, own]) = parts(name) else {
                check.index(&tables::BACKEND_SNAPSHOTS, name);
                return Ok(());
            };
            if !numbers.insert((driver.to_owned(), record.id)) {
                check.dangling(&tables::BACKEND_SNAPSHOTS, name, format!("folder {}, which another has", record.id));
            }
            let Some(parent) = &record.parent else { return Ok(()) };
            if !check.reader.contains(&tables::BACKEND_SNAPSHOTS, &key(&[driver, parent])?)? {
                check.dangling(&tables::BACKEND_SNAPSHOTS, name, format!("parent {parent}"));
            }
            if !check.reader.contains(&tables::BACKEND_CHILDREN, &key(&[driver, parent, own])?)? {
                check.index(&tables::BACKEND_SNAPSHOTS, name);
            }
            Ok(())
        })?;
        self.each(&tables::BACKEND_CHILDREN, |check, name, _| {
            let of = parts(name).map(|[driver, _, own]| key(&[driver, own]));
            check.counterpart(&tables::BACKEND_CHILDREN, name, &tables::BACKEND_SNAPSHOTS, of.transpose()?)
        })
    }

    /// What is leased has its lease. The leased things themselves need not exist.
    fn leases(&mut self) -> Result<(), StoreError> {
        self.each(&tables::LEASE_RESOURCES, |check, name, _| {
            let Some([namespace, lease, _, _]) = parts(name) else {
                check.index(&tables::LEASE_RESOURCES, name);
                return Ok(());
            };
            if !check.reader.contains(&tables::LEASES, &key(&[namespace, lease])?)? {
                check.dangling(&tables::LEASE_RESOURCES, name, format!("lease {lease}"));
            }
            Ok(())
        })
    }

    /// Runs `look` on every record of a table; those that cannot be read are findings.
    fn each<R: Record>(
        &mut self,
        table: &Table<R>,
        mut look: impl FnMut(&mut Self, &[u8], &R) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.reader.keys_from(table, &[], after.as_deref(), PAGE)?;
            let Some(last) = page.last().cloned() else { return Ok(()) };
            for name in page {
                match self.reader.get(table, &name) {
                    Ok(Some(record)) => look(self, &name, &record)?,
                    // Removed since.
                    Ok(None) => {}
                    Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => {
                        self.findings.push(Finding::Unreadable { error: error.to_string() });
                    }
                    Err(error) => return Err(error),
                }
            }
            after = Some(last);
        }
    }

    fn counterpart<R: Record, S: Record>(
        &mut self,
        table: &Table<R>,
        name: &[u8],
        other: &Table<S>,
        counterpart: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let there = match counterpart {
            Some(counterpart) => self.reader.contains(other, &counterpart)?,
            None => false,
        };
        if !there {
            self.index(table, name);
        }
        Ok(())
    }

    fn index<R: Record>(&mut self, table: &Table<R>, name: &[u8]) {
        self.findings.push(Finding::Index { table: table.name(), key: printable(name) });
    }

    fn dangling<R: Record>(&mut self, table: &Table<R>, name: &[u8], names: String) {
        self.findings.push(Finding::Dangling { table: table.name(), key: printable(name), names });
    }
}

/// The parts of a key, if there are exactly so many.
fn parts<const N: usize>(key: &[u8]) -> Option<[&str; N]> {
    key_parts(key)?.try_into().ok()
}
