//! Making snapshots: writable ones and views.

use std::ops::ControlFlow;
use std::time::SystemTime;

use model::labels;
use model::snapshot::{SnapshotInfo, SnapshotKind};
use model::{Labels, Mount};
use proto::events as wire;
use snapshotter::{SnapshotError, Snapshotter};
use store::record::SnapshotRecord;
use store::{Read, StoreError, Tx, tables};

use super::{LABEL_REF, SnapshotName, SnapshotsError, driver, inherited, put, touched};
use crate::api::Scope;
use crate::meta::barrier::Barrier;
use crate::meta::{Meta, leases};
use crate::namespaces;

/// What may be done with the files of a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// They may be changed.
    Write,
    /// They may be looked at.
    Read,
}

/// A snapshot to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// Its name.
    pub name: SnapshotName,
    /// The committed snapshot it starts out as.
    pub parent: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// What may be done with it.
    pub access: Access,
}

/// What the driver made or found for a request.
struct Made {
    /// The name under which it is recorded.
    name: SnapshotName,
    record: SnapshotRecord,
    /// The driver's name for the parent, as the request or the driver has it.
    backend_parent: Option<String>,
    outcome: Outcome,
}

enum Outcome {
    /// A new snapshot.
    Mounts(Vec<Mount>),
    /// The driver has the target already.
    Target,
}

