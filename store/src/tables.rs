//! Every table there is, and what its keys consist of ([`crate::key()`]).

use crate::record::{
    BackendSnapshotRecord, ContainerRecord, ContentRecord, EventRecord, IdentityRecord, ImageRecord, IngestRecord,
    JournalRecord, LeaseRecord, LeaseResourceRecord, NamespaceRecord, Present, SandboxRecord, SnapshotRecord,
};
use crate::table::Table;

/// `[""]`: one record.
pub const IDENTITY: Table<IdentityRecord> = Table::new("identity");
/// `[namespace]`.
pub const NAMESPACES: Table<NamespaceRecord> = Table::new("namespaces");
/// `[namespace, name]`.
pub const IMAGES: Table<ImageRecord> = Table::new("images");
/// `[namespace, id]`.
pub const CONTAINERS: Table<ContainerRecord> = Table::new("containers");
/// `[namespace, id]`.
pub const SANDBOXES: Table<SandboxRecord> = Table::new("sandboxes");
/// `[namespace, digest]`.
pub const CONTENT: Table<ContentRecord> = Table::new("content");
/// `[digest, namespace]`: who holds a blob. Written together with [`CONTENT`].
pub const BLOB_HOLDERS: Table<Present> = Table::new("blob-holders");
/// `[namespace, reference]`.
pub const INGESTS: Table<IngestRecord> = Table::new("ingests");
/// `[namespace, snapshotter, name]`.
pub const SNAPSHOTS: Table<SnapshotRecord> = Table::new("snapshots");
/// `[snapshotter, backend key, namespace, name]`: who maps to a driver's snapshot. Written together with [`SNAPSHOTS`].
pub const SNAPSHOT_HOLDERS: Table<Present> = Table::new("snapshot-holders");
/// `[namespace, snapshotter, parent, name]`: who has a parent. Written together with [`SNAPSHOTS`].
pub const SNAPSHOT_CHILDREN: Table<Present> = Table::new("snapshot-children");
/// `[namespace, id]`.
pub const LEASES: Table<LeaseRecord> = Table::new("leases");
/// `[namespace, lease, kind, id]`.
pub const LEASE_RESOURCES: Table<LeaseResourceRecord> = Table::new("lease-resources");
/// `[driver, key]`.
pub const BACKEND_SNAPSHOTS: Table<BackendSnapshotRecord> = Table::new("backend-snapshots");
/// `[driver, parent key, key]`: who has a parent. Written together with [`BACKEND_SNAPSHOTS`].
pub const BACKEND_CHILDREN: Table<Present> = Table::new("backend-children");
/// `[number]`, as [`crate::record::event_key`] writes it.
pub const EVENTS: Table<EventRecord> = Table::new("events");
/// `[""]`: one record. Written together with [`EVENTS`].
pub const JOURNAL: Table<JournalRecord> = Table::new("journal");
