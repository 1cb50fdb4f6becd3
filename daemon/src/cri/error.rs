//! Why a call of the CRI fails for reasons of its own. Failures of other parts pass through.

use model::error::{Classify, Kind};

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CriError {
    /// There is no such thing.
    #[error("{what} {id:?} not found")]
    Missing {
        /// `sandbox`, `container`, `image`, ….
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The beginning of an id fits several.
    #[error("{what} id {id:?} is ambiguous")]
    Ambiguous {
        /// `sandbox` or `container`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The name belongs to somebody else; kubelets know this text.
    #[error("name {name:?} is reserved for {id:?}")]
    Reserved {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The request is right, but not now.
    #[error("{0}")]
    State(String),
    /// It is not possible here.
    #[error("{0}")]
    Unsupported(String),
    /// The call is not there, or not for this.
    #[error("{0}")]
    Unimplemented(String),
    /// There is too much of something.
    #[error("{0}")]
    Exhausted(String),
    /// It took too long.
    #[error("{0}")]
    Deadline(String),
    /// The client went away while it waited.
    #[error("the request was cancelled")]
    Cancelled,
    /// Something that was to work did not.
    #[error("{0}")]
    Failed(String),
    /// Something is not there yet.
    #[error("{0}")]
    Unavailable(String),
}

impl Classify for CriError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Ambiguous { .. } | Self::Invalid(_) => Kind::InvalidArgument,
            Self::Reserved { .. } => Kind::AlreadyExists,
            Self::State(_) => Kind::FailedPrecondition,
            Self::Unsupported(_) | Self::Failed(_) => Kind::Unknown,
            Self::Unimplemented(_) => Kind::Unimplemented,
            Self::Exhausted(_) => Kind::ResourceExhausted,
            Self::Deadline(_) => Kind::DeadlineExceeded,
            Self::Cancelled => Kind::Canceled,
            Self::Unavailable(_) => Kind::Unavailable,
        }
    }
}
