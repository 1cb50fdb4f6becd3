//! One collection: read, mark, remove records, then remove files.
//!
//! Nothing waits for it. The records are read one by one while others write, and what they touch meanwhile is spared
//! ([`crate::meta::barrier`]); records go a batch at a time, in a transaction that looks once more. A file goes only after its
//! last record, and while nobody is about to record it anew ([`crate::meta::busy`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::{Digest, Namespace};
use proto::events;
use proto::services::images::v1 as images;
use snapshotter::SnapshotError;
use store::blob::{BlobError, IngestKey};
use store::record::{ContainerRecord, SandboxRecord};
use store::{Read, StoreError, Tx, tables};
use tracing::{debug, warn};

use super::files::{find_loose, remove_blobs, remove_ingest, remove_snapshots};
use super::mark::mark;
use super::node::{Node, Object};
use super::schedule::Loose;
use crate::meta::Meta;
use crate::meta::barrier::Barrier;
use crate::meta::content::ContentError;
use crate::meta::leases::{self, LeaseError};
use crate::meta::snapshots::{self, SnapshotName, SnapshotsError};

/// How many records one transaction removes: few enough that nobody waits long for it.
const BATCH: usize = 200;

/// How many records are read at once.
const PAGE: usize = 256;

/// Which files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Those whose records went.
    Told,
    /// All there are: a crash may have left some that nothing tells of.
    Everything,
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Report {
    /// The number of records that it removed.
    pub removed: usize,
    /// What could not be removed yet.
    pub left: Loose,
}

