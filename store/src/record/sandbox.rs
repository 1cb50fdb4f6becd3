//! Sandboxes: what containers share.

use std::collections::BTreeMap;
use std::time::SystemTime;

use model::Labels;

use super::{Any, Runtime};
use crate::table::Record;

/// One sandbox. Key: namespace, id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SandboxRecord {
    /// Its labels.
    pub labels: Labels,
    /// What runs it.
    pub runtime: Runtime,
    /// What to run, in the words of the runtime.
    pub spec: Option<Any>,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
    /// Which controller has it, for one `shim` or `podsandbox`.
    pub sandboxer: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

impl Record for SandboxRecord {
    const VERSION: u8 = 1;
}
