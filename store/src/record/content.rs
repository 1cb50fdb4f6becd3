//! Content: which namespace sees which blob, and which uploads are under way. The bytes are in `blob`.

use std::time::SystemTime;

use model::{Digest, Labels};

use crate::table::Record;

/// A blob as one namespace sees it. Key: namespace, digest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContentRecord {
    /// Its size in bytes.
    pub size: u64,
    /// Its labels in this namespace.
    pub labels: Labels,
    /// When it came into this namespace.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

impl Record for ContentRecord {
    const VERSION: u8 = 1;
}

/// An upload that was begun. Key: namespace, reference.
///
/// How far it came is in the ingest's folder, not here: a record per written message would be a flush per message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IngestRecord {
    /// The digest that was promised.
    pub expected: Option<Digest>,
    /// The size that was promised, 0 if none was.
    pub total: u64,
    /// Whether the bytes are those of a blob that another namespace has, so that none need to be sent.
    pub shared: bool,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When it was last opened.
    pub updated_at: SystemTime,
    /// When it may be collected unless a lease holds it.
    pub expires_at: Option<SystemTime>,
}

impl Record for IngestRecord {
    const VERSION: u8 = 1;
}
