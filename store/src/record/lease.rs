//! Leases: what garbage collection must spare.

use std::time::SystemTime;

use model::Labels;

use crate::table::Record;

/// One lease. Key: namespace, id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseRecord {
    /// Its labels; expiry is one of them.
    pub labels: Labels,
    /// When it was created.
    pub created_at: SystemTime,
}

impl Record for LeaseRecord {
    const VERSION: u8 = 1;
}

/// Something that a lease holds. Key: namespace, lease, kind (`content`, `ingests`, `snapshots/<snapshotter>`, `images`), id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseResourceRecord {
    /// When it was added.
    pub added_at: SystemTime,
}

impl Record for LeaseResourceRecord {
    const VERSION: u8 = 1;
}
