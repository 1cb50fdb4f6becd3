//! Namespaces: labels for a name, and what is in it.
//!
//! A namespace needs no creation before use: the first change in it makes it exist ([`ensure`]), and until then it reads as one
//! without labels. It is deleted only when nothing is left in it; nothing is deleted with it but leases and unfinished uploads.

use std::collections::BTreeSet;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::id::IdError;
use model::labels::LabelError;
use model::{Labels, Namespace, labels};
use proto::events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use store::blob::{BlobStore, IngestKey};
use store::record::NamespaceRecord;
use store::tables::{CONTAINERS, CONTENT, IMAGES, INGESTS, LEASE_RESOURCES, LEASES, NAMESPACES, SANDBOXES, SNAPSHOTS};
use store::{Read, Record, Store, StoreError, Table, Tx, key, key_parts, prefix};
use tracing::warn;

use crate::blocking;
use crate::events::Bus;
use crate::gc::schedule::Trigger;

/// Why a namespace could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The name breaks the identifier rule.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A label breaks the size rule.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// Created twice.
    #[error("namespace \"{name}\"")]
    Exists {
        /// The name.
        name: Namespace,
    },
    /// Deleted, but never created nor used.
    #[error("namespace {name:?}")]
    Missing {
        /// The name.
        name: String,
    },
    /// Deleted, but not empty.
    #[error("namespace \"{name}\" must be empty, but it still has {}", left.join(", "))]
    NotEmpty {
        /// The name.
        name: Namespace,
        /// What it still has.
        left: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for NamespaceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(error) => error.kind(),
            Self::Label(error) => error.kind(),
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Missing { .. } => Kind::NotFound,
            Self::NotEmpty { .. } => Kind::FailedPrecondition,
            Self::Store(error) => error.kind(),
        }
    }
}

/// Which labels an update sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// All: the namespace has exactly the given ones afterwards.
    All,
    /// These keys only.
    Keys(BTreeSet<String>),
}

/// Makes the namespace exist, as part of a change that puts something into it.
///
/// # Errors
/// The store failed.
pub fn ensure(tx: &mut Tx<'_>, namespace: &Namespace) -> Result<(), StoreError> {
    let key = key(&[namespace.as_str()])?;
    if tx.contains(&NAMESPACES, &key)? {
        return Ok(());
    }
    tx.put(&NAMESPACES, &key, &NamespaceRecord { labels: Labels::new(), created_at: SystemTime::now() })
}

/// All namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces {
    store: Store,
    bus: Bus,
    blobs: BlobStore,
    trigger: Trigger,
}

impl Namespaces {
    /// The namespaces kept in `store`, with their uploads in `blobs`; changes are told to `bus`, and deletions to `trigger`.
    pub fn new(store: Store, blobs: BlobStore, bus: Bus, trigger: Trigger) -> Self {
        Self { store, blobs, bus, trigger }
    }

    /// The labels of a namespace; none if it was never created, or never can be by that name.
    ///
    /// # Errors
    /// The store failed.
    pub async fn labels(&self, name: &str) -> Result<Labels, NamespaceError> {
        let (reader, key) = (self.store.read(), key(&[name])?);
        let record = blocking::run(move || reader.get(&NAMESPACES, &key)).await?;
        Ok(record.map(|record| record.labels).unwrap_or_default())
    }

    /// Every namespace and its labels, ordered by name.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self) -> Result<Vec<(String, Labels)>, NamespaceError> {
        let reader = self.store.read();
        let records = blocking::run(move || reader.scan(&NAMESPACES, &[])).await?;
        let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        Ok(records.into_iter().map(|(key, record)| (name(&key), record.labels)).collect())
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// It exists, or a label is too long.
    pub async fn create(&self, name: Namespace, sent: Labels) -> Result<Labels, NamespaceError> {
        labels::check(&sent)?;
        let record = NamespaceRecord { labels: labels::without_empty(sent), created_at: SystemTime::now() };
        let labels = record.labels.clone();
        let created = name.clone();
        let change = self.store.submit(move |tx| {
            let key = key(&[created.as_str()])?;
            if tx.contains(&NAMESPACES, &key)? {
                return Err(NamespaceError::Exists { name: created });
            }
            Ok(tx.put(&NAMESPACES, &key, &record)?)
        });
        change.await?;
        let event = NamespaceCreate { name: name.to_string(), labels: labels.clone() };
        self.bus.publish(&name, "/namespaces/create", &event);
        Ok(labels)
    }

