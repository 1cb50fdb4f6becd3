//! Snapshots as namespaces name them (containerd's contract).
//!
//! A namespace's key stands for a key of the driver, `<namespace>/<number>/<key>`, which is never used twice: a key can be
//! removed and prepared again while the driver still has the old one. [`Meta::remove_snapshot`] only forgets the name;
//! collection removes what the driver has, children first.
//!
//! ```text
//! prepare:  look ─► driver.prepare ─► record        crash before `record`: the driver has one too many, collected at start
//! commit:   intent ─► driver.commit ─► record       crash in between: finished or forgotten at start, by what the driver has
//! ```
//!
//! Everything here blocks; call it from [`crate::blocking::run`].

mod commit;
mod error;
mod prepare;

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use model::filter::{Fields, FilterError, Filters, label_field};
use model::labels;
use model::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use model::{Labels, Mount, Namespace};
use prost_types::FieldMask;
use proto::events as wire;
use snapshotter::{LabelMask, Snapshotter, Update};
use store::record::{Present, SnapshotRecord};
use store::{Read, StoreError, Tx, tables};

use super::leases::{self, Resource};
use super::{Drivers, Meta};
use crate::api::{Scope, fields};
use crate::gc::node::{Node, Object};

#[cfg(test)]
pub(crate) use commit::INTENTS;
pub(crate) use commit::Interrupted;
pub(crate) use commit::is_under_way as is_committing;
pub use commit::{Commit, CommitIntent};
pub use error::SnapshotsError;
pub(crate) use prepare::backend_name;
pub use prepare::{Access, Prepare};

/// Labels of this kind reach the driver.
const INHERITED_PREFIX: &str = "containerd.io/snapshot/";

/// The name of the committed snapshot that a prepared one is to become.
pub const LABEL_REF: &str = "containerd.io/snapshot.ref";

/// The names of a snapshot: where it is, who drives it, what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    /// The namespace.
    pub namespace: Namespace,
    /// The snapshotter.
    pub snapshotter: String,
    /// The key or name.
    pub key: String,
}

impl SnapshotName {
    pub(crate) fn record_key(&self) -> Result<Vec<u8>, StoreError> {
        store::key(&[self.namespace.as_str(), &self.snapshotter, &self.key])
    }

    fn holder_key(&self, backend_key: &str) -> Result<Vec<u8>, StoreError> {
        store::key(&[&self.snapshotter, backend_key, self.namespace.as_str(), &self.key])
    }

    fn child_key(&self, parent: &str) -> Result<Vec<u8>, StoreError> {
        store::key(&[self.namespace.as_str(), &self.snapshotter, parent, &self.key])
    }

    /// Another key of the same snapshotter in the same namespace.
    fn sibling(&self, key: impl Into<String>) -> Self {
        Self { key: key.into(), ..self.clone() }
    }

    fn node(&self) -> Node {
        Node::snapshot(&self.snapshotter, &self.key)
    }

    /// The name that [`crate::meta::busy`] knows the name itself by: one at a time may make a snapshot of it.
    fn making(&self) -> String {
        format!("name\0{}\0{}\0{}", self.namespace, self.snapshotter, self.key)
    }

    fn resource(&self) -> Resource {
        Resource::Snapshot { snapshotter: self.snapshotter.clone(), name: self.key.clone() }
    }
}

/// The labels that reach the driver.
fn inherited(labels: &Labels) -> Labels {
    labels.iter().filter(|(key, _)| is_inherited(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn is_inherited(key: &str) -> bool {
    key.starts_with(INHERITED_PREFIX) || key == LABEL_REF
}

/// Gives out the numbers of driver keys: a block at a time is taken from the store, so that most cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    rest: Mutex<std::ops::Range<u64>>,
}

/// How many numbers are taken at a time; those not given out before the daemon ends are lost.
const NUMBERS_AT_A_TIME: u64 = 1024;

impl Numbers {
    fn next(&self, store: &store::Store) -> Result<u64, StoreError> {
        loop {
            if let Some(number) = self.rest.lock().unwrap_or_else(PoisonError::into_inner).next() {
                return Ok(number);
            }
            let block = store.write(|tx| tx.next_id("snapshot-key-blocks"))?;
            let first = (block - 1) * NUMBERS_AT_A_TIME + 1;
            let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
            // Two may have asked at once; the numbers of the block that loses are never used.
            if rest.is_empty() {
                *rest = first..first + NUMBERS_AT_A_TIME;
            }
        }
    }
}

/// A snapshot for filters.
struct Filtered<'a>(&'a SnapshotInfo);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let text = match (first.as_str(), rest) {
            ("kind", []) => match self.0.kind {
                SnapshotKind::Active => "active".to_owned(),
                SnapshotKind::View => "view".to_owned(),
                SnapshotKind::Committed => "committed".to_owned(),
            },
            ("name", []) => self.0.name.clone(),
            ("parent", []) => self.0.parent.clone()?,
            ("labels", key) => return label_field(&self.0.labels, key),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// What the driver says, with what the namespace calls it laid over it.
fn merged(mut info: SnapshotInfo, name: &str, record: &SnapshotRecord) -> SnapshotInfo {
    name.clone_into(&mut info.name);
    info.parent.clone_from(&record.parent);
    info.created_at = record.created_at;
    info.updated_at = record.updated_at;
    info.labels.extend(record.labels.clone());
    info
}

/// The driver of that name.
pub(crate) fn driver<'a>(drivers: &'a Drivers, name: &str) -> Result<&'a dyn Snapshotter, SnapshotsError> {
    if name.is_empty() {
        return Err(SnapshotsError::NoSnapshotter);
    }
    let driver = drivers.get(name).ok_or_else(|| SnapshotsError::UnknownSnapshotter { name: name.to_owned() })?;
    Ok(&**driver)
}

