//! What can go wrong with metadata: when a store is opened, and when it is used.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::error::{Classify, Kind, io_kind};

use crate::Engine;

/// A failure inside an engine, in its own words.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file system refused.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The engine refused, or found its files damaged.
    #[error("{what}: {detail}")]
    Engine {
        /// What was being done.
        what: &'static str,
        /// The engine's text.
        detail: String,
    },
    /// Another process has the files open.
    #[error("another process has the store open")]
    Locked,
}

impl EngineError {
    /// The kind of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } if io_kind(source) == Kind::ResourceExhausted => Kind::ResourceExhausted,
            Self::Io { .. } | Self::Engine { .. } => Kind::Internal,
            Self::Locked => Kind::Unavailable,
        }
    }
}

/// Why a read or a write of metadata failed.
///
/// It is cheap to clone, since one failed flush is the failure of every request of its group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The engine failed. A write that ended so was made as a whole or not at all; which of it, only reading tells.
    #[error("metadata store")]
    Engine(#[source] Arc<EngineError>),
    /// A stored value cannot be read.
    #[error("record {key:?} of table {table} is damaged: {detail}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The key, made printable.
        key: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A stored value was written by a newer version of this program.
    #[error("record {key:?} of table {table} has version {found}, this program knows up to {known}")]
    Newer {
        /// The table.
        table: &'static str,
        /// The key, made printable.
        key: String,
        /// The stored version.
        found: u8,
        /// The newest known version.
        known: u8,
    },
    /// A value that cannot be stored, for one a time before 1970.
    #[error("record {key:?} of table {table} cannot be encoded: {detail}")]
    Encode {
        /// The table.
        table: &'static str,
        /// The key, made printable.
        key: String,
        /// Why.
        detail: String,
    },
    /// A part of a key holds a NUL, which separates the parts.
    #[error("name {part:?} holds a NUL character")]
    Key {
        /// The part.
        part: String,
    },
    /// One request wants to write more than [`crate::MAX_TX_BYTES`].
    #[error("a single change of {bytes} bytes is larger than the {limit} that are allowed")]
    TooLarge {
        /// What it wants to write.
        bytes: usize,
        /// What it may.
        limit: usize,
    },
    /// More than [`crate::QUEUE`] requests wait already.
    #[error("too many metadata changes are waiting")]
    Busy,
    /// The closure of the request panicked; its writes were dropped.
    #[error("a metadata change panicked: {text}")]
    Panicked {
        /// The text of the panic.
        text: String,
    },
    /// The engine failed and could not be opened again, so nothing can be read or written until it can.
    #[error("the metadata store is stopped after a failure")]
    Stopped(#[source] Arc<EngineError>),
    /// The store was closed before the request ran.
    #[error("the metadata store is closed")]
    Closed,
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Arc::new(error))
    }
}

impl Classify for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Engine(error) | Self::Stopped(error) => error.kind(),
            Self::Damaged { .. } => Kind::DataLoss,
            Self::Newer { .. } => Kind::FailedPrecondition,
            Self::Encode { .. } | Self::Key { .. } => Kind::InvalidArgument,
            Self::TooLarge { .. } => Kind::ResourceExhausted,
            Self::Busy | Self::Closed => Kind::Unavailable,
            Self::Panicked { .. } => Kind::Internal,
        }
    }
}

/// Why a store could not be opened. Nothing was changed; what to do about it is the caller's decision
/// ([`crate::move_aside`] is one).
#[derive(Debug, thiserror::Error)]
#[error("cannot open the metadata store in {}", dir.display())]
pub struct OpenError {
    /// The folder.
    pub dir: PathBuf,
    /// Why.
    #[source]
    pub cause: OpenCause,
}

/// The causes of an [`OpenError`].
#[derive(Debug, thiserror::Error)]
pub enum OpenCause {
    /// Another process has it open: try again when that one has ended.
    #[error("another process has it open")]
    Locked,
    /// The folder was written by a newer version of this program. Moving it aside would lose data.
    #[error("its schema is version {found}, this program knows up to {known}")]
    Newer {
        /// The stored version.
        found: u32,
        /// The newest known version.
        known: u32,
    },
    /// The folder holds the data of another engine than the one asked for.
    #[error("it holds the data of the engine {found}, not {wanted}; set the engine to {found} or convert the data")]
    OtherEngine {
        /// Whose data is there.
        found: Engine,
        /// Which engine was asked for.
        wanted: Engine,
    },
    /// The folder holds the data of several engines, and only one of them can be right.
    #[error("it holds the data of both engines; move the folder of the one aside that is out of date")]
    BothEngines,
    /// The engine did not come back in time.
    #[error("the engine did not finish opening within {limit:?}")]
    Timeout {
        /// The time it had.
        limit: Duration,
    },
    /// The files are damaged, or the engine says so.
    #[error("the engine failed")]
    Damaged(#[source] EngineError),
    /// The folder itself cannot be used.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The schema record cannot be read or written.
    #[error("the schema record cannot be used")]
    Schema(#[source] StoreError),
}

impl OpenError {
    /// Whether moving the folder aside and starting with an empty one is a way out: true only for damage and for an
    /// engine that hangs.
    pub fn may_move_aside(&self) -> bool {
        matches!(self.cause, OpenCause::Damaged(_) | OpenCause::Timeout { .. } | OpenCause::Schema(_))
    }
}

impl Classify for OpenError {
    fn kind(&self) -> Kind {
        match &self.cause {
            OpenCause::Locked => Kind::Unavailable,
            OpenCause::Newer { .. } | OpenCause::OtherEngine { .. } | OpenCause::BothEngines => {
                Kind::FailedPrecondition
            }
            OpenCause::Timeout { .. } => Kind::DeadlineExceeded,
            OpenCause::Damaged(_) => Kind::DataLoss,
            OpenCause::Io { source, .. } => io_kind(source),
            OpenCause::Schema(error) => error.kind(),
        }
    }
}