    /// Changes labels; a namespace that was never created is made by this. Answers with the labels as they are then.
    ///
    /// # Errors
    /// A label is too long.
    pub async fn update(&self, name: Namespace, sent: Labels, which: LabelChange) -> Result<Labels, NamespaceError> {
        labels::check(&sent)?;
        let updated = name.clone();
        let change = self.store.submit(move |tx| {
            let key = key(&[updated.as_str()])?;
            let stored = tx.get(&NAMESPACES, &key)?;
            let mut record = stored.unwrap_or(NamespaceRecord { labels: Labels::new(), created_at: SystemTime::now() });
            match which {
                LabelChange::All => record.labels = sent,
                LabelChange::Keys(keys) => {
                    for key in keys {
                        let value = sent.get(&key).cloned().unwrap_or_default();
                        record.labels.insert(key, value);
                    }
                }
            }
            record.labels = labels::without_empty(record.labels);
            tx.put(&NAMESPACES, &key, &record)?;
            Ok::<_, NamespaceError>(record.labels)
        });
        let labels = change.await?;
        let event = NamespaceUpdate { name: name.to_string(), labels: labels.clone() };
        self.bus.publish(&name, "/namespaces/update", &event);
        Ok(labels)
    }

    /// Deletes an empty namespace, with its leases and unfinished uploads.
    ///
    /// # Errors
    /// It does not exist, or something is left in it.
    pub async fn delete(&self, name: String) -> Result<(), NamespaceError> {
        // What breaks the rule never was a namespace.
        let Ok(name) = Namespace::new(name.as_str()) else { return Err(NamespaceError::Missing { name }) };
        let deleted = name.clone();
        let change = self.store.submit(move |tx| {
            let key = key(&[deleted.as_str()])?;
            if !tx.contains(&NAMESPACES, &key)? {
                return Err(NamespaceError::Missing { name: deleted.into() });
            }
            let left = left_in(tx, &deleted)?;
            if !left.is_empty() {
                return Err(NamespaceError::NotEmpty { name: deleted, left });
            }
            clear(tx, &LEASE_RESOURCES, &deleted)?;
            clear(tx, &LEASES, &deleted)?;
            clear(tx, &INGESTS, &deleted)?;
            Ok(tx.delete(&NAMESPACES, &key)?)
        });
        change.await?;
        self.bus.publish(&name, "/namespaces/delete", &NamespaceDelete { name: name.to_string() });
        self.trigger.deleted();
        let blobs = self.blobs.clone();
        blocking::run(move || forget_uploads(&blobs, name)).await;
        Ok(())
    }
}

/// Removes the files of uploads whose records are gone. What cannot be removed now is found at the next start.
fn forget_uploads(blobs: &BlobStore, namespace: Namespace) {
    let removed = blobs.statuses(&namespace).and_then(|uploads| {
        uploads.into_iter().try_for_each(|upload| {
            blobs.abort(&IngestKey { namespace: namespace.clone(), reference: upload.reference })
        })
    });
    if let Err(error) = removed {
        warn!(ns = %namespace, error = &error as &dyn std::error::Error, "cannot remove unfinished uploads");
    }
}

/// What is in a namespace, in words.
fn left_in(tx: &Tx<'_>, name: &Namespace) -> Result<Vec<String>, StoreError> {
    let inside = prefix(&[name.as_str()])?;
    let kinds = [
        ("images", tx.any(&IMAGES, &inside)?),
        ("blobs", tx.any(&CONTENT, &inside)?),
        ("containers", tx.any(&CONTAINERS, &inside)?),
        ("sandboxes", tx.any(&SANDBOXES, &inside)?),
    ];
    let mut left: Vec<_> = kinds.into_iter().filter(|(_, any)| *any).map(|(kind, _)| kind.to_owned()).collect();
    let mut after: Option<Vec<u8>> = None;
    // One look per snapshotter: from the first key of one on to behind its last.
    while let Some(first) = tx.keys_from(&SNAPSHOTS, &inside, after.as_deref(), 1)?.pop() {
        let Some(snapshotter) = key_parts(&first).and_then(|parts| parts.get(1).map(|part| (*part).to_owned())) else {
            break;
        };
        left.push(format!("snapshots on {snapshotter:?} snapshotter"));
        // No name has a byte that is larger, so this is behind every key of the snapshotter.
        after = Some([prefix(&[name.as_str(), &snapshotter])?, vec![u8::MAX]].concat());
    }
    Ok(left)
}

fn clear<R: Record>(tx: &mut Tx<'_>, table: &Table<R>, name: &Namespace) -> Result<(), StoreError> {
    for key in tx.keys(table, &prefix(&[name.as_str()])?)? {
        tx.delete(table, &key)?;
    }
    Ok(())
}