/// The record of a snapshot that exists.
fn existing(read: &impl Read, name: &SnapshotName) -> Result<SnapshotRecord, SnapshotsError> {
    let record = read.get(&tables::SNAPSHOTS, &name.record_key()?)?;
    record.ok_or_else(|| SnapshotsError::NotFound { key: name.key.clone() })
}

/// Writes a record with its indexes.
fn put(tx: &mut Tx<'_>, name: &SnapshotName, record: &SnapshotRecord) -> Result<(), StoreError> {
    tx.put(&tables::SNAPSHOTS, &name.record_key()?, record)?;
    tx.put(&tables::SNAPSHOT_HOLDERS, &name.holder_key(&record.backend_key)?, &Present)?;
    if let Some(parent) = &record.parent {
        tx.put(&tables::SNAPSHOT_CHILDREN, &name.child_key(parent)?, &Present)?;
    }
    Ok(())
}

/// Removes a record with its indexes.
pub(crate) fn forget(tx: &mut Tx<'_>, name: &SnapshotName, record: &SnapshotRecord) -> Result<(), StoreError> {
    tx.delete(&tables::SNAPSHOTS, &name.record_key()?)?;
    tx.delete(&tables::SNAPSHOT_HOLDERS, &name.holder_key(&record.backend_key)?)?;
    if let Some(parent) = &record.parent {
        tx.delete(&tables::SNAPSHOT_CHILDREN, &name.child_key(parent)?)?;
    }
    Ok(())
}

/// Whether another snapshot of the namespace stands on this one.
pub(crate) fn has_children(read: &impl Read, name: &SnapshotName) -> Result<bool, StoreError> {
    let prefix = store::prefix(&[name.namespace.as_str(), &name.snapshotter, &name.key])?;
    read.any(&tables::SNAPSHOT_CHILDREN, &prefix)
}

/// What a snapshot begins to refer to when it is written.
fn touched(name: &SnapshotName, record: &SnapshotRecord) -> Vec<Node> {
    let object = Object::snapshot(&name.snapshotter, name.key.clone(), record.parent.clone(), record.labels.clone());
    let mut nodes = object.holds();
    nodes.push(object.node);
    nodes
}

