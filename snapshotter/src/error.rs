//! Why a snapshot could not be made, changed or read.

use std::io;
use std::path::PathBuf;

use model::error::{Classify, Kind, io_kind};
use store::StoreError;

/// Why a call to a [`crate::Snapshotter`] failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No snapshot of that key or name.
    #[error("snapshot {key}")]
    NotFound {
        /// The key or name.
        key: String,
    },
    /// A snapshot of that key or name exists.
    #[error("snapshot {key}")]
    AlreadyExists {
        /// The key or name.
        key: String,
    },
    /// The parent does not exist.
    #[error("missing parent {parent:?}")]
    ParentMissing {
        /// The name.
        parent: String,
    },
    /// The parent is a view or still active.
    #[error("parent {parent:?} is not committed")]
    ParentNotCommitted {
        /// The name.
        parent: String,
    },
    /// The snapshot is not one that can be mounted or committed.
    #[error("snapshot {key} is not active")]
    NotActive {
        /// The key or name.
        key: String,
    },
    /// Other snapshots or views stand on this one.
    #[error("cannot remove snapshot {key} with child")]
    HasChildren {
        /// The key or name.
        key: String,
    },
    /// A parent was given at the commit of a snapshot that has one, or to a driver that cannot do this.
    #[error("snapshot {key} cannot get the parent {parent:?} at its commit: {why}")]
    CannotRebase {
        /// The key.
        key: String,
        /// The parent asked for.
        parent: String,
        /// What is in the way.
        why: &'static str,
    },
    /// A key or name that nothing can have.
    #[error("invalid snapshot key {key:?}: {why}")]
    InvalidKey {
        /// The first bytes of the key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A label asks for something that the driver does not do.
    #[error("label {label} is not supported by the {driver} snapshotter")]
    UnsupportedLabel {
        /// The label's key.
        label: String,
        /// The driver.
        driver: String,
    },
    /// The records could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshotter that is a process of its own failed.
    #[error("snapshotter {snapshotter}: {message}")]
    Plugin {
        /// Its name.
        snapshotter: String,
        /// What may be done about it.
        kind: Kind,
        /// What it said.
        message: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SnapshotError {
    /// For `map_err`: a file operation on `path` failed.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, path: path.into(), source: source.into() }
    }
}

impl Classify for SnapshotError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::ParentMissing { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::ParentNotCommitted { .. } | Self::InvalidKey { .. } => Kind::InvalidArgument,
            Self::NotActive { .. } | Self::HasChildren { .. } | Self::CannotRebase { .. } => Kind::FailedPrecondition,
            Self::UnsupportedLabel { .. } => Kind::Unimplemented,
            Self::Plugin { kind, .. } => *kind,
            Self::Store(error) => error.kind(),
            Self::Io { source, .. } => match io_kind(source) {
                // A missing or a present file of ours is not a missing or a present snapshot.
                Kind::NotFound | Kind::AlreadyExists | Kind::InvalidArgument => Kind::Internal,
                kind => kind,
            },
        }
    }
}
