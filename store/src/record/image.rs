//! Images: a name for some content.

use std::time::SystemTime;

use model::{Descriptor, Labels};

use crate::table::Record;

/// One image. Key: namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageRecord {
    /// Its labels.
    pub labels: Labels,
    /// What it names; the blob need not exist.
    pub target: Descriptor,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

impl Record for ImageRecord {
    const VERSION: u8 = 1;
}
