//! Containers: what to run. Whether it runs is the task's business and not kept here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use model::Labels;

use super::{Any, Runtime};
use crate::table::Record;

/// One container. Key: namespace, id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerRecord {
    /// Its labels.
    pub labels: Labels,
    /// The name of the image it was made from, empty if there is none. Not checked.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// The OCI runtime specification.
    pub spec: Option<Any>,
    /// The snapshotter that has its root filesystem, empty if there is none.
    pub snapshotter: String,
    /// The key of its root filesystem there.
    pub snapshot_key: String,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it belongs to, empty if there is none.
    pub sandbox: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

impl Record for ContainerRecord {
    const VERSION: u8 = 1;
}