/// Why a collection failed. What was removed until then is removed.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store failed.
    #[error("cannot collect garbage")]
    Store(#[from] StoreError),
    /// A lease cannot be read.
    #[error("cannot collect garbage")]
    Lease(#[from] LeaseError),
    /// The blobs cannot be listed.
    #[error("cannot collect content")]
    Blob(#[from] BlobError),
    /// An upload cannot be removed.
    #[error("cannot collect content")]
    Content(#[from] ContentError),
    /// An interrupted commit cannot be settled.
    #[error("cannot settle an interrupted commit")]
    Commit(#[from] SnapshotsError),
    /// A driver failed.
    #[error("cannot collect snapshots of {snapshotter}")]
    Driver {
        /// Its name.
        snapshotter: String,
        /// What it said.
        source: SnapshotError,
    },
}

impl Classify for GcError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Lease(error) => error.kind(),
            Self::Blob(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Driver { source, .. } => source.kind(),
        }
    }
}

/// Collects once. Blocks.
///
/// # Errors
/// The store, the blobs or a driver failed.
pub fn collect(meta: &Meta, mut loose: Loose, found: Found) -> Result<Report, GcError> {
    let mut removed = 0;
    if found == Found::Everything {
        // First, since what a driver has of them is not on record yet.
        meta.settle_commits()?;
    }
    {
        let _watch = Watch::start(meta)?;
        let namespaces = meta.inner.store.read().keys(&tables::NAMESPACES, &store::prefix(&[])?)?;
        for namespace in namespaces {
            let Some(Ok(namespace)) = store::last_part(&namespace).map(Namespace::new) else { continue };
            removed += collect_namespace(meta, &namespace, &mut loose)?;
        }
    }
    if found == Found::Everything {
        find_loose(meta, &mut loose)?;
    }
    store::failpoint("collect-recorded");
    let left = Loose { snapshots: remove_snapshots(meta, loose.snapshots), blobs: remove_blobs(meta, loose.blobs)? };
    if found == Found::Everything {
        for (name, driver) in &meta.inner.drivers {
            driver.cleanup().map_err(|source| GcError::Driver { snapshotter: name.clone(), source })?;
        }
    }
    Ok(Report { removed, left })
}

/// Watches what others touch until it is dropped.
struct Watch(Arc<Barrier>);

impl Watch {
    fn start(meta: &Meta) -> Result<Self, StoreError> {
        let barrier = Arc::clone(&meta.inner.barrier);
        let watch = Self(Arc::clone(&barrier));
        // From inside a change: every change before it can be read once this is answered, every one after it is seen.
        meta.inner.store.write(move |_| {
            barrier.start();
            Ok::<_, StoreError>(())
        })?;
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Removes the records of a namespace that nothing holds; how many.
fn collect_namespace(meta: &Meta, namespace: &Namespace, loose: &mut Loose) -> Result<usize, GcError> {
    let now = SystemTime::now();
    let objects = read_objects(&meta.inner.store.read(), namespace, now)?;
    let mut dead = mark(&objects, meta.inner.barrier.pinned(namespace), now);
    drop(objects);
    let mut queue = VecDeque::from(dead.in_order());
    let mut removed = 0;
    while !queue.is_empty() {
        let (barrier, inside) = (Arc::clone(&meta.inner.barrier), namespace.clone());
        let gone;
        (dead, queue, gone) = meta.inner.store.write(move |tx| {
            dead.spare(barrier.take_touched(&inside));
            dead.spare(barrier.pinned(&inside));
            let mut gone = Vec::new();
            let mut budget = BATCH;
            while budget > 0
                && let Some(node) = queue.pop_front()
            {
                if !dead.contains(&node) {
                    continue;
                }
                budget -= 1;
                match remove_record(tx, &inside, node, &mut budget)? {
                    Removed::Gone(one) => gone.push(one),
                    Removed::Stays => {}
                    Removed::InPart(node) => queue.push_front(node),
                }
            }
            Ok::<_, StoreError>((dead, queue, gone))
        })?;
        removed += gone.len();
        for one in gone {
            announce(meta, namespace, one, loose)?;
        }
    }
    Ok(removed)
}

/// What collection must know of a namespace.
fn read_objects(read: &impl Read, namespace: &Namespace, now: SystemTime) -> Result<Vec<Object>, GcError> {
    let inside = store::prefix(&[namespace.as_str()])?;
    let mut objects = Vec::new();
    each(read, &tables::IMAGES, &inside, |key, record| {
        let name = store::last_part(key)?.to_owned();
        objects.push(Object::image(name, record.target.digest.to_string(), record.labels, now));
        Some(())
    })?;
    each(read, &tables::CONTENT, &inside, |key, record| {
        objects.push(Object::content(store::last_part(key)?.to_owned(), record.labels));
        Some(())
    })?;
    each(read, &tables::SNAPSHOTS, &inside, |key, record| {
        let parts = store::key_parts(key)?;
        objects.push(Object::snapshot(parts.get(1)?, (*parts.get(2)?).to_owned(), record.parent, record.labels));
        Some(())
    })?;
    each(read, &tables::INGESTS, &inside, |key, record| {
        let fresh = record.expires_at.is_some_and(|end| end > now);
        let expected = record.expected.map(|digest| digest.to_string());
        objects.push(Object::ingest(store::last_part(key)?.to_owned(), expected, fresh));
        Some(())
    })?;
    let mut held = Vec::new();
    each(read, &tables::LEASES, &inside, |key, record| {
        held.push((store::last_part(key)?.to_owned(), record.labels));
        Some(())
    })?;
    for (id, labels) in held {
        let resources = leases::resources(read, namespace, &id)?.iter().map(leases::Resource::node).collect();
        objects.push(Object::lease(id, resources, labels, now));
    }
    objects.extend(owned_objects(read, namespace)?);
    Ok(objects)
}

/// Containers and sandboxes: objects that collection follows and never removes. Their owners tell the barrier, too.
fn owned_objects(read: &impl Read, namespace: &Namespace) -> Result<Vec<Object>, StoreError> {
    let inside = store::prefix(&[namespace.as_str()])?;
    let mut objects = Vec::new();
    each(read, &tables::CONTAINERS, &inside, |key, record: ContainerRecord| {
        let snapshot = (!record.snapshotter.is_empty() && !record.snapshot_key.is_empty())
            .then(|| Node::snapshot(record.snapshotter, record.snapshot_key));
        objects.push(Object::container(store::last_part(key)?.to_owned(), snapshot, record.labels));
        Some(())
    })?;
    each(read, &tables::SANDBOXES, &inside, |key, record: SandboxRecord| {
        objects.push(Object::sandbox(store::last_part(key)?.to_owned(), record.labels));
        Some(())
    })?;
    Ok(objects)
}

/// Shows every record below `inside`, a page at a time. What has a key that is none is left out.
pub(super) fn each<R: store::Record>(
    read: &impl Read,
    table: &store::Table<R>,
    inside: &[u8],
    mut show: impl FnMut(&[u8], R) -> Option<()>,
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = read.scan_from(table, inside, after.as_deref(), PAGE)?;
        let more = page.len() == PAGE;
        for (key, record) in page {
            if show(&key, record).is_none() {
                warn!(table = table.name(), "a record has a key that cannot be read");
            }
            after = Some(key);
        }
        if !more {
            return Ok(());
        }
    }
}

/// Something whose record is gone.
enum Gone {
    Image(String),
    Content(Digest),
    Snapshot { name: SnapshotName, backend_key: String },
    Ingest(String),
    Lease,
}

/// What became of a dead object.
enum Removed {
    Gone(Gone),
    /// Its record is gone already, or it has to stay after all.
    Stays,
    /// There is more of it than one transaction should remove.
    InPart(Node),
}

/// Removes the record of a dead object.
fn remove_record(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    node: Node,
    budget: &mut usize,
) -> Result<Removed, StoreError> {
    let ns = namespace.as_str();
    let gone = match node {
        Node::Image(name) => {
            let key = store::key(&[ns, &name])?;
            let there = tx.contains(&tables::IMAGES, &key)?;
            tx.delete(&tables::IMAGES, &key)?;
            there.then_some(Gone::Image(name))
        }
        Node::Content(text) => {
            let Ok(digest) = text.parse::<Digest>() else { return Ok(Removed::Stays) };
            let key = store::key(&[ns, &text])?;
            let there = tx.contains(&tables::CONTENT, &key)?;
            tx.delete(&tables::CONTENT, &key)?;
            tx.delete(&tables::BLOB_HOLDERS, &store::key(&[&text, ns])?)?;
            there.then_some(Gone::Content(digest))
        }
        Node::Snapshot { snapshotter, name } => {
            let name = SnapshotName { namespace: namespace.clone(), snapshotter, key: name };
            let Some(record) = tx.get(&tables::SNAPSHOTS, &name.record_key()?)? else { return Ok(Removed::Stays) };
            if snapshots::has_children(tx, &name)? || snapshots::is_committing(tx, &name)? {
                return Ok(Removed::Stays);
            }
            snapshots::forget(tx, &name, &record)?;
            Some(Gone::Snapshot { name, backend_key: record.backend_key })
        }
        Node::Ingest(reference) => {
            let key = store::key(&[ns, &reference])?;
            let there = tx.contains(&tables::INGESTS, &key)?;
            tx.delete(&tables::INGESTS, &key)?;
            there.then_some(Gone::Ingest(reference))
        }
        Node::Lease(id) => {
            let key = store::key(&[ns, &id])?;
            let there = tx.contains(&tables::LEASES, &key)?;
            let resources = leases::remove_resources(tx, namespace, &id, *budget)?;
            *budget -= resources.removed;
            if resources.more {
                return Ok(Removed::InPart(Node::Lease(id)));
            }
            tx.delete(&tables::LEASES, &key)?;
            there.then_some(Gone::Lease)
        }
        Node::Container(_) | Node::Sandbox(_) => None,
    };
    Ok(gone.map_or(Removed::Stays, Removed::Gone))
}

/// Tells of a removed record, and notes what file it may leave behind.
fn announce(meta: &Meta, namespace: &Namespace, gone: Gone, loose: &mut Loose) -> Result<(), GcError> {
    let bus = &meta.inner.bus;
    match gone {
        Gone::Image(name) => {
            debug!(ns = %namespace, image = name, "image collected");
            bus.publish(namespace, "/images/delete", &images::ImageDelete { name });
        }
        Gone::Content(digest) => {
            // Not announced: containerd tells of collected images and snapshots only.
            debug!(ns = %namespace, %digest, "content collected");
            loose.blobs.insert(digest);
        }
        Gone::Snapshot { name, backend_key } => {
            let event = events::SnapshotRemove { key: name.key, snapshotter: name.snapshotter.clone() };
            bus.publish(namespace, "/snapshot/remove", &event);
            loose.snapshots.insert((name.snapshotter, backend_key));
        }
        Gone::Ingest(reference) => remove_ingest(meta, IngestKey { namespace: namespace.clone(), reference })?,
        Gone::Lease => {}
    }
    Ok(())
}