impl Meta {
    /// Makes a snapshot, and says how to mount it. The lease of the caller holds it.
    ///
    /// # Errors
    /// The key is in use, the parent is missing or no parent. [`SnapshotsError::TargetExists`] when what the label
    /// `containerd.io/snapshot.ref` names is there already, here or in the driver; the lease of the caller holds that then.
    pub fn prepare_snapshot(&self, scope: Scope, request: Prepare) -> Result<Vec<Mount>, SnapshotsError> {
        let driver = driver(&self.inner.drivers, &request.name.snapshotter)?;
        if request.name.key.is_empty() {
            return Err(SnapshotsError::NoName);
        }
        labels::check(&request.labels)?;
        let mut pinned = vec![request.name.node()];
        pinned.extend(request.parent.as_ref().map(|parent| request.name.sibling(parent.clone()).node()));
        let _pin = self.inner.barrier.pin(&scope.namespace, pinned);

        let _alone = self.inner.busy.claim_waiting(request.name.making());
        let read = self.inner.store.read();
        if let Some(taken) = taken(&read, &request)?
            && self.lease_taken(&scope, &taken)?
        {
            return Err(SnapshotsError::AlreadyExists { key: taken.key });
        }
        let backend_parent = match &request.parent {
            Some(parent) => Some(self.committed_parent(&read, &request.name, parent)?),
            None => None,
        };
        let number = self.inner.numbers.next(&self.inner.store)?;
        let backend_key = format!("{}/{number}/{}", request.name.namespace, request.name.key);
        let _hold = self.inner.busy.hold(backend_name(&request.name.snapshotter, &backend_key));
        let handed = inherited(&request.labels);
        let made = match request.access {
            Access::Write => driver.prepare(&backend_key, backend_parent.as_deref(), &handed),
            Access::Read => driver.view(&backend_key, backend_parent.as_deref(), &handed),
        };
        match made {
            Ok(mounts) => {
                let made = new(&request, backend_key.clone(), backend_parent, mounts);
                let mounts = self.record_made(scope, made, request.access);
                if mounts.is_err() {
                    self.inner.trigger.unmapped(request.name.snapshotter, backend_key);
                }
                mounts
            }
            Err(SnapshotError::AlreadyExists { key }) => match request.labels.get(LABEL_REF).cloned() {
                Some(target) => {
                    let found = find_target(driver, &target, backend_parent.as_deref())?;
                    // Nobody may remove it before it is on record here.
                    let _hold = self.inner.busy.hold(backend_name(&request.name.snapshotter, &found.name));
                    self.record_made(scope, adopted(&request, target, found), request.access)
                }
                None => Err(SnapshotsError::Unexpected { source: SnapshotError::AlreadyExists { key } }),
            },
            Err(SnapshotError::ParentMissing { .. }) => {
                Err(SnapshotsError::ParentMissing { parent: request.parent.unwrap_or_default() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The driver's name for a parent, which must be committed.
    fn committed_parent(&self, read: &impl Read, name: &SnapshotName, parent: &str) -> Result<String, SnapshotsError> {
        let missing = || SnapshotsError::ParentMissing { parent: parent.to_owned() };
        let record = read.get(&tables::SNAPSHOTS, &name.sibling(parent).record_key()?)?.ok_or_else(missing)?;
        match record.kind {
            SnapshotKind::Committed => Ok(record.backend_key),
            SnapshotKind::Active | SnapshotKind::View => {
                Err(SnapshotsError::ParentNotCommitted { parent: parent.to_owned() })
            }
        }
    }

    /// Lets the caller's lease hold what is in the way of a request; whether it still is.
    fn lease_taken(&self, scope: &Scope, taken: &SnapshotName) -> Result<bool, SnapshotsError> {
        // Collection may have removed the record in a change that is not on disk yet: only a change of our own can tell.
        let (scope, barrier, taken) = (scope.clone(), self.inner.barrier.clone(), taken.clone());
        self.inner.store.write(move |tx| {
            let there = tx.contains(&tables::SNAPSHOTS, &taken.record_key()?)?;
            if there {
                leases::attach(tx, &barrier, &scope, &taken.resource())?;
            }
            Ok(there)
        })
    }

    /// Records what the driver made or found, unless somebody was quicker.
    fn record_made(&self, scope: Scope, made: Made, access: Access) -> Result<Vec<Mount>, SnapshotsError> {
        let barrier = self.inner.barrier.clone();
        let event = wire::SnapshotPrepare {
            key: made.name.key.clone(),
            parent: made.record.parent.clone().unwrap_or_default(),
            snapshotter: made.name.snapshotter.clone(),
        };
        let namespace = scope.namespace.clone();
        let recorded = self.inner.store.write(move |tx| record(tx, &barrier, &scope, made))?;
        self.inner.trigger.changed();
        match recorded {
            Recorded::Made(mounts) => {
                if access == Access::Write {
                    self.inner.bus.publish(&namespace, "/snapshot/prepare", &event);
                }
                Ok(mounts)
            }
            Recorded::Taken(error) => Err(error),
        }
    }
}

/// How recording ended; either way the lease of the caller holds the name.
enum Recorded {
    Made(Vec<Mount>),
    Taken(SnapshotsError),
}

fn record(tx: &mut Tx<'_>, barrier: &Barrier, scope: &Scope, made: Made) -> Result<Recorded, SnapshotsError> {
    let Made { name, record, backend_parent, outcome } = made;
    leases::attach(tx, barrier, scope, &name.resource())?;
    if tx.contains(&tables::SNAPSHOTS, &name.record_key()?)? {
        let SnapshotName { key, .. } = name;
        return match outcome {
            Outcome::Target => Ok(Recorded::Taken(SnapshotsError::TargetExists { target: key })),
            // The driver's new snapshot is one too many; this must fail, so that the caller removes it.
            Outcome::Mounts(_) => Err(SnapshotsError::AlreadyExists { key }),
        };
    }
    if let Some(parent) = &record.parent {
        let stored = tx.get(&tables::SNAPSHOTS, &name.sibling(parent.clone()).record_key()?)?;
        let stored = stored.ok_or_else(|| SnapshotsError::ParentMissing { parent: parent.clone() })?;
        if Some(&stored.backend_key) != backend_parent.as_ref() {
            return Err(SnapshotsError::TargetParent { parent: parent.clone(), target: name.key });
        }
    }
    namespaces::ensure(tx, &name.namespace)?;
    put(tx, &name, &record)?;
    barrier.touch(&name.namespace, || touched(&name, &record));
    Ok(match outcome {
        Outcome::Mounts(mounts) => Recorded::Made(mounts),
        Outcome::Target => Recorded::Taken(SnapshotsError::TargetExists { target: name.key }),
    })
}

/// What of a request is there already: the target, or the key.
fn taken(read: &impl Read, request: &Prepare) -> Result<Option<SnapshotName>, StoreError> {
    let target = request.labels.get(LABEL_REF).filter(|target| !target.is_empty());
    for name in target.map(|target| request.name.sibling(target.clone())).into_iter().chain([request.name.clone()]) {
        if read.contains(&tables::SNAPSHOTS, &name.record_key()?)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The name that [`crate::meta::busy`] knows a driver's snapshot by.
pub(crate) fn backend_name(snapshotter: &str, backend_key: &str) -> String {
    format!("snapshot\0{snapshotter}\0{backend_key}")
}

fn new(request: &Prepare, backend_key: String, backend_parent: Option<String>, mounts: Vec<Mount>) -> Made {
    let now = SystemTime::now();
    let record = SnapshotRecord {
        backend_key,
        kind: match request.access {
            Access::Write => SnapshotKind::Active,
            Access::Read => SnapshotKind::View,
        },
        parent: request.parent.clone(),
        labels: labels::without_empty(request.labels.clone()),
        created_at: now,
        updated_at: now,
    };
    Made { name: request.name.clone(), record, backend_parent, outcome: Outcome::Mounts(mounts) }
}

/// A snapshot that the driver had already, under the name of the target.
fn adopted(request: &Prepare, target: String, found: SnapshotInfo) -> Made {
    let mut labels = found.labels;
    labels.extend(request.labels.clone());
    let record = SnapshotRecord {
        backend_key: found.name,
        kind: SnapshotKind::Committed,
        parent: request.parent.clone(),
        labels: labels::without_empty(labels),
        created_at: found.created_at,
        updated_at: found.updated_at,
    };
    Made { name: request.name.sibling(target), record, backend_parent: found.parent, outcome: Outcome::Target }
}

/// The committed snapshot of the driver that is marked as the target, on this parent.
fn find_target(
    driver: &dyn Snapshotter,
    target: &str,
    backend_parent: Option<&str>,
) -> Result<SnapshotInfo, SnapshotsError> {
    let mut found = None;
    driver.walk(&mut |info| {
        let is_target = info.kind == SnapshotKind::Committed
            && info.labels.get(LABEL_REF).is_some_and(|label| label == target)
            && info.parent.as_deref() == backend_parent;
        if is_target {
            found = Some(info);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    found.ok_or_else(|| SnapshotsError::TargetLost { target: target.to_owned() })
}
