//! Committing: an active snapshot becomes a committed one under another name.
//!
//! The driver and the records cannot change in one step. So the intent is recorded first, with the driver's name for the result;
//! after a crash [`Meta::settle_commits`] asks the driver whether it has that, and finishes or forgets. Until then the active
//! snapshot counts as being committed.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use model::error::Classify;
use model::labels;
use model::snapshot::SnapshotKind;
use model::{Labels, Namespace};
use proto::events as wire;
use snapshotter::SnapshotError;
use store::record::{Present, SnapshotRecord};
use store::{Read, Record, Store, StoreError, Table, Tx, tables};

use super::{SnapshotName, SnapshotsError, backend_name, driver, existing, forget, inherited, put, touched};
use crate::api::Scope;
use crate::meta::{Meta, leases};

/// `[namespace, snapshotter, key]`: commits that are under way.
pub(crate) const INTENTS: Table<CommitIntent> = Table::new("snapshot-commits");

/// A commit that is under way. Key: namespace, snapshotter, key of the active snapshot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommitIntent {
    /// The name it will have.
    pub name: String,
    /// What the driver will call it.
    pub backend_key: String,
    /// The parent it will have.
    pub parent: Option<String>,
    /// The labels it will have.
    pub labels: Labels,
}

impl Record for CommitIntent {
    const VERSION: u8 = 1;
}

/// A commit to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The active snapshot.
    pub active: SnapshotName,
    /// The name it is to have.
    pub name: String,
    /// The labels it is to have.
    pub labels: Labels,
    /// The parent it is to get, if it has none.
    pub parent: Option<String>,
}

/// Whether somebody is committing this snapshot.
pub(crate) fn is_under_way(read: &impl Read, active: &SnapshotName) -> Result<bool, StoreError> {
    read.contains(&INTENTS, &active.record_key()?)
}

/// What the driver is to do.
struct Plan {
    backend_active: String,
    /// The driver's name for the parent it is to get.
    rebase_on: Option<String>,
    intent: CommitIntent,
}

impl Meta {
    /// Makes an active snapshot a committed one of that name. The lease of the caller holds it.
    ///
    /// # Errors
    /// The name is in use (the lease holds that, then), the snapshot is missing or not active, the parent is missing.
    pub fn commit_snapshot(&self, scope: Scope, commit: Commit) -> Result<(), SnapshotsError> {
        let driver = driver(&self.inner.drivers, &commit.active.snapshotter)?;
        if commit.name.is_empty() || commit.active.key.is_empty() {
            return Err(SnapshotsError::NoName);
        }
        labels::check(&commit.labels)?;
        let target = commit.active.sibling(commit.name.clone());
        let mut pinned = vec![commit.active.node(), target.node()];
        pinned.extend(commit.parent.as_ref().map(|parent| commit.active.sibling(parent.clone()).node()));
        let _pin = self.inner.barrier.pin(&scope.namespace, pinned);
        let event = wire::SnapshotCommit {
            key: commit.active.key.clone(),
            name: commit.name.clone(),
            snapshotter: commit.active.snapshotter.clone(),
        };

        let _alone = self.inner.busy.claim_waiting(target.making());
        let number = self.inner.numbers.next(&self.inner.store)?;
        let backend_key = format!("{}/{number}/{}", target.namespace, target.key);
        let _hold = self.inner.busy.hold(backend_name(&target.snapshotter, &backend_key));
        let plan = {
            let (scope, barrier, active) = (scope.clone(), self.inner.barrier.clone(), commit.active.clone());
            self.inner.store.write(move |tx| {
                leases::attach(tx, &barrier, &scope, &target.resource())?;
                if tx.contains(&tables::SNAPSHOTS, &target.record_key()?)? {
                    // The lease holds what is there; that change is kept.
                    return Ok(None);
                }
                let plan = plan(tx, commit, backend_key)?;
                tx.put(&INTENTS, &active.record_key()?, &plan.intent)?;
                if let Some(parent) = &plan.intent.parent {
                    // Nobody may take the parent away meanwhile.
                    tx.put(&tables::SNAPSHOT_CHILDREN, &target.child_key(parent)?, &Present)?;
                }
                Ok::<_, SnapshotsError>(Some((plan, active)))
            })?
        };
        let Some((plan, active)) = plan else { return Err(SnapshotsError::AlreadyExists { key: event.name }) };
        let Plan { backend_active, rebase_on, intent } = plan;
        let handed = inherited(&intent.labels);
        if let Err(error) = driver.commit(&intent.backend_key, &backend_active, &handed, rebase_on.as_deref()) {
            self.inner.store.write(move |tx| drop_intent(tx, &active, &intent))?;
            return Err(match error {
                SnapshotError::NotFound { .. } => SnapshotsError::NotFound { key: event.key },
                error => error.into(),
            });
        }
        let namespace = scope.namespace.clone();
        let barrier = self.inner.barrier.clone();
        let finished = self.inner.store.write(move |tx| {
            leases::detach(tx, &scope, &active.resource())?;
            let finished = finish(tx, &active, intent)?;
            if let Some((name, record)) = &finished {
                barrier.touch(&name.namespace, || touched(name, record));
            }
            Ok::<_, SnapshotsError>(finished.is_some())
        })?;
        if !finished {
            return Err(SnapshotsError::AlreadyExists { key: event.name });
        }
        self.inner.bus.publish(&namespace, "/snapshot/commit", &event);
        self.inner.trigger.changed();
        Ok(())
    }

