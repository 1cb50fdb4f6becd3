//! What a driver writes down about its snapshots, and the rules of their life. No files.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::SystemTime;

use model::Labels;
use model::labels::without_empty;
use model::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use store::record::{BackendSnapshotRecord, Present};
use store::tables::{BACKEND_CHILDREN, BACKEND_SNAPSHOTS};
use store::{Read, Store, Tx, key, last_part, prefix};

use crate::{LabelMask, SnapshotError, Update};

/// The longest key or name, in bytes.
const MAX_KEY_BYTES: usize = 4096;
/// The longest chain of parents: more than the kernel stacks, and an end for records that are damaged into a circle.
const MAX_CHAIN: usize = 1024;
/// Records that are read at once.
const PAGE: usize = 256;

/// The records of one driver.
pub(crate) struct Records {
    store: Store,
    driver: &'static str,
}

/// A snapshot that is to be written down.
pub(crate) struct New {
    pub(crate) key: String,
    pub(crate) id: u64,
    pub(crate) kind: SnapshotKind,
    pub(crate) parent: Option<String>,
    /// The number of the parent, as it was when the files were made.
    pub(crate) parent_id: Option<u64>,
    pub(crate) labels: Labels,
}

impl Records {
    pub(crate) fn new(store: Store, driver: &'static str) -> Self {
        Self { store, driver }
    }

    pub(crate) fn get(&self, key: &str) -> Result<BackendSnapshotRecord, SnapshotError> {
        get(&self.store.read(), self.driver, key)
    }

    /// The numbers of a parent and all its parents, nearest first.
    pub(crate) fn chain(&self, parent: Option<&str>) -> Result<Vec<u64>, SnapshotError> {
        let read = self.store.read();
        let mut ids = Vec::new();
        let mut next = parent.map(str::to_owned);
        while let Some(name) = next {
            let record = parent_record(&read, self.driver, &name)?;
            if ids.len() == MAX_CHAIN {
                return Err(SnapshotError::InvalidKey { key: name, why: "it has too many parents" });
            }
            ids.push(record.id);
            next = record.parent;
        }
        Ok(ids)
    }

    /// Whether `key` may be given to a new snapshot, as far as that can be told now.
    pub(crate) fn check_new(&self, key: &str) -> Result<(), SnapshotError> {
        check_key(key)?;
        if self.store.read().contains(&BACKEND_SNAPSHOTS, &record_key(self.driver, key)?)? {
            return Err(SnapshotError::AlreadyExists { key: key.to_owned() });
        }
        Ok(())
    }

    /// Writes a snapshot down whose files are there.
    pub(crate) fn insert(&self, new: New) -> Result<(), SnapshotError> {
        let driver = self.driver;
        self.store.write(move |tx| {
            let at = record_key(driver, &new.key)?;
            if tx.contains(&BACKEND_SNAPSHOTS, &at)? {
                return Err(SnapshotError::AlreadyExists { key: new.key });
            }
            if let Some(parent) = &new.parent {
                let record = parent_record(tx, driver, parent)?;
                if Some(record.id) != new.parent_id {
                    // It was removed, and another of the same name made, meanwhile.
                    return Err(SnapshotError::ParentMissing { parent: parent.clone() });
                }
                tx.put(&BACKEND_CHILDREN, &key(&[driver, parent, &new.key])?, &Present {})?;
            }
            let now = SystemTime::now();
            let record = BackendSnapshotRecord {
                id: new.id,
                kind: new.kind,
                parent: new.parent,
                labels: without_empty(new.labels),
                usage: None,
                created_at: now,
                updated_at: now,
            };
            Ok(tx.put(&BACKEND_SNAPSHOTS, &at, &record)?)
        })
    }

    /// Makes the active snapshot `from`, number `id`, the committed snapshot `name`.
    pub(crate) fn commit(&self, from: &str, id: u64, commit: Commit) -> Result<(), SnapshotError> {
        let (driver, from) = (self.driver, from.to_owned());
        self.store.write(move |tx| {
            let at = record_key(driver, &commit.name)?;
            if tx.contains(&BACKEND_SNAPSHOTS, &at)? {
                return Err(SnapshotError::AlreadyExists { key: commit.name });
            }
            let mut record = active(get(tx, driver, &from)?, &from)?;
            if record.id != id {
                // It was removed, and another one prepared under the same key, while this one's files were written.
                return Err(SnapshotError::NotFound { key: from });
            }
            if let Some(parent) = &record.parent {
                tx.delete(&BACKEND_CHILDREN, &key(&[driver, parent, &from])?)?;
            }
            if let Some(parent) = commit.new_parent {
                check_rebase(&from, &record, &parent)?;
                parent_record(tx, driver, &parent)?;
                record.parent = Some(parent);
            }
            if let Some(parent) = &record.parent {
                tx.put(&BACKEND_CHILDREN, &key(&[driver, parent, &commit.name])?, &Present {})?;
            }
            let now = SystemTime::now();
            record.kind = SnapshotKind::Committed;
            record.labels = without_empty(commit.labels);
            record.usage = Some(commit.usage);
            (record.created_at, record.updated_at) = (now, now);
            tx.delete(&BACKEND_SNAPSHOTS, &record_key(driver, &from)?)?;
            Ok(tx.put(&BACKEND_SNAPSHOTS, &at, &record)?)
        })
    }

