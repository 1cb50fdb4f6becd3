//! What can go wrong with blobs.

use std::io;

use model::Digest;
use model::error::{Classify, Kind, io_kind};

/// Why something could not be done with a blob or an ingest.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("content {digest}")]
    NotFound {
        /// Its name.
        digest: Digest,
    },
    /// There is no such ingest.
    #[error("reference {reference}")]
    NoIngest {
        /// What the client calls it.
        reference: String,
    },
    /// The ingest is open elsewhere.
    #[error("ref {reference} locked")]
    Locked {
        /// What the client calls it.
        reference: String,
    },
    /// An empty or an overlong reference.
    #[error("a reference of {length} bytes, it must have 1 to {}", super::MAX_REFERENCE_BYTES)]
    Reference {
        /// Its length in bytes.
        length: usize,
    },
    /// Not the promised size. The ingest stays as it is.
    #[error("unexpected commit size {got}, expected {wanted}")]
    Size {
        /// What is there.
        got: u64,
        /// What was promised.
        wanted: u64,
    },
    /// Not the promised content. The ingest stays as it is.
    #[error("unexpected commit digest {got}, expected {wanted}")]
    Digest {
        /// What is there.
        got: Digest,
        /// What was promised.
        wanted: Digest,
    },
    /// The bytes on disk are not what their name says.
    #[error("content {digest} is damaged: its bytes hash to {got}")]
    Corrupt {
        /// Its name.
        digest: Digest,
        /// What is there.
        got: Digest,
    },
    /// An offset beyond the end.
    #[error("offset {offset} is beyond the end at {end}")]
    OutOfRange {
        /// The offset.
        offset: u64,
        /// The end.
        end: u64,
    },
    /// The blob is larger than the caller wants to read at once.
    #[error("content of {size} bytes is larger than the {limit} that are allowed here")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The file system is full.
    #[error("no space while {what}")]
    Space {
        /// What was being done.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The file system refused.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

impl Classify for BlobError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::NoIngest { .. } => Kind::NotFound,
            Self::Locked { .. } => Kind::Unavailable,
            Self::Reference { .. } => Kind::InvalidArgument,
            Self::Size { .. } | Self::Digest { .. } => Kind::FailedPrecondition,
            Self::Corrupt { .. } => Kind::DataLoss,
            Self::OutOfRange { .. } => Kind::OutOfRange,
            Self::TooLarge { .. } | Self::Space { .. } => Kind::ResourceExhausted,
            Self::Io { .. } => Kind::Internal,
        }
    }
}

/// Says what was being done when the file system refused.
pub(super) trait IoContext<T> {
    fn during(self, what: &'static str) -> Result<T, BlobError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, what: &'static str) -> Result<T, BlobError> {
        self.map_err(|source| match io_kind(&source) {
            Kind::ResourceExhausted => BlobError::Space { what, source },
            _ => BlobError::Io { what, source },
        })
    }
}
