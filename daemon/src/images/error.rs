//! Why a transfer failed.

use model::digest::Digest;
use model::error::{Classify, Kind};
use model::reference::ReferenceError;

use super::archive::ArchiveError;
use super::document::DocumentError;
use super::registry::RegistryError;
use super::unpack::UnpackError;
use super::verifier::VerifierError;
use crate::meta::content::ContentError;
use crate::meta::images::ImageError;
use crate::meta::leases::LeaseError;
use crate::streaming::StreamError;

/// Why an image could not be moved. It is not on record then; blobs that were verified are kept until collection, and a blob that
/// was not fetched to its end is resumed by whoever wants it next.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The name of the image cannot be read.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The name of the image says neither tag nor digest.
    #[error("reference {reference:?} has neither a tag nor a digest")]
    NoVersion {
        /// The name.
        reference: String,
    },
    /// The image cannot be found out about.
    #[error("cannot resolve {reference}")]
    Resolve {
        /// Its name.
        reference: String,
        /// What the registry said.
        source: RegistryError,
    },
    /// A blob or a document could not be had or sent.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document is refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A document that a registry sent is refused.
    #[error("{host} sent what is refused")]
    Sent {
        /// The registry.
        host: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// An archive is refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A registry sent something else than it was asked for.
    #[error("{host} was asked for {wanted} and sent {got}")]
    Corrupt {
        /// The registry.
        host: String,
        /// What it was asked for.
        wanted: Digest,
        /// What it sent.
        got: Digest,
    },
    /// A registry sent more or less than the manifest says.
    #[error("{host} sent {got} bytes of {digest}, which has {wanted}")]
    Length {
        /// The registry.
        host: String,
        /// The blob.
        digest: Digest,
        /// How many bytes it sent.
        got: u64,
        /// How many there should be.
        wanted: u64,
    },
    /// The image is for other platforms.
    #[error("{image} has nothing for {wanted}; it has {offered}")]
    Platform {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// Indexes in indexes in indexes.
    #[error("{image} has indexes within indexes, more than {limit} deep")]
    TooDeep {
        /// The image.
        image: String,
        /// How deep they may be.
        limit: usize,
    },
    /// More manifests than is allowed.
    #[error("{image} has more than {limit} manifests")]
    TooManyManifests {
        /// The image.
        image: String,
        /// How many may be.
        limit: usize,
    },
    /// A layer could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Content could not be stored or read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The image could not be recorded or found.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The lease could not be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A stream of the client failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The archive has no image that can be named.
    #[error("the archive has no image")]
    NothingToImport,
    /// No image was named.
    #[error("no image is named")]
    NothingNamed,
    /// Somebody ended it.
    #[error("the transfer was ended")]
    Ended,
    /// A verifier of this machine does not allow the image.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
}

impl TransferError {
    /// Whether another try may end better, so that what was fetched is worth keeping.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Registry(_) | Self::Stream(_) | Self::Ended => true,
            // A full disk, for one.
            Self::Content(error) => !matches!(error.kind(), Kind::InvalidArgument),
            _ => false,
        }
    }
}

impl Classify for TransferError {
    fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) | Self::NoVersion { .. } | Self::NothingToImport | Self::NothingNamed => {
                Kind::InvalidArgument
            }
            Self::Resolve { source, .. } | Self::Registry(source) => source.kind(),
            Self::Document(error) | Self::Sent { source: error, .. } => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::Corrupt { .. } | Self::Length { .. } => Kind::DataLoss,
            Self::Platform { .. } => Kind::NotFound,
            Self::TooDeep { .. } | Self::TooManyManifests { .. } => Kind::InvalidArgument,
            Self::Unpack(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::Lease(error) => error.kind(),
            Self::Stream(error) => error.kind(),
            Self::Ended => Kind::Canceled,
            Self::Verifier(error) => error.kind(),
        }
    }
}