impl Meta {
    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// There is none of that key, or it is committed.
    pub fn snapshot_mounts(&self, name: &SnapshotName) -> Result<Vec<Mount>, SnapshotsError> {
        let driver = driver(&self.inner.drivers, &name.snapshotter)?;
        let record = existing(&self.inner.store.read(), name)?;
        Ok(driver.mounts(&record.backend_key)?)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// There is none of that key or name.
    pub fn snapshot(&self, name: &SnapshotName) -> Result<SnapshotInfo, SnapshotsError> {
        let driver = driver(&self.inner.drivers, &name.snapshotter)?;
        let record = existing(&self.inner.store.read(), name)?;
        Ok(merged(driver.stat(&record.backend_key)?, &name.key, &record))
    }

    /// What a snapshot takes on disk without its parents.
    ///
    /// # Errors
    /// There is none of that key or name.
    pub fn snapshot_usage(&self, name: &SnapshotName) -> Result<Usage, SnapshotsError> {
        let driver = driver(&self.inner.drivers, &name.snapshotter)?;
        let record = existing(&self.inner.store.read(), name)?;
        Ok(driver.usage(&record.backend_key)?)
    }

    /// One page of the snapshots of a namespace: those that match, among the next `limit` after the key `after`, and the
    /// last key that was looked at, `None` at the end.
    ///
    /// # Errors
    /// The driver cannot be read.
    pub fn snapshots_page(
        &self,
        namespace: &Namespace,
        snapshotter: &str,
        filters: &Filters,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<SnapshotInfo>, Option<Vec<u8>>), SnapshotsError> {
        let driver = driver(&self.inner.drivers, snapshotter)?;
        let prefix = store::prefix(&[namespace.as_str(), snapshotter])?;
        let records = self.inner.store.read().scan_from(&tables::SNAPSHOTS, &prefix, after, limit)?;
        let last = if records.len() < limit { None } else { records.last().map(|(key, _)| key.clone()) };
        let mut found = Vec::new();
        for (key, record) in &records {
            let Some(name) = store::last_part(key) else { continue };
            let info = match driver.stat(&record.backend_key) {
                Ok(info) => merged(info, name, record),
                // Removed since its record was read.
                Err(snapshotter::SnapshotError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if filters.matches(&Filtered(&info)) {
                found.push(info);
            }
        }
        Ok((found, last))
    }

    /// Reads the filters of a list, and checks that there is such a snapshotter.
    ///
    /// # Errors
    /// A filter cannot be read, or the snapshotter is not known.
    pub fn snapshot_filters(&self, snapshotter: &str, filters: &[String]) -> Result<Filters, SnapshotsError> {
        driver(&self.inner.drivers, snapshotter)?;
        Filters::parse(filters).map_err(|error: FilterError| error.into())
    }

    /// Changes the labels of a snapshot.
    ///
    /// # Errors
    /// There is none of that key or name, or a rule would be broken.
    pub fn update_snapshot(
        &self,
        name: SnapshotName,
        sent: Labels,
        mask: Option<FieldMask>,
    ) -> Result<SnapshotInfo, SnapshotsError> {
        let driver = driver(&self.inner.drivers, &name.snapshotter)?;
        if name.key.is_empty() {
            return Err(SnapshotsError::NoName);
        }
        let barrier = self.inner.barrier.clone();
        let labels_mask = driver_mask(mask.as_ref());
        let (name, record) = self.inner.store.write(move |tx| {
            let mut record = existing(tx, &name)?;
            fields::update_labels(&format!("snapshot {}", name.key), &mut record.labels, &sent, mask.as_ref())?;
            labels::check(&record.labels)?;
            record.updated_at = SystemTime::now();
            tx.put(&tables::SNAPSHOTS, &name.record_key()?, &record)?;
            barrier.touch(&name.namespace, || touched(&name, &record));
            Ok::<_, SnapshotsError>((name, record))
        })?;
        self.inner.trigger.changed();
        let update = Update { name: record.backend_key.clone(), labels: inherited(&record.labels), mask: labels_mask };
        Ok(merged(driver.update(&update)?, &name.key, &record))
    }

    /// Forgets a snapshot; collection removes its files.
    ///
    /// # Errors
    /// There is none of that key or name, or another one stands on it.
    pub fn remove_snapshot(&self, scope: Scope, name: SnapshotName) -> Result<(), SnapshotsError> {
        driver(&self.inner.drivers, &name.snapshotter)?;
        let removed = {
            let name = name.clone();
            self.inner.store.write(move |tx| {
                let record = existing(tx, &name)?;
                if has_children(tx, &name)? {
                    return Err(SnapshotsError::HasChildren);
                }
                if commit::is_under_way(tx, &name)? {
                    return Err(SnapshotsError::Committing { key: name.key.clone() });
                }
                forget(tx, &name, &record)?;
                leases::detach(tx, &scope, &name.resource())?;
                Ok(record)
            })?
        };
        let event = wire::SnapshotRemove { key: name.key, snapshotter: name.snapshotter.clone() };
        self.inner.bus.publish(&name.namespace, "/snapshot/remove", &event);
        self.inner.trigger.unmapped(name.snapshotter, removed.backend_key);
        Ok(())
    }

    /// Lets the driver remove what no snapshot of its own owns.
    ///
    /// # Errors
    /// The driver cannot remove something.
    pub fn cleanup_snapshots(&self, snapshotter: &str) -> Result<(), SnapshotsError> {
        Ok(driver(&self.inner.drivers, snapshotter)?.cleanup()?)
    }
}

/// Which labels the driver is told about.
fn driver_mask(mask: Option<&FieldMask>) -> LabelMask {
    let Some(paths) = fields::paths(mask) else { return LabelMask::All };
    let keys: Option<Vec<String>> = paths.into_iter().map(|path| path.key).collect();
    match keys {
        Some(keys) => LabelMask::Keys(keys.into_iter().filter(|key| is_inherited(key)).collect()),
        None => LabelMask::All,
    }
}