    /// Removes a record and says which number it had.
    pub(crate) fn remove(&self, name: &str) -> Result<u64, SnapshotError> {
        let (driver, name) = (self.driver, name.to_owned());
        self.store.write(move |tx| {
            let record = get(tx, driver, &name)?;
            if tx.any(&BACKEND_CHILDREN, &prefix(&[driver, &name])?)? {
                return Err(SnapshotError::HasChildren { key: name });
            }
            if let Some(parent) = &record.parent {
                tx.delete(&BACKEND_CHILDREN, &key(&[driver, parent, &name])?)?;
            }
            tx.delete(&BACKEND_SNAPSHOTS, &record_key(driver, &name)?)?;
            Ok(record.id)
        })
    }

    pub(crate) fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError> {
        let (driver, update) = (self.driver, update.clone());
        self.store.write(move |tx: &mut Tx<'_>| {
            let mut record = get(tx, driver, &update.name)?;
            let mut given = update.labels;
            record.labels = match update.mask {
                LabelMask::All => given,
                LabelMask::Keys(keys) => {
                    let mut labels = record.labels;
                    for key in keys {
                        match given.remove(&key) {
                            Some(value) => labels.insert(key, value),
                            None => labels.remove(&key),
                        };
                    }
                    labels
                }
            };
            record.labels = without_empty(record.labels);
            record.updated_at = SystemTime::now();
            tx.put(&BACKEND_SNAPSHOTS, &record_key(driver, &update.name)?, &record)?;
            Ok(info(update.name, record))
        })
    }

    /// Shows every record until `each` breaks.
    pub(crate) fn walk(
        &self,
        each: &mut dyn FnMut(&str, BackendSnapshotRecord) -> ControlFlow<()>,
    ) -> Result<(), SnapshotError> {
        let read = self.store.read();
        let mine = prefix(&[self.driver])?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = read.scan_from(&BACKEND_SNAPSHOTS, &mine, after.as_deref(), PAGE)?;
            after = page.last().map(|(key, _)| key.clone());
            let is_last = page.len() < PAGE;
            for (key, record) in page {
                let name = last_part(&key).unwrap_or_default();
                if each(name, record).is_break() {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// The numbers of all snapshots.
    pub(crate) fn ids(&self) -> Result<HashSet<u64>, SnapshotError> {
        let mut ids = HashSet::new();
        self.walk(&mut |_, record| {
            ids.insert(record.id);
            ControlFlow::Continue(())
        })?;
        Ok(ids)
    }
}

/// What a commit changes.
pub(crate) struct Commit {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) new_parent: Option<String>,
    pub(crate) usage: Usage,
}

/// `record` under `key`, if it can be committed.
pub(crate) fn active(record: BackendSnapshotRecord, key: &str) -> Result<BackendSnapshotRecord, SnapshotError> {
    match record.kind {
        SnapshotKind::Active => Ok(record),
        SnapshotKind::View | SnapshotKind::Committed => Err(SnapshotError::NotActive { key: key.to_owned() }),
    }
}

/// A record as the world knows it.
pub(crate) fn info(name: String, record: BackendSnapshotRecord) -> SnapshotInfo {
    let BackendSnapshotRecord { kind, parent, labels, created_at, updated_at, .. } = record;
    SnapshotInfo { kind, name, parent, labels, created_at, updated_at }
}

/// Whether an active snapshot may get `parent` at its commit.
pub(crate) fn check_rebase(key: &str, record: &BackendSnapshotRecord, parent: &str) -> Result<(), SnapshotError> {
    if record.parent.is_none() {
        return Ok(());
    }
    Err(SnapshotError::CannotRebase { key: key.to_owned(), parent: parent.to_owned(), why: "it has one" })
}

/// Labels by which a client asks for other owners of files than those on disk.
const REMAP_LABELS: [&str; 2] = ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"];

/// Whether a driver can do what the labels ask for. Files of the wrong owners would be worse than none.
pub(crate) fn check_labels(driver: &str, labels: &Labels) -> Result<(), SnapshotError> {
    match REMAP_LABELS.into_iter().find(|label| labels.contains_key(*label)) {
        Some(label) => Err(SnapshotError::UnsupportedLabel { label: label.to_owned(), driver: driver.to_owned() }),
        None => Ok(()),
    }
}

pub(crate) fn check_key(key: &str) -> Result<(), SnapshotError> {
    let bad = |why| Err(SnapshotError::InvalidKey { key: key.chars().take(64).collect(), why });
    match key {
        "" => bad("it is empty"),
        key if key.len() > MAX_KEY_BYTES => bad("it is too long"),
        key if key.contains('\0') => bad("it holds a NUL"),
        _ => Ok(()),
    }
}

fn record_key(driver: &str, name: &str) -> Result<Vec<u8>, SnapshotError> {
    Ok(key(&[driver, name])?)
}

fn get(read: &impl Read, driver: &str, name: &str) -> Result<BackendSnapshotRecord, SnapshotError> {
    let record = read.get(&BACKEND_SNAPSHOTS, &record_key(driver, name)?)?;
    record.ok_or_else(|| SnapshotError::NotFound { key: name.to_owned() })
}

fn parent_record(read: &impl Read, driver: &str, parent: &str) -> Result<BackendSnapshotRecord, SnapshotError> {
    match get(read, driver, parent) {
        Ok(record) if record.kind == SnapshotKind::Committed => Ok(record),
        Ok(_) => Err(SnapshotError::ParentNotCommitted { parent: parent.to_owned() }),
        Err(SnapshotError::NotFound { .. }) => Err(SnapshotError::ParentMissing { parent: parent.to_owned() }),
        Err(error) => Err(error),
    }
}
