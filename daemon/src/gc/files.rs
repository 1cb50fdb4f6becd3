//! Files and folders whose last record is gone.
//!
//! A file goes only while nobody is about to record it anew ([`crate::meta::busy`]), and after asking for its records once more.
//! It touches no record.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::Digest;
use model::error::Classify;
use snapshotter::SnapshotError;
use store::blob::IngestKey;
use store::{Read, StoreError, tables};
use tracing::{debug, warn};

use super::schedule::Loose;
use super::sweep::{GcError, each};
use crate::meta::Meta;
use crate::meta::content::{blob_name, write::ingest_name};
use crate::meta::snapshots::backend_name;

/// How many of a driver's snapshots are removed at the same time.
const REMOVERS: usize = 8;

/// Removes the files of an upload, unless somebody has begun it anew.
pub(super) fn remove_ingest(meta: &Meta, key: IngestKey) -> Result<(), GcError> {
    let Some(_claim) = meta.inner.busy.claim(ingest_name(&key.namespace, &key.reference)) else { return Ok(()) };
    let record = store::key(&[key.namespace.as_str(), &key.reference])?;
    if meta.inner.store.read().contains(&tables::INGESTS, &record)? {
        return Ok(());
    }
    Ok(meta.remove_ingest(&key)?)
}

/// Looks through all files for those that no record tells of.
pub(super) fn find_loose(meta: &Meta, loose: &mut Loose) -> Result<(), GcError> {
    let read = meta.inner.store.read();
    for (name, driver) in &meta.inner.drivers {
        let mut keys = Vec::new();
        let walked = driver.walk(&mut |info| {
            keys.push(info.name);
            ControlFlow::Continue(())
        });
        walked.map_err(|source| GcError::Driver { snapshotter: name.clone(), source })?;
        for key in keys {
            if !read.any(&tables::SNAPSHOT_HOLDERS, &store::prefix(&[name, &key])?)? {
                loose.snapshots.insert((name.clone(), key));
            }
        }
    }
    for blob in meta.inner.blobs.walk()? {
        let digest = blob?.digest;
        if !read.any(&tables::BLOB_HOLDERS, &store::prefix(&[digest.as_str()])?)? {
            loose.blobs.insert(digest);
        }
    }
    for (namespace, status) in meta.inner.blobs.ingests()? {
        let record = store::key(&[namespace.as_str(), &status.reference])?;
        if !read.contains(&tables::INGESTS, &record)? {
            remove_ingest(meta, IngestKey { namespace, reference: status.reference })?;
        }
    }
    meta.inner.blobs.remove_stray_ingests()?;
    Ok(())
}

/// Removes the blobs that nobody holds; those that somebody is busy with are left.
pub(super) fn remove_blobs(meta: &Meta, digests: BTreeSet<Digest>) -> Result<BTreeSet<Digest>, GcError> {
    let mut left = BTreeSet::new();
    if digests.is_empty() {
        return Ok(left);
    }
    let read = meta.inner.store.read();
    for digest in digests {
        let Some(_claim) = meta.inner.busy.claim(blob_name(&digest)) else {
            left.insert(digest);
            continue;
        };
        if read.any(&tables::BLOB_HOLDERS, &store::prefix(&[digest.as_str()])?)? {
            continue;
        }
        if is_counted_on(&read, &digest)? {
            left.insert(digest);
            continue;
        }
        match meta.inner.blobs.delete(&digest) {
            Ok(_) => debug!(%digest, "blob removed"),
            Err(error) => {
                warn!(%digest, %error, "blob not removed");
                left.insert(digest);
            }
        }
    }
    Ok(left)
}

/// Whether an upload is going to be made of this blob without sending it.
fn is_counted_on(read: &impl Read, digest: &Digest) -> Result<bool, StoreError> {
    let mut counted_on = false;
    each(read, &tables::INGESTS, &store::prefix(&[])?, |_, record| {
        counted_on |= record.shared && record.expected.as_ref() == Some(digest);
        Some(())
    })?;
    Ok(counted_on)
}

/// Removes the driver's snapshots that nobody maps to, children before their parents; those that cannot go yet are left.
pub(super) fn remove_snapshots(meta: &Meta, keys: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let mut by_driver: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (snapshotter, key) in keys {
        by_driver.entry(snapshotter).or_default().push(key);
    }
    let mut left = BTreeSet::new();
    for (snapshotter, mut waiting) in by_driver {
        // A parent has a smaller number than its children, and goes after them.
        waiting.reverse();
        loop {
            let before = waiting.len();
            waiting = remove_each(meta, &snapshotter, waiting);
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        left.extend(waiting.into_iter().map(|key| (snapshotter.clone(), key)));
    }
    left
}

/// Removes some of a driver's snapshots, several at a time so that they share the flushes of the store; those that are left, in
/// the order they came in.
fn remove_each(meta: &Meta, snapshotter: &str, keys: Vec<String>) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let settled: Vec<AtomicBool> = keys.iter().map(|_| AtomicBool::new(false)).collect();
    let work = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let (Some(key), Some(settled)) = (keys.get(at), settled.get(at)) else { return };
        settled.store(remove_snapshot(meta, snapshotter, key), Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..REMOVERS.min(keys.len()) {
            scope.spawn(work);
        }
    });
    let left = keys.into_iter().zip(settled).filter(|(_, settled)| !settled.load(Ordering::Relaxed));
    left.map(|(key, _)| key).collect()
}

/// Removes one; whether that is settled.
fn remove_snapshot(meta: &Meta, snapshotter: &str, key: &str) -> bool {
    let Some(driver) = meta.inner.drivers.get(snapshotter) else { return true };
    let Some(_claim) = meta.inner.busy.claim(backend_name(snapshotter, key)) else { return false };
    let held = store::prefix(&[snapshotter, key])
        .and_then(|prefix| meta.inner.store.read().any(&tables::SNAPSHOT_HOLDERS, &prefix));
    match held {
        Ok(true) => return true,
        Ok(false) => {}
        Err(error) => {
            warn!(snapshotter, snapshot = key, %error, "cannot tell whether a snapshot is in use");
            return false;
        }
    }
    match driver.remove(key) {
        Ok(()) | Err(SnapshotError::NotFound { .. }) => {
            debug!(snapshotter, snapshot = key, "snapshot removed");
            true
        }
        Err(SnapshotError::HasChildren { .. }) => false,
        Err(error) => {
            warn!(snapshotter, snapshot = key, error = error.wire_message(), "snapshot not removed");
            false
        }
    }
}
