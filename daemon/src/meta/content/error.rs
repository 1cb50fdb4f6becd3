//! Why a call about content failed.

use model::Digest;
use model::digest::DigestError;
use model::error::{Classify, Kind};
use model::filter::FilterError;
use model::labels::LabelError;
use store::StoreError;
use store::blob::BlobError;

use crate::api::fields::UnknownPath;
use crate::meta::leases::LeaseError;

/// Why a call about content failed. Of an upload that failed, what was written stays and can be resumed, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The namespace does not see the blob.
    #[error("content digest {digest}")]
    NotFound {
        /// Its digest.
        digest: Digest,
    },
    /// The namespace sees the blob already. An upload of it is removed.
    #[error("content {digest}")]
    AlreadyExists {
        /// Its digest.
        digest: Digest,
    },
    /// The namespace sees the blob that a message of an upload expects by now. The upload is removed.
    #[error("blob with expected digest {digest} exists")]
    ExpectedExists {
        /// Its digest.
        digest: Digest,
    },
    /// No upload under that reference.
    #[error("reference {reference}")]
    NoIngest {
        /// The reference.
        reference: String,
    },
    /// The first message of an upload has no reference.
    #[error("first message must have a reference")]
    NoReference,
    /// Another session has the upload open.
    #[error("ref {reference} locked")]
    Locked {
        /// The reference.
        reference: String,
    },
    /// The upload was aborted while it was under way.
    #[error("ref {reference} was aborted")]
    Aborted {
        /// The reference.
        reference: String,
    },
    /// A write that does not go on where the upload stands.
    #[error("write @{asked} must occur at current offset {offset}")]
    Offset {
        /// Where the client wanted to write.
        asked: u64,
        /// Where the upload stands.
        offset: u64,
    },
    /// Not the promised size.
    #[error("{reference:?} failed size validation: {got} != {wanted}")]
    Size {
        /// The reference.
        reference: String,
        /// What is there.
        got: u64,
        /// What was promised.
        wanted: u64,
    },
    /// Not the promised content.
    #[error("unexpected commit digest {got}, expected {wanted}")]
    Digest {
        /// What is there.
        got: Digest,
        /// What was promised.
        wanted: Digest,
    },
    /// A number of a message is below zero.
    #[error("{field} must not be negative")]
    Negative {
        /// The field.
        field: &'static str,
    },
    /// An action that is none.
    #[error("unknown write action {action}")]
    Action {
        /// Its number.
        action: i32,
    },
    /// A read that begins behind the end.
    #[error("read past object length {size} bytes")]
    ReadPastEnd {
        /// The size of the blob.
        size: u64,
    },
    /// What should be a digest is none.
    #[error("{value:?} failed validation")]
    NoDigest {
        /// The text.
        value: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A label is too long.
    #[error("content labels")]
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
    /// The files failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for ContentError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::NoIngest { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } | Self::ExpectedExists { .. } => Kind::AlreadyExists,
            Self::NoReference | Self::Negative { .. } | Self::Action { .. } => Kind::InvalidArgument,
            Self::NoDigest { .. } | Self::Labels(_) | Self::Path(_) | Self::Filter(_) => Kind::InvalidArgument,
            Self::Locked { .. } => Kind::Unavailable,
            Self::Aborted { .. } => Kind::Canceled,
            Self::Offset { .. } | Self::ReadPastEnd { .. } => Kind::OutOfRange,
            Self::Size { .. } | Self::Digest { .. } => Kind::FailedPrecondition,
            Self::Lease(error) => error.kind(),
            Self::Blob(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
