//! What a shim writes down about its task, so that a restarted daemon can read it even when the shim is dead.
//!
//! One file per bundle, replaced as a whole at each change. Plain data: the shim writes it, the daemon reads it.

use crate::task::{Exit, Pid};

/// The name of the file in the bundle.
pub const FILE_NAME: &str = "gantry.json";

/// The version of the format that this code writes. A reader refuses later ones.
pub const VERSION: u32 = 1;

/// The life of one task, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Journal {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The namespace of the container.
    pub namespace: String,
    /// The container.
    pub id: String,
    /// Its first process.
    pub pid: Pid,
    /// When that process started, in clock ticks since boot (field 22 of `/proc/PID/stat`); tells it from a later
    /// process with the same pid. 0 if it was gone before it could be asked.
    pub started: u64,
    /// How it ended; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whether the daemon has acknowledged the exit event. If not, and the shim is dead, nobody else will publish it.
    #[serde(default)]
    pub published: bool,
}
