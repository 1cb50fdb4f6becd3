//! Snapshots as data: what one is, without any driver.

use std::time::SystemTime;

use crate::labels::Labels;

/// What can be done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SnapshotKind {
    /// Read-only, for looking.
    View,
    /// Writable, not yet a parent.
    Active,
    /// Read-only, may be a parent.
    Committed,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotInfo {
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// Its name: the key of an active one or a view, the name of a committed one. Not an identifier: real ones hold `/`, `:` and spaces.
    pub name: String,
    /// The name of its parent.
    pub parent: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// When it was prepared.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

/// What a snapshot takes on disk, without its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Bytes, as allocated.
    pub size_bytes: u64,
    /// Files, folders and everything else that has an inode of its own.
    pub inodes: u64,
}
