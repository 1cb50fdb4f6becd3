//! Namespaces.

use std::time::SystemTime;

use model::Labels;

use crate::table::Record;

/// One namespace. Key: its name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NamespaceRecord {
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    pub created_at: SystemTime,
}

impl Record for NamespaceRecord {
    const VERSION: u8 = 1;
}