    /// Finishes or forgets the commits that an earlier process left undone.
    ///
    /// # Errors
    /// A driver or the store cannot be read; what is not settled is tried again by the next call.
    pub(crate) fn settle_commits(&self) -> Result<(), SnapshotsError> {
        while let Some(key) = self.inner.interrupted.last() {
            if let Some(active) = active_of(&key) {
                self.settle_commit(active)?;
            }
            self.inner.interrupted.settled(&key);
        }
        Ok(())
    }

    fn settle_commit(&self, active: SnapshotName) -> Result<(), SnapshotsError> {
        let Some(intent) = self.inner.store.read().get(&INTENTS, &active.record_key()?)? else { return Ok(()) };
        let Ok(driver) = driver(&self.inner.drivers, &active.snapshotter) else {
            // Its driver is not configured now; the intent waits for it.
            return Ok(());
        };
        let committed = match driver.stat(&intent.backend_key) {
            Ok(_) => true,
            Err(SnapshotError::NotFound { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        tracing::info!(ns = %active.namespace, snapshot = %active.key, committed, "settling an interrupted commit");
        self.inner.store.write(move |tx| {
            if committed { finish(tx, &active, intent).map(drop) } else { Ok(drop_intent(tx, &active, &intent)?) }
        })
    }
}

/// The commits that an earlier process left undone, by the keys of their intents.
#[derive(Debug, Default)]
pub(crate) struct Interrupted {
    keys: Mutex<Vec<Vec<u8>>>,
}

impl Interrupted {
    /// Every intent that there is now.
    pub(crate) fn find(store: &Store) -> Self {
        let keys = store.read().keys(&INTENTS, b"").unwrap_or_else(|error| {
            // Whoever reads the store next says so to somebody who can act.
            tracing::error!(error = error.wire_message(), "interrupted commits cannot be read");
            Vec::new()
        });
        Self { keys: Mutex::new(keys) }
    }

    fn last(&self) -> Option<Vec<u8>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    fn settled(&self, key: &[u8]) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| one != key);
    }
}

fn plan(tx: &Tx<'_>, commit: Commit, backend_key: String) -> Result<Plan, SnapshotsError> {
    let Commit { active, name, labels, parent } = commit;
    let record = existing(tx, &active)?;
    if record.kind != SnapshotKind::Active {
        return Err(SnapshotsError::NotActive { key: active.key });
    }
    if is_under_way(tx, &active)? {
        return Err(SnapshotsError::Committing { key: active.key });
    }
    let rebase = record.parent.is_none() && parent.is_some();
    let parent = record.parent.or(parent);
    let stored = match &parent {
        Some(parent) => {
            let stored = tx.get(&tables::SNAPSHOTS, &active.sibling(parent.clone()).record_key()?)?;
            Some(stored.ok_or_else(|| SnapshotsError::ParentMissing { parent: parent.clone() })?)
        }
        None => None,
    };
    let rebase_on = stored.filter(|_| rebase).map(|parent| parent.backend_key);
    let labels = labels::without_empty(labels);
    Ok(Plan {
        backend_active: record.backend_key,
        rebase_on,
        intent: CommitIntent { name, backend_key, parent, labels },
    })
}

/// Leaves the active snapshot as it is.
fn drop_intent(tx: &mut Tx<'_>, active: &SnapshotName, intent: &CommitIntent) -> Result<(), StoreError> {
    if let Some(parent) = &intent.parent {
        tx.delete(&tables::SNAPSHOT_CHILDREN, &active.sibling(intent.name.clone()).child_key(parent)?)?;
    }
    tx.delete(&INTENTS, &active.record_key()?)
}

/// Replaces the record of the active snapshot by that of the committed one; `None` when a snapshot that the driver had
/// under this name came in between, which then stays.
fn finish(
    tx: &mut Tx<'_>,
    active: &SnapshotName,
    intent: CommitIntent,
) -> Result<Option<(SnapshotName, SnapshotRecord)>, SnapshotsError> {
    let stored = existing(tx, active)?;
    forget(tx, active, &stored)?;
    tx.delete(&INTENTS, &active.record_key()?)?;
    if tx.contains(&tables::SNAPSHOTS, &active.sibling(intent.name.clone()).record_key()?)? {
        return Ok(None);
    }
    let now = SystemTime::now();
    let record = SnapshotRecord {
        backend_key: intent.backend_key,
        kind: SnapshotKind::Committed,
        parent: intent.parent,
        labels: intent.labels,
        created_at: now,
        updated_at: now,
    };
    let name = active.sibling(intent.name);
    put(tx, &name, &record)?;
    Ok(Some((name, record)))
}

fn active_of(key: &[u8]) -> Option<SnapshotName> {
    match store::key_parts(key)?.as_slice() {
        [namespace, snapshotter, key] => Some(SnapshotName {
            namespace: Namespace::new(*namespace).ok()?,
            snapshotter: (*snapshotter).to_owned(),
            key: (*key).to_owned(),
        }),
        _ => None,
    }
}
