//! Root filesystems: snapshots that stand on each other, layers unpacked into them, and the differences between them.
//!
//! A driver owns a folder and a few tables of the [`store`]; it answers with [`Mount`]s and mounts nothing but its own layers, where
//! those are images. Nothing here
//! starts a process or touches the network. [`overlay::Overlay`] is the driver for nearly everybody, [`copy::Native`] the one
//! that works on any filesystem; both pass the same contract suite (feature `contract`).
//!
//! [`layer::apply`] unpacks a layer archive into a folder and [`diff::write`] makes one; both know overlayfs's whiteouts.

#[cfg(feature = "contract")]
pub mod contract;
pub mod copy;
pub mod diff;
mod erofs;
mod error;
mod folders;
mod fs;
pub mod layer;
pub mod overlay;
mod records;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use model::Labels;
use model::mount::Mount;
use model::snapshot::{SnapshotInfo, Usage};

pub use error::SnapshotError;
use layer::ImageSlot;

/// The capability of giving a parent to an active snapshot at its commit ([`Snapshotter::commit`]).
pub const CAPABILITY_REBASE: &str = "rebase";

/// Which labels an [`Update`] speaks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelMask {
    /// All: the snapshot has exactly the given ones afterwards.
    All,
    /// These keys only: one that is not among the given labels, or is empty there, is removed; every other label stays.
    Keys(BTreeSet<String>),
}

/// A change to the labels of a snapshot, the only thing about it that can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The snapshot's key or name.
    pub name: String,
    /// The labels to set.
    pub labels: Labels,
    /// Which labels are meant.
    pub mask: LabelMask,
}

/// Makes the empty folder `to` a copy of the folder `from`: everything below with its owners, modes, times and attributes.
///
/// # Errors
/// Something cannot be read or made; what was made until then stays.
pub fn copy_tree(from: std::os::fd::OwnedFd, to: std::os::fd::OwnedFd) -> std::io::Result<()> {
    fs::Copier::exact().tree(from, to)
}

/// Keeps snapshots: trees of files, each seen on top of its parent.
///
/// ```text
///              prepare(key, parent)                 commit(name, key)
///   (nothing) ─────────────────────► Active `key` ────────────────────► Committed `name` ──► parent of others
///       │                              │                                   │
///       │ view(key, parent)            │ remove(key)                       │ remove(name), when it has no children
///       └────────────────► View `key` ─┴───────────► (nothing) ◄───────────┘
/// ```
///
/// Keys and names are one space of free strings; a committed snapshot keeps nothing of the key it was made under. A parent is
/// always committed, and stays while it has children. What [`Snapshotter::prepare`] returns can be asked for again with
/// [`Snapshotter::mounts`], and is the same until the snapshot is committed or removed.
///
/// Every change is durable when its call returns, and happens wholly or not at all: after a crash there may be folders that no
/// snapshot owns, which [`Snapshotter::cleanup`] removes, never a snapshot without its files.
///
/// All methods may be called from many threads at once and may block on the disk.
pub trait Snapshotter: Send + Sync {
    /// The name that clients choose this driver by, `overlayfs` for one.
    fn name(&self) -> &str;

    /// The folder of the driver, when it has one on this machine.
    fn root(&self) -> Option<&Path>;

    /// What the driver can do beyond the basics, [`CAPABILITY_REBASE`] for one.
    fn capabilities(&self) -> Vec<String>;

    /// Whether it may get layers by itself, from what the labels of a snapshot say: whoever pulls asks it before fetching.
    fn is_remote(&self) -> bool {
        false
    }

    /// Makes a writable snapshot that starts out as its parent is, or empty, and says how to mount it.
    ///
    /// # Errors
    /// [`SnapshotError::AlreadyExists`] for a key in use, [`SnapshotError::ParentMissing`], [`SnapshotError::ParentNotCommitted`].
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError>;

    /// Makes a read-only snapshot that is as its parent is, or empty, and says how to mount it.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError>;

    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; [`SnapshotError::NotActive`] for a committed one.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError>;

    /// Turns the active snapshot `key` into the committed snapshot `name`, with these labels. Its files are on disk when this
    /// returns. With `parent`, the snapshot, which must have none, gets this one from now on (drivers with
    /// [`CAPABILITY_REBASE`]); an extraction can then start before its parent's is over.
    ///
    /// # Errors
    /// [`SnapshotError::AlreadyExists`] for a name in use, [`SnapshotError::NotFound`], [`SnapshotError::NotActive`],
    /// [`SnapshotError::CannotRebase`].
    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError>;

    /// Removes a snapshot and its files.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`]; [`SnapshotError::HasChildren`] while another snapshot or a view stands on it.
    fn remove(&self, key: &str) -> Result<(), SnapshotError>;

    /// One snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn stat(&self, key: &str) -> Result<SnapshotInfo, SnapshotError>;

    /// Changes labels, and answers with the snapshot as it is then.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError>;

    /// Shows every snapshot, in no promised order, until `each` breaks.
    ///
    /// # Errors
    /// When the records cannot be read.
    fn walk(&self, each: &mut dyn FnMut(SnapshotInfo) -> ControlFlow<()>) -> Result<(), SnapshotError>;

    /// What a snapshot takes on disk without its parents: counted now for an active one, as it was at the commit for a committed one.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError>;

    /// Removes the folders that no snapshot owns, the garbage of crashes and interrupted removals.
    ///
    /// # Errors
    /// When a folder cannot be read or removed.
    fn cleanup(&self) -> Result<(), SnapshotError>;

    /// Where a layer is to be written as one image, if `mounts` are what [`Snapshotter::prepare`] answered for an extraction and the
    /// driver keeps layers that way; `None`, as from a driver that never does, when it is to be unpacked into the mounts.
    ///
    /// # Errors
    /// When that cannot be told.
    fn layer_image(&self, mounts: &[Mount]) -> Result<Option<ImageSlot>, SnapshotError> {
        let _ = mounts;
        Ok(None)
    }

    /// To be called before somebody looks into the folders that `mounts` name without asking for the mounts again: what was
    /// written as an image is there as files after this. Nothing, for a driver that keeps files.
    ///
    /// # Errors
    /// When the files cannot be written.
    fn settle_files(&self, mounts: &[Mount]) -> Result<(), SnapshotError> {
        let _ = mounts;
        Ok(())
    }
}
