//! Why a call about snapshots failed.

use model::error::{Classify, Kind};
use model::filter::FilterError;
use model::labels::LabelError;
use snapshotter::SnapshotError;
use store::StoreError;

use crate::api::fields::UnknownPath;
use crate::meta::leases::LeaseError;

/// Why a call about snapshots failed. Unless said otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotsError {
    /// The request names no snapshotter.
    #[error("snapshotter argument missing: snapshotter not loaded")]
    NoSnapshotter,
    /// The request names a snapshotter that is not here.
    #[error("snapshotter not loaded: {name}")]
    UnknownSnapshotter {
        /// The name.
        name: String,
    },
    /// No key or name.
    #[error("snapshot name must not be empty")]
    NoName,
    /// No snapshot of that key or name.
    #[error("snapshot {key} does not exist")]
    NotFound {
        /// The key or name.
        key: String,
    },
    /// No parent of that name.
    #[error("parent snapshot {parent} does not exist")]
    ParentMissing {
        /// The name.
        parent: String,
    },
    /// The parent is a view or still active.
    #[error("parent {parent:?} is not a committed snapshot")]
    ParentNotCommitted {
        /// The name.
        parent: String,
    },
    /// The key is in use.
    #[error("snapshot {key:?}")]
    AlreadyExists {
        /// The key.
        key: String,
    },
    /// What the snapshot is to become is there already. Clients take this as success.
    #[error("target snapshot {target:?}")]
    TargetExists {
        /// The name.
        target: String,
    },
    /// The driver says that the target exists and does not list it.
    #[error("target snapshot {target:?} in backend")]
    TargetLost {
        /// The name.
        target: String,
    },
    /// The driver has the target on another parent.
    #[error("mismatched parent {parent} from target {target}")]
    TargetParent {
        /// The parent asked for.
        parent: String,
        /// The name.
        target: String,
    },
    /// The driver refused a key that was never used.
    #[error("unexpected error from snapshotter: {source}")]
    Unexpected {
        /// What it said.
        source: SnapshotError,
    },
    /// The snapshot is committed or a view.
    #[error("snapshot {key} is not active")]
    NotActive {
        /// The key.
        key: String,
    },
    /// Somebody is committing it at this moment.
    #[error("snapshot {key} is being committed")]
    Committing {
        /// The key.
        key: String,
    },
    /// Another snapshot stands on it.
    #[error("cannot remove snapshot with child")]
    HasChildren,
    /// A label is too long.
    #[error("snapshot labels")]
    Labels(#[from] LabelError),
    /// An update mask names another field than labels.
    #[error(transparent)]
    Path(#[from] UnknownPath),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The lease of the caller cannot hold it.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for SnapshotsError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::ParentMissing { .. } | Self::TargetLost { .. } => Kind::NotFound,
            Self::NoSnapshotter | Self::UnknownSnapshotter { .. } | Self::NoName => Kind::InvalidArgument,
            Self::ParentNotCommitted { .. } | Self::TargetParent { .. } => Kind::InvalidArgument,
            Self::Labels(_) | Self::Path(_) | Self::Filter(_) => Kind::InvalidArgument,
            Self::AlreadyExists { .. } | Self::TargetExists { .. } => Kind::AlreadyExists,
            Self::NotActive { .. } | Self::HasChildren => Kind::FailedPrecondition,
            Self::Committing { .. } => Kind::Unavailable,
            Self::Unexpected { .. } => Kind::Unknown,
            Self::Lease(error) => error.kind(),
            Self::Driver(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
