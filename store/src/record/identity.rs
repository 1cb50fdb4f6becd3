//! Who this daemon is.

use std::time::SystemTime;

use crate::table::Record;

/// The daemon's identity, made once per root folder. Key: the empty one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdentityRecord {
    /// A random UUID, in its usual text form.
    pub uuid: String,
    /// When it was made.
    pub created_at: SystemTime,
}

impl Record for IdentityRecord {
    const VERSION: u8 = 1;
}
