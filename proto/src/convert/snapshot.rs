//! Snapshots and what they take.

use model::{
    error::{Classify, Kind},
    snapshot::{SnapshotInfo, SnapshotKind, Usage},
};

use super::time::{self, TimeError};
use crate::services::snapshots::v1 as wire;

/// Why a snapshot, as a plugin described it, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The kind is none we know.
    #[error("snapshot {name:?} is of kind {kind}")]
    Kind {
        /// The name of the snapshot.
        name: String,
        /// Its kind on the wire.
        kind: i32,
    },
    /// A time is missing.
    #[error("snapshot {name:?} has no time")]
    NoTime {
        /// The name of the snapshot.
        name: String,
    },
    /// A time is none.
    #[error("snapshot {name:?}")]
    Time {
        /// The name of the snapshot.
        name: String,
        /// What is wrong with it.
        source: TimeError,
    },
    /// Something is below zero.
    #[error("usage of {size} bytes and {inodes} inodes")]
    Usage {
        /// Bytes as given.
        size: i64,
        /// Inodes as given.
        inodes: i64,
    },
}

impl Classify for SnapshotError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl From<SnapshotKind> for wire::Kind {
    fn from(kind: SnapshotKind) -> Self {
        match kind {
            SnapshotKind::View => Self::View,
            SnapshotKind::Active => Self::Active,
            SnapshotKind::Committed => Self::Committed,
        }
    }
}

impl From<SnapshotInfo> for wire::Info {
    fn from(info: SnapshotInfo) -> Self {
        let SnapshotInfo { kind, name, parent, labels, created_at, updated_at } = info;
        Self {
            name,
            parent: parent.unwrap_or_default(),
            kind: wire::Kind::from(kind).into(),
            created_at: Some(time::to_wire(created_at)),
            updated_at: Some(time::to_wire(updated_at)),
            labels,
        }
    }
}

impl TryFrom<wire::Info> for SnapshotInfo {
    type Error = SnapshotError;

    fn try_from(info: wire::Info) -> Result<Self, SnapshotError> {
        let wire::Info { name, parent, kind, created_at, updated_at, labels } = info;
        let kind = match wire::Kind::try_from(kind) {
            Ok(wire::Kind::View) => SnapshotKind::View,
            Ok(wire::Kind::Active) => SnapshotKind::Active,
            Ok(wire::Kind::Committed) => SnapshotKind::Committed,
            Ok(wire::Kind::Unknown) | Err(_) => return Err(SnapshotError::Kind { name, kind }),
        };
        let moment = |timestamp: Option<_>| {
            let timestamp = timestamp.ok_or_else(|| SnapshotError::NoTime { name: name.clone() })?;
            time::from_wire(timestamp).map_err(|source| SnapshotError::Time { name: name.clone(), source })
        };
        let (created_at, updated_at) = (moment(created_at)?, moment(updated_at)?);
        Ok(Self {
            kind,
            parent: Some(parent).filter(|parent| !parent.is_empty()),
            labels,
            created_at,
            updated_at,
            name,
        })
    }
}

impl From<Usage> for wire::UsageResponse {
    fn from(usage: Usage) -> Self {
        Self {
            size: i64::try_from(usage.size_bytes).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        }
    }
}

impl TryFrom<wire::UsageResponse> for Usage {
    type Error = SnapshotError;

    fn try_from(usage: wire::UsageResponse) -> Result<Self, SnapshotError> {
        let wire::UsageResponse { size, inodes } = usage;
        match (u64::try_from(size), u64::try_from(inodes)) {
            (Ok(size_bytes), Ok(inodes)) => Ok(Self { size_bytes, inodes }),
            _ => Err(SnapshotError::Usage { size, inodes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn info(kind: SnapshotKind, parent: Option<&str>) -> SnapshotInfo {
        SnapshotInfo {
            kind,
            name: "extract-1 sha256:ab".into(),
            parent: parent.map(Into::into),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(9),
            updated_at: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        }
    }

    #[test]
    fn snapshots_of_every_kind_come_back() {
        for kind in [SnapshotKind::View, SnapshotKind::Active, SnapshotKind::Committed] {
            for parent in [None, Some("p")] {
                let before = info(kind, parent);
                assert_eq!(SnapshotInfo::try_from(wire::Info::from(before.clone())).unwrap(), before);
            }
        }
    }

    #[test]
    fn an_unknown_kind_and_a_missing_time_are_refused() {
        let good = wire::Info::from(info(SnapshotKind::View, None));
        for bad in [
            wire::Info { kind: 0, ..good.clone() },
            wire::Info { kind: 4, ..good.clone() },
            wire::Info { created_at: None, ..good },
        ] {
            assert!(SnapshotInfo::try_from(bad).is_err());
        }
    }

    #[test]
    fn usage_below_zero_is_refused() {
        assert!(Usage::try_from(wire::UsageResponse { size: 1, inodes: -1 }).is_err());
        let usage = Usage { size_bytes: 5, inodes: 2 };
        assert_eq!(Usage::try_from(wire::UsageResponse::from(usage)).unwrap(), usage);
    }
}
