//! Snapshots, twice: as a namespace names them, and as a driver keeps them.

use std::time::SystemTime;

use model::Labels;
use model::snapshot::{SnapshotKind, Usage};

use crate::table::Record;

/// A snapshot as a namespace names it. Key: namespace, snapshotter, name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotRecord {
    /// What the driver calls it.
    pub backend_key: String,
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// The name of its parent in this namespace.
    pub parent: Option<String>,
    /// All its labels; the driver knows only some of them.
    pub labels: Labels,
    /// When it was prepared.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

impl Record for SnapshotRecord {
    const VERSION: u8 = 1;
}

/// A snapshot as a driver keeps it. Key: driver, the driver's name for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackendSnapshotRecord {
    /// Its number, from [`crate::Tx::next_id`]: the name of its folder.
    pub id: u64,
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// The driver's name for its parent.
    pub parent: Option<String>,
    /// The labels that the driver was given.
    pub labels: Labels,
    /// What it takes on disk, measured when it was committed.
    pub usage: Option<Usage>,
    /// When it was prepared.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

impl Record for BackendSnapshotRecord {
    const VERSION: u8 = 1;
}
