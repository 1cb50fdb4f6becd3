//! A mount, as clients, shims and snapshotters pass it around. Plain data.

/// One mount to perform. Lists of mounts are performed in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// The filesystem type, `bind` or `overlay` for one.
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// Where, below the root of the other mounts; empty for the root itself.
    pub target: String,
    /// Options as in fstab(5): flags by name, everything else is data for the filesystem.
    pub options: Vec<String>,
}
